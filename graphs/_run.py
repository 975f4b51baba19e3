"""Running a graph over many items at once: concurrent, resumable, with progress and one folder of results."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from docendo.agents import RunContext
from docendo.errors import ConfigError, DataError, DocendoError, InfrastructureError, StorageError, UserError
from docendo.files import write_json, write_text
from docendo.graphs._nodes import blocking, description
from docendo.graphs._state import check_state
from docendo.hashing import digest
from docendo.memory import DATABASE, Blackboard, Database, RunStore, copy_journal
from docendo.progress import Progress, progress
from docendo.records import Item, Trace

Durability = Literal["sync", "async", "exit"]

#: Items in flight: enough to keep the engine's rows filled while some items wait for a verdict.
CONCURRENCY = 128


class Run:
    """A run that has ended: what became of each item, and everything that was said.

    Attributes:
        name: The run's name.
        folder: Where its files are: config.json, summary.json, items.jsonl and docendo.db.
        outcomes: Per item id: {"status": "done", ...final state} or {"status": "failed", "error", "message"}.
        board: The blackboard.
        seconds: Wall seconds of this call; a resumed run counts only its last part.
    """

    def __init__(
        self,
        context: RunContext,
        folder: Path,
        outcomes: dict[str, dict[str, Any]],
        seconds: float,
        *,
        owner: bool = True,
    ) -> None:
        """Made by `run`; `Run.open` reads one back. `owner`: the database is closed with the run."""
        self.name, self.folder, self.outcomes, self.seconds = context.run, folder, outcomes, seconds
        self._context, self._owner = context, owner

    @classmethod
    def open(cls, folder: str | Path, *, database: str | Path | None = None) -> Self:
        """Opens the folder of an earlier run; `database` names the database if it is not in there.

        Raises:
            DataError: if the folder holds no run.
        """
        folder = Path(folder)
        if database is not None:
            memory = Database.open(database, create=False)
            name = folder.resolve().name
            try:
                RunStore(memory).get(name)
                return cls(RunContext((), memory, run=name), folder, RunStore(memory).finished(name), 0.0)
            except DocendoError:
                memory.close()
                raise
        path = folder / DATABASE
        if not path.is_file():
            raise DataError(
                f"{folder} holds no run", expected=f"a folder with {DATABASE}", remedy="see runs/"
            )
        memory = Database.open(path)
        rows = RunStore(memory).list()
        if not rows:
            memory.close()
            raise DataError(f"{path} holds no run", remedy="start it again with the same name and --resume")
        names = [row.run for row in rows]
        name = folder.resolve().name if folder.resolve().name in names else names[-1]
        return cls(RunContext((), memory, run=name), folder, RunStore(memory).finished(name), 0.0)

    @property
    def board(self) -> Blackboard:
        """The blackboard of the run."""
        return self._context.board

    def traces(self, **filters: Any) -> list[Trace]:
        """The run's traces; filters as for `TraceStore.find` (role, item, split, min_reward)."""
        return self._context.traces.find(run=self.name, **filters)

    def usage(self) -> dict[str, dict[str, Any]]:
        """Calls, tokens and compute seconds per role, counted from the traces, resumed parts included."""
        total: dict[str, dict[str, Any]] = {}
        for trace in self.traces():
            fields = ("calls", "prompt_tokens", "cached_tokens", "generated_tokens", "seconds")
            role = total.setdefault(trace.author.role, dict.fromkeys(fields, 0))
            role["calls"] += trace.sample == 0
            for field in fields[1:4]:
                role[field] += getattr(trace.usage, field)
            role["seconds"] = round(role["seconds"] + trace.seconds, 3)
        return total

    def summary(self) -> dict[str, Any]:
        """What summary.json holds: counts of outcomes and usage per role."""
        done = [o for o in self.outcomes.values() if o["status"] == "done"]
        return {
            "run": self.name,
            "items": len(self.outcomes),
            "done": len(done),
            "failed": len(self.outcomes) - len(done),
            "solved": sum(bool(o.get("solved")) for o in done),
            "hints_refused": sum(int(o.get("hints_refused", 0)) for o in done),
            "failures": dict(Counter(o["error"] for o in self.outcomes.values() if o["status"] == "failed")),
            "posts": self.board.count(run=self.name),
            "usage": self.usage(),
            "seconds": round(self.seconds, 3),
        }

    def close(self) -> None:
        """Closes the database, unless it was handed to `run` open."""
        if self._owner:
            self._context.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({self.name!r}, items={len(self.outcomes)}, folder={str(self.folder)!r})"


async def arun(
    graph: Any,
    items: Iterable[Item],
    *,
    name: str | None = None,
    folder: str | Path = "runs",
    seed: int = 0,
    resume: bool = False,
    concurrency: int = CONCURRENCY,
    config: Mapping[str, Any] | None = None,
    database: Database | str | Path | None = None,
    parent: str | Path | None = None,
    durability: Durability = "exit",
    quiet: bool = False,
) -> Run:
    """Runs a graph on every item; see `run`."""
    chosen = _unique(items)
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}", expected="at least 1")
    if resume and name is None:
        raise ConfigError("resume was asked for without a name", remedy="name the run to go on with")
    what = description(graph)
    name = name or f"{what['graph']}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise ConfigError(f"the run's name is {name!r}", expected="letters, digits, '.', '_' and '-'")
    _require_json(config or {})
    resolved = {
        **what,
        "seed": seed,
        "items": {"count": len(chosen), "digest": _digest(chosen)},
        **(config or {}),
    }
    target = Path(folder) / name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {target}: {error.strerror}; choose another folder") from error
    plan = _Plan(
        config=resolved,
        folder=target,
        seed=seed,
        resume=resume,
        workers=min(concurrency, len(chosen)),
        parent=parent,
        durability=durability,
        quiet=quiet,
    )
    if isinstance(database, Database):
        return await _run_items(graph, chosen, database, plan)
    memory = Database.open(target / DATABASE if database is None else database)
    try:
        done = await _run_items(graph, chosen, memory, plan)
    except BaseException:
        memory.close()
        raise
    done._owner = True
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The checked arguments of a run."""

    config: dict[str, Any]
    folder: Path
    seed: int
    resume: bool
    workers: int
    parent: str | Path | None
    durability: Durability
    quiet: bool


async def _run_items(graph: Any, items: Mapping[str, Item], database: Database, plan: _Plan) -> Run:
    folder, config = plan.folder, plan.config
    began, name = time.monotonic(), folder.name
    runs = RunStore(database)
    origin: dict[str, Any] = {"folder": str(folder.absolute())}
    if plan.parent is not None:
        origin["parent"] = _descend(database, plan.parent)
    with runs.running(name, config, resume=plan.resume, origin=origin) as row:
        write_json(folder / "config.json", config)
        context = RunContext(items.values(), database, run=name, graph=str(config["graph"]), seed=plan.seed)
        # Two runs of one name, in two folders, must not share a checkpointer's threads.
        context.thread = f"{name}@{row.created}"
        outcomes = runs.finished(name)
        todo = iter([item for item in items if item not in outcomes])
        with progress(str(config["graph"]), len(items), quiet=plan.quiet) as bar:
            bar.advance(len(outcomes))
            await _work(graph, context, runs, todo, outcomes, bar, plan)
        seconds = time.monotonic() - began
        finished = Run(context, folder, outcomes, seconds, owner=False)
        lines = [json.dumps({"item": i, **outcomes[i]}, ensure_ascii=False) for i in sorted(outcomes)]
        write_text(folder / "items.jsonl", "\n".join(lines) + "\n")
        write_json(folder / "summary.json", finished.summary())
    return finished


def _descend(database: Database, parent: str | Path) -> dict[str, Any]:
    """Makes the finished calls of an older run known to a new one; returns what is recorded of the parent."""
    path = Path(parent) / DATABASE
    if not path.is_file():
        RunStore(database).get(str(parent))  # in the same database, so its calls are known already
        return {"run": str(parent), "database": database.label}
    name = path.parent.resolve().name
    with Database.open(path, read_only=True) as older:
        RunStore(older).get(name)
        copy_journal(older, database)
        return {"run": name, "database": older.label}


def run(
    graph: Any,
    items: Iterable[Item],
    *,
    name: str | None = None,
    folder: str | Path = "runs",
    seed: int = 0,
    resume: bool = False,
    concurrency: int = CONCURRENCY,
    config: Mapping[str, Any] | None = None,
    database: Database | str | Path | None = None,
    parent: str | Path | None = None,
    durability: Durability = "exit",
    quiet: bool = False,
) -> Run:
    """Runs a graph on every item, many at once, and keeps everything in `folder/name`.

    All model calls go to the agents' engines, which batch them. A run that is interrupted or killed goes on
    with `resume=True`: finished items are skipped, finished calls of unfinished items come from the journal.
    An item whose model or scorer fails is recorded as failed and the run goes on; a failing machine (disk
    full, engine closed) or a wrong configuration ends the run, which can then be resumed.

    Args:
        graph: A compiled LangGraph graph whose input is `{"item": id}`, such as `graphs.tutoring(...)`.
        items: Task items, for example `task.train`.
        name: The run's name; by default the graph's name and the time.
        folder: Parent folder of run folders.
        seed: Seeds of all calls are derived from it.
        resume: Go on with a run of this name.
        concurrency: Most items in flight.
        config: More settings to record, and to compare when resuming.
        database: What to use instead of the folder's own database: a path or URL, or an open one, which
            stays open. Any number of processes may run on one database, with runs of different names.
        parent: Folder of an older run, or its name in the same database, whose finished calls are used
            where they are asked for again; it is recorded as the run's origin and not changed.
        durability: Of a graph with a checkpointer: when its states are stored, as LangGraph's `invoke` takes
            it. At the end is enough to resume a run: an item that was stopped starts again and its
            finished calls are in the journal. "sync" stores the state of every step.
        quiet: Show no progress.

    Returns:
        The finished run.

    Raises:
        ResumeError: if the run exists and `resume` is false, if another process works on it, or if its
            configuration differs.
        DataError: if there are no items, or no such parent.
        StorageError: if the folder cannot be written.
    """
    return blocking(
        arun(
            graph,
            items,
            name=name,
            folder=folder,
            seed=seed,
            resume=resume,
            concurrency=concurrency,
            config=config,
            database=database,
            parent=parent,
            durability=durability,
            quiet=quiet,
        )
    )


def _require_json(config: Mapping[str, Any]) -> None:
    """Refuses a configuration that cannot be recorded, before anything is written."""
    for key, value in config.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.{key} is {value!r} ({error})", expected="JSON values") from None


def _digest(items: Mapping[str, Item]) -> str:
    return digest([[item, items[item].public.question] for item in sorted(items)])


def _unique(items: Iterable[Item]) -> dict[str, Item]:
    chosen: dict[str, Item] = {}
    if not isinstance(items, Iterable):
        raise DataError(f"items is {items!r}", expected="items, such as task.train")
    for item in items:
        given: object = item
        if not isinstance(given, Item):
            raise DataError(f"an item is {given!r}", expected="items, as from evals.tasks or evals.make_item")
        if item.id in chosen:
            raise DataError(f"item {item.id} occurs twice", expected="items with different ids")
        chosen[item.id] = item
    if not chosen:
        raise DataError("the run has no items", remedy="ask the task for more than 0 (train=..., test=...)")
    return chosen


async def _work(
    graph: Any,
    context: RunContext,
    runs: RunStore,
    todo: Iterator[str],
    outcomes: dict[str, dict[str, Any]],
    bar: Progress,
    plan: _Plan,
) -> None:
    solved = sum(bool(o.get("solved")) for o in outcomes.values())

    async def worker() -> None:
        nonlocal solved
        for item in todo:
            outcome = await _one(graph, context, item, plan.durability)
            outcomes[item] = runs.finish_item(context.run, item, outcome)
            solved += bool(outcome.get("solved"))
            bar.advance(note=f"solved {solved}")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.workers):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        # One clear error instead of a group: the first cancels the other workers.
        raise errors.exceptions[0] from None


async def _one(graph: Any, context: RunContext, item: str, durability: Durability) -> dict[str, Any]:
    config = {"configurable": {"thread_id": f"{context.thread}/{item}"}}
    # A thread that a checkpointer knows goes on from there, also one that has nothing left to do: its
    # process may have died before the outcome was stored, and the input would start it a second time.
    start = {"item": item} if await _checkpoint(graph, config) is None else None
    # LangGraph warns of a durability without a checkpointer.
    options = {"durability": durability} if getattr(graph, "checkpointer", None) else {}
    try:
        state = await graph.ainvoke(start, config, context=context, **options)
    except (UserError, InfrastructureError):
        raise
    except DocendoError as error:
        return {"status": "failed", "error": error.code, "message": str(error)}
    reached = await _checkpoint(graph, config)
    if reached is not None and reached.next:
        raise ConfigError(
            "the graph stopped at an interrupt, which a run over many items cannot answer",
            remedy="invoke it item by item, or build it without interrupts",
        )
    outcome = {**{key: value for key, value in state.items() if key != "item"}, "status": "done"}
    check_state(outcome, run=context.run, item=item)
    return outcome


async def _checkpoint(graph: Any, config: dict[str, Any]) -> Any:
    """What a checkpointer knows of a thread, or None."""
    if not getattr(graph, "checkpointer", None):
        return None
    state = await graph.aget_state(config)
    return None if state.metadata is None else state
