"""`learn`: train, put the candidate before the gate, and swap it in only if it is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.checks import entries
from docendo.distill.adapters._adapter import Adapter, opened
from docendo.distill.adapters._facts import method_of, parents_of
from docendo.distill.adapters._registry import AdapterRegistry
from docendo.distill.datasets._sft import sft_dataset
from docendo.distill.rounds._arrows import base_model
from docendo.distill.rounds._gate import Gate
from docendo.distill.rounds._promotion import LearnResult, Promoter
from docendo.distill.training._config import TrainConfig
from docendo.errors import DataError
from docendo.evals import Task
from docendo.memory import Database
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from docendo.agents import Agent, EngineProtocol

_TRAINING, _GATE = TrainConfig(), Gate()


def learn(
    student: Agent,
    data: Iterable[Trace] | Iterable[Mapping[str, Any]],
    *,
    tasks: Task,
    folder: str | Path,
    gate: Gate = _GATE,
    incumbent: str | None = None,
    registry: AdapterRegistry | str | Path | None = None,
    engine: EngineProtocol | None = None,
    model: str | Path | None = None,
    config: TrainConfig = _TRAINING,
    max_per_item: int = 4,
    resume: bool = False,
    quiet: bool = False,
) -> LearnResult:
    """Trains a candidate and promotes it only if it beats the incumbent on fresh held-out items.

    The candidate is trained on the base model, registered, and asked the same held-out items as the
    incumbent; `Gate` says when it wins. If it does, the alias moves and the running engine serves it from the
    next decoding step on, without dropping a request. If it does not, everything stays as it is, and the
    result says why in one sentence: a null is a result.

    The items are fresh: their questions are in no training row, and no earlier gate of the registry used
    them. Which were used is recorded before anybody sees an answer, in `gates.json` beside the registry's
    index; so a gate that was killed is gone on with on its own items, and a candidate that was kept out is
    not tried again until it wins. The incumbent may have been trained on what is asked now, if the task
    changed meanwhile; that is to its advantage alone.

    Args:
        student: The agent that learns; its prompt is the one that is trained and measured.
        data: Traces, of which verified answers to training items are learnt, or rows as from `sft_dataset`.
        tasks: Training items (for traces) and test items to judge by.
        folder: Where candidate, evaluations and verdict are kept. Its name is that of the run.
        gate: When a candidate is promoted.
        incumbent: Alias of what is to be beaten, and replaced, such as "student@prod"; by default "prod" of
            the student's name. Where it points nowhere yet, and without a registry, the incumbent is the
            student as it is: the base model, unless it has an adapter.
        registry: The registry, or its folder. Without one nothing is registered; used items are recorded in
            `folder` then, so keep to one folder or they will not be known.
        engine: The engine that a promoted adapter is swapped into, by default the student's own.
        model: The base model to train, by default the one that the student's engine was loaded from.
        config: Settings of the training.
        max_per_item: Most answers per item to learn from traces.
        resume: Go on with a call for this folder that was stopped.
        quiet: Print nothing.

    Returns:
        The result; `print` shows the verdict in one line.

    Raises:
        LeakError: if a row or trace holds the question of a test item, or of the regression set.
        SilentNoOp: if the training changed nothing, the engine serves other weights than those trained, or
            candidate and incumbent are the same.
        DataError: if there is nothing to learn from, or too few test items are fresh.
        ResumeError: if the folder's run exists and `resume` is false, or is of another configuration.

    Example:
        >>> from docendo import Engine, Student, evals
        >>> task = evals.tasks("reasoning_gym:chain_sum", train=400, test=400, max_terms=3)
        >>> with Engine.load("smollm2-135m-instruct") as engine:  # doctest: +SKIP
        ...     print(learn(Student(engine), run.traces(), tasks=task, folder="runs/learn",
        ...                 incumbent="student@prod", registry="registry"))
    """
    promoter = Promoter(
        student=student,
        tasks=tasks,
        gate=gate,
        alias=incumbent,
        registry=registry,
        engine=engine,
        folder=folder,
    )
    source = base_model(student.engine, model)
    given: list[Any] = entries("data", data, (Trace, Mapping), "traces, or rows")
    if not resume:
        # Before hours of training; a run that is resumed may have a gate already.
        promoter.ledger.fresh(gate, tasks.test, alias=promoter.alias)
    with promoter.running(resume=resume, more={"training": config.identity()}) as database:
        rows = _rows(given, student, tasks, promoter.held_out, max_per_item, database)
        promoter.require_clean(rows)
        adapter = _train(
            source,
            rows,
            output=promoter.folder / "candidate",
            name=promoter.name,
            config=config,
            database=database,
            quiet=quiet,
            student=student,
        )
        return promoter.decide(adapter, database, quiet=quiet)


def consider(
    student: Agent,
    adapter: str | Path | Adapter,
    rows: Iterable[Mapping[str, Any]],
    *,
    tasks: Task,
    folder: str | Path,
    gate: Gate = _GATE,
    incumbent: str | None = None,
    registry: AdapterRegistry | str | Path | None = None,
    engine: EngineProtocol | None = None,
    parents: Iterable[tuple[str | Path | Adapter, Iterable[Mapping[str, Any]]]] = (),
    resume: bool = False,
    quiet: bool = False,
) -> LearnResult:
    """Puts an adapter that was trained already before the gate; the rest is as in `learn`.

    Args:
        student: The agent that learnt.
        adapter: The candidate.
        rows: What it was trained on, to make sure that it has seen none of the held-out items; nothing for
            a merged adapter.
        tasks: As in `learn`, and so are the others.
        folder: As in `learn`.
        gate: As in `learn`.
        incumbent: As in `learn`.
        registry: As in `learn`.
        engine: As in `learn`.
        parents: Every adapter that it was trained on from or merged from, down to the base model, with its
            rows.
        resume: As in `learn`.
        quiet: As in `learn`.

    Raises:
        DataError: if the rows are not those that an adapter's manifest names, or a parent is not given.
    """
    promoter = Promoter(
        student=student,
        tasks=tasks,
        gate=gate,
        alias=incumbent,
        registry=registry,
        engine=engine,
        folder=folder,
    )
    candidate = opened(adapter)
    learnt = _learnt(candidate, rows, parents)
    with promoter.running(resume=resume, more={"candidate": candidate.sha256}) as database:
        promoter.require_clean(learnt)
        return promoter.decide(candidate, database, quiet=quiet)


def _learnt(
    candidate: Adapter,
    rows: Iterable[Mapping[str, Any]],
    parents: Iterable[tuple[str | Path | Adapter, Iterable[Mapping[str, Any]]]],
) -> list[dict[str, Any]]:
    """All rows that a candidate and what it descends from learnt from."""
    given: dict[str, tuple[Adapter, Iterable[Mapping[str, Any]]]] = {}
    for pair in entries("parents", parents, (tuple, list), "pairs of an adapter and its rows"):
        if len(pair) != 2:
            raise DataError(f"parents holds {len(pair)} things together", expected="an adapter and its rows")
        one = opened(pair[0])
        given[one.sha256] = one, pair[1]
    given[candidate.sha256] = candidate, rows
    found: dict[str, list[dict[str, Any]]] = {}
    waiting = [candidate.sha256]
    while waiting:
        sha256 = waiting.pop()
        if sha256 in found:
            continue
        if sha256 not in given:
            raise DataError(
                f"adapter {candidate.name!r} also learnt what its parent {sha256[:12]} did",
                expected="parents=, with that adapter and its rows",
            )
        one, its = given[sha256]
        found[sha256] = [dict(row) for row in entries("rows", its, Mapping, "mappings with a prompt")]
        _require_trained_on(one, found[sha256])
        waiting += parents_of(one.manifest)
    return [row for its in found.values() for row in its]


def _require_trained_on(adapter: Adapter, rows: list[dict[str, Any]]) -> None:
    from docendo.distill.datasets._lineage import data_digest

    if not rows and method_of(adapter.manifest) == "merge":
        return  # it learnt what its parents did
    if data_digest(rows) != adapter.manifest["data"]["digest"]:
        raise DataError(
            f"adapter {adapter.name!r} was trained on other rows than the {len(rows)} given",
            expected="the rows that its manifest has the digest of",
        )


def _rows(
    given: list[Any],
    student: Agent,
    tasks: Task,
    held_out: Iterable[Item],
    max_per_item: int,
    database: Database,
) -> list[dict[str, Any]]:
    """Rows to learn from: those given, or verified answers of traces."""
    traces = [one for one in given if isinstance(one, Trace)]
    if not traces:
        return given
    if len(traces) != len(given):
        raise DataError("the data are traces and rows at once", expected="one of the two")
    if not tasks.train:
        raise DataError("the task has no training items", remedy="make it with tasks(train=200)")
    made = sft_dataset(
        traces,
        student=student,
        items=tasks.train,
        exclude=held_out,
        max_per_item=max_per_item,
        database=database,
    )
    return list(made.to_list())


def _train(source: str | Path, rows: list[dict[str, Any]], *, student: Agent, **options: Any) -> Adapter:
    from docendo.distill.training._train import train

    with student.engine.paused():
        return train(source, rows, resume=True, **options)
