"""An engine that plays a script: for tests of control flow, never as evidence that a method works."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

from docendo.agents._ledger import LedgerEntry, LedgerKey, ledger_rows
from docendo.errors import AdapterError, ConfigError
from docendo.hashing import digest, file_sha256
from docendo.records import Completion, Message, Request, Result, ScoreRequest, ScoreResult, Usage

Answer: TypeAlias = "str | Sequence[str] | Result"
Script: TypeAlias = "Iterable[Answer] | Callable[[Request], Answer]"


class ScriptedEngine:
    """Answers requests from a list, a generator or a callable that sees the request.

    A list or generator is played in order and its end is an error, so a test notices one call too many.
    An answer is a text, a list of `n` texts, or a whole `Result`. Tokens are counted as words. Scoring uses
    `scores`, a callable from a `ScoreRequest` to a log-probability (by default -1 for every word).

    Example:
        >>> engine = ScriptedEngine(["4", "5"])
        >>> engine.generate(Request(prompt="2 + 2 =")).text
        '4'
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", scores: Callable[[ScoreRequest], float] | None = None
    ) -> None:
        """Starts at the beginning of the script."""
        self.name = name
        self.fingerprint = digest("scripted", name)
        self.model_path = None
        self.requests: list[Request] = []
        self._call = script if callable(script) else _player(iter(script))
        self._scores = scores
        self._lock = threading.Lock()
        self._adapters: dict[str, str] = {}
        self._ledger: dict[LedgerKey, LedgerEntry] = {}

    def submit(self, request: Request) -> Future[Result]:
        """Plays the next answer; see `Engine.submit`."""
        future: Future[Result] = Future()
        try:
            with self._lock:
                self.requests.append(request)
                result = self._result(request, self._call(request))
                self._count(request, result)
            future.set_result(result)
        except Exception as error:  # an engine reports errors through the future
            future.set_exception(error)
        return future

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Scores with the `scores` callable; see `Engine.submit_score`."""
        words = (
            request.completion.split() if isinstance(request.completion, str) else list(request.completion)
        )
        total = self._scores(request) if self._scores else -float(len(words))
        size = max(1, len(words))
        future: Future[ScoreResult] = Future()
        future.set_result(
            ScoreResult(
                token_ids=tuple(range(size)),
                logprobs=(total / size,) * size,
                usage=Usage(prompt_tokens=_words(request.prompt) + size),
                model=self.fingerprint,
                adapter=self.adapter_hash(request.adapter),
            )
        )
        return future

    def generate(self, request: Request) -> Result:
        """Plays the next answer."""
        return self.submit(request).result()

    async def agenerate(self, request: Request) -> Result:
        """Plays the next answer; yields to the event loop first, so that tasks interleave."""
        await asyncio.sleep(0)
        return self.submit(request).result()

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Scores a completion."""
        return self.submit_score(request).result()

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Scores a completion."""
        await asyncio.sleep(0)
        return self.score(request)

    def render(self, messages: Sequence[Message]) -> str:
        """One line per message."""
        return "\n".join(f"{m['role']}: {m['content']}" for m in messages)

    def load_adapter(self, name: str, path: str | Path) -> str:
        """Remembers a name; the digest is that of the weights file if there is one, else of the path."""
        weights = Path(path) / "adapter_model.safetensors"
        self._adapters[name] = file_sha256(weights) if weights.is_file() else digest(str(path))
        return self._adapters[name]

    def drop_adapter(self, name: str) -> None:
        """Forgets a name."""
        self.adapter_hash(name)
        del self._adapters[name]

    def adapters(self) -> dict[str, str]:
        """Names and digests."""
        return dict(self._adapters)

    def adapter_hash(self, name: str | None) -> str | None:
        """Digest of a remembered adapter; None for the base."""
        if name is not None and name not in self._adapters:
            raise AdapterError(f"adapter {name!r} is not loaded", remedy="call load_adapter first")
        return None if name is None else self._adapters[name]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing runs between calls, so there is nothing to pause."""
        yield

    def ledger(self) -> list[dict[str, Any]]:
        """Calls and words by role, agent and adapter."""
        return ledger_rows(self._ledger, model=self.name)

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _result(self, request: Request, answer: Answer) -> Result:
        if isinstance(answer, Result):
            return answer
        texts = [answer] * request.sampling.n if isinstance(answer, str) else list(answer)
        if len(texts) != request.sampling.n:
            raise ConfigError(
                f"the script answered with {len(texts)} texts", expected=f"n = {request.sampling.n}"
            )
        completions = tuple(
            Completion(
                text=t, token_ids=tuple(range(len(t.split()))), logprobs=(math.log(0.5),) * len(t.split())
            )
            for t in texts
        )
        generated = sum(len(c.token_ids) for c in completions)
        return Result(
            completions=completions,
            usage=Usage(prompt_tokens=_words(request.prompt), generated_tokens=generated),
            model=self.fingerprint,
            adapter=self.adapter_hash(request.adapter),
            seed=request.sampling.seed or 0,
        )

    def _count(self, request: Request, result: Result) -> None:
        key = LedgerKey(request.origin.run, request.origin.role, request.origin.agent, request.adapter)
        entry = self._ledger.setdefault(key, LedgerEntry())
        entry.calls += 1
        entry.prompt_tokens += result.usage.prompt_tokens
        entry.generated_tokens += result.usage.generated_tokens


def _player(answers: Iterator[Answer]) -> Callable[[Request], Answer]:
    def play(_: Request) -> Answer:
        try:
            return next(answers)
        except StopIteration:
            raise ConfigError(
                "the script has no more answers", remedy="add one, or make fewer calls"
            ) from None

    return play


def _words(prompt: Any) -> int:
    if isinstance(prompt, str):
        return len(prompt.split())
    return sum(len(part["content"].split()) if isinstance(part, dict) else 1 for part in prompt)
