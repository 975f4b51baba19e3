"""LoRA adapters: each row as under PEFT (float32, within 1e-4), however the batch is mixed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from docendo.agents import Engine, _fusing, tiny_model
from docendo.errors import AdapterError, IntegrityError
from docendo.hashing import file_sha256
from docendo.manifest import write_manifest
from docendo.records import Origin, Request, SamplingParams, ScoreRequest

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Make = Callable[..., Engine]
PROMPT = tuple(range(20, 50))
COMPLETION = tuple(range(50, 90))
SHAPES: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "attention": {"r": 8, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
    "stabilised": {"r": 2, "lora_alpha": 8, "target_modules": ["down_proj", "o_proj"], "use_rslora": True},
}


def new_adapter(base: Path, target: Path, *, seed: int = 0, std: float = 0.2, **settings: Any) -> Path:
    """A PEFT folder with random weights, B included."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**SHAPES["all"], **settings}))
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=std)
    peft.save_pretrained(target)
    return target


@pytest.fixture(scope="session")
def adapters(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: new_adapter(tiny_model_dir, folder / name, seed=number, **shape)
        for number, (name, shape) in enumerate(SHAPES.items())
    }


@pytest.fixture(scope="session")
def by_peft(tiny_model_dir: Path, adapters: dict[str, Path]) -> dict[str | None, list[float]]:
    """Log-probabilities of COMPLETION after PROMPT under PEFT, for each adapter and the base."""
    found: dict[str | None, list[float]] = {}
    for name in (None, *adapters):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
        if name:
            model = PeftModel.from_pretrained(model, adapters[name]).eval()
        with torch.inference_mode():
            logits = model(torch.tensor([PROMPT + COMPLETION])).logits[0]
        table = torch.log_softmax(logits, dim=-1)[len(PROMPT) - 1 : -1]
        found[name] = table.gather(1, torch.tensor(COMPLETION)[:, None])[:, 0].tolist()
    return found


def score(adapter: str | None) -> ScoreRequest:
    return ScoreRequest(prompt=PROMPT, completion=COMPLETION, adapter=adapter)


def ask(adapter: str | None, length: int = 30, count: int = 12, **settings: Any) -> Request:
    sampling = SamplingParams(max_tokens=count, **settings)
    return Request(prompt=tuple(range(20, 20 + length)), adapter=adapter, sampling=sampling)


@pytest.mark.parametrize("name", SHAPES)
def test_one_adapter_equals_peft(
    engine: Engine, adapters: dict[str, Path], by_peft: dict[str | None, list[float]], name: str
) -> None:
    sha256 = engine.load_adapter(name, adapters[name])
    assert sha256 == file_sha256(adapters[name] / "adapter_model.safetensors")
    assert engine.adapter_hash(name) == sha256
    result = engine.score(score(name))
    assert result.logprobs == pytest.approx(by_peft[name], abs=1e-4)
    assert result.adapter == sha256
    assert max(abs(a - b) for a, b in zip(by_peft[name], by_peft[None], strict=True)) > 0.1
    assert engine.score(score(None)).logprobs == pytest.approx(by_peft[None], abs=1e-4)


def test_adapters_and_base_mixed_in_one_batch(
    engine: Engine,
    make_engine: Make,
    adapters: dict[str, Path],
    by_peft: dict[str | None, list[float]],
    watch: Callable[[Engine], list[tuple[int, int]]],
) -> None:
    alone = make_engine(max_rows=1, prefix_tokens=0)
    for name, path in adapters.items():
        engine.load_adapter(name, path)
        alone.load_adapter(name, path)
    names = [None, "all", "attention", None, "stabilised", "all"]
    requests = [ask(name, 20 + i, 10 + i) for i, name in enumerate(names * 3)]
    passes = watch(engine)
    with engine.paused():
        scores = [engine.submit_score(score(name)) for name in names]
        futures = [engine.submit(request) for request in requests]
    for name, scored in zip(names, scores, strict=True):
        assert scored.result(20).logprobs == pytest.approx(by_peft[name], abs=1e-4)
    for request, future in zip(requests, futures, strict=True):
        left, right = future.result(20).completions[0], alone.generate(request).completions[0]
        assert left.token_ids == right.token_ids
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
    assert max(rows for rows, prompt in passes if not prompt) >= 12
    one = {name: alone.generate(ask(name)).completions[0].token_ids for name in set(names)}
    assert len(set(one.values())) == 4, "the adapters are too weak for this test"


