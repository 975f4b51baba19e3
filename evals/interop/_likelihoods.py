"""Log-likelihoods of continuations, and whether greedy decoding would have written them.

Engines score a given completion and do not say what the likeliest token was. It is found out with as few
further tokens as can be: a token with more than half of the probability is the likeliest, one with less than
an equal share of the vocabulary is not; else the position with the lowest probability is asked first, because
there a continuation is refuted soonest. Where several continuations follow one context, the context's own
likeliest tokens are asked with it, which costs one line of the vocabulary head and answers continuations of
one token altogether.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from docendo.agents import EngineProtocol
from docendo.evals.interop._flight import Flight
from docendo.records import (
    MAX_TOP_LOGPROBS,
    Origin,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
)

#: Above it no other token can be likelier; a little above one half, for rounding.
_SURE = math.log(0.502)
#: Entries of a vocabulary that nothing is known of: more than any model has.
_MOST_TOKENS = 1 << 21
#: What follows from an answer goes before what has not begun: its beginning is still stored.
_SOON = -1
_NOBODY = Origin()


class Pair(NamedTuple):
    """Token ids of a context, at least one, and of what may follow it, at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """Natural logarithm of a continuation's probability, and whether greedy decoding would write it."""

    logprob: float
    greedy: bool


def likelihoods(
    engine: EngineProtocol,
    pairs: Sequence[Pair],
    *,
    adapter: str | None = None,
    greedy: bool = True,
    origin: Origin = _NOBODY,
    about: Callable[[Pair], str] = lambda pair: "a pair",
    done: Callable[[Pair, Likelihood], None] = lambda pair, found: None,
) -> list[Likelihood]:
    """Returns the likelihood of each continuation given its context.

    All go to the engine at once, those with like beginnings side by side. Equal pairs are asked once.

    Args:
        engine: An engine that can score and takes token ids.
        pairs: Contexts and continuations as token ids.
        adapter: Name of a loaded adapter, or None for the base model.
        greedy: Whether to find out about greedy decoding; else `Likelihood.greedy` is False throughout.
        origin: Who asks, for the ledger.
        about: What errors call a pair.
        done: Called with each distinct pair as it is known.

    Raises:
        CapabilityError: if the engine cannot score token ids.
        DataError: if a pair cannot be scored; it says which.

    Example:
        >>> import tempfile
        >>> from docendo.agents import Engine, tiny_model
        >>> folder = tiny_model(tempfile.mkdtemp() + "/tiny", hidden=16, layers=1)
        >>> with Engine.load(folder, dtype="float32") as engine:
        ...     found = likelihoods(engine, [Pair((7, 8), (9,)), Pair((7, 8), (9, 10))])
        >>> 0 > found[0].logprob > found[1].logprob
        True
    """
    engine.capabilities.require(
        frozenset({"score", "token_prompts"}), engine=engine.name, by="log-likelihood evaluation"
    )
    flight = Flight(engine)
    asking = _Asking(flight, adapter=adapter, origin=origin, greedy=greedy, about=about, done=done)
    if "top_logprobs" in engine.capabilities.features:
        asking.top = MAX_TOP_LOGPROBS
    # An equal share, with the same room for rounding as above.
    asking.unlikely = math.log(0.99 / _vocabulary(engine))
    groups: dict[tuple[int, ...], list[Pair]] = {}
    for pair in dict.fromkeys(pairs):
        groups.setdefault(pair.context, []).append(pair)
    # Contexts that begin alike lie side by side, so that what they share is computed once.
    flight.run(partial(_Context(asking, groups[context]).start) for context in sorted(groups))
    return [asking.found[pair] for pair in pairs]


def _vocabulary(engine: EngineProtocol) -> int:
    config = getattr(engine, "config", None)
    return int(config.get_text_config().vocab_size) if config is not None else _MOST_TOKENS


