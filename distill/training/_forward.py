"""A model's forward pass over a batch, and what objectives see of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from docendo.distill.objectives._objective import Labels, PathObjective, StateObjective, TokenObjective
from docendo.distill.objectives._token import CrossEntropy
from docendo.distill.training import _attention
from docendo.distill.training._batches import Encoded
from docendo.distill.training._kernels import LinearCrossEntropy, PathLogprobs
from docendo.distill.training._packing import pack, pad

_CHUNK, _SLICE = 128, 16
"""Rows of logits per matrix product, and per softmax: 16 x 49,152 floats are 3 MB and stay in the cache."""


class Forward:
    """How one model is run over batches: packed where that gives the model's own numbers, padded elsewhere.

    Args:
        model: A causal language model.
        packed: Whether to pack. None asks `probe`.
        examples: Examples to try it on; needed if `packed` is None.
    """

    def __init__(self, model: Any, *, packed: bool | None, examples: Sequence[Encoded] = ()) -> None:
        self.model = model
        self.share = not any(
            isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()
        ) and not getattr(model.config, "attention_dropout", 0.0)
        _attention.register()
        self.packed = self.probe(examples) if packed is None else packed

    @property
    def width(self) -> int:
        """Width of the last hidden state."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    def collate(self, examples: Sequence[Encoded]) -> dict[str, Any]:
        """Makes a batch."""
        if self.packed:
            return pack(examples, share=self.share)
        return pad(examples, pad_id=self.model.config.pad_token_id or 0)

    def __call__(self, batch: Mapping[str, Any], *, ends: bool = False) -> Outputs:
        """Runs the model; `ends` also keeps the last hidden state of each sequence."""
        if self.packed:
            head = self.model.get_output_embeddings()
            with _implementation(self.model, _attention.NAME):
                states = self.model.model(
                    input_ids=batch["input_ids"],
                    position_ids=batch["position_ids"],
                    use_cache=False,
                    layout=batch["layout"],
                ).last_hidden_state[0]
            return Outputs(
                hidden=states.index_select(0, batch["sources"]),
                weight=head.weight,
                bias=getattr(head, "bias", None),
                ends=states.index_select(0, batch["ends"]) if ends else None,
            )
        output = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            use_cache=False,
            output_hidden_states=ends,
        )
        last = output.hidden_states[-1].flatten(0, 1).index_select(0, batch["ends"]) if ends else None
        return Outputs(logits=output.logits.flatten(0, 1).index_select(0, batch["sources"]), ends=last)

    def probe(self, examples: Sequence[Encoded]) -> bool:
        """Whether a packed forward pass gives this model's own loss."""
        head = self.model.get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.weight.requires_grad or not hasattr(self.model, "model"):
            return False
        chosen = sorted(examples, key=len)[:: max(1, len(examples) // 3)][:4]
        training, losses = self.model.training, []
        self.model.eval()
        try:
            with torch.no_grad():
                for self.packed in (False, True):
                    batch = self.collate(chosen)
                    # Examples that weigh nothing would agree whatever the model does.
                    equal = torch.ones_like(batch["weights"])
                    losses.append(float(self(batch).cross_entropy(batch["labels"], equal)))
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False
        finally:
            self.model.train(training)
        tolerance = 1e-4 if self.model.dtype == torch.float32 else 1e-2
        return abs(losses[1] - losses[0]) <= tolerance * abs(losses[0])


class Outputs:
    """What a forward pass gives at the labels: hidden states with the vocabulary head, or logits.

    Attributes:
        hidden: Last hidden states at the N labels, N x width; None if there are logits.
        weight: The vocabulary head, vocabulary x width.
        bias: Its bias, or None.
        logits: Logits at the labels, N x vocabulary; None if there are hidden states.
        ends: Last hidden states at the S ends, S x width, if they were asked for.
    """

    def __init__(
        self,
        *,
        hidden: Any = None,
        weight: Any = None,
        bias: Any = None,
        logits: Any = None,
        ends: Any = None,
    ) -> None:
        self.hidden, self.weight, self.bias, self.logits, self.ends = hidden, weight, bias, logits, ends

    @property
    def source(self) -> Any:
        """What the loss's gradient is taken of: hidden states or logits."""
        return self.logits if self.hidden is None else self.hidden

    def logits_of(self, part: slice) -> Any:
        """A copy of the logits of some labels, in the model's precision."""
        with torch.no_grad():
            if self.hidden is None:
                return self.logits[part].clone()
            return torch.nn.functional.linear(self.hidden[part], self.weight, self.bias)

    def cross_entropy(self, labels: Any, weights: Any) -> Any:
        """Weighted sum of the cross-entropy over the labels."""
        if self.hidden is not None:
            return LinearCrossEntropy.apply(self.hidden, self.weight, self.bias, labels, weights)
        losses = torch.nn.functional.cross_entropy(self.logits.float(), labels, reduction="none")
        return (losses * weights).sum()

    def path(self, labels: Any) -> Any:
        """Log-probability of each label, N."""
        if self.hidden is not None:
            return PathLogprobs.apply(self.hidden, self.weight, self.bias, labels)
        return -torch.nn.functional.cross_entropy(self.logits.float(), labels, reduction="none")

    def tokens(self, term: TokenObjective, labels: Labels, teacher: Outputs | None) -> Any:
        """Weighted sum of a token objective over the labels."""
        return _TokenLoss.apply(self.source, self, term, labels, teacher)


def term_loss(term: Any, outputs: Outputs, labels: Labels, teacher: Outputs | None, head: Any = None) -> Any:
    """The sum of one objective over a batch, before it is divided by its count."""
    if isinstance(term, TokenObjective):
        if type(term) is CrossEntropy:  # a subclass may mean something else
            return outputs.cross_entropy(labels.ids, labels.weights)
        return outputs.tokens(term, labels, teacher)
    if isinstance(term, PathObjective):
        return term.on_path(outputs.path(labels.ids), labels)
    if isinstance(term, StateObjective):
        states = outputs.ends.float()
        theirs = teacher.ends.float() if teacher and term.needs_states else None
        return term.on_states(head(states) if head else states, labels, theirs)
    raise TypeError(f"{type(term).__name__} is no TokenObjective, PathObjective or StateObjective")


class _TokenLoss(torch.autograd.Function):
    """A token objective a few labels at a time; the gradient is taken at once, so that no logits are kept."""

    @staticmethod
    def forward(ctx: Any, source: Any, outputs: Outputs, term: Any, labels: Labels, teacher: Any) -> Any:
        ctx.grad = torch.empty_like(source) if source.requires_grad else None
        total = source.new_zeros((), dtype=torch.float32)
        for chunk in _parts(0, len(labels.ids), _CHUNK):
            ours = outputs.logits_of(chunk)
            theirs = teacher.logits_of(chunk) if teacher else ours
            for part in _parts(0, ours.shape[0], _SLICE):
                rows = labels.rows(slice(chunk.start + part.start, chunk.start + part.stop))
                other = theirs[part].float().log_softmax(-1) if teacher else None
                with torch.enable_grad():
                    leaf = ours[part].float().requires_grad_()
                    loss = (term.per_token(leaf.log_softmax(-1), rows, other) * rows.weights).sum()
                    if ctx.grad is not None:
                        # Nobody needs these logits again: their gradient takes their place.
                        ours[part] = torch.autograd.grad(loss, leaf)[0]
                total += loss.detach()
            if ctx.grad is not None:
                ctx.grad[chunk] = ours if outputs.hidden is None else ours @ outputs.weight
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        return ctx.grad * upstream.to(ctx.grad.dtype), None, None, None, None


def _parts(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


@contextmanager
def _implementation(model: Any, name: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
