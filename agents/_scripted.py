"""An engine that plays a script: for tests of control flow, never as evidence that a method works."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias, get_args

from docendo.agents._accounts import Accounts
from docendo.agents._answers import StopText
from docendo.agents._servers import prompt_messages
from docendo.agents._templates import plain_text
from docendo.errors import AdapterError, ConfigError, DeadlineExceeded, EngineClosed
from docendo.hashing import digest, file_sha256
from docendo.records import (
    Capabilities,
    Chunk,
    Completion,
    EngineEvent,
    EventStatus,
    Feature,
    Message,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
    Usage,
)

Answer: TypeAlias = "str | Sequence[str] | Result"
Script: TypeAlias = "Iterable[Answer] | Callable[[Request], Answer]"

#: A script can stand for any engine; only what it would have to make up is left out.
_FEATURES = frozenset(get_args(Feature)) - {"top_logprobs", "prompt_logprobs"}


class ScriptedEngine:
    """Answers requests from a list, a generator or a callable that sees the request.

    A list or generator is played in order and its end is an error, so a test notices one call too many.
    An answer is a text, a list of `n` texts, or a whole `Result`. Tokens are counted as words; texts end at
    stop strings, not after `max_tokens`; a `Result` is returned as it is. Scoring uses `scores`, a
    callable from a `ScoreRequest` to a log-probability (by default -1 for every word).

    Example:
        >>> engine = ScriptedEngine(["4", "5"])
        >>> engine.generate(Request(prompt="2 + 2 =")).text
        '4'
        >>> [chunk.text for chunk in ScriptedEngine(["one two"]).stream(Request(prompt="count"))]
        ['one ', 'two']
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        scores: Callable[[ScoreRequest], float] | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        """Starts at the beginning of the script.

        Args:
            script: The answers.
            name: What to call the model in records.
            scores: Log-probability of a completion.
            capabilities: What to offer, to test what needs more: by default all but alternatives' and
                prompts' log-probabilities.
        """
        self.name = name
        self.fingerprint = digest("scripted", name)
        self.model_path = None
        self.capabilities = capabilities or Capabilities(features=_FEATURES, determinism="invariant")
        self.requests: list[Request] = []
        self._call = script if callable(script) else _player(iter(script))
        self._scores = scores
        self._lock = threading.Lock()
        self._adapters: dict[str, str] = {}
        self._accounts = Accounts()
        self._closed = False

    def submit(self, request: Request) -> Future[Result]:
        """Plays the next answer, in this thread; see `Engine.submit`."""
        self._check(request, request.needs())
        future: Future[Result] = Future()
        submitted = time.time()
        try:
            with self._lock:
                self.requests.append(request)
                result = self._result(request, self._call(request))
            if request.timeout is not None and time.time() - submitted > request.timeout:
                raise DeadlineExceeded(
                    f"the request was not finished within its timeout of {request.timeout:g} s"
                )
        except Exception as error:  # an engine reports errors through the future
            self._report(request, "failed", submitted, error=error)
            future.set_exception(error)
        else:
            self._report(request, "finished", submitted, result=result)
            future.set_result(result)
        return future

    def submit_score(self, request: ScoreRequest) -> Future[ScoreResult]:
        """Scores with the `scores` callable; see `Engine.submit_score`."""
        self._check(request, frozenset({"score"}))
        submitted = time.time()
        words = (
            request.completion.split() if isinstance(request.completion, str) else list(request.completion)
        )
        if not words:
            raise ConfigError("the completion to score is empty", expected="at least one word")
        total = self._scores(request) if self._scores else -float(len(words))
        size = len(words)
        result = ScoreResult(
            token_ids=tuple(range(size)),
            logprobs=(total / size,) * size,
            usage=Usage(prompt_tokens=_words(request.prompt) + size),
            model=self.fingerprint,
            adapter=self.adapter_hash(request.adapter),
        )
        self._report(request, "finished", submitted, result=result)
        future: Future[ScoreResult] = Future()
        future.set_result(result)
        return future

    def generate(self, request: Request) -> Result:
        """Plays the next answer."""
        return self.submit(request).result()

    async def agenerate(self, request: Request) -> Result:
        """Plays the next answer; yields to the event loop first, so that tasks interleave."""
        await asyncio.sleep(0)
        return self.submit(request).result()

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Plays the next answer word by word, sample after sample."""
        self.capabilities.require(frozenset({"stream"}), engine=self.name, by="the request")
        yield from _chunks(self.generate(request))

    async def astream(self, request: Request) -> AsyncIterator[Chunk]:
        """Plays the next answer word by word; yields to the event loop between words."""
        for chunk in self.stream(request):
            await asyncio.sleep(0)
            yield chunk

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Scores a completion."""
        return self.submit_score(request).result()

    async def ascore(self, request: ScoreRequest) -> ScoreResult:
        """Scores a completion."""
        await asyncio.sleep(0)
        return self.score(request)

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """One line per tool and message."""
        return plain_text(messages, tools)

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
        """Calls and words by run, role, agent and adapter."""
        names = {sha256: name for name, sha256 in self._adapters.items()}
        return self._accounts.rows(model=self.name, names=names)

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Calls back after each request that ends; returns what unsubscribes."""
        return self._accounts.subscribe(callback)

    def close(self) -> None:
        """Refuses all further requests."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, request: Request | ScoreRequest, needs: frozenset[Feature]) -> None:
        if self._closed:
            raise EngineClosed("the engine is closed; make it again")
        prompt_messages(request.prompt)
        self.capabilities.require(needs, engine=self.name, by="the request")
        self.adapter_hash(request.adapter)

    def _result(self, request: Request, answer: Answer) -> Result:
        if isinstance(answer, Result):
            return answer
        params = request.sampling
        texts = [answer] * params.n if isinstance(answer, str) else list(answer)
        if len(texts) != params.n:
            raise ConfigError(f"the script answered with {len(texts)} texts", expected=f"n = {params.n}")
        completions = tuple(_completion(text, params) for text in texts)
        return Result(
            completions=completions,
            usage=Usage(
                prompt_tokens=_words(request.prompt),
                generated_tokens=sum(len(c.token_ids) for c in completions),
            ),
            model=self.fingerprint,
            adapter=self.adapter_hash(request.adapter),
            seed=params.seed or 0,
        )

    def _report(
        self,
        request: Request | ScoreRequest,
        status: EventStatus,
        submitted: float,
        *,
        result: Result | ScoreResult | None = None,
        error: Exception | None = None,
    ) -> None:
        generation = isinstance(request, Request)
        self._accounts.record(
            EngineEvent(
                kind="generate" if generation else "score",
                status=status,
                origin=request.origin,
                model=self.name,
                adapter=request.adapter,
                sampling=request.sampling if isinstance(request, Request) else SamplingParams(),
                usage=result.usage if result else Usage(),
                finish_reasons=tuple(c.finish_reason for c in result.completions)
                if isinstance(result, Result)
                else (),
                submitted=submitted,
                started=submitted,
                first_token=(now := time.time()),
                ended=now,
                error=type(error).__name__ if error else "",
            ),
            adapter=self.adapter_hash(request.adapter),
        )


def _completion(text: str, params: SamplingParams) -> Completion:
    stop = StopText(params.stop)
    text = stop.feed(text) + stop.rest()
    size = len(text.split())
    return Completion(text=text, token_ids=tuple(range(size)), logprobs=(math.log(0.5),) * size)


def _chunks(result: Result) -> Iterator[Chunk]:
    final = len(result.completions) - 1
    for index, completion in enumerate(result.completions):
        pieces = re.findall(r"\s*\S+\s*", completion.text) or [completion.text]
        for at, piece in enumerate(pieces):
            last = at == len(pieces) - 1
            rows = slice(at, None if last else at + 1)
            yield Chunk(
                text=piece,
                index=index,
                token_ids=completion.token_ids[rows],
                logprobs=completion.logprobs[rows],
                finish_reason=completion.finish_reason if last else None,
                usage=result.usage if last and index == final else None,
            )


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