class _Asking:
    """What all contexts of a call have in common: how requests are made, and where answers go."""

    def __init__(
        self,
        flight: Flight,
        *,
        adapter: str | None,
        origin: Origin,
        greedy: bool,
        about: Callable[[Pair], str],
        done: Callable[[Pair, Likelihood], None],
    ) -> None:
        self._flight, self._adapter, self._origin = flight, adapter, origin
        self._about, self._done = about, done
        self.greedy = greedy
        self.top = 0
        self.unlikely = -math.inf
        self.found: dict[Pair, Likelihood] = {}

    def score(self, pair: Pair, then: Callable[[ScoreResult], None], *, soon: bool = False) -> None:
        """Asks for the log-probabilities of a continuation's tokens."""
        request = ScoreRequest(
            prompt=pair.context,
            completion=pair.continuation,
            adapter=self._adapter,
            origin=self._origin,
            priority=_SOON if soon else 0,
        )
        self._flight.ask(request, then, about=self._about(pair))

    def likeliest(
        self, pair: Pair, at: int, then: Callable[[Result], None], *, top: int = 0, soon: bool = False
    ) -> None:
        """Asks which token is likeliest after the first `at` tokens of a continuation."""
        request = Request(
            prompt=pair.context + pair.continuation[:at],
            sampling=SamplingParams(max_tokens=1, top_logprobs=top),
            adapter=self._adapter,
            origin=self._origin,
            priority=_SOON if soon else 0,
        )
        self._flight.ask(request, then, about=self._about(pair))

    def finish(self, pair: Pair, logprob: float, greedy: bool) -> None:
        """Keeps what has been found out about a pair."""
        self.found[pair] = Likelihood(logprob, greedy)
        self._done(pair, self.found[pair])


class _Context:
    """The continuations of one context."""

    def __init__(self, asking: _Asking, pairs: Sequence[Pair]) -> None:
        self._asking, self._pairs = asking, pairs
        self._scores: dict[Pair, tuple[float, ...]] = {}
        # With one continuation of several tokens, its worst position is the better first question.
        self._probes = asking.greedy and (len(pairs) > 1 or len(pairs[0].continuation) == 1)
        self._likeliest: int | None = None

    def start(self) -> None:
        """Asks what can be asked without any answer; the context's own question first, for it stores it."""
        if self._probes:
            self._asking.likeliest(self._pairs[0], 0, self._on_likeliest, top=self._asking.top)
        for pair in self._pairs:
            if len(pair.continuation) > 1 or not self._probes:
                self._asking.score(pair, partial(self._on_score, pair))

    def _on_likeliest(self, result: Result) -> None:
        completion = result.completions[0]
        self._likeliest = completion.token_ids[0]
        top = dict(completion.top_logprobs[0]) if completion.top_logprobs else {}
        top.setdefault(self._likeliest, completion.logprobs[0])
        for pair in self._pairs:
            if pair in self._scores:
                self._settle(pair)
            elif len(pair.continuation) == 1:
                token = pair.continuation[0]
                if token in top:
                    self._asking.finish(pair, top[token], token == self._likeliest)
                else:
                    self._asking.score(pair, partial(self._on_score, pair), soon=True)

    def _on_score(self, pair: Pair, result: ScoreResult) -> None:
        self._scores[pair] = result.logprobs
        if not self._probes or self._likeliest is not None:
            self._settle(pair)

    def _settle(self, pair: Pair) -> None:
        """Decides about greedy decoding as far as the scores allow, and asks for the rest."""
        scores = self._scores[pair]
        first = self._likeliest
        refuted = min(scores) < self._asking.unlikely or (first is not None and pair.continuation[0] != first)
        if refuted or not self._asking.greedy:
            self._asking.finish(pair, math.fsum(scores), False)
            return
        unsure = sorted((logprob, at) for at, logprob in enumerate(scores) if logprob <= _SURE)
        self._check(pair, [at for _, at in unsure if at or first is None])

    def _check(self, pair: Pair, positions: list[int]) -> None:
        """Asks at one position after the other whether the continuation's token is the likeliest."""
        if not positions:
            self._asking.finish(pair, math.fsum(self._scores[pair]), True)
            return
        at, *rest = positions

        def answered(result: Result) -> None:
            if result.completions[0].token_ids[0] == pair.continuation[at]:
                self._check(pair, rest)
            else:
                self._asking.finish(pair, math.fsum(self._scores[pair]), False)

        self._asking.likeliest(pair, at, answered, soon=True)
