"""R8: Every error has a reason class: no fault of the machine counts as a wrong answer, and totals reconcile.

300 items with known fates: most are answered right or wrong, on the others falls a fault of the engine, of
the storage or of the scorer. Each has to end as the table says, whoever asks: an agent, a function, a graph,
a run. A `ScriptedEngine` plays the answers and the faults, so that the expected table is exact.

This file is also the program that runs inspect_ai: `python test_r8_blame.py FOLDER late|raised`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docendo import ScriptedEngine, Student, Verifier, graphs
from docendo.agents._rows import NOT_FINITE
from docendo.errors import (
    DeadlineExceeded,
    EngineClosed,
    IntegrityError,
    ModelFailure,
    StorageError,
    blame,
)
from docendo.evals import ExactScorer, evaluate, make_item
from docendo.evals.harness import _replies
from docendo.evals.items._scorer import Answer
from docendo.memory import Database, Journal
from docendo.records import Gold, Item, PublicItem

pytestmark = pytest.mark.slow

ENGINE, SCORER, JUDGE = "engine", "scorer", "judge"


@dataclass(frozen=True)
class Fate:
    """What befalls some of the items: an answer, or an error in one of three places."""

    count: int
    expected: str
    answer: str = "right"
    error: Exception | None = None
    place: str = ""


FATES: dict[str, Fate] = {
    "right answer": Fate(150, "right"),
    "wrong answer": Fate(60, "wrong", answer="Answer: -1"),
    "empty output": Fate(10, "wrong", answer=""),
    "logits that are not finite": Fate(10, "model", error=ModelFailure(NOT_FINITE), place=ENGINE),
    "deadline": Fate(10, "infrastructure", error=DeadlineExceeded("not finished in 1 s"), place=ENGINE),
    "timeout": Fate(5, "infrastructure", error=TimeoutError(), place=ENGINE),
    "closed engine": Fate(5, "infrastructure", error=EngineClosed("the engine is closed"), place=ENGINE),
    "lost connection": Fate(5, "infrastructure", error=ConnectionResetError("by peer"), place=ENGINE),
    "no memory on the device": Fate(5, "infrastructure", error=RuntimeError("out of memory"), place=ENGINE),
    "full disk": Fate(5, "infrastructure", error=StorageError("the disk is full"), place=ENGINE),
    "damaged record": Fate(5, "infrastructure", error=IntegrityError("a digest differs"), place=ENGINE),
    "crash of the scorer": Fate(10, "task", error=ZeroDivisionError("division by zero"), place=SCORER),
    "endless scorer": Fate(5, "task", error=RecursionError("maximum depth"), place=SCORER),
    "scorer without its file": Fate(5, "infrastructure", error=FileNotFoundError("words.txt"), place=SCORER),
    "scorer that is late": Fate(5, "infrastructure", error=TimeoutError(), place=SCORER),
    "scorer without memory": Fate(5, "infrastructure", error=MemoryError(), place=JUDGE),
}
TASKS = sum(fate.count for fate in FATES.values())


class Cast:
    """The items with their fates, and an engine and a scorer that act them out."""

    def __init__(self, *, healing: bool = False) -> None:
        """`healing`: a fault of the machine strikes each item once, and is gone when it is tried again."""
        self.healing, self.struck = healing, Counter[str]()
        names = [name for name, fate in FATES.items() for _ in range(fate.count)]
        # Fates are spread evenly over the items: 7 and 300 have no common divisor.
        self.fates = {}
        items = []
        for number in range(TASKS):
            name = names[7 * number % TASKS]
            item = self._item(number, name)
            self.fates[item.id] = name
            items.append(item)
        self.items = tuple(items)
        self.numbers = {item.id: number for number, item in enumerate(items)}
        self.engine = ScriptedEngine(lambda request: self.answer(request.origin.item))
        self.scorer = _Scorer(self)

    def _item(self, number: int, name: str) -> Item:
        plain = make_item(f"What is {number} + {number}?", 2 * number)
        if FATES[name].place != JUDGE:
            return plain

        def judge(text: str) -> float:
            self.strike(JUDGE, plain.id)
            return float(text == str(2 * number))

        return Item(public=plain.public, gold=Gold(Answer(text="words", judge=judge)))

    def strike(self, place: str, item: str) -> None:
        """Raises the fault that befalls an item in this place, if there is one."""
        fate = FATES[self.fates[item]]
        if fate.error is None or fate.place != place:
            return
        if self.healing and fate.expected == "infrastructure" and self.struck[item]:
            return
        self.struck[item] += 1
        raise fate.error

    def answer(self, item: str) -> str:
        self.strike(ENGINE, item)
        said = FATES[self.fates[item]].answer
        return f"Answer: {2 * self.numbers[item]}" if said == "right" else said

    def wrong(self, found: Mapping[str, str]) -> list[str]:
        """What became of items that should have become something else, and totals that do not reconcile."""
        problems = []
        for item, name in self.fates.items():
            expected = FATES[name].expected
            if self.healing and expected == "infrastructure":
                expected = "right"
            if found.get(item) != expected:
                problems.append(f"{name}: {found.get(item)}, not {expected}")
        if len(found) != TASKS:
            problems.append(f"{len(found)} of {TASKS} items are accounted for")
        return problems

    @property
    def faults(self) -> dict[str, int]:
        return {"faults": self.struck.total(), "kinds": len({self.fates[item] for item in self.struck})}


class _Scorer(ExactScorer):
    name = "exact, with faults"

    def __init__(self, cast: Cast) -> None:
        super().__init__()
        self._cast = cast

    def score(self, item: Item, text: str) -> Any:
        self._cast.strike(SCORER, item.id)
        return super().score(item, text)


def fates_of(records: Iterable[Any]) -> dict[str, str]:
    """What an evaluation made of each item."""
    return {
        record.item: (record.failure.partition(":")[0] if record.failure else "")
        or ("right" if record.correct else "wrong")
        for record in records
    }


def graph_of(cast: Cast) -> Any:
    return graphs.tutoring(
        student=Student(cast.engine), tutor=None, teacher=None, verifier=Verifier(cast.scorer)
    )


def asked(cast: Cast) -> dict[str, Any]:
    """The subjects of an evaluation that can be struck: every kind there is."""

    def plain(item: PublicItem) -> str:
        return cast.answer(item.id)

    async def later(item: PublicItem) -> str:
        return cast.answer(item.id)

    return {
        "an agent": Student(cast.engine),
        "a function": plain,
        "an async function": later,
        "a graph": graph_of(cast),
    }


@pytest.mark.parametrize("kind", list(asked(Cast())))
def test_evaluations(bar: Any, kind: str) -> None:
    cast = Cast()
    result = evaluate(asked(cast)[kind], cast.items, scorer=cast.scorer, name=kind, quiet=True)
    found = fates_of(result.records)
    problems = cast.wrong(found)
    if not result.correct + (result.n - result.correct) + result.failed == TASKS == len(result.records):
        problems.append(f"right {result.correct}, answered {result.n}, failed {result.failed}")
    bar.part(
        f"evaluation of {kind}",
        cases=TASKS,
        failed=problems,
        needed=300,
        reached=cast.faults,
        outcomes=dict(sorted(Counter(found.values()).items())),
    )


def test_a_run_is_resumed_after_each_fault(bar: Any, tmp_path: Path) -> None:
    """In a run the machine's failure ends everything: nothing of it may stay, and resuming heals it."""
    cast, endings, problems = Cast(healing=True), Counter[str](), list[str]()
    while True:
        try:
            run = graphs.run(
                graph_of(cast),
                cast.items,
                name="run",
                folder=tmp_path,
                concurrency=16,
                resume=True,
                quiet=True,
            )
            break
        except Exception as error:
            endings[type(error).__name__] += 1
            if blame(error) != "infrastructure":
                problems.append(f"the run ended with {type(error).__name__}")
        if endings.total() > TASKS:
            raise AssertionError(f"the run does not end: {endings}")
    with run:
        found = {
            item: (outcome["error"] if outcome["status"] == "failed" else "")
            or ("right" if outcome["solved"] else "wrong")
            for item, outcome in run.outcomes.items()
        }
        summary = run.summary()
    # The judge's items have no number as their gold, but are right once there is memory again.
    problems += cast.wrong(found)
    failures = Counter(found.values())
    if summary["failures"] != {code: failures[code] for code in ("model", "task")}:
        problems.append(f"the summary says {summary['failures']}")
    if summary["solved"] + (summary["done"] - summary["solved"]) + summary["failed"] != TASKS:
        problems.append(f"the summary does not reconcile: {summary}")
    bar.part(
        "a run, resumed after each fault of the machine",
        cases=TASKS,
        failed=problems,
        needed=300,
        reached={**cast.faults, "endings": endings.total()},
        outcomes=dict(sorted(failures.items())),
        endings=dict(endings),
    )


