"""What every engine offers, whether it runs a model in process or plays a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from docendo.records import (
    Capabilities,
    Chunk,
    EngineEvent,
    Message,
    Request,
    Result,
    ScoreRequest,
    ScoreResult,
)


@runtime_checkable
class EngineProtocol(Protocol):
    """Runs one base model with any number of LoRA adapters.

    Attributes:
        name: What the model was loaded as.
        fingerprint: Digest of the base model's files.
        capabilities: What it offers beyond plain generation.
    """

    name: str
    fingerprint: str
    capabilities: Capabilities

    def submit(self, request: Request) -> Future[Result]:
        """Queues a generation request; the future can be cancelled at any time."""

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Queues a scoring request."""

    def generate(self, request: Request) -> Result:
        """Generates and waits."""

    async def agenerate(self, request: Request) -> Result:
        """Generates without blocking the event loop."""

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Generates piece by piece; closing the iterator cancels the request."""

    def astream(self, request: Request) -> AsyncIterator[Chunk]:
        """Generates piece by piece without blocking the event loop."""

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Scores and waits."""

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Scores without blocking the event loop."""

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The prompt text that the model sees for chat messages and tools."""

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Loads an adapter, or swaps the one of that name; returns its SHA-256."""

    def drop_adapter(self, name: str) -> None:
        """Forgets an adapter; requests that already run with it finish."""

    def adapters(self) -> dict[str, str]:
        """Names of the loaded adapters and their SHA-256."""

    def adapter_hash(self, name: str | None) -> str | None:
        """SHA-256 of a loaded adapter; None for the base model."""

    def paused(self) -> AbstractContextManager[None]:
        """No decoding step runs inside this context; requests queue up."""

    def ledger(self) -> list[dict[str, Any]]:
        """Calls, tokens, compute seconds and estimated FLOPs by run, role, agent and adapter."""

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Calls back after each request that ends; returns what unsubscribes."""

    def close(self) -> None:
        """Stops the engine; what is still queued fails with `EngineClosed`."""
