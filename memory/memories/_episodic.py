"""Episodes: what happened, how it ended, and how much it mattered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from docendo.errors import ConfigError, DataError
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import PostKind
from docendo.memory.board._posts import Post
from docendo.memory.board._search import words
from docendo.memory.memories._budget import Entry
from docendo.memory.memories._memory import BoardMemory
from docendo.records import JSON, Record

if TYPE_CHECKING:
    from docendo.memory.board._vectors import Embedder

#: Importance of an episode of which nobody said anything.
_USUAL = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodicWeights(Record):
    """How the three parts of an episode's score are weighted, each of them scaled to 0..1 over the episodes.

    The defaults are those of Generative Agents (Park et al. 2023, section 4.1): all weights 1, recency
    0.995 to the power of the age. Two things differ. The age is counted in episodes rather than hours, so
    that a resumed run reads what an uninterrupted one does; `ages="hours"` takes the clock. And it is the age
    since the episode was written, not since it was last read.

    Attributes:
        recency: Weight of recency.
        relevance: Weight of the likeness of query and text.
        importance: Weight of the importance that the writer gave, from 1 to 10.
        decay: Recency of an episode over that of the next older one, or of one an hour older.
        ages: What an age is counted in.
    """

    recency: float = 1.0
    relevance: float = 1.0
    importance: float = 1.0
    decay: float = 0.995
    ages: Literal["episodes", "hours"] = "episodes"

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("recency", "relevance", "importance"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"the weight of {name} is {getattr(self, name)}", expected="0 or more")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay is {self.decay}", expected="more than 0 and at most 1")
        if self.ages not in ("episodes", "hours"):
            raise ConfigError(f"ages is {self.ages!r}", expected="episodes or hours")


class EpisodicMemory(BoardMemory):
    """Recalls episodes by recency, relevance and importance.

    An entry has a `text`, may have an `outcome` (text or a number) and an `importance` from 1 to 10 (5 unless
    said). Relevance is BM25 over the board's full text, or cosine similarity if there is an embedder. Parts
    are scaled to 0..1 over all episodes that can be read, so the hour of reading does not matter. All of
    them are looked at: a read costs time in proportion to their number, seconds for 20,000.

    Example:
        >>> from docendo.memory import Blackboard, Budget
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> memory = EpisodicMemory(board)
        >>> me = Author(agent="student", role="student")
        >>> fell = {"text": "Jumped over the river.", "outcome": "fell in", "importance": 9}
        >>> _ = memory.write(fell, author=me, key="1")
        >>> _ = memory.write("Ate an apple.", author=me, key="2")
        >>> [entry.text for entry in memory.read("river", Budget(entries=1))]
        ['Jumped over the river. Outcome: fell in']
        >>> board.close()
    """

    default_kind = "event"

    def __init__(
        self,
        board: Blackboard,
        *,
        channel: str = "main",
        kind: PostKind | None = None,
        weights: EpisodicWeights = EpisodicWeights(),
        embedder: Embedder | None = None,
    ) -> None:
        super().__init__(board, channel=channel, kind=kind)
        self.weights = weights
        self._index = None
        if embedder is not None:
            from docendo.memory.board._vectors import VectorIndex

            self._index = VectorIndex(board.database, embedder)

    def text(self, post: Post) -> str:
        """The episode and its outcome."""
        outcome = post.body.get("outcome")
        told = super().text(post)
        return told if outcome is None else f"{told} Outcome: {outcome}"

    def _checked(self, body: Mapping[str, JSON]) -> Mapping[str, JSON]:
        body = super()._checked(body)
        importance = body.get("importance", _USUAL)
        if (
            isinstance(importance, bool)
            or not isinstance(importance, (int, float))
            or not 1 <= importance <= 10
        ):
            raise DataError(f"the episode's importance is {importance!r}", expected="a number from 1 to 10")
        if not isinstance(body.get("outcome"), (str, int, float, type(None))):
            raise DataError(f"the episode's outcome is {body['outcome']!r}", expected="text or a number")
        return body

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterable[Entry]:
        posts = self.entries(run=run, item=item)
        if not posts:
            return []
        parts = {
            "recency": _scaled(self._recencies(posts)),
            "relevance": _scaled(self._relevances(query, posts, run=run, item=item)),
            "importance": _scaled([float(post.body.get("importance", _USUAL)) for post in posts]),
        }
        found = []
        for number, post in enumerate(posts):
            own = {name: values[number] for name, values in parts.items()}
            score = sum(getattr(self.weights, name) * value for name, value in own.items())
            found.append(Entry(post=post, text=self.text(post), score=score, parts=own))
        return sorted(found, key=lambda entry: (-round(entry.score, 9), entry.post.seq))

    def _recencies(self, posts: Sequence[Post]) -> list[float]:
        # Relative to the newest: the factor that an hour of reading would add to all cancels in the scaling.
        if self.weights.ages == "episodes":
            return [self.weights.decay ** (len(posts) - 1 - number) for number in range(len(posts))]
        newest = max(post.created for post in posts)
        return [self.weights.decay ** ((newest - post.created) / 3600) for post in posts]

    def _relevances(
        self, query: str, posts: Sequence[Post], *, run: str | None, item: str | None
    ) -> list[float]:
        if not words(query) or not self.weights.relevance:
            return [0.0] * len(posts)
        if self._index is not None:
            self._index.add([(post.id, self.text(post)) for post in posts])
            return [float(one) for one in self._index.similarities(query, [post.id for post in posts])]
        # All that match: beyond a limit they would be as irrelevant as those that do not.
        hits = self.board.search(
            query, limit=posts[-1].seq, channel=self.channel, kind=self.kind, run=run, item=item
        )
        scores = {hit.post.id: hit.score for hit in hits}
        return [scores.get(post.id, 0.0) for post in posts]


def _scaled(values: Sequence[float]) -> list[float]:
    """Values on 0..1 by their least and greatest; 0 where all are the same."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
