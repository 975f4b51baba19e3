"""R11: Loading is not running: hostile artefacts execute nothing and are refused with a clear error.

The static side of it, no pickle, `torch.load`, `eval`, `exec` or `trust_remote_code` in the library, is
tests/contract/test_conventions.py.
"""

from __future__ import annotations

import importlib.util
import io
import pickle  # noqa: TID251  the broken variant: what docendo never does
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_hostile import Workshop, artefacts, hostile_msgpack

from docendo import agents, distill
from docendo.errors import DocendoError

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 reads a property that transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def shop(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # what an artefact names can be imported: nothing may try
    rows = [{"prompt": "2 + 2 =", "completion": "4"}] * 2
    config = distill.TrainConfig(max_steps=1, learning_rate=1e-2, lora_r=4, dtype="float32")
    made = distill.train(tiny_model_dir, rows, output=tmp_path / "adapter", config=config, quiet=True)
    with agents.Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        yield Workshop(tmp_path, model=tiny_model_dir, adapter=made.path, engine=engine)


def test_nothing_runs(bar: Any, shop: Workshop) -> None:
    failed, outcomes = [], {"refused": 0, "read as plain data": 0}
    for artefact in artefacts(shop):
        try:
            artefact.load()
            outcome = "read as plain data"
            if not artefact.inert:
                failed.append(f"{artefact.name}: neither refused nor inert")
        except DocendoError as error:
            outcome = "refused"
            if "\n" in str(error) or len(str(error)) < 20:
                failed.append(f"{artefact.name}: no clear error: {error}")
        except Exception as error:
            outcome = "refused"
            failed.append(f"{artefact.name}: {type(error).__name__}: {error}")
        outcomes[outcome] += 1
        if shop.canary.exists():
            failed.append(f"{artefact.name}: was executed")
            shop.canary.unlink()
        if "evil_peft" in sys.modules or "evil" in sys.modules:
            failed.append(f"{artefact.name}: its module was imported")
    bar.part("hostile artefacts", cases=sum(outcomes.values()), failed=failed, needed=25, outcomes=outcomes)


def executed(shop: Workshop, load: Any) -> bool:
    """Loads something and says whether it ran."""
    try:
        load()
    except Exception as error:
        shop.refusals.append(str(error))  # type: ignore[attr-defined]
    ran = shop.canary.exists()
    shop.canary.unlink(missing_ok=True)
    return ran


@pytest.fixture
def refusing(shop: Workshop) -> Workshop:
    shop.refusals = []  # type: ignore[attr-defined]
    return shop


def test_the_bar_catches_what_unpickles(bar: Any, refusing: Workshop) -> None:
    import torch

    shop = refusing
    loads = {
        "pickle.loads": lambda: pickle.loads(shop.pickled()),
        "torch.load(weights_only=False)": lambda: torch.load(
            io.BytesIO(shop.torch_file()), weights_only=False
        ),
        "exec of a file": lambda: exec(shop.python, {}),
    }
    ran = [f"{name} ran it" for name, load in loads.items() if executed(shop, load)]
    bar.broken("loading with pickle, torch.load or exec", cases=len(loads), failed=ran)
    assert len(ran) == len(loads)


def test_anchor_langgraph_serializer(bar: Any, refusing: Workshop) -> None:
    if importlib.util.find_spec("langgraph.checkpoint.serde.jsonplus") is None:
        pytest.skip("langgraph-checkpoint is not installed")
    import json

    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    shop, serializer = refusing, JsonPlusSerializer()
    constructor = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [shop.command]}
    loads = {
        "msgpack": ("msgpack", hostile_msgpack(shop.command)),
        "json": ("json", json.dumps(constructor).encode()),
        "pickle": ("pickle", shop.pickled()),
    }
    ran = [name for name, data in loads.items() if executed(shop, lambda d=data: serializer.loads_typed(d))]
    bar.anchor(
        "LangGraph's checkpoint serializer with its defaults: msgpack, JSON constructor, pickle",
        cases=len(loads),
        failed=ran,
        note="the payload is executed",
    )


def test_anchor_peft_and_transformers(bar: Any, refusing: Workshop) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shop = refusing
    weights, model = "adapter_model.safetensors", shop.model
    only_bin = shop.copy(shop.adapter, without=(weights,), adapter_model__bin=shop.torch_file())
    base_bin = shop.copy(model, without=("model.safetensors",), pytorch_model__bin=shop.torch_file())
    evil = {"evil__py": shop.python + "class Evil: ...\n"}
    code = shop.copy(
        model, config__json={"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}, **evil
    )
    tokens = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    tokenizer = shop.copy(model, without=("tokenizer.json",), tokenizer_config__json=tokens, **evil)
    loads = {
        "a pickled adapter": lambda: PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model), only_bin
        ),
        "a pickled model": lambda: AutoModelForCausalLM.from_pretrained(base_bin),
        "a model with code": lambda: AutoModelForCausalLM.from_pretrained(code),
        "a tokenizer with code": lambda: AutoTokenizer.from_pretrained(tokenizer),
    }
    ran = [name for name, load in loads.items() if executed(shop, load)]
    bar.anchor(
        "PEFT and transformers with their defaults: pickled adapter and model, model and tokenizer with code",
        cases=len(loads),
        failed=ran,
        note="the payload is executed",
        refused=len(shop.refusals),  # type: ignore[attr-defined]
    )
