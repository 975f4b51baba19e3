"""Rerankers for two-stage retrieval: a language model is asked about a text, or for the query."""

from __future__ import annotations

import math
from collections.abc import Sequence

from docendo.agents._protocol import EngineProtocol
from docendo.errors import CapabilityError, ConfigError
from docendo.records import Message, Origin, ScoreRequest

_ASK = "Text:\n{text}\n\nQuestion:\n{query}\n\nDoes the text help to answer the question? Answer yes or no."
_WRITE = "Text:\n{text}\n\nWrite a question that this text answers."
_ROLE = Origin(role="reranker")


class EngineReranker:
    """The log-odds of a model's `yes` against its `no` when it is asked whether a text is relevant.

    Both answers are scored, so the model needs no grammar and its other words do not matter. All texts are
    asked about at once; the engine batches them.

    Example:
        >>> retriever = TwoStageRetriever(stages, EngineReranker(engine))  # doctest: +SKIP
    """

    def __init__(
        self,
        engine: EngineProtocol,
        *,
        ask: str = _ASK,
        answers: tuple[str, str] = ("yes", "no"),
        adapter: str | None = None,
        origin: Origin = _ROLE,
    ) -> None:
        """Prepares a reranker.

        Args:
            engine: An engine that can score.
            ask: What is asked; `{text}` and `{query}` are filled in.
            answers: What it says of a relevant text, and of another.
            adapter: Name of a loaded adapter, or None for the base model.
            origin: Who asks, for the ledger.

        Raises:
            CapabilityError: if the engine cannot score.
            ConfigError: if the question lacks a place, or an answer is empty.
        """
        _require_scores(engine)
        if "{text}" not in ask or "{query}" not in ask:
            raise ConfigError("the reranker's question lacks a place", expected="both {text} and {query}")
        if not all(answers):
            raise ConfigError(f"the answers are {answers!r}", expected="two texts")
        self.engine, self.ask, self.answers = engine, ask, answers
        self.adapter, self.origin = adapter, origin

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One log-odds per text: above 0 it is taken to be relevant."""
        waiting = [
            self.engine.submit_score(
                ScoreRequest(
                    prompt=self._prompt(query, text),
                    completion=answer,
                    adapter=self.adapter,
                    origin=self.origin,
                )
            )
            for text in texts
            for answer in self.answers
        ]
        sums = [math.fsum(one.result().logprobs) for one in waiting]
        return [yes - no for yes, no in zip(sums[::2], sums[1::2], strict=True)]

    def _prompt(self, query: str, text: str) -> tuple[Message, ...]:
        # Replaced in one go each: a text may contain the other's place.
        before, _, rest = self.ask.partition("{text}")
        if "{query}" in before:
            content = before.replace("{query}", query) + text + rest
        else:
            content = before + text + rest.replace("{query}", query)
        return _user(content)


class LikelihoodReranker:
    """How likely a model is to write the query when it has read the text: mean log-probability per token.

    The query-likelihood reranking of Sachan and others (2022, arXiv 2204.07496), without training. A small
    model that cannot tell what is relevant may still write likelier what it has just read about.

    Example:
        >>> retriever = TwoStageRetriever(stages, LikelihoodReranker(engine))  # doctest: +SKIP
    """

    def __init__(
        self,
        engine: EngineProtocol,
        *,
        ask: str = _WRITE,
        adapter: str | None = None,
        origin: Origin = _ROLE,
    ) -> None:
        """Prepares a reranker.

        Args:
            engine: An engine that can score.
            ask: What the query is the answer to; `{text}` is filled in.
            adapter: Name of a loaded adapter, or None for the base model.
            origin: Who asks, for the ledger.

        Raises:
            CapabilityError: if the engine cannot score.
            ConfigError: if `ask` lacks the place.
        """
        _require_scores(engine)
        if "{text}" not in ask:
            raise ConfigError("the reranker's question lacks a place", expected="{text}")
        self.engine, self.ask, self.adapter, self.origin = engine, ask, adapter, origin

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One mean log-probability per text."""
        waiting = [
            self.engine.submit_score(
                ScoreRequest(
                    prompt=_user(self.ask.replace("{text}", text)),
                    completion=query,
                    adapter=self.adapter,
                    origin=self.origin,
                )
            )
            for text in texts
        ]
        found = [one.result().logprobs for one in waiting]
        return [math.fsum(logprobs) / len(logprobs) for logprobs in found]


def _user(content: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": content},)


def _require_scores(engine: EngineProtocol) -> None:
    if "score" not in engine.capabilities.features:
        raise CapabilityError.lacking({"score"}, engine=engine.name, by="reranking")
