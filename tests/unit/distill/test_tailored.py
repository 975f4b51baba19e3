"""Lessons about a student's mistakes: the rows they become, and the rounds in which they are learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docendo import Agent, Engine, ScriptedEngine
from docendo.distill import (
    Adapter,
    CrossEntropy,
    PretrainConfig,
    TrainConfig,
    TripletHidden,
    feedback_dataset,
    pretrain,
    tailored_rounds,
)
from docendo.distill.recipes import _misconceptions as world
from docendo.errors import ConfigError, DataError, LeakError, ResumeError
from docendo.evals import Task
from docendo.records import Author, Gold, Item, PublicItem, Request, SamplingParams, Split, Trace

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def item(name: str, question: str, split: Split = "train") -> Item:
    return Item(public=PublicItem(id=name, question=question, split=split), gold=Gold("4"))


ADD, OTHER, TEST = item("a", "2 + 2"), item("b", "1 + 3"), item("t", "say 3 + 1 aloud", "test")


def turn(name: str, text: str, *parents: str, right: bool = True, role: str = "teacher") -> Trace:
    return Trace(
        id=name,
        run="r",
        item="a",
        split="train",
        completion=text,
        rewards={"verified": float(right)},
        author=Author(agent=role, role=role),
        parents=parents,
        messages=({"role": "user", "content": f"{role} sees 2 + 2"},),
    )


WRONG = turn("wrong", "5", role="student", right=False)


def build(traces: list[Trace], **options: Any) -> Any:
    settings = {"items": [ADD, OTHER], "exclude": [TEST], "student": Agent(ScriptedEngine([])), **options}
    return feedback_dataset(traces, **settings)


def test_a_lesson_becomes_an_answer_to_the_students_own_prompt() -> None:
    made = build([WRONG, turn("lesson", "2, 3, 4", "wrong")])
    assert made.to_list() == [
        {
            "prompt": [{"role": "user", "content": "2 + 2"}],
            "completion": [{"role": "assistant", "content": "2, 3, 4"}],
            "item": "a",
            "traces": ["lesson", "wrong"],
            "posts": [],
        }
    ]


def test_only_right_lessons_about_an_attempt_are_learnt() -> None:
    given = [
        WRONG,
        turn("good", "2, 3, 4", "wrong"),
        turn("bad", "2, 3, 5", "wrong", right=False),
        turn("about nothing", "4"),
        turn("about what is not here", "4!", "elsewhere"),
        turn("a student's", "4", "wrong", role="student"),
    ]
    assert [row["traces"] for row in build(given)] == [["good", "wrong"]]
    with pytest.raises(DataError, match="2 about no attempt, 1 not right, 2 of other roles"):
        build([given[0], *given[2:]])


def test_a_row_of_ones_own_may_be_an_exercise_or_nothing() -> None:
    seen = []

    def row(asked: PublicItem, attempt: str, lesson: str) -> dict[str, Any] | None:
        seen.append((asked.id, attempt, lesson))
        return None if lesson == "no" else {"prompt": "2 + 3", "completion": lesson, "negatives": [attempt]}

    given = [WRONG, turn("1", "5, of course", "wrong"), turn("2", "no", "wrong")]
    (made,) = build(given, row=row, student=None)
    assert (made["prompt"], made["completion"], made["negatives"]) == ("2 + 3", "5, of course", ["5"])
    assert seen == [("a", "5", "5, of course"), ("a", "5", "no")]


def test_neither_a_prompt_nor_a_row_is_an_error_and_so_is_a_test_question_in_a_row() -> None:
    given = [WRONG, turn("lesson", "4", "wrong")]
    with pytest.raises(ConfigError, match="needs a student"):
        build(given, student=None)
    with pytest.raises(LeakError, match="excluded item 't'"):
        build(given, row=lambda *_: {"prompt": "Please say 3 + 1 aloud now", "completion": "4"})


WRONGLY = {"1+1": "3", "2*2": "0"}
QUICK = TrainConfig(
    max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32", save_steps=0
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(
        world.student_rows(3, WRONGLY, ()),
        alphabet=world.ALPHABET,
        output=tmp_path_factory.mktemp("student") / "model",
        config=PretrainConfig(hidden=16, layers=1, heads=2, steps=3, batch=8),
        ends=True,
        quiet=True,
    )


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(1)
    test = world.items(rng, 3, 10, "test", ())
    train = world.items(rng, 3, 10, "train", [each.public.question for each in test])
    dev = world.items(rng, 3, 5, "dev", [each.public.question for each in (*test, *train)])
    return Task(name="sums", train=tuple(train), dev=tuple(dev), test=tuple(test), scorer=world.LastResult())


def knowing(say: Callable[[str], str]) -> tuple[ScriptedEngine, list[str]]:
    """Somebody who answers a question by a function, and what was asked of it."""
    heard: list[str] = []

    def answer(request: Request) -> list[str]:
        heard.append(str(request.prompt[-1]["content"]))  # type: ignore[index]
        return [say(heard[-1][1:].split(":")[0])] * request.sampling.n

    return ScriptedEngine(answer), heard


@pytest.mark.slow
def test_rounds_train_one_adapter_further_on_lessons_about_mistakes_and_resume(
    model: Path, task: Task, tmp_path: Path
) -> None:
    engine, heard = knowing(world.worked)
    teacher = Agent(engine, role="teacher", prompt=world.TEACH)
    with Engine.load(model, dtype="float32") as learning:
        student = Agent(learning, role="student", prompt=world.SOLVE, sampling=SamplingParams(max_tokens=3))

        def go(rounds: int, **options: Any) -> Any:
            return tailored_rounds(
                student,
                teacher,
                task,
                folder=tmp_path / "rounds",
                rounds=rounds,
                row=world.contrasted,
                objective=CrossEntropy() + 0.5 * TripletHidden(),
                config=QUICK,
                quiet=True,
                **options,
            )

        go(1)
        questions = {each.public.question for each in task.train}
        mistakes = [text[1:].split(":")[:2] for text in heard]
        assert mistakes
        assert all(asked in questions and said != world.worked(asked) for asked, said in mistakes)
        report = go(2, resume=True)
        first, second = (Adapter.open(tmp_path / "rounds" / f"round-{n}" / "adapter") for n in (1, 2))
        assert second.manifest["parent"] == first.sha256
        assert [row.adapter for row in report.rows] == [None, first.sha256, second.sha256]
        assert go(2, resume=True).digest == report.digest
        with pytest.raises(ResumeError):
            go(2, resume=True, attempts=3)


@pytest.mark.slow
def test_somebody_else_may_sit_the_exam(model: Path, task: Task, tmp_path: Path) -> None:
    asked = {each.public.question for each in task.train}
    wrong = {fact: str((int(world.result(fact)) + 1) % 7) for fact in world.FACTS[:60]}
    missed = {each for each in asked if world.worked(each, wrong)[-1] != world.worked(each)[-1]}
    speaking, heard = knowing(world.worked)
    sitting, _ = knowing(lambda question: world.worked(question, wrong))
    with Engine.load(model, dtype="float32") as learning:
        tailored_rounds(
            Agent(learning, role="student", prompt=world.SOLVE, sampling=SamplingParams(max_tokens=3)),
            Agent(speaking, role="teacher", prompt=world.TEACH),
            task,
            folder=tmp_path / "rounds",
            rounds=1,
            sitter=lambda _: Agent(sitting, role="student", prompt=world.SOLVE),
            config=QUICK,
            quiet=True,
        )
    assert missed
    assert {text[1:].split(":")[0] for text in heard} == missed
    exam = json.loads((tmp_path / "rounds" / "round-1" / "feedback.json").read_text())["result"]
    assert (exam["samples"], exam["right"]) == (40, 4 * (10 - len(missed)))


def test_settings_that_cannot_be_used_are_refused(task: Task, tmp_path: Path) -> None:
    nobody = Agent(ScriptedEngine([]))
    for options, message in (({"attempts": 0}, "attempts is 0"), ({"temperature": 0}, "temperature is 0")):
        with pytest.raises(ConfigError, match=message):
            tailored_rounds(nobody, nobody, task, folder=tmp_path, model="none", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no development items"):
        tailored_rounds(nobody, nobody, Task(name="t", train=task.train), folder=tmp_path, model="none")


def test_the_world_is_wrong_where_it_is_meant_to_be() -> None:
    rng = np.random.default_rng(0)
    wrong = world.misconceptions(rng, 20)
    assert len(wrong) == 20
    assert all(said != world.result(fact) for fact, said in wrong.items())
    for _ in range(50):
        question = world.problem(rng, 4)
        assert len(world.slip(rng, question)) == 3
        assert (world.worked(question, wrong) == world.worked(question)) == (
            wrong.keys().isdisjoint(world.facts(question))
        )
