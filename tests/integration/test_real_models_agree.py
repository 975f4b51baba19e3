"""Real models against transformers and PEFT in float32: ragged, past the sliding window, with an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from docendo.agents import Engine, models
from docendo.records import Request, SamplingParams

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 reads a property that transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

STORY = "Once upon a time, in a land far away, there lived a king who had three daughters. "
#: The last is longer than Gemma 3's sliding window of 512 tokens.
TEXTS = ["The capital of France is", "1, 2, 3, 4,", STORY, STORY * 32 + "The eldest"]
TOKENS = 6


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", "gemma-3-270m"])
def folder(request: pytest.FixtureRequest) -> Path:
    if not models.is_cached(request.param):
        terms = next(card for card in models.catalogue() if card.name == request.param).license_url
        message = f"{request.param} is not in the cache: docendo models pull {request.param}"
        # Terms are for people to accept: a test run does not fetch such a model by itself.
        pytest.skip(f"{message} --accept-license") if terms else pytest.fail(message, pytrace=False)
    return models.path(request.param)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def by_transformers(model: Any, ids: list[int]) -> tuple[list[int], list[float]]:
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = out.sequences[0, len(ids) :].tolist()
    tables = [torch.log_softmax(step[0], dim=-1) for step in out.logits]
    return tokens, [float(table[token]) for table, token in zip(tables, tokens, strict=True)]


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on all linear layers, with random weights."""
    torch.manual_seed(0)
    peft = get_peft_model(load(folder), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    for key, parameter in peft.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    target = tmp_path_factory.mktemp("adapter")
    peft.save_pretrained(target)
    return target


def check(engine: Engine, names: list[str | None], wanted: Callable[[str | None], Any]) -> None:
    sampling = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    rows = [(number, name) for number in range(len(TEXTS)) for name in names]
    with engine.paused():
        futures = [
            engine.submit(Request(prompt=TEXTS[number], sampling=sampling, adapter=name))
            for number, name in rows
        ]
    for (number, name), future in zip(rows, futures, strict=True):
        tokens, logprobs = wanted(name)[number]
        completion = future.result(120).completions[0]
        assert list(completion.token_ids) == tokens, TEXTS[number][-20:]
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-3)


def test_ragged_stored_and_adapted_rows_agree(folder: Path, adapter: Path) -> None:
    with Engine.load(folder, dtype="float32", device="cpu") as engine:
        ids = [list(engine.tokenizer(text).input_ids) for text in TEXTS]
        assert len(ids[-1]) > 540
        reference = load(folder)
        answers: dict[str | None, Any] = {None: [by_transformers(reference, one) for one in ids]}
        adapted = PeftModel.from_pretrained(reference, adapter).eval()
        answers["adapted"] = [by_transformers(adapted, one) for one in ids]
        assert [a for a, _ in answers[None]] != [a for a, _ in answers["adapted"]], "the adapter does nothing"
        check(engine, [None], answers.__getitem__)
        engine.load_adapter("adapted", adapter)
        # The base's prompts are stored by now; the adapter's are not.
        check(engine, [None, "adapted"], answers.__getitem__)