@pytest.mark.parametrize("fused", [False, True])
def test_packed_weights_give_the_same_numbers(
    tiny_model_dir: Path,
    adapters: dict[str, Path],
    by_peft: dict[str | None, list[float]],
    monkeypatch: pytest.MonkeyPatch,
    fused: bool,
) -> None:
    """bfloat16, whose products are other ones: steps of a mixed batch, of one adapter, and whole prompts."""
    names = [None, *adapters] * 2
    for limit in ("FUSED_AFTER", "SERVED_AFTER"):
        monkeypatch.setattr(_fusing, limit, 1 if fused else 1 << 30)
    with Engine.load(tiny_model_dir, dtype="bfloat16", device="cpu", prefix_tokens=0) as half:
        for name, path in adapters.items():
            half.load_adapter(name, path)
        with half.paused():
            scores = [half.submit_score(score(name)) for name in names]
        for name, scored in zip(names, scores, strict=True):
            assert scored.result(20).logprobs == pytest.approx(by_peft[name], abs=0.3)
        for together in (names, ["all"] * 3, ["attention"]):
            with half.paused():
                requests = [ask(name, 20 + i) for i, name in enumerate(together)]
                futures = [half.submit(request) for request in requests]
            for request, future in zip(requests, futures, strict=True):
                drawn = future.result(20).completions[0]
                again = ScoreRequest(
                    prompt=request.prompt, completion=drawn.token_ids, adapter=request.adapter
                )
                # Steps against pieces of a text: the same terms by different products.
                assert drawn.logprobs == pytest.approx(half.score(again).logprobs, abs=0.3)
        stacks = [{adapter.name for adapter in one} for one in half._worker.loop.router.fusing.stacks]
        assert all((one in stacks) == fused for one in (set(adapters), {"all"}, {"attention"}))


def test_stacks_are_fused_when_they_have_paid_for_it(
    tiny_model_dir: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some passes, as far as there is memory; not at all under invariance."""
    monkeypatch.setattr(_fusing, "FUSED_AFTER", 5)
    options: dict[str, Any] = {"dtype": "bfloat16", "device": "cpu", "prefix_tokens": 0}
    first, second, _ = adapters

    def fused(engine: Engine) -> list[set[str]]:
        return [{adapter.name for adapter in stack} for stack in engine._worker.loop.router.fusing.stacks]

    with Engine.load(tiny_model_dir, **options) as half:
        for name, path in adapters.items():
            half.load_adapter(name, path)
        for count in range(4):
            half.generate(ask(first, count=1))
            assert fused(half) == [], count
        half.generate(ask(first, count=1))
        assert fused(half) == [{first}]
        half.generate(ask(second, count=5))
        assert fused(half) == [{first}, {second}]
        half.drop_adapter(second)
        assert fused(half) == [{first}]
    for limit, more in (("FUSED_BYTES", {}), ("FUSED_RANKS", {}), (None, {"determinism": "invariant"})):
        with monkeypatch.context() as patch, Engine.load(tiny_model_dir, **options, **more) as half:
            if limit:
                patch.setattr(_fusing, limit, 0)
            half.load_adapter("a", adapters[first])
            half.generate(ask("a", count=12))
            assert fused(half) == []


def test_prompts_of_one_adapter_lie_side_by_side(engine: Engine, adapters: dict[str, Path]) -> None:
    """Every adapter of a pass gets one part, however its prompts have come in."""
    for name, path in adapters.items():
        engine.load_adapter(name, path)
    router = engine._worker.loop.router
    route, seen = router.route, []

    def noting(*args: Any) -> None:
        route(*args)
        seen.append([(part.adapters[0].name, part.start, part.stop) for part in router.parts])

    router.route = noting  # type: ignore[method-assign]
    with engine.paused():
        futures = [
            engine.submit(Request(prompt=tuple(range(10 + i, 81 + i)), adapter=name))
            for i, name in enumerate([None, *adapters, None, *adapters])
        ]
    for future in futures:
        future.result(20)
    assert sorted(name for name, _, _ in seen[0]) == sorted(adapters)
    assert all(stop - start > 140 for _, start, stop in seen[0])


def test_prefixes_are_kept_apart_by_adapter(engine: Engine, adapters: dict[str, Path]) -> None:
    engine.load_adapter("a", adapters["all"])
    base = engine.generate(ask(None, 60))
    first, second = engine.generate(ask("a", 60)), engine.generate(ask("a", 60))
    assert (base.usage.cached_tokens, first.usage.cached_tokens, second.usage.cached_tokens) == (0, 0, 59)
    assert first.completions == pytest.approx(second.completions) or (
        first.completions[0].token_ids == second.completions[0].token_ids
    )
    assert first.completions[0].token_ids != base.completions[0].token_ids


def test_hot_swap_while_rows_run(make_engine: Make, adapters: dict[str, Path]) -> None:
    """A running row keeps its weights; a later request under the same name gets the new ones."""
    engine, alone = make_engine(), make_engine(max_rows=1)
    alone.load_adapter("old", adapters["all"])
    alone.load_adapter("new", adapters["attention"])
    old = engine.load_adapter("student", adapters["all"])
    running = engine.submit(ask("student", count=400, temperature=1.5, seed=1))
    while not engine._worker.loop.rows:
        time.sleep(0.001)
    new = engine.load_adapter("student", adapters["attention"])
    assert not running.done()
    later = engine.generate(ask("student"))
    assert (running.result(20).adapter, later.adapter) == (old, new)
    assert engine.adapters() == {"student": new}
    wanted = alone.generate(ask("old", count=400, temperature=1.5, seed=1)).completions[0]
    # The seed of a request is given, so only the weights could make a difference.
    assert running.result().completions[0].token_ids == wanted.token_ids
    assert later.completions[0].token_ids == alone.generate(ask("new")).completions[0].token_ids


def test_dropping(engine: Engine, adapters: dict[str, Path]) -> None:
    sha256 = engine.load_adapter("a", adapters["all"])
    with engine.paused():
        queued = engine.submit(ask("a"))
        engine.drop_adapter("a")
    assert queued.result(20).adapter == sha256
    assert engine.adapters() == {}
    with pytest.raises(AdapterError, match=r"'a' is not loaded \(loaded: none\)"):
        engine.submit(ask("a"))
    with pytest.raises(AdapterError):
        engine.drop_adapter("a")


def test_ledger_names_the_adapter(engine: Engine, adapters: dict[str, Path]) -> None:
    engine.load_adapter("a", adapters["all"])
    engine.generate(ask("a").replace(origin=Origin(role="student")))
    engine.generate(ask(None).replace(origin=Origin(role="student")))
    assert {(row["role"], row["adapter"]) for row in engine.ledger()} == {("student", "a"), ("student", None)}


@pytest.fixture
def broken(adapters: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a good adapter, to be damaged."""
    return Path(shutil.copytree(adapters["all"], tmp_path / "broken"))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "REMOVED"}))


