"""Many requests at an engine: batched, kept in a journal as answers come, each asked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from docendo.agents import EngineProtocol
from docendo.errors import CapabilityError, ConfigError, DataError, ModelFailure
from docendo.evals.interop._flight import Flight
from docendo.hashing import digest
from docendo.progress import progress
from docendo.records import Feature, Message, Origin, Request, Result, ScoreRequest, ScoreResult, Usage

Asked: TypeAlias = "Request | ScoreRequest"
Said: TypeAlias = "Result | ScoreResult"

_NODE = "select"


class JournalLike(Protocol):
    """What resuming needs of `docendo.memory.Journal`."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Returns what was stored under the key, or None."""

    def put(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stores a value unless the key has one; returns what is stored."""


class Voice(NamedTuple):
    """An engine and the name of a loaded adapter, or None for the base model."""

    engine: EngineProtocol
    adapter: str | None

    @classmethod
    def of(cls, given: Any, what: str) -> Voice:
        """The voice of an agent, or of an engine without adapter.

        Raises:
            ConfigError: if it is neither.
            CapabilityError: if the engine cannot score.
            AdapterError: if the adapter is not loaded.
        """
        # An agent carries its engine; nothing else that is passed here does.
        engine = getattr(given, "engine", given)
        if not isinstance(engine, EngineProtocol):
            raise ConfigError(f"the {what} is a {type(given).__name__}", expected="an engine or an agent")
        voice = cls(engine, getattr(given, "adapter", None) if engine is not given else None)
        engine.capabilities.require(frozenset({"score"}), engine=engine.name, by=f"the {what}")
        engine.adapter_hash(voice.adapter)
        return voice

    @property
    def weights(self) -> tuple[str, str | None]:
        """What answers depend on: fingerprint of the model and digest of the adapter."""
        return self.engine.fingerprint, self.engine.adapter_hash(self.adapter)

    def scoring(self, prompt: str | tuple[Message, ...], text: str, *, role: str) -> ScoreRequest:
        """Asks for the log-probabilities of a text after a prompt."""
        return ScoreRequest(
            prompt=prompt, completion=text, adapter=self.adapter, origin=Origin(role=role, node=_NODE)
        )


class Answers(NamedTuple):
    """One answer for each request; None for those that nobody was asked or that were refused.

    `refused` says why, at the same place; `usage` counts equal requests once.
    """

    said: list[Said | None]
    refused: list[str]
    usage: Usage


def ask(
    voice: Voice,
    requests: Sequence[Asked | None],
    *,
    title: str,
    about: Callable[[int], str],
    journal: JournalLike | None = None,
    quiet: bool = False,
) -> Answers:
    """Asks all requests in their order, as many at once as the engine takes.

    What is in the journal is not asked again, so that a call which was interrupted goes on where it was.

    Args:
        voice: Whom to ask.
        requests: What to ask; None asks nothing.
        title: What the progress is called.
        about: What errors call the request at a place.
        journal: Where answers are kept as they come, or None.
        quiet: Show no progress.

    Raises:
        CapabilityError: if the engine lacks what a request needs.
        DataError: if the engine refuses every request.
        ModelFailure: if a log-probability is not finite.
    """
    keys = [None if request is None else _key(voice, request) for request in requests]
    places = {key: place for place, key in reversed(list(enumerate(keys))) if key is not None}
    _require(voice, [request for request in requests if request is not None])
    found: dict[str, Said] = {}
    refused: dict[str, str] = {}
    flight = Flight(voice.engine)

    def take(key: str, said: Said) -> None:
        _require_finite(said, about(places[key]))
        found[key] = said if journal is None else _read(said, journal.put(key, said.to_json()))
        bar.advance()

    def start(key: str) -> None:
        request = requests[places[key]]
        stored = None if journal is None else journal.get(key)
        if stored is not None:
            found[key] = (Result if isinstance(request, Request) else ScoreResult).from_json(stored)
            bar.advance()
            return
        try:
            flight.ask(request, partial(take, key), about=about(places[key]))  # type: ignore[arg-type]
        except DataError as error:
            if not isinstance(error.__cause__, (ConfigError, DataError)):
                raise
            # Such as one that is too long for the model.
            refused[key] = str(error.__cause__)
            bar.advance()

    with progress(title, len(places), quiet=quiet) as bar:
        # In the order of their places, so that requests with one beginning follow one another.
        flight.run(partial(start, key) for key in dict.fromkeys(keys) if key is not None)
    if refused and not found:
        first = next(iter(refused.values()))
        raise DataError(f"{voice.engine.name!r} can answer none of {len(refused)} requests: {first}")
    usage = Usage()
    for said in found.values():
        usage += said.usage
    return Answers(
        [found.get(key) if key is not None else None for key in keys],
        [refused.get(key, "") if key is not None else "" for key in keys],
        usage,
    )


def mean_logprob(said: Said | None) -> float:
    """Mean log-probability of the tokens of a scored text.

    Raises:
        ModelFailure: if there is no answer, or it has no tokens.
    """
    if not isinstance(said, ScoreResult) or not said.logprobs:
        raise ModelFailure("the engine returned no log-probabilities")
    return math.fsum(said.logprobs) / len(said.logprobs)


def _key(voice: Voice, request: Asked) -> str:
    prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    if isinstance(request, ScoreRequest):
        return digest("selector", "score", *voice.weights, prompt, request.completion)
    return digest("selector", "generate", *voice.weights, prompt, request.sampling.to_json())


def _read(said: Said, stored: Mapping[str, Any]) -> Said:
    return type(said).from_json(stored)


def _require(voice: Voice, requests: Sequence[Asked]) -> None:
    """Refuses at once what every request would be refused for."""
    needs: set[Feature] = {"adapters"} if voice.adapter is not None else set()
    for request in requests:
        needs |= request.needs() if isinstance(request, Request) else {"score"}
        needs |= set() if isinstance(request.prompt, str) else {"messages"}
    missing = needs - voice.engine.capabilities.features
    if missing:
        raise CapabilityError.lacking(missing, engine=voice.engine.name, by="a selector")


def _require_finite(said: Said, about: str) -> None:
    parts = [said.logprobs] if isinstance(said, ScoreResult) else [one.logprobs for one in said.completions]
    if not all(math.isfinite(value) for part in parts for value in part):
        raise ModelFailure(f"{about}: a log-probability is not finite; expected finite numbers")
