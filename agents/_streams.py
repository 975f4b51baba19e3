"""Streaming: completions as they are written."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from docendo.records import Chunk

#: What a byte-level tokenizer shows for half a character.
_HALF = "\N{REPLACEMENT CHARACTER}"


def certain_text(text: str, stops: Sequence[str]) -> str:
    """The part of a growing text that later tokens cannot change or cut off.

    Example:
        >>> certain_text("the end. Use", ["User:"])
        'the end. '
    """
    text = text.rstrip(_HALF)
    held = max((_overlap(text, stop) for stop in stops), default=0)
    return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


def stream(submit: Callable[[Callable[[Chunk], None]], Future[Any]]) -> Iterator[Chunk]:
    """Yields the chunks of a request; closing the iterator early cancels it.

    Args:
        submit: Submits the request with a listener, which any thread may call.
    """
    chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
    future = submit(chunks.put)
    future.add_done_callback(lambda _: chunks.put(None))
    try:
        while (chunk := chunks.get()) is not None:
            yield chunk
        future.result()
    finally:
        future.cancel()


async def astream(submit: Callable[[Callable[[Chunk], None]], Future[Any]]) -> AsyncIterator[Chunk]:
    """`stream` without blocking the event loop."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()

    def put(chunk: Chunk | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody reads any more
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    submitting = asyncio.ensure_future(asyncio.to_thread(submit, put))
    try:
        future = await asyncio.shield(submitting)
    except asyncio.CancelledError:
        # The thread may still be waiting for a place in the queue: what it gets is given back.
        submitting.add_done_callback(lambda late: late.exception() or late.result().cancel())
        raise
    future.add_done_callback(lambda _: put(None))
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        future.result()
    finally:
        future.cancel()