def edit_weights(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({key: change(key, tensor).contiguous() for key, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"r": 8}, "rank"),
        ({"r": "REMOVED"}, "damaged"),
        ({"lora_alpha": "many"}, "damaged"),
    ],
)
def test_configs_that_are_refused(engine: Engine, broken: Path, changes: dict[str, Any], words: str) -> None:
    edit_config(broken, **changes)
    with pytest.raises(AdapterError, match=words):
        engine.load_adapter("x", broken)
    assert engine.adapters() == {}


def test_dora_made_by_peft_is_refused(engine: Engine, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="use_dora"):
        engine.load_adapter("x", new_adapter(tiny_model_dir, tmp_path / "dora", use_dora=True))


def test_an_adapter_on_the_output_layer_is_refused(engine: Engine, broken: Path) -> None:
    """It would have no effect: the loop calls that layer by itself."""
    head = {"lora_A": torch.ones(4, 64), "lora_B": torch.ones(259, 4)}
    tensors = {f"base_model.model.lm_head.{part}.weight": tensor for part, tensor in head.items()}
    save_file(tensors, broken / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"lm_head.*output layer"):
        engine.load_adapter("x", broken)


def test_damaged_folders_are_refused(engine: Engine, broken: Path, tmp_path: Path) -> None:
    weights = broken / "adapter_model.safetensors"
    good = weights.read_bytes()
    for damage in (good[:100], b"", good[: len(good) // 2]):
        weights.write_bytes(damage)
        with pytest.raises(AdapterError, match="damaged"):
            engine.load_adapter("x", broken)
    weights.write_bytes(good)
    (broken / "adapter_config.json").write_text("{ not json")
    with pytest.raises(AdapterError, match="damaged"):
        engine.load_adapter("x", broken)
    (broken / "adapter_config.json").write_text("[]")
    with pytest.raises(AdapterError, match="damaged"):
        engine.load_adapter("x", broken)
    weights.unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        engine.load_adapter("x", broken)
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        engine.load_adapter("x", tmp_path / "nowhere")
    assert engine.generate(ask(None))


def test_weights_that_are_not_finite_are_refused(engine: Engine, broken: Path) -> None:
    edit_weights(broken, lambda key, tensor: tensor / 0 if "0.mlp.up_proj.lora_A" in key else tensor)
    with pytest.raises(AdapterError, match="not finite"):
        engine.load_adapter("x", broken)


def test_a_manifest_is_checked(engine: Engine, broken: Path) -> None:
    write_manifest(broken, {"base": {"fingerprint": engine.fingerprint, "name": "tiny"}})
    assert engine.load_adapter("x", broken)
    edit_weights(broken, lambda key, tensor: tensor + 1)
    with pytest.raises(IntegrityError, match="adapter_model"):
        engine.load_adapter("y", broken)


def test_another_base_is_refused(
    engine: Engine, make_engine: Make, broken: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    write_manifest(broken, {"base": {"fingerprint": "0" * 64, "name": "some-other-model"}})
    with pytest.raises(AdapterError, match=r"another base model .some-other-model."):
        engine.load_adapter("x", broken)
    # Without a manifest the shapes and module names tell.
    wide = make_engine(tiny_model(tmp_path / "wide", hidden=32))
    with pytest.raises(AdapterError, match="does not fit"):
        wide.load_adapter("x", adapters["all"])
    shallow = make_engine(tiny_model(tmp_path / "shallow", layers=1))
    with pytest.raises(AdapterError, match=r"layers\.1.*lacks"):
        shallow.load_adapter("x", adapters["all"])
