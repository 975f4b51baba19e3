"""A model from nothing learns a small rule, and the engine serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from docendo.agents import Agent, Engine
from docendo.distill import PretrainConfig, Sampler, pretrain
from docendo.errors import ConfigError, DataError, ModelFailure, ResumeError, StorageError
from docendo.records import PublicItem, SamplingParams

DIGITS = "0123456789"
SMALL = PretrainConfig(
    hidden=32, layers=1, heads=2, steps=300, batch=32, learning_rate=1e-2, warmup=10, context=8
)


def after(rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
    return [(f"{n}", f"{(n + 1) % 10}{(n + 2) % 10}") for n in rng.integers(0, 10, batch)]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def learnt(sampler: Sampler, step: int) -> bool:
        return sampler(list(DIGITS), length=2) == [f"{(n + 1) % 10}{(n + 2) % 10}" for n in range(10)]

    folder = tmp_path_factory.mktemp("models") / "counting"
    return pretrain(after, alphabet=DIGITS, output=folder, config=SMALL, stop=learnt, quiet=True)


def test_the_engine_serves_what_was_learnt(counting: Path) -> None:
    with Engine.load(counting) as engine:
        agent = Agent(engine, sampling=SamplingParams(max_tokens=2, temperature=0.0))
        answers = [agent.reply(PublicItem(id=str(n), question=str(n))) for n in range(10)]
    assert answers == [f"{(n + 1) % 10}{(n + 2) % 10}" for n in range(10)]


def test_a_model_that_learns_to_end_ends_by_itself(tmp_path: Path) -> None:
    def learnt(sampler: Sampler, step: int) -> bool:
        return step >= 100 and sampler(["1", "5"], length=2) == ["23", "67"]

    made = pretrain(
        after, alphabet=DIGITS, output=tmp_path / "m", config=SMALL, stop=learnt, ends=True, quiet=True
    )
    with Engine.load(made) as engine:
        agent = Agent(engine, sampling=SamplingParams(max_tokens=5, temperature=0.0))
        assert agent.reply(PublicItem(id="1", question="1")) == "23"
    with pytest.raises(ResumeError):
        pretrain(after, alphabet=DIGITS, output=made, config=SMALL, resume=True, quiet=True)


def test_it_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    few = SMALL.replace(steps=3)
    first, again, other = (
        pretrain(after, alphabet=DIGITS, output=tmp_path / name, config=few.replace(seed=seed), quiet=True)
        / "model.safetensors"
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_what_it_stops_at_is_asked_in_turn(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop(sampler: Sampler, step: int) -> bool:
        asked.append(step)
        drawn = [sampler(["1", "2"], length=2, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1]
        assert all(len(text) == 2 for text in drawn[2])
        with pytest.raises(DataError, match="several lengths"):
            sampler(["1", "12"], length=1)
        return len(asked) == 2

    pretrain(
        after,
        alphabet=DIGITS,
        output=tmp_path / "m",
        config=SMALL.replace(every=3, steps=100),
        stop=stop,
        quiet=True,
    )
    assert asked == [3, 6]


def test_what_cannot_be_learnt_is_refused(tmp_path: Path) -> None:
    def rows(prompt: str, completion: str) -> object:
        return lambda rng, batch: [(prompt, completion)]

    for row, words in (
        (("x", "1"), "the character 'x'"),
        (("1", ""), "the completion of '1' is empty"),
        (("1" * 8, "1"), "a row has 9 characters; expected at most 8"),
    ):
        with pytest.raises(DataError, match=words):
            pretrain(rows(*row), alphabet=DIGITS, output=tmp_path / "m", config=SMALL, quiet=True)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a row has 8 characters; expected at most 7"):
        pretrain(
            rows("1" * 7, "1"),  # type: ignore[arg-type]
            alphabet=DIGITS,
            output=tmp_path / "m",
            config=SMALL,
            ends=True,
            quiet=True,
        )
    with pytest.raises(DataError, match="no row to learn from"):
        pretrain(lambda rng, batch: [], alphabet=DIGITS, output=tmp_path / "m", config=SMALL, quiet=True)
    wild = SMALL.replace(learning_rate=1e30, warmup=0, steps=20, every=5)
    with pytest.raises(ModelFailure, match=r"the loss is \w+ at step \d+; lower learning_rate"):
        pretrain(after, alphabet=DIGITS, output=tmp_path / "m", config=wild, quiet=True)
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        pretrain(after, alphabet=DIGITS, output=tmp_path / "file" / "m", config=SMALL, quiet=True)
    for name in ("warmup", "seed"):
        with pytest.raises(ConfigError, match=f"{name} is -1"):
            SMALL.replace(**{name: -1})
    with pytest.raises(ConfigError, match="each character once"):
        pretrain(after, alphabet="00", output=tmp_path / "m", quiet=True)
    with pytest.raises(ConfigError, match="hidden is 30; expected a multiple of 4"):
        SMALL.replace(hidden=30)
    with pytest.raises(ConfigError, match="steps is 0"):
        SMALL.replace(steps=0)


def test_a_model_that_is_there_is_returned_if_it_is_the_same(tmp_path: Path) -> None:
    def again(output: Path, **changes: int) -> Path:
        config = SMALL.replace(**{"steps": 3, **changes})
        return pretrain(
            must_not_be_asked, alphabet=DIGITS, output=output, config=config, resume=True, quiet=True
        )

    def must_not_be_asked(rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
        raise AssertionError("it is trained again")

    made = tmp_path / "m"
    few = SMALL.replace(steps=3)
    pretrain(after, alphabet=DIGITS, output=made, config=few, resume=True, quiet=True)
    weights = (made / "model.safetensors").read_bytes()
    assert again(made) == made
    assert (made / "model.safetensors").read_bytes() == weights
    with pytest.raises(
        ResumeError, match=r"holds no model made with these settings; expected a pretrain\.json"
    ):
        again(made, seed=5)
    (tmp_path / "other").mkdir()
    with pytest.raises(ResumeError, match="remove it, or choose another folder"):
        again(tmp_path / "other")
