"""Gold answers reach no prompt, except as the teacher's examples: training items that nobody learns from.

The answers are code words that occur nowhere else, so that a leak is found by searching for them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import docendo
from docendo import (
    Item,
    PublicItem,
    Request,
    SamplingParams,
    ScriptedEngine,
    Student,
    Teacher,
    Tutor,
    Verifier,
    evals,
    graphs,
)
from docendo.errors import LeakError
from docendo.evals import Task, tasks
from docendo.hashing import digest
from docendo.records import Gold

TRAIN, TEST = 24, 10


def word(n: int) -> str:
    return "w" + digest("code word", n)[:8]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "words.jsonl"
    rows = [{"question": f"What is the code word of locker {n}?", "answer": word(n)} for n in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def locker(text: str) -> int:
    return int(re.findall(r"locker (\d+)", text)[-1])


def play(request: Request) -> Any:
    """Models that know the words: the tutor blurts them out, the student seldom says them."""
    n = locker(json.dumps(request.prompt))
    role, samples = request.origin.role, request.sampling.n
    if role == "tutor":
        blurt = f"It is {word(n)}!" if n % 2 else "Look at the label."
        return [blurt, "Read it once more."][:samples] + ["Hm."] * (samples - 2)
    if role == "teacher":
        return [f"Answer: {word(n)}"] + ["Answer: wrong"] * (samples - 1)
    return [f"Answer: {word(n)}" if n % 5 == 0 else "Answer: unknown"] * samples


def words_of(items: tuple[Item, ...]) -> dict[str, str]:
    return {word(locker(item.public.question)): item.id for item in items}


def leaks(requests: list[Request], task: Task, allowed: set[str]) -> list[str]:
    """Prompts that hold a code word; the teacher's may hold those in `allowed`."""
    golds = {*words_of(task.train), *words_of(task.test), *allowed}
    found = []
    for request in requests:
        text = json.dumps(request.prompt)
        shown = {gold for gold in golds if gold in text}
        if request.origin.role == "teacher":
            shown -= allowed
        found += [f"{request.origin.role} on {request.origin.item}: {gold}" for gold in shown]
    return found


def roles_graph(engine: ScriptedEngine, task: Task, **changes: Any) -> Any:
    agents = {
        "student": Student(engine),
        "tutor": Tutor(engine, sampling=SamplingParams(n=2)),
        "teacher": Teacher(engine, examples=task.examples(3), sampling=SamplingParams(n=2)),
        "verifier": Verifier(task.scorer),
    }
    return graphs.tutoring(**{**agents, **changes}, retries=2)


def test_no_prompt_of_a_tutoring_run_holds_an_answer(source: Path, tmp_path: Path) -> None:
    task = tasks(str(source), train=TRAIN, test=TEST)
    engine = ScriptedEngine(play)
    allowed = {word(locker(example.question)) for example in task.examples(3)}
    with docendo.run(roles_graph(engine, task), task.train, name="r", folder=tmp_path, quiet=True) as run:
        assert run.summary()["hints_refused"] > 0
        assert run.summary()["solved"] == TRAIN
    assert {request.origin.role for request in engine.requests} == {"student", "tutor", "teacher"}
    assert leaks(engine.requests, task, allowed) == []
    demonstrated = [r for r in engine.requests if r.origin.role == "teacher"]
    assert all(gold in json.dumps(demonstrated[0].prompt) for gold in allowed)
    assert allowed <= set(words_of(task.train))


def test_the_check_catches_a_verifier_that_lets_hints_through(source: Path, tmp_path: Path) -> None:
    class Careless(Verifier):
        def leaks(self, item: Item, text: str) -> bool:
            return False

    task = tasks(str(source), train=TRAIN, test=TEST)
    engine = ScriptedEngine(play)
    graph = roles_graph(engine, task, verifier=Careless(task.scorer))
    docendo.run(graph, task.train, name="r", folder=tmp_path, quiet=True).close()
    assert any(leak.startswith("student on") for leak in leaks(engine.requests, task, set()))


