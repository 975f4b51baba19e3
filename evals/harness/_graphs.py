"""Asking graphs: `docendo.run` over the items, in parts, with their turns kept where a folder is given."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from docendo.errors import ConfigError, DocendoError, UserError, blame
from docendo.evals.harness._replies import Done, Reply, Said, reason_of
from docendo.hashing import digest
from docendo.records import Item, SamplingParams, Trace, Usage

# Items of a graph that are run together, as a multiple of the concurrency.
_PART = 4


class GraphAsker:
    """Runs a compiled graph over the items; the answer is its final state's `answer`.

    In parts, so that the journal has most answers when the process dies. The parts and their names depend on
    the whole list of items alone, so that a resumed evaluation goes on with the runs it had begun.
    """

    sampling: SamplingParams | None = None
    model = ""
    adapter: str | None = None

    def __init__(
        self, graph: Any, items: Sequence[Item], *, name: str, concurrency: int, folder: Path | None
    ) -> None:
        self._graph, self._items, self._name = graph, items, name
        self._concurrency, self._folder = concurrency, folder

    def key(self, item: Item) -> str | None:
        """By the name of the evaluation: a graph has no fingerprint."""
        return digest("evaluate", "graph", self._name, item.id, item.public.question) if self._name else None

    def ask(self, items: Sequence[Item], done: Done, traces: object) -> None:
        """Runs each part of which an item is missing; runs keep their turns themselves."""
        missing = {item.id for item in items}
        kept = self._folder is not None
        place = nullcontext(self._folder) if kept else tempfile.TemporaryDirectory(prefix="docendo-evaluate-")
        # By the evaluation's name and size of parts: another graph, or other parts, has runs of its own.
        mark = "part-" + digest("part", self._name, self._concurrency, [item.id for item in self._items])[:8]
        with place as folder:
            size = _PART * self._concurrency
            for start in range(0, len(self._items), size):
                part = self._items[start : start + size]
                if missing & {item.id for item in part}:
                    replies = self._run(part, f"{mark}-{start // size:04d}", Path(str(folder)))
                    for item in part:
                        if item.id in missing:
                            done(item, replies[item.id])

    def _run(self, part: Sequence[Item], name: str, folder: Path) -> dict[str, Reply]:
        """The replies of a part. What failed in an earlier process is tried again, under another name."""
        replies: dict[str, Reply] = {}
        for attempt in itertools.count():
            where = f"{name}-{attempt}"
            old = (folder / where / "summary.json").exists()
            replies.update(self._attempt(part, where, folder))
            part = [item for item in part if replies[item.id].failure is not None]
            if not old or not part:
                break
        return replies

    def _attempt(self, part: Sequence[Item], name: str, folder: Path) -> dict[str, Reply]:
        from docendo.graphs import run

        began = time.monotonic()
        finished = run(
            _Patient(self._graph),
            part,
            name=name,
            folder=folder,
            resume=(folder / name).exists(),
            concurrency=self._concurrency,
            quiet=True,
        )
        with finished:
            outcomes, turns = finished.outcomes, _by_item(finished.traces())
        seconds = (time.monotonic() - began) / len(part)
        return {item.id: _reply(outcomes.get(item.id, {}), turns.get(item.id, []), seconds) for item in part}


class _Patient:
    """A graph of which an item ends alone, whatever it fails of: in a run, the machine's failure ends all."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    async def ainvoke(self, *args: Any, **options: Any) -> Any:
        try:
            return await self._graph.ainvoke(*args, **options)
        except UserError:
            raise
        except Exception as error:
            raise _Ended(error) from error


class _Ended(DocendoError):
    """The end of one item, with the blame that its error had."""

    def __init__(self, error: Exception) -> None:
        super().__init__(reason_of(error))
        self.code = blame(error)


def _by_item(traces: Iterable[Trace]) -> dict[str, list[Trace]]:
    turns: dict[str, list[Trace]] = {}
    for trace in traces:
        turns.setdefault(trace.item, []).append(trace)
    return turns


def _reply(outcome: Mapping[str, Any], turns: Sequence[Trace], seconds: float) -> Reply:
    usage = Usage()
    for turn in turns:
        usage += turn.usage
    reply = Reply(
        traces=tuple(turn.id for turn in turns),
        usage=usage,
        seconds=seconds,
        flops=sum(turn.flops for turn in turns),
    )
    if outcome.get("status") == "failed":
        return reply.replace(failure=f"{outcome.get('error')}: {outcome.get('message')}")
    answer = outcome.get("answer")
    if not isinstance(answer, str):
        raise ConfigError("the graph's final state holds no answer", expected='text under the key "answer"')
    return reply.replace(samples=(Said(text=answer),))
