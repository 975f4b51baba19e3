"""Asking functions: plain ones item by item, async ones for many items at a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from docendo.errors import DataError, InfrastructureError, UserError
from docendo.evals.harness._replies import Done, Reply, Said, failure_of
from docendo.hashing import digest
from docendo.records import Item, PublicItem, SamplingParams


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

    def ask(self, items: Sequence[Item], done: Done, traces: object) -> None:
        """Calls the function for every item."""
        function = self._function
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            from docendo.graphs._nodes import blocking

            blocking(self._ask_async(items, done))
            return
        for item in items:
            start = time.monotonic()
            try:
                reply = self._reply(function(item.public))
            except UserError:
                raise
            except Exception as error:
                reply = Reply(failure=failure_of(error))
            done(item, reply.replace(seconds=time.monotonic() - start))

    async def _ask_async(self, items: Sequence[Item], done: Done) -> None:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(item: Item) -> None:
            async with gate:
                start = time.monotonic()
                try:
                    reply = self._reply(await cast(Awaitable[Any], self._function(item.public)))
                except UserError:
                    raise
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    reply = Reply(failure=failure_of(InfrastructureError("the call was cancelled")))
                except Exception as error:
                    reply = Reply(failure=failure_of(error))
            done(item, reply.replace(seconds=time.monotonic() - start))

        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item))
        except BaseExceptionGroup as errors:
            # The first error stands for all: it has cancelled the others.
            raise errors.exceptions[0] from None

    def _reply(self, value: Any) -> Reply:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
            raise DataError(f"the subject returned a {type(value).__name__}", expected="the answer as text")
        if len(value) != self._samples:
            raise DataError(
                f"the subject returned {len(value)} texts",
                expected=f"{self._samples}: a list of as many texts as samples= says",
            )
        return Reply(samples=tuple(Said(text=text) for text in value))
