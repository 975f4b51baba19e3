"""A library of strategies for scenarios: what a teacher taught in words, to be looked up and audited."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from docendo.errors import ConfigError, DataError, LeakError
from docendo.hashing import derive_seed, digest
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._channels import PostKind
from docendo.memory.board._fold import Fold
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Entry
from docendo.memory.memories._memory import BoardMemory
from docendo.memory.memories._similarity import Embed, similarities, words
from docendo.records import JSON, Author, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy(Record):
    """One entry of the library.

    Attributes:
        post: Id of its post.
        scenario: When it applies.
        text: What to do then.
        tries: How many versions were tried until it was good enough.
        before: Score of the student without it.
        after: Score of the student with it.
        teacher: Score of the teacher.
        plays: How often it was used since.
        gained: Mean score of those uses; 0 without any.
        audited: Whether somebody else than its author approved it.
    """

    post: str
    scenario: str
    text: str
    tries: int = 1
    before: float | None = None
    after: float | None = None
    teacher: float | None = None
    plays: int = 0
    gained: float = 0.0
    audited: bool = False


@dataclass(slots=True)
class _Kept:
    posts: dict[str, Post] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class StrategyLibrary(BoardMemory):
    """Strategies by scenario, in words, so that a person can read, approve and strike them out.

    Retrieval goes by how alike the present situation is to the scenario of an entry. A strategy is refused if
    it gives away an answer (`gold`). Approval is the trust of its post: an author cannot approve its own.

    Args:
        board: The blackboard.
        channel: The channel of the entries and of their results.
        audited: Whether only approved strategies are read.
        embed: Makes vectors of texts; by default texts are compared by their words.
        least: Entries that are less alike than this are not read.

    Example:
        >>> from docendo.memory import Blackboard, Budget
        >>> board = Blackboard.open(":memory:")
        >>> teacher = Author(agent="teacher", role="teacher")
        >>> library = StrategyLibrary(board)
        >>> entry = library.add("a sum that needs a carry", "Write the carry above the next column.",
        ...                     author=teacher, key="carry", gold=["42"])
        >>> found = library.read("What to do with a carry?", Budget(entries=1))
        >>> found[0].text
        'Write the carry above the next column.'
        >>> library.audit(entry.id, by=Author(agent="ann", role="person"), approved=True, reason="read it")
        >>> library.strategies()[0].audited
        True
        >>> board.close()
    """

    default_kind: PostKind = "strategy"

    def __init__(
        self,
        board: Blackboard,
        *,
        channel: str = "main",
        audited: bool = False,
        embed: Embed | None = None,
        least: float = 1e-9,
    ) -> None:
        super().__init__(board, channel=channel)
        self.audited, self.embed, self.least = audited, embed, least
        self._fold = Fold(board, channel=channel, kinds=(self.kind, "event"), start=_Kept, step=_keep)

    def add(
        self,
        scenario: str,
        text: str,
        *,
        author: Author,
        key: str,
        gold: Iterable[str] = (),
        tries: int = 1,
        before: float | None = None,
        after: float | None = None,
        teacher: float | None = None,
        parents: Sequence[str] = (),
    ) -> Post:
        """Adds a strategy.

        Args:
            scenario: When it applies.
            text: What to do then.
            author: Who wrote it.
            key: Idempotency key within the library.
            gold: Answers that it must not give away.
            tries: How many versions were tried.
            before: Score of the student without it.
            after: Score of the student with it.
            teacher: Score of the teacher.
            parents: Ids of the posts that it was made from.

        Raises:
            LeakError: if it gives an answer away.
        """
        for answer in gold:
            if leaked(text, answer) > 0.5:
                raise LeakError(
                    f"the strategy for {scenario[:60]!r} repeats an answer",
                    expected="advice without it",
                    remedy="have it written again",
                )
        body: dict[str, JSON] = {
            "scenario": scenario,
            "text": text,
            "tries": tries,
            "before": before,
            "after": after,
            "teacher": teacher,
        }
        return self.write(body, author=author, key=key, parents=parents)

    def played(self, post_id: str, score: float, *, author: Author, key: str) -> Post:
        """Records how a use of a strategy ended. The same key counts once."""
        return self.board.post(
            "event",
            {"played": post_id, "score": float(score)},
            author=author,
            key=f"{self.channel}/played/{key}",
            parents=(post_id,),
            channel=self.channel,
        )

    def audit(self, post_id: str, *, by: Author, approved: bool, reason: str) -> None:
        """Approves a strategy, or strikes it out; both can be reversed by a later audit."""
        with self.board.database.transaction():
            if not approved:
                self.board.quarantine(post_id, by=by, reason=reason)
                return
            self.board.release(post_id, by=by, reason=reason)
            self.board.trust(post_id, "verified", by=by, reason=reason)

    def strategies(self) -> list[Strategy]:
        """All that can be read, the oldest first."""
        kept = self._fold()
        return [_strategy(post, kept.scores[post.id]) for post in self._eligible(kept)]

    def text(self, post: Post) -> str:
        """What to do."""
        return str(post.body["text"])

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterable[Entry]:
        kept = self._fold()
        posts = [
            post
            for post in self._eligible(kept)
            if (run is None or post.run == run) and (item is None or post.item == item)
        ]
        alike = similarities(query, [str(post.body["scenario"]) for post in posts], embed=self.embed)
        entries = []
        for post, score in zip(posts, alike, strict=True):
            if score >= self.least:
                results = kept.scores[post.id]
                # Between scenarios that are equally alike, what has worked goes first.
                gained = (sum(results) + 1) / (len(results) + 2)
                parts = {"scenario": score, "results": gained * 1e-6}
                text = self.text(post)
                entries.append(Entry(post=post, text=text, score=sum(parts.values()), parts=parts))
        return sorted(entries, key=lambda entry: (-entry.score, entry.post.seq))

    def _eligible(self, kept: _Kept) -> list[Post]:
        return [post for post in kept.posts.values() if not self.audited or post.trust == "verified"]

    def _checked(self, body: Mapping[str, JSON]) -> Mapping[str, JSON]:
        body = super()._checked(body)
        scenario = body.get("scenario")
        if not isinstance(scenario, str) or not scenario.strip():
            raise DataError(f"the strategy's scenario is {scenario!r}", expected="text that is not empty")
        return body


class ShuffledLibrary(StrategyLibrary):
    """A library whose strategies were dealt out to other scenarios: the control of an experiment.

    Same texts, same lengths, same retrieval; what is gone is that the strategy suits the scenario.
    """

    def __init__(self, library: StrategyLibrary, *, seed: int) -> None:
        super().__init__(
            library.board,
            channel=library.channel,
            audited=library.audited,
            embed=library.embed,
            least=library.least,
        )
        self.seed = seed

    def _ranked(self, query: str, *, run: str | None, item: str | None) -> Iterable[Entry]:
        posts = self._eligible(self._fold())
        if len(posts) < 2:
            raise ConfigError(f"the library has {len(posts)} strategies", expected="at least 2 to shuffle")
        order = list(range(len(posts)))
        random.Random(derive_seed(self.seed, digest([post.id for post in posts]))).shuffle(order)
        # One place further along a random circle: no strategy stays with its scenario.
        dealt = {
            posts[here].id: posts[there] for here, there in zip(order, order[1:] + order[:1], strict=True)
        }
        for entry in super()._ranked(query, run=run, item=item):
            other = dealt[entry.post.id]
            yield entry.replace(post=other, text=self.text(other))


def leaked(text: str, answer: str, *, n: int = 3) -> float:
    """Which share of an answer's word n-grams a text contains.

    An answer of fewer than `n` words counts as one n-gram, so a number leaks if it is named.

    Example:
        >>> leaked("The answer is 42.", "42"), leaked("Add the tens first.", "42")
        (1.0, 0.0)
    """
    gold = words(answer)
    if not gold:
        return 0.0
    size = min(n, len(gold))
    wanted = {tuple(gold[i : i + size]) for i in range(len(gold) - size + 1)}
    said = words(text)
    there = {tuple(said[i : i + size]) for i in range(len(said) - size + 1)}
    return len(wanted & there) / len(wanted)


def _keep(kept: _Kept, post: Post) -> None:
    if post.kind == "event":
        if "played" in post.body:
            kept.scores[str(post.body["played"])].append(float(post.body["score"]))
    else:
        kept.posts[post.id] = post


def _strategy(post: Post, scores: Sequence[float]) -> Strategy:
    names = ("tries", "before", "after", "teacher")
    return Strategy(
        post=post.id,
        scenario=str(post.body["scenario"]),
        text=str(post.body["text"]),
        plays=len(scores),
        gained=sum(scores) / len(scores) if scores else 0.0,
        audited=post.trust == "verified",
        **{name: post.body[name] for name in names if name in post.body},
    )
