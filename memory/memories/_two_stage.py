"""Two-stage retrieval: cheap stages gather candidates, a reranker looks at each, the scores are fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from docendo.errors import ConfigError
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Budget, Entry
from docendo.memory.memories._fusion import Fusion, Judged, ReciprocalRank, ordered
from docendo.memory.memories._memory import BoardMemory
from docendo.records import JSON, Author

#: What the reranker's scores are called in an entry's parts.
RERANK = "rerank"
_BY_RANK = ReciprocalRank()


@runtime_checkable
class Reranker(Protocol):
    """Scores texts against a query one by one: a cross-encoder, or a language model that is asked."""

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """One number per text; higher is more relevant."""


class TwoStageRetriever:
    """Recalls what several memories of one channel find, in an order made of all their scores.

    With one first stage and `rerank_only`, the reranker alone decides; else the scores are fused, by
    reciprocal ranks unless calibrated (`CalibratedFusion.fit` on what `judged` gives for known queries).

    Example:
        >>> from docendo.memory import Blackboard, FullTextMemory
        >>> class Shortest:
        ...     def rerank(self, query, texts):
        ...         return [-len(text) for text in texts]
        >>> board = Blackboard.open(":memory:")
        >>> words = FullTextMemory(board)
        >>> retriever = TwoStageRetriever({"words": words}, Shortest(), rerank_only=True)
        >>> me = Author(agent="teacher", role="teacher")
        >>> for text in ("carry carry the one", "carry one"):
        ...     _ = retriever.write(text, author=me, key=text)
        >>> [entry.text for entry in retriever.read("carry", Budget(entries=1))]
        ['carry one']
        >>> board.close()
    """

    def __init__(
        self,
        stages: Mapping[str, BoardMemory],
        reranker: Reranker | None = None,
        *,
        fusion: Fusion = _BY_RANK,
        candidates: int = 50,
        rerank_only: bool = False,
    ) -> None:
        """Checks that the stages belong together.

        Args:
            stages: First stages by name, on one board and channel.
            reranker: The second stage, or None to fuse the first stages alone.
            fusion: How scores become one.
            candidates: How many entries each first stage gives at most.
            rerank_only: Whether the reranker's scores alone make the order.
        """
        if not stages or RERANK in stages:
            raise ConfigError(
                f"the first stages are {', '.join(stages) or 'none'}",
                expected=f"at least one, and none called {RERANK!r}",
            )
        places = {(id(stage.board), stage.channel, stage.kind) for stage in stages.values()}
        if len(places) > 1:
            raise ConfigError(
                "the first stages have different boards, channels or kinds",
                expected="views of the same entries",
            )
        if candidates < 1:
            raise ConfigError(f"candidates is {candidates}", expected="at least 1")
        if rerank_only and reranker is None:
            raise ConfigError("rerank_only is set without a reranker", expected="a reranker")
        self.stages, self.reranker, self.fusion = dict(stages), reranker, fusion
        self.candidates, self.rerank_only = candidates, rerank_only
        self._first = next(iter(self.stages.values()))

    def write(
        self,
        body: str | Mapping[str, JSON],
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: Sequence[str] = (),
    ) -> Post:
        """Stores an entry, which all stages then see; see `BoardMemory.write`."""
        return self._first.write(body, author=author, key=key, run=run, item=item, parents=parents)

    def evict(self, post_id: str, *, by: Author, reason: str) -> Post:
        """Takes an entry out of what is read; see `BoardMemory.evict`."""
        return self._first.evict(post_id, by=by, reason=reason)

    def read(
        self, query: str, budget: Budget, *, run: str | None = None, item: str | None = None
    ) -> list[Entry]:
        """Returns entries for a query, best first, as many as the budget holds.

        Equal scores go to the older post. An entry's `parts` are the scores that were fused.
        """
        entries, rankings = self._gather(query, run=run, item=item)
        scores = rankings[RERANK] if self.rerank_only else self.fusion.fuse(rankings)
        order = {one: entry.post.seq for one, entry in entries.items()}
        ranked = [
            entries[one].replace(
                score=scores[one],
                parts={name: found[one] for name, found in rankings.items() if one in found},
            )
            for one in ordered(scores, order)
        ]
        # The reranker takes its time: what was quarantined or evicted meanwhile is left out.
        return budget.fill(self._first.living(ranked))

    def judged(self, query: str, relevant: Sequence[str]) -> Judged:
        """The scores of all stages for a query whose relevant entries (post ids) are known."""
        _, rankings = self._gather(query, run=None, item=None)
        return Judged(rankings=rankings, relevant=frozenset(relevant))

    def _gather(
        self, query: str, *, run: str | None, item: str | None
    ) -> tuple[dict[str, Entry], dict[str, dict[str, float]]]:
        entries: dict[str, Entry] = {}
        rankings: dict[str, dict[str, float]] = {}
        for name, stage in self.stages.items():
            found = stage.read(query, Budget(entries=self.candidates), run=run, item=item)
            rankings[name] = {entry.post.id: entry.score for entry in found}
            entries.update({entry.post.id: entry for entry in found})
        if self.reranker is not None:
            # In the order of the board, so that the same candidates are asked about in the same order.
            chosen = sorted(entries.values(), key=lambda entry: entry.post.seq)
            scores = self.reranker.rerank(query, [entry.text for entry in chosen]) if chosen else []
            rankings[RERANK] = {
                entry.post.id: float(score) for entry, score in zip(chosen, scores, strict=True)
            }
        return entries, rankings
