"""What every engine offers, whether it runs a model in process or plays a script."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from docendo.records import Message, Request, Result, ScoreRequest, ScoreResult


@runtime_checkable
class EngineProtocol(Protocol):
    """Runs one base model with any number of LoRA adapters.

    Attributes:
        name: What the model was loaded as.
        fingerprint: Digest of the base model's files.
    """

    name: str
    fingerprint: str

    def submit(self, request: Request) -> Future[Result]:
        """Queues a generation request; the future can be cancelled at any time."""

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Queues a scoring request."""

    def generate(self, request: Request) -> Result:
        """Generates and waits."""

    async def agenerate(self, request: Request) -> Result:
        """Generates without blocking the event loop."""

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Scores and waits."""

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Scores without blocking the event loop."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text that the model sees for chat messages."""

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
        """Calls, tokens and compute seconds by role, agent and adapter."""

    def close(self) -> None:
        """Stops the engine; what is still queued fails with `EngineClosed`."""
