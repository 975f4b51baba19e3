"""Choosing how a model is run: by the packed decode loop where that gives the model's own logits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from docendo.agents._attention import ATTENTION, attending
from docendo.agents._generate import GenerateLoop
from docendo.agents._jobs import Desk
from docendo.agents._linear import join_linears, pack_linears
from docendo.agents._loop import DecodeLoop
from docendo.agents._slots import LONG_BEGINNING, KVShape, Layout, Shared, Stretch

_log = logging.getLogger("docendo.engine")
_LAYERS = frozenset({"full_attention", "sliding_attention"})
_LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
#: Tokens of the check: enough for a beginning, a later piece and a step.
_CHECK = 12


def make_loop(model: Any, desk: Desk, **options: Any) -> DecodeLoop | GenerateLoop:
    """The loop for a model: the packed one if its logits agree with the model's own, else `generate`.

    Args:
        model: A causal language model in eval mode.
        desk: Where jobs wait and end.
        **options: Arguments of `DecodeLoop` beyond the shape of keys and values.
    """
    own = model.config._attn_implementation
    with torch.inference_mode():
        found = _packed(model, desk, options)
    if isinstance(found, DecodeLoop):
        return found
    model.set_attn_implementation(own)
    _log.warning(
        "%s is run with `generate`, one request at a time, without prefix reuse: %s", desk.name, found
    )
    shared = {name: options[name] for name in ("max_rows", "invariant", "flops") if name in options}
    return GenerateLoop(model, desk, **shared)


def _packed(model: Any, desk: Desk, options: dict[str, Any]) -> DecodeLoop | str:
    """A packed loop, or why there is none."""
    text = model.config.get_text_config()
    strange = set(getattr(text, "layer_types", None) or ()) - _LAYERS
    if strange:
        return f"it has layers of the kind {', '.join(sorted(strange))}"
    if getattr(text, "attention_chunk_size", None):
        return "its attention is chunked"
    if kinds := _rope_kinds(text) & _LENGTH_DEPENDENT:
        # All rows of a pass would turn with the longest of them.
        return f"its rotary positions depend on the length of the text ({', '.join(sorted(kinds))})"
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = [(7 + 5 * number) % vocabulary for number in range(_CHECK)]
    try:
        with _noting_inputs(model) as groups:
            reference = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
        kv = _kv_shape(reference.past_key_values)
        if kv is None:
            return "its layers keep keys and values of different shapes, or none"
        expected = reference.logits[0, [7, _CHECK - 1, _CHECK - 1]].float()
        limit = _limit(model, ids, expected)
        model.set_attn_implementation(ATTENTION)
        join_linears(model, groups)
        pack_linears(model)
        loop = DecodeLoop(model, desk, kv=kv, **options)
        served, windows = _served(loop, ids)
    except (
        AttributeError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        return f"a packed pass fails ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    if windows != _windows(text):
        return "its layers do not ask the engine's attention for what its configuration says"
    if not (off := _apart(served, expected)) < limit:
        return f"packed logits differ from its own by {off:.2g} standard deviations"
    if loop.cache.sharing:
        # Rows that cannot share copy: no reason to do without packed passes.
        shared = _shares(loop, ids)
        loop.cache.sharing = shared is not None and _apart(shared, expected[-1:]) < limit
    loop.cache.free()
    return loop


def _limit(model: Any, ids: list[int], expected: torch.Tensor) -> float:
    """How far packed logits may be off: what rounding does to this model, measured where it does much.

    In bfloat16 some models (Gemma 3) are off by 0.3 standard deviations when nothing but the order of sums
    in attention changes, others (SmolLM2) by a tenth of that.
    """
    if model.dtype == torch.float32:
        return 0.02
    model.set_attn_implementation("eager")
    other = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return max(0.3, 2 * _apart(other[0, [7, _CHECK - 1, _CHECK - 1]], expected))


def _apart(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """How far logits are off, in standard deviations.

    Rounding stays far below the limits; another mask, position or factor is of the order of 1.
    """
    return float((logits.float() - expected).abs().max() / expected.std().clamp(min=1e-6))


@contextmanager
def _noting_inputs(model: nn.Module) -> Iterator[list[tuple[str, ...]]]:
    """Notes, in a forward pass, which linear layers read the same input, by name."""
    calls: list[tuple[str, torch.Tensor]] = []  # holds the tensors, so that no two have the same id

    def note(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.extend((name, one) for one in inputs[:1])

    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    handles = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    groups: list[tuple[str, ...]] = []
    try:
        yield groups
    finally:
        for handle in handles:
            handle.remove()
    called = Counter(name for name, _ in calls)
    readers: dict[int, list[str]] = {}
    for name, one in calls:
        if called[name] == 1:
            readers.setdefault(id(one), []).append(name)
    groups.extend(tuple(names) for names in readers.values() if len(names) > 1)


def _kv_shape(cache: Any) -> KVShape | None:
    """The one shape of all layers' keys and values."""
    layers = getattr(cache, "layers", None) or []
    shapes = set()
    for layer in layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.dim() != 4:
            return None
        shapes.add((keys.shape[1], keys.shape[3], values.shape[3]))
    if len(shapes) != 1:
        return None
    return KVShape(len(layers), *shapes.pop())


