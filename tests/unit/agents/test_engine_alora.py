"""Activated LoRA (arXiv 2504.12397) acts from its invocation on, as under PEFT, and shares what is before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from docendo.agents import Engine
from docendo.records import Request, SamplingParams, ScoreRequest

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Make = Callable[..., Engine]
Passes = Callable[[Engine], list[tuple[int, int]]]
CALL, OTHER_CALL = (201, 202, 203), (210, 211)
SETTINGS: dict[str, dict[str, Any]] = {
    "judge": {"alora_invocation_tokens": list(CALL)},
    "editor": {"alora_invocation_tokens": list(OTHER_CALL), "r": 8, "target_modules": ["q_proj", "v_proj"]},
    "plain": {},
}
BEFORE = tuple(10 + (7 * i + i * i) % 180 for i in range(40))
AFTER = tuple(20 + (11 * i) % 150 for i in range(9))
COMPLETION = tuple(30 + (5 * i) % 140 for i in range(12))
#: Prompts by where the judge's invocation is.
PROMPTS = {
    "within": (*BEFORE, *CALL, *AFTER),
    "at the end": (*BEFORE, *CALL),
    "absent": (*BEFORE, *AFTER),
    "half": (*BEFORE, *CALL[:2]),
    "twice": (*BEFORE, *CALL, *AFTER, *CALL, 77),
    "at the start": (*CALL, *BEFORE),
    "nothing else": CALL,
    "after a long text": (*BEFORE * 20, *CALL, *AFTER),
    "before a long text": (*BEFORE, *CALL, *AFTER * 70),
}


@pytest.fixture(scope="module")
def folders(save_loras: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    """Adapters with random weights, B included, saved by PEFT."""
    return save_loras(SETTINGS)


@pytest.fixture(scope="module")
def by_peft(tiny_model_dir: Path, folders: dict[str, Path]) -> dict[str, Any]:
    models = {}
    for name, folder in folders.items():
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
        models[name] = PeftModel.from_pretrained(base, folder).eval()
    return models


def logprobs_by(model: Any, prompt: tuple[int, ...]) -> list[float]:
    ids = torch.tensor([prompt + COMPLETION])
    with torch.inference_mode():
        table = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)[len(prompt) - 1 : -1]
    return table.gather(1, torch.tensor(COMPLETION)[:, None])[:, 0].tolist()


def score(adapter: str | None, prompt: tuple[int, ...]) -> ScoreRequest:
    return ScoreRequest(prompt=prompt, completion=COMPLETION, adapter=adapter)


def ask(adapter: str | None, prompt: tuple[int, ...], count: int = 12, **settings: Any) -> Request:
    sampling = SamplingParams(max_tokens=count, ignore_eos=True, **settings)
    return Request(prompt=prompt, adapter=adapter, sampling=sampling)


@pytest.mark.parametrize("where", PROMPTS)
@pytest.mark.parametrize("determinism", ["seeded", "invariant"])
def test_scores_and_texts_are_those_of_peft(
    serve: Make, reference: Any, by_peft: dict[str, Any], where: str, determinism: str
) -> None:
    engine, prompt = serve(determinism=determinism), PROMPTS[where]
    wanted = logprobs_by(by_peft["judge"], prompt)
    base = logprobs_by(reference, prompt)
    assert engine.score(score("judge", prompt)).logprobs == pytest.approx(wanted, abs=1e-4)
    gap = max(abs(a - b) for a, b in zip(wanted, base, strict=True))
    assert (gap < 1e-5) if where in ("absent", "half") else (gap > 0.1)
    for _ in range(2):  # the second time from what is stored
        completion = engine.generate(ask("judge", prompt)).completions[0]
        with torch.inference_mode():
            out = by_peft["judge"].generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=12,
                min_new_tokens=12,
                do_sample=False,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        assert completion.token_ids == tuple(out.sequences[0, len(prompt) :].tolist())
        tables = [torch.log_softmax(step[0], dim=-1) for step in out.logits]
        expected = [float(table[token]) for table, token in zip(tables, completion.token_ids, strict=True)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_prompt_log_probabilities_are_those_of_peft(serve: Make, by_peft: dict[str, Any]) -> None:
    engine, prompt = serve(), PROMPTS["twice"]
    engine.generate(ask(None, prompt, 1))
    result = engine.generate(ask("judge", prompt, 1, prompt_logprobs=True))
    with torch.inference_mode():
        table = torch.log_softmax(by_peft["judge"](input_ids=torch.tensor([prompt])).logits[0], dim=-1)
    expected = table[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist()
    assert result.prompt_logprobs[1:] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("together", [False, True])
def test_base_and_two_adapters_share_one_prefill(
    serve: Make, by_peft: dict[str, Any], watch: Passes, together: bool
) -> None:
    """The context is computed once, whoever asks first, and no answer is changed by that."""
    engine, alone = serve(), serve(prefix_tokens=0, max_rows=1)
    context = BEFORE * 15
    requests = [
        ask(None, context),
        ask("judge", (*context, *CALL)),
        ask("editor", (*context, *OTHER_CALL, *AFTER)),
        ask("judge", (*context, 99, *CALL)),
        ask("editor", context),
    ]
    passes = watch(engine)
    if together:
        with engine.paused():
            futures = [engine.submit(request) for request in requests]
        results = [future.result(30) for future in futures]
    else:
        results = [engine.generate(request) for request in requests]
    cached = [result.usage.cached_tokens for result in results]
    assert cached[0] == 0
    assert cached[1:4] == [len(context)] * 3
    assert cached[4] == len(context) - 1
    assert sum(tokens for _, tokens in passes) == sum(
        len(request.prompt) - stored for request, stored in zip(requests, cached, strict=True)
    )
    for request, result in zip(requests, results, strict=True):
        left, right = result.completions[0], alone.generate(request).completions[0]
        assert left.token_ids == right.token_ids
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
    scored = engine.score(score("judge", (*context, *CALL)))
    assert scored.usage.cached_tokens == len(context)
    assert scored.logprobs == pytest.approx(logprobs_by(by_peft["judge"], (*context, *CALL)), abs=1e-4)


def test_what_follows_an_invocation_is_never_given_to_the_base(
    serve: Make, reference: Any, by_peft: dict[str, Any]
) -> None:
    engine = serve()
    long = (*BEFORE, *CALL, *AFTER * 10)
    assert engine.generate(ask("judge", long)).usage.cached_tokens == 0
    base = engine.score(score(None, long))
    assert base.usage.cached_tokens == len(BEFORE)
    assert base.logprobs == pytest.approx(logprobs_by(reference, long), abs=1e-4)
    for name in ("plain", "editor"):
        other = engine.score(score(name, long))
        assert other.logprobs == pytest.approx(logprobs_by(by_peft[name], long), abs=1e-4)
    assert engine.score(score("judge", long)).logprobs == pytest.approx(
        logprobs_by(by_peft["judge"], long), abs=1e-4
    )


def test_from_the_first_token_on_its_keys_are_its_own(serve: Make, reference: Any) -> None:
    engine = serve()
    prompt = PROMPTS["at the start"]
    engine.generate(ask("judge", prompt))
    base = engine.score(score(None, prompt))
    assert base.usage.cached_tokens == 0
    assert base.logprobs == pytest.approx(logprobs_by(reference, prompt), abs=1e-4)


def test_all_kinds_in_one_batch(serve: Make, reference: Any, by_peft: dict[str, Any], watch: Passes) -> None:
    engine, alone = serve(), serve(prefix_tokens=0, max_rows=1)
    passes = watch(engine)
    models = {None: reference, **by_peft}
    pairs = [(name, (*prompt, 60 + n)) for n, prompt in enumerate(PROMPTS.values()) for name in models]
    requests = [ask(name, prompt, 10 + at % 7) for at, (name, prompt) in enumerate(pairs)]
    with engine.paused():
        futures = [engine.submit(request) for request in requests]
        scores = [engine.submit_score(score(name, prompt)) for name, prompt in pairs]
    for (name, prompt), future in zip(pairs, scores, strict=True):
        assert future.result(30).logprobs == pytest.approx(logprobs_by(models[name], prompt), abs=1e-4)
    for request, future in zip(requests, futures, strict=True):
        left, right = future.result(30).completions[0], alone.generate(request).completions[0]
        assert left.token_ids == right.token_ids
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
    assert max(rows for rows, prompt in passes if not prompt) > 10


def test_another_invocation_is_another_key(
    make_engine: Make, folders: dict[str, Path], tmp_path: Path
) -> None:
    """The same weights under another invocation are another adapter to whatever is stored."""
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folders["judge"], copy)
    config = json.loads((copy / "adapter_config.json").read_text())
    config["alora_invocation_tokens"] = [CALL[0]]
    (copy / "adapter_config.json").write_text(json.dumps(config))
    engine = make_engine()
    first = engine.load_adapter("judge", folders["judge"])
    assert engine.load_adapter("copy", copy) == first
    keys = {name: engine._adapters[name].key for name in ("judge", "copy")}
    assert keys["judge"] != keys["copy"]
    half = PROMPTS["half"]
    texts = {name: engine.generate(ask(name, half)).completions[0].token_ids for name in ("judge", "copy")}
    assert texts["judge"] != texts["copy"]
