"""One role learns from a tree of turns with values: good turns first, then pairs of siblings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from docendo.distill import Adapter, TraceTree, TrainConfig, train_role
from docendo.distill.recipes import _running_results as world
from docendo.distill.recipes.malt import Malt
from docendo.errors import ConfigError, DataError, LeakError
from docendo.evals import make_item
from docendo.records import Author, Trace

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(
    max_steps=2, learning_rate=1e-2, per_device_train_batch_size=3, lora_r=4, dtype="float32", save_steps=0
)
ITEMS = [make_item(f"{n} + 1", n + 1, split="train") for n in range(3)]
TEST = [make_item("7 + 1", 8, split="test")]


def grown() -> TraceTree:
    """For each item two critiques of one answer; after the first the answer is mended."""
    turns = []
    for item in ITEMS:
        name = item.id

        def turn(role: str, text: str, *parents: str, name: str = name, **rewards: float) -> Trace:
            return Trace(
                id=f"{name}/{text}",
                run="r",
                item=name,
                split="train",
                author=Author(agent=role, role=role),
                messages=({"role": "user", "content": f"{role} {name}"},),
                completion=text,
                node=role,
                parents=tuple(f"{name}/{parent}" for parent in parents),
                rewards=rewards,
            )

        turns += [
            turn("generator", "9"),
            turn("critic", "no", "9"),
            turn("critic", "yes", "9"),
            turn("refiner", "mended", "no", verified=1.0),
            turn("refiner", "kept", "yes", verified=0.0),
        ]
    return TraceTree(turns).backup("verified")


def test_good_turns_are_learnt_and_then_preferred(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter = train_role(
        tiny_model_dir,
        grown(),
        "critic",
        items=ITEMS,
        exclude=TEST,
        output=tmp_path / "critic",
        config=QUICK,
        preferences=QUICK,
        quiet=True,
    )
    assert adapter.path == tmp_path / "critic" / "dpo"
    assert adapter.manifest["data"]["examples"] == len(ITEMS)
    supervised = Adapter.open(tmp_path / "critic" / "sft")
    assert adapter.manifest["parent"] == supervised.sha256
    assert adapter.sha256 != supervised.sha256
    again = train_role(
        tiny_model_dir,
        grown(),
        "critic",
        items=ITEMS,
        exclude=TEST,
        output=tmp_path / "critic",
        config=QUICK,
        preferences=QUICK,
        resume=True,
        quiet=True,
    )
    assert again.sha256 == adapter.sha256


def test_without_preferences_pairs_are_not_needed(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = {"items": ITEMS, "exclude": TEST, "config": QUICK, "quiet": True}
    adapter = train_role(
        tiny_model_dir, grown(), "refiner", output=tmp_path / "refiner", preferences=None, **settings
    )
    assert adapter.path == tmp_path / "refiner" / "sft"
    # Each refined answer has a prompt of its own, so none has a sibling.
    with pytest.raises(DataError, match="pair"):
        train_role(tiny_model_dir, grown(), "refiner", output=tmp_path / "pairs", **settings)
    assert not (tmp_path / "pairs").exists(), "what is missing is said before anything is trained"


def test_what_cannot_be_learnt_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"value>0\.5"):  # the mean of a right and a wrong end
        train_role(tiny_model_dir, grown(), "generator", items=ITEMS, exclude=TEST, output=tmp_path / "g")
    with pytest.raises(LeakError):
        train_role(tiny_model_dir, grown(), "critic", items=ITEMS, exclude=ITEMS[:1], output=tmp_path / "c")
    with pytest.raises(ConfigError, match="no values"):
        train_role(
            tiny_model_dir,
            TraceTree(grown().traces.values()),
            "critic",
            items=ITEMS,
            exclude=TEST,
            output=tmp_path / "v",
        )


def test_a_right_working() -> None:
    assert world.worked("3+5*2+6") == "121"
    assert world.worked("6+2*3") == "13"
    assert world.worked("3+5*2+6", "132") == "122", "of a critique, each step from the answer's result before"


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="train and test are 300 problems of 2 digits; expected at most 0"):
        Malt(terms=2)
    with pytest.raises(ConfigError, match="test is 0"):
        Malt(test=0)
    assert Malt(terms=3).terms == 3


def test_what_writers_write() -> None:
    rng = np.random.default_rng(0)
    answers = {world.written(rng, "3+5*2+6") for _ in range(30)}
    assert answers == {"121", "132"}, "the product is right, or off by one, and the rest follows from it"
    critiques = {world.written(rng, "3+5*2+6", "132") for _ in range(30)}
    assert critiques == {"122", "132"}, "each step is done anew from what the answer has before it"
    refined = {world.written(rng, "3+5*2+6", "132", "122") for _ in range(30)}
    assert refined == {"121", "132"}, "one of both is believed, and after a change the rest is worked anew"
    assert world.follows("121", "3+5*2+6", "132", "122")
    assert not world.follows("122", "3+5*2+6", "132", "122"), "not the critique itself"
    assert not world.follows("12", "3+5*2+6")
    assert not world.follows("12;", "3+5*2+6")


def test_the_corpus_has_all_roles_alike_and_no_hidden_problem() -> None:
    rng = np.random.default_rng(0)
    hidden = [item.public.question for item in world.items(rng, 2, 20, "test", ())]
    rows = world.rows(2, hidden)(rng, 300)
    assert not any(question in prompt for prompt, _ in rows for question in hidden)
    assert [sum(prompt[0] == role for prompt, _ in rows) for role in "GVR"] == [100] * 3
    for prompt, said in rows:
        assert world.follows(said, *prompt[1:-1].split(":"))


def test_only_the_last_result_counts() -> None:
    item = make_item("3+5*2+6", "1")
    scorer = world.LastResult()
    assert scorer.score(item, "001").correct
    assert not scorer.score(item, "").correct
    assert not scorer.score(item, "120").correct
