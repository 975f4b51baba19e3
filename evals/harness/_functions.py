"""Asking functions: plain ones item by item, async ones for many items at a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from docendo.errors import DataError, InfrastructureError
from docendo.evals.harness._replies import Done, Reply, Said, refused
from docendo.hashing import digest
from docendo.records import Item, PublicItem, SamplingParams

_Said = TypeVar("_Said")


class FunctionAsker:
    """Calls a function of a public item that returns a text, or a list of samples."""

    sampling: SamplingParams | None = None
    model = ""
    adapter: str | None = None

    def __init__(
        self, function: Callable[[PublicItem], Any], *, name: str, samples: int, concurrency: int
    ) -> None:
        self._function, self._name = function, name
        self._samples, self._concurrency = samples, concurrency

    def key(self, item: Item) -> str | None:
        """By the name of the evaluation: a function has no fingerprint."""
        if not self._name:
            return None
        parts = ("evaluate", "function", self._name, item.id, item.public.question)
        return digest(*parts) if self._samples == 1 else digest(*parts, self._samples)

    def ask(self, items: Sequence[Item], done: Done, database: object) -> None:
        """Calls the function for every item."""
        function = self._function
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

            async def call(item: Item) -> Any:
                return await cast(Awaitable[Any], function(item.public))

            ask_async(call, self._read, items, done, concurrency=self._concurrency)
            return
        for item in items:
            start = time.monotonic()
            try:
                said = function(item.public)
            except Exception as error:
                reply = refused(error)
            else:
                reply = self._read(said)
            done(item, reply.replace(seconds=time.monotonic() - start))

    def _read(self, said: Any) -> Reply:
        if isinstance(said, str):
            said = [said]
        if not isinstance(said, Sequence) or not all(isinstance(text, str) for text in said):
            raise DataError(f"the subject returned a {type(said).__name__}", expected="the answer as text")
        if len(said) != self._samples:
            raise DataError(
                f"the subject returned {len(said)} texts",
                expected=f"{self._samples}: a list of as many texts as samples= says",
            )
        return Reply(samples=tuple(Said(text=text) for text in said))


def ask_async(
    call: Callable[[Item], Awaitable[_Said]],
    read: Callable[[_Said], Reply],
    items: Sequence[Item],
    done: Done,
    *,
    concurrency: int,
) -> None:
    """Calls an async function for every item, several at a time; an error that it raises fails its item.

    Raises:
        UserError: if `read` finds no reply in what was returned, or an error is no item's own; the other
            calls are cancelled.
    """
    from docendo.graphs._nodes import blocking

    ended: set[str] = set()

    async def one(item: Item, gate: asyncio.Semaphore) -> None:
        async with gate:
            start = time.monotonic()
            try:
                said = await call(item)
            except Exception as error:
                reply = refused(error)
            else:
                reply = read(said)
        ended.add(item.id)
        done(item, reply.replace(seconds=reply.seconds or time.monotonic() - start))

    async def every() -> None:
        gate = asyncio.Semaphore(concurrency)
        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item, gate))
        except BaseExceptionGroup as errors:
            # The first error stands for all: it has cancelled the others.
            raise errors.exceptions[0] from None
        for item in items:
            if item.id not in ended:  # somebody has cancelled this call alone
                done(item, refused(InfrastructureError("the call was cancelled")))

    blocking(every())
