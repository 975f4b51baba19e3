"""Difference sampling on a corpus of lessons, trivial text and noise, with models trained here."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from docendo.agents import Engine, tiny_model
from docendo.agents._templates import completion_ids, prompt_ids
from docendo.distill import DifferenceSampling, Shuffled

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_PROMPT = "Text:"


def _lesson(rng: random.Random) -> str:
    """Counting on by a fixed step, modulo 13."""
    start, step = rng.randrange(13), rng.randrange(1, 5)
    return " ".join(_NUMBERS[(start + n * step) % 13] for n in range(8))


def _trivial(rng: random.Random) -> str:
    return " ".join([rng.choice(["la", "na"])] * 12)


def _noise(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(36))


def _corpus(seed: int, size: int) -> list[dict[str, Any]]:
    """Half lessons, a quarter trivial text, a quarter noise."""
    rng = random.Random(seed)
    kinds = [_lesson] * (size // 2) + [_trivial] * (size // 4) + [_noise] * (size // 4)
    rng.shuffle(kinds)
    return [{"prompt": _PROMPT, "completion": kind(rng), "kind": kind.__name__} for kind in kinds]


def _taught(folder: Path, rows: list[dict[str, Any]], *, steps: int) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = prompt_ids(tokenizer, _PROMPT)
    texts = [completion_ids(tokenizer, row["completion"]) for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = random.Random(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the products are too small to be worth sharing
    try:
        for _ in range(steps):
            batch = rng.sample(texts, 8)
            longest = max(map(len, batch))
            ids = torch.tensor([before + text + [0] * (longest - len(text)) for text in batch])
            labels = torch.tensor(
                [[-100] * len(before) + text + [-100] * (longest - len(text)) for text in batch]
            )
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


def _share(rows: list[dict[str, Any]], kind: str) -> float:
    return Counter(row["kind"] for row in rows)[kind] / len(rows)


@pytest.mark.slow
def test_difference_sampling_keeps_lessons_and_its_control_does_not(tmp_path: Path) -> None:
    large = tiny_model(tmp_path / "large", hidden=64, layers=2, chat=False)
    small = tiny_model(tmp_path / "small", hidden=32, layers=1, chat=False)
    _taught(large, _corpus(1, 1000), steps=150)
    _taught(small, _corpus(2, 64), steps=40)
    rows = _corpus(3, 200)
    assert not {row["completion"] for row in rows if row["kind"] == "_noise"} & {
        row["completion"] for row in _corpus(1, 1000)
    }
    with (
        Engine.load(large, dtype="float32") as teacher,
        Engine.load(small, dtype="float32") as reference,
    ):
        selector = DifferenceSampling(teacher, reference, quiet=True)
        kept = selector.select(rows).take(rows)
        assert len(kept) == 100
        # A quarter of the corpus each; what is asked for is less than half of that.
        assert _share(kept, "_noise") < 0.125
        assert _share(kept, "_trivial") < 0.125
        # Without the signal the shares are those of the corpus.
        controls = [row for seed in range(5) for row in Shuffled(selector, seed=seed).select(rows).take(rows)]
        for kind in ("_noise", "_trivial"):
            assert 0.2 < _share(controls, kind) < 0.3
        # What the teacher alone finds easy is trivial text, all of it.
        nll = selector.score(rows).columns["teacher_nll"]
        easy = sorted(range(len(rows)), key=lambda at: nll[at] or 0.0)[:100]
        assert _share([rows[at] for at in easy], "_trivial") == 0.5
