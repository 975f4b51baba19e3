"""A teacher that runs: loading it, and whether it has the student's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel

from docendo.agents import models
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.training._config import Dtype, TrainConfig
from docendo.distill.training._kernels import speed_up
from docendo.distill.training._models import load_base
from docendo.errors import DataError
from docendo.hashing import digest
from docendo.progress import quiet_libraries


def load_teacher(source: Path, adapter: Adapter | None, dtype: Dtype) -> Any:
    """A frozen causal language model, its adapter in force."""
    base = load_base(source, TrainConfig(dtype=dtype))
    if adapter is not None:
        adapter.require_base(models.fingerprint(source))
        with quiet_libraries():
            wrapped = PeftModel.from_pretrained(base, str(adapter.path))
        speed_up(wrapped)
        base = wrapped.get_base_model()
    return base.eval().requires_grad_(False)


def vocabulary_digest(tokenizer: Any) -> str:
    """A digest of what each token id means."""
    return digest(sorted(tokenizer.get_vocab().items()))


def require_vocabulary(teacher: Any, student: Any, name: str) -> None:
    """Checks that two tokenizers have the same tokens; whatever pads their models' heads does not matter."""
    require_same(vocabulary_digest(teacher), student, name)


def require_same(vocabulary: str, tokenizer: Any, name: str) -> None:
    """Checks that a tokenizer has the tokens of a teacher, of which there is a digest."""
    if vocabulary_digest(tokenizer) != vocabulary:
        raise DataError(
            f"teacher {name!r} has another vocabulary than the student",
            expected="the same tokenizer for losses at each token",
            remedy="use ALM, which compares the likelihoods of aligned chunks of text",
        )