def test_an_evaluation_sees_no_answer(source: Path) -> None:
    task = tasks(str(source), train=TRAIN, test=TEST)
    engine = ScriptedEngine(play)
    evals.evaluate(Student(engine), task.test, scorer=task.scorer, quiet=True)
    assert len(engine.requests) == TEST
    assert leaks(engine.requests, task, set()) == []


def test_no_prompt_of_the_quickstart_recipe_holds_an_answer(
    source: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docendo.distill import TrainConfig
    from docendo.distill.recipes import teach_and_distill as module

    engine, learnt, real = ScriptedEngine(play), [], module.train

    class Scripted:
        @staticmethod
        def load(model: str) -> ScriptedEngine:
            return engine

    def recording(model: Any, rows: Any, **options: Any) -> Any:
        learnt.extend(dict(row) for row in rows)
        return real(model, rows, **options)

    monkeypatch.setattr(module, "Engine", Scripted)
    monkeypatch.setattr(module, "train", recording)
    config = module.TeachAndDistill(
        student=str(tiny_model_dir),
        task=str(source),
        settings={},
        train=TRAIN,
        test=TEST,
        examples=4,
        train_config=TrainConfig(max_steps=2),
    )
    module.teach_and_distill(config, folder=tmp_path / "run", quiet=True)
    whole = tasks(str(source), train=TRAIN, test=TEST)
    examples = whole.examples(4, steps=config.steps)
    allowed = {word(locker(example.question)) for example in examples}
    assert {r.origin.role for r in engine.requests} == {"student", "tutor", "teacher"}
    assert leaks(engine.requests, whole, allowed) == []
    # The examples are training items, and nobody is trained on them or on a test item.
    trained = {locker(json.dumps(row["prompt"])) for row in learnt}
    assert trained <= {locker(item.public.question) for item in whole.train}
    assert not trained & {locker(example.question) for example in examples}
    assert not trained & {locker(item.public.question) for item in whole.test}
    golds = {*words_of(whole.train), *words_of(whole.test)}
    assert not [row for row in learnt if any(gold in json.dumps(row["prompt"]) for gold in golds)]
    assert trained


def test_the_public_facts_of_generated_items_come_from_the_question_and_the_settings() -> None:
    task = tasks("reasoning_gym:chain_sum", train=60, test=60, min_terms=2, max_terms=3, max_digits=2)
    settings = json.dumps(task.train[0].public.metadata["difficulty"])
    for item in (*task.train, *task.test):
        public = item.public
        assert set(public.metadata) <= {"difficulty", "expression"}
        assert json.dumps(public.metadata["difficulty"]) == settings  # the same for all, so not of the answer
        assert public.metadata["expression"] in public.question
        assert "=" not in public.metadata["expression"]


def test_what_agents_see_has_no_place_for_gold() -> None:
    fields = {field.name: str(field.type) for field in dataclasses.fields(PublicItem)}
    assert not [name for name in fields if re.search("gold|answer|solution|target|label", name)]
    assert not [name for name, kind in fields.items() if "Gold" in kind or "Item" in kind]
    assert not hasattr(PublicItem(id="1", question="?"), "gold")
    assert not hasattr(PublicItem(id="1", question="?"), "__dict__")
    item = Item(public=PublicItem(id="1", question="?"), gold=Gold("secret"))
    assert "secret" not in repr(item)
    with pytest.raises(TypeError, match="never serialised"):
        item.gold.__reduce__()
    assert Student(ScriptedEngine([])).messages.__annotations__["item"] == "PublicItem"


def test_examples_come_from_training_items_alone(source: Path) -> None:
    task = tasks(str(source), train=TRAIN, test=TEST)
    ids = {item.id for item in task.train}
    assert {example.item for example in task.examples(TRAIN)} == ids
    swapped = dataclasses.replace(task, train=task.test)
    with pytest.raises(LeakError, match="test item"):
        swapped.examples(1)