def test_a_journal_on_a_full_disk(bar: Any) -> None:
    """What the journal cannot keep is no verdict on an item: the call ends, and the same call goes on."""
    cast, failures = Cast(), 0

    class Full(Journal):
        puts = 0

        def put(self, key: str, value: Any) -> Any:
            self.puts += 1
            if self.puts % 30 == 0:
                raise StorageError("the disk is full")
            return super().put(key, value)

    with Database.open("sqlite://") as database:
        journal = Full(database)
        while True:
            try:
                result = evaluate(
                    Student(cast.engine), cast.items, scorer=cast.scorer, journal=journal, quiet=True
                )
                break
            except StorageError:
                failures += 1
    bar.part(
        "evaluation with a journal on a disk that is full now and then",
        cases=TASKS,
        failed=cast.wrong(fates_of(result.records)),
        reached={"failures": failures},
    )


def test_a_real_engine_whose_logits_are_not_finite(bar: Any, tiny_model_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from docendo import Engine

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    items = [make_item(f"What is {n} + 1?", n + 1) for n in range(8)]
    with Engine(model, AutoTokenizer.from_pretrained(tiny_model_dir)) as engine:
        student = Student(engine).with_sampling(max_tokens=4)
        before = evaluate(student, items, scorer=ExactScorer(), quiet=True)
        with engine.paused(), torch.inference_mode():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        after = evaluate(student, items, scorer=ExactScorer(), quiet=True)
    problems = [f"failed while healthy: {r.failure}" for r in before.records if r.failure]
    unlike = [r for r in after.records if not (r.failure or "").startswith("model:")]
    problems += [f"blamed otherwise: {r.failure or r.text!r}" for r in unlike]
    bar.part("the tiny model with weights that are not numbers", cases=2 * len(items), failed=problems)


def test_the_bar_catches_a_subject_that_swallows_errors(bar: Any) -> None:
    cast = Cast()

    def swallowing(item: PublicItem) -> str:
        try:
            return cast.answer(item.id)
        except Exception:
            return ""

    result = evaluate(swallowing, cast.items, scorer=cast.scorer, name="swallowing", quiet=True)
    bar.broken("errors swallowed as empty answers", cases=TASKS, failed=cast.wrong(fates_of(result.records)))


def test_the_bar_catches_one_class_for_all(bar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = Cast()
    monkeypatch.setattr(_replies, "blame", lambda error: "infrastructure")
    result = evaluate(Student(cast.engine), cast.items, scorer=cast.scorer, quiet=True)
    bar.broken("every error blamed on the machine", cases=TASKS, failed=cast.wrong(fates_of(result.records)))


# --- the program that runs inspect_ai: in a process of its own, because it leaves streams open --------------


def inspected(cast: Cast, folder: Path, *, late: bool) -> dict[str, str]:
    """What inspect_ai makes of the same items and faults."""
    from inspect_ai import Task
    from inspect_ai import eval as inspect_eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import Score, Target, accuracy, scorer
    from inspect_ai.solver import Generate, TaskState, solver

    items = {item.id: item for item in cast.items}

    @solver
    def answering() -> Any:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            if late and cast.fates[str(state.sample_id)] in ("deadline", "timeout"):
                await asyncio.sleep(60)
            state.output.completion = cast.answer(str(state.sample_id))
            return state

        return solve

    @scorer(metrics=[accuracy()])
    def exact() -> Any:
        async def score(state: TaskState, target: Target) -> Score:
            found = cast.scorer.score(items[str(state.sample_id)], state.output.completion)
            return Score(value="C" if found.correct else "I")

        return score

    samples = [Sample(id=item.id, input=item.public.question, target="?") for item in cast.items]
    (log,) = inspect_eval(
        Task(dataset=samples, solver=answering(), scorer=exact()),
        model="mockllm/model",
        fail_on_error=False,
        time_limit=5 if late else None,
        log_dir=str(folder),
        display="none",
        log_level="critical",
    )
    verdicts = {"C": "right", "I": "wrong"}
    return {
        str(sample.id): verdicts[str(next(iter(sample.scores.values())).value)] if sample.scores else "failed"
        for sample in log.samples or []
    }


def main() -> None:
    folder, how = sys.argv[1:]
    found = inspected(Cast(), Path(folder), late=how == "late")
    (Path(folder) / "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize("how", ["raised", "late"])
def test_anchor_inspect(bar: Any, tmp_path: Path, how: str) -> None:
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("inspect_ai is not installed")
    if not bar.full:
        pytest.skip("takes a minute; in the long form only")
    subprocess.run([sys.executable, __file__, str(tmp_path), how], check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    cast = Cast()
    machine = [item for item, name in cast.fates.items() if FATES[name].expected == "infrastructure"]
    counted = [cast.fates[item] for item in machine if found.get(item) == "wrong"]
    title = "requests that are late run into time_limit" if how == "late" else "all faults are exceptions"
    bar.anchor(
        f"inspect_ai with fail_on_error=False, {title}",
        cases=TASKS,
        failed=counted,
        note="faults of the machine that count as wrong answers",
        outcomes=dict(sorted(Counter(found.values()).items())),
    )


if __name__ == "__main__":
    main()
