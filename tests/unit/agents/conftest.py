"""Engines on tiny random models in float32, and what looks into their forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from docendo.agents import Engine
from docendo.records import SamplingParams


@pytest.fixture
def make_engine(tiny_model_dir: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines on the tiny model, and closes them after the test."""
    made: list[Engine] = []

    def make(model: Any = None, **options: Any) -> Engine:
        if model is None or isinstance(model, Path):
            engine = Engine.load(model or tiny_model_dir, dtype="float32", device="cpu", **options)
        else:
            engine = Engine(model, AutoTokenizer.from_pretrained(tiny_model_dir), **options)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="session")
def save_loras(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, dict[str, Any]]], dict[str, Path]]:
    """Saves random LoRAs on the tiny model, made by PEFT with these settings; returns their folders."""

    def save(kinds: dict[str, dict[str, Any]]) -> dict[str, Path]:
        root, plain = (
            tmp_path_factory.mktemp("loras"),
            {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        )
        for seed, (name, settings) in enumerate(kinds.items()):
            model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**plain, **settings}))
                for key, parameter in peft.named_parameters():
                    if "lora_B" in key:
                        torch.nn.init.normal_(parameter, std=0.2)
            peft.save_pretrained(root / name)
        return {name: root / name for name in kinds}

    return save


@pytest.fixture
def serve(make_engine: Callable[..., Engine], folders: dict[str, Path]) -> Callable[..., Engine]:
    """Makes engines that have the test module's adapters (its fixture `folders`) loaded."""

    def make(**options: Any) -> Engine:
        engine = make_engine(**options)
        for name, folder in folders.items():
            engine.load_adapter(name, folder)
        return engine

    return make


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()


@pytest.fixture(scope="session")
def reference(tiny_model_dir: Path) -> Any:
    """The tiny model as transformers runs it. Do not change it."""
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.fixture
def watch() -> Callable[[Engine], list[tuple[int, int]]]:
    """Records (rows, tokens of prompts) of every forward pass of an engine from now on."""

    def start(engine: Engine) -> list[tuple[int, int]]:
        passes: list[tuple[int, int]] = []

        def note(module: Any, args: Any, kwargs: Any) -> None:
            layout = kwargs["past_key_values"].layout
            rows = len(layout.starts) + len(layout.stretches)
            passes.append((rows, sum(stretch.width for stretch in layout.stretches)))

        engine._model.base_model.register_forward_pre_hook(note, with_kwargs=True)
        return passes

    return start


@pytest.fixture(scope="session")
def greedy_by_transformers() -> Callable[..., tuple[list[int], list[float]]]:
    """`model.generate` on one prompt without padding: tokens and their log-probabilities."""

    def generate(model: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=count,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
            )
        tokens = out.sequences[0, len(prompt) :].tolist()
        tables = [torch.log_softmax(step[0].float(), dim=-1) for step in out.logits]
        return tokens, [float(table[token]) for table, token in zip(tables, tokens, strict=True)]

    return generate


@pytest.fixture(scope="session")
def greedy() -> Callable[[int], SamplingParams]:
    def params(count: int) -> SamplingParams:
        return SamplingParams(max_tokens=count)

    return params