def _rope_kinds(config: Any) -> set[str]:
    """The kinds of rotary positions, of all layers or of each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return {str(one["rope_type"]) for one in each if "rope_type" in one}


def _windows(config: Any) -> set[int | None]:
    """The sliding windows of a model's layers, None for layers without."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return {window if kind == "sliding_attention" else None for kind in kinds}


def _served(loop: DecodeLoop, ids: Sequence[int]) -> tuple[torch.Tensor, set[int | None]]:
    """Logits of packed passes: after one step, and then at the end of all.

    That end is reached by a later piece, and by a whole beginning.

    And the windows with which the layers asked for attention: fewer than the model's mean that it keeps its
    window in a mask of its own, none that its own attention is still in place.
    """
    size = len(ids)
    first = Layout(starts=[], stretches=[Stretch(0, 0, 0, 5), Stretch(1, 0, 5, 4)])  # in one call
    more = Layout(starts=[], stretches=[Stretch(0, 5, 0, 2)])
    second = Layout(starts=[7], stretches=[Stretch(1, 4, 1, size - 4), Stretch(2, 0, size - 3, size)])
    _run(loop, first, [*ids[:5], *ids[:4]], [*range(5), *range(4)])
    _run(loop, more, ids[5:7], [5, 6])
    loop.cache.long_beginning = size - 1  # the whole beginning is one
    hidden = _run(loop, second, [ids[7], *ids[4:], *ids], [7, *range(4, size), *range(size)])
    loop.cache.long_beginning = LONG_BEGINNING
    # A step's masks are made for the windows that are asked for.
    ends, windows = hidden[[0, size - 4, 2 * size - 4]], second.windows
    return loop._logits(ends), windows


def _shares(loop: DecodeLoop, ids: Sequence[int]) -> torch.Tensor | None:
    """Logits at the end of all, of which the first half is shared; None if that fails.

    To be asked after `_served`, which leaves the whole in slot 2.
    """
    size = len(ids)
    try:
        shared = Shared(loop.cache.read(2, 0, 6), torch.arange(1, size - 5, device=loop.device))
        layout = Layout(starts=[0], stretches=[Stretch(1, 0, 1, size - 6)], shared=[shared])
        return loop._logits(_run(loop, layout, [ids[0], *ids[6:]], [0, *range(6, size)])[-1:])
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def _run(loop: DecodeLoop, layout: Layout, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    loop.cache.reserve(3, _CHECK)
    loop.cache.aim(layout)
    attending(loop.cache)
    try:
        output = loop.body(
            input_ids=torch.tensor([ids], device=loop.device),
            position_ids=torch.tensor([positions], device=loop.device),
            past_key_values=loop.cache,
            use_cache=True,
        )
    finally:
        attending(None)
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden
