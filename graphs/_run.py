"""Running a graph over many items at once: concurrent, resumable, with progress and one folder of results."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from docendo.agents import RunContext
from docendo.errors import ConfigError, DataError, DocendoError, InfrastructureError, StorageError, UserError
from docendo.files import write_json, write_text
from docendo.graphs._nodes import blocking, description
from docendo.hashing import digest
from docendo.memory import DATABASE, Blackboard, Database, RunStore
from docendo.progress import Progress, progress
from docendo.records import Item, Trace

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
        self, context: RunContext, folder: Path, outcomes: dict[str, dict[str, Any]], seconds: float
    ) -> None:
        """Made by `run`; `Run.open` reads one back."""
        self.name, self.folder, self.outcomes, self.seconds = context.run, folder, outcomes, seconds
        self._context = context

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Opens the folder of an earlier run.

        Raises:
            DataError: if the folder holds no run.
        """
        folder = Path(folder)
        path = folder / DATABASE
        if not path.is_file():
            raise DataError(
                f"{folder} holds no run", expected=f"a folder with {DATABASE}", remedy="see runs/"
            )
        database = Database.open(path)
        rows = RunStore(database).list()
        if not rows:
            raise DataError(f"{path} holds no run", remedy="start it again with the same name and --resume")
        names = [row.run for row in rows]
        name = folder.resolve().name if folder.resolve().name in names else names[-1]
        return cls(RunContext((), database, run=name), folder, RunStore(database).finished(name), 0.0)

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
            "posts": len(self.board.posts(run=self.name)),
            "usage": self.usage(),
            "seconds": round(self.seconds, 3),
        }

    def close(self) -> None:
        """Closes the database."""
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
    database: Database | None = None,
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
    opened = database is None
    memory = database or Database.open(target / DATABASE)
    try:
        return await _run_items(graph, chosen, memory, resolved, target, seed, resume, concurrency, quiet)
    except BaseException:
        if opened:
            memory.close()
        raise


async def _run_items(
    graph: Any,
    items: Mapping[str, Item],
    database: Database,
    config: dict[str, Any],
    folder: Path,
    seed: int,
    resume: bool,
    concurrency: int,
    quiet: bool,
) -> Run:
    began, name = time.monotonic(), folder.name
    runs = RunStore(database)
    with runs.running(name, config, resume=resume) as row:
        write_json(folder / "config.json", config)
        context = RunContext(items.values(), database, run=name, graph=str(config["graph"]), seed=seed)
        # Two runs of one name, in two folders, must not share a checkpointer's threads.
        context.thread = f"{name}@{row.created}"
        outcomes = runs.finished(name)
        todo = iter([item for item in items if item not in outcomes])
        with progress(str(config["graph"]), len(items), quiet=quiet) as bar:
            bar.advance(len(outcomes))
            await _work(graph, context, runs, todo, outcomes, bar, min(concurrency, len(items)))
    finished = Run(context, folder, outcomes, time.monotonic() - began)
    lines = [json.dumps({"item": item, **outcomes[item]}, ensure_ascii=False) for item in sorted(outcomes)]
    write_text(folder / "items.jsonl", "\n".join(lines) + "\n")
    write_json(folder / "summary.json", finished.summary())
    return finished


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
    database: Database | None = None,
    quiet: bool = False,
) -> Run:
    """Runs a graph on every item, many at once, and keeps everything in `folder/name`.

    All model calls go to the agents' engines, which batch them. A run that is interrupted or killed goes on
    with `resume=True`: finished items are skipped, finished calls of unfinished items come from the journal.
    An item whose model fails is recorded as failed and the run goes on; a failing machine (disk full, engine
    closed) or a wrong configuration ends the run, which can then be resumed.

    Args:
        graph: A compiled LangGraph graph whose input is `{"item": id}`, such as `graphs.tutoring(...)`.
        items: Task items, for example `task.train`.
        name: The run's name; by default the graph's name and the time.
        folder: Parent folder of run folders.
        seed: Seeds of all calls are derived from it.
        resume: Go on with a run of this name.
        concurrency: Most items in flight.
        config: More settings to record, and to compare when resuming.
        database: An open database to use instead of the folder's own; it stays open.
        quiet: Show no progress.

    Returns:
        The finished run.

    Raises:
        ResumeError: if the run exists and `resume` is false, or its configuration differs.
        DataError: if there are no items.
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
    workers: int,
) -> None:
    solved = sum(bool(o.get("solved")) for o in outcomes.values())

    async def worker() -> None:
        nonlocal solved
        for item in todo:
            outcome = await _one(graph, context, item)
            outcomes[item] = runs.finish_item(context.run, item, outcome)
            solved += bool(outcome.get("solved"))
            bar.advance(note=f"solved {solved}")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        # One clear error instead of a group: the first cancels the other workers.
        raise errors.exceptions[0] from None


async def _one(graph: Any, context: RunContext, item: str) -> dict[str, Any]:
    config = {"configurable": {"thread_id": f"{context.thread}/{item}"}}
    # A thread that a checkpointer left half-way goes on from there; anything else starts.
    start = None if await _stopped(graph, config) else {"item": item}
    try:
        state = await graph.ainvoke(start, config, context=context)
    except (UserError, InfrastructureError):
        raise
    except DocendoError as error:
        return {"status": "failed", "error": error.code, "message": str(error)}
    if await _stopped(graph, config):
        raise ConfigError(
            "the graph stopped at an interrupt, which a run over many items cannot answer",
            remedy="invoke it item by item, or build it without interrupts",
        )
    return {**{key: value for key, value in state.items() if key != "item"}, "status": "done"}


async def _stopped(graph: Any, config: dict[str, Any]) -> bool:
    """Whether a checkpointed thread has nodes left to run."""
    if not getattr(graph, "checkpointer", None):
        return False
    return bool((await graph.aget_state(config)).next)
