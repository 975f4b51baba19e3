"""The trust in posts: who may raise it, who may take a post out, and what follows from one.

Security boundary. Covered: an author that depends on a post's poster cannot raise its trust, in any number of
steps; what follows from a quarantined post is quarantined, also what is posted later. Authors are what the
calling code says they are: code that hands a model's text on as an author, or an agent that holds the
`Blackboard` itself instead of a `BoardView`, is not stopped here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from docendo.errors import AccessError, DataError
from docendo.hashing import digest
from docendo.memory.board import _descent, _independence, _posts
from docendo.memory.board._independence import Facts
from docendo.memory.board._posts import FLAG, RANK, Post, Trust
from docendo.memory.board._taint import Taint, taint
from docendo.memory.storage import _payloads, _schema, _text
from docendo.memory.storage._chain import Chain
from docendo.records import Author, Record

# Built once: building a statement takes longer than running it.
_EVENT = sa.select(_schema.trust.c.seq).where(_schema.trust.c.id == sa.bindparam("event"))
_LAST = sa.select(sa.func.max(_schema.trust.c.seq)).where(
    _schema.trust.c.post == sa.bindparam("on"), _schema.trust.c.board == sa.bindparam("at")
)

#: Who takes out a post that is written under a quarantined one.
_RUNTIME = Author(agent="blackboard", role="runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustEvent(Record):
    """One entry of a board's trust log.

    Attributes:
        seq: Position in the log.
        post: The post's id.
        level: The trust from then on, or "flagged", which changes none.
        by: Who decided.
        reason: Why.
        cause: The post whose quarantine or release this follows from, or empty.
        created: When, in seconds since 1970.
    """

    seq: int
    post: str
    level: str
    by: Author
    reason: str
    cause: str
    created: float


class TrustLog:
    """The trust events of one board, append-only and hash-chained; the latest one of a post counts."""

    def __init__(self, database: Any, board: str, posts: Chain) -> None:
        self.database, self.board, self._posts = database, board, posts
        self.chain = Chain(_schema.trust, board, record="trust event")

    def built(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Post]:
        """Checks rows of posts with their latest trust events, and makes posts of them."""
        checked: list[tuple[dict[str, Any], Trust]] = []
        for row in rows:
            fields = dict(row._mapping)
            event = {column.name: fields.pop(f"trust_{column.name}") for column in _schema.trust.columns}
            self._posts.check(fields)
            if event["seq"] is not None:
                self.chain.check(event)
            checked.append((fields, "unverified" if event["seq"] is None else event["level"]))
        values = _payloads.load(connection, (row[name] for row, _ in checked for name in ("author", "body")))
        pairs = zip(checked, values[::2], values[1::2], strict=True)
        return [
            _posts.build(row, author=author, body=body, trust=trust) for (row, trust), author, body in pairs
        ]

    def born(
        self, connection: sa.Connection, post: str, parents: Sequence[str], traces: Sequence[str]
    ) -> Trust:
        """Returns the trust of a post that was just written: quarantined if what it follows from is.

        To be asked if anything was ever quarantined (`_descent.ANY_QUARANTINE`).
        """
        if not (parents or traces):
            return "unverified"
        turns = set(traces) | _descent.turns_before(connection, traces)
        said = _descent.down(connection, _descent.POSTED, turns) - {post}
        for parent, (level, cause) in sorted(_descent.levels(connection, {*parents, *said}).items()):
            if level == "quarantined":
                source = cause or parent
                reason = f"follows from post {source}"
                self._append(connection, post, "quarantined", _RUNTIME, reason, source, ("born",))
                return "quarantined"
        return "unverified"

    def trust(self, post_id: str, level: Trust, *, by: Author, reason: str) -> None:
        """See `Blackboard.trust`."""
        _posts.known_trust(level)
        if level == "quarantined":
            self.quarantine(post_id, by=by, reason=reason)
            return
        author, why = _stamped(by), _text.name(reason, "reason", empty=True)
        event = digest(self.board, post_id, level, _text.author(author), why)[:16]
        with self.database.transaction() as connection:
            post = self._facts(connection, post_id)
            now, cause = _descent.levels(connection, [post.id])[post.id]
            if connection.scalar(_EVENT, {"event": event}) is not None:
                return
            if author.agent == post.author.agent and RANK[level] > RANK[now]:
                raise AccessError(
                    f"agent {by.agent!r} set its own post {post_id} from {now} to {level}",
                    expected="another agent",
                    remedy="let a verifier judge it",
                )
            if now == "quarantined":
                raise DataError(
                    f"post {post_id} is quarantined",
                    expected="a post that is not",
                    remedy=f"release it first: board.release({cause or post_id!r}, by=..., reason=...)",
                )
            if RANK[level] >= max(RANK[now], RANK["verified"]):
                _require_independent(connection, {post.id: post}, author, f"judges post {post_id}")
            elif author.model and author.agent != post.author.agent:
                raise _only_flags(author, post_id)
            self._append(connection, post_id, level, author, why, "", (), event=event)

    def objection(self, post_id: str, *, by: Author) -> str | None:
        """See `Blackboard.objection`."""
        with self.database.reading() as connection:
            post = self._facts(connection, post_id)
            if _descent.levels(connection, [post.id])[post.id][0] == "quarantined":
                return f"post {post_id} is quarantined"
            return _independence.objection(connection, {post.id: post}, _stamped(by))

    def flag(self, post_id: str, *, by: Author, reason: str) -> None:
        """See `Blackboard.flag`."""
        author, why = _stamped(by), _text.name(reason, "reason", empty=True)
        event = digest(self.board, post_id, FLAG, author.agent)[:16]
        with self.database.transaction() as connection:
            post = self._facts(connection, post_id)
            if connection.scalar(_EVENT, {"event": event}) is None:
                self._append(connection, post.id, FLAG, author, why, "", (), event=event)

    def quarantine(self, post_id: str, *, by: Author, reason: str) -> Taint:
        """See `Blackboard.quarantine`."""
        author, why = _stamped(by), _text.name(reason, "reason", empty=True)
        with self.database.transaction() as connection:
            post = self._facts(connection, post_id)
            reached = _independence.facts(connection, _descent.reach(connection, [post.id]).posts)
            if author.model and any(fact.author.agent != author.agent for fact in reached.values()):
                raise _only_flags(author, post_id)
            if post.id not in _descent.sources(connection):
                levels = _descent.levels(connection, reached)
                self._append(connection, post.id, "quarantined", author, why, "", ("quarantined",))
                for fact in _in_order(reached):
                    if fact.id != post.id and levels[fact.id][0] != "quarantined":
                        log = self._of(fact.board)
                        log._append(connection, fact.id, "quarantined", author, why, post.id, (post.id,))
            return taint(connection, post.id)

    def release(self, post_id: str, *, by: Author, reason: str) -> Taint:
        """See `Blackboard.release`."""
        author, why = _stamped(by), _text.name(reason, "reason", empty=True)
        if author.model:
            raise AccessError(
                f"agent {author.agent!r}, a model, releases post {post_id}",
                expected="a person or code (an author without a model)",
            )
        with self.database.transaction() as connection:
            post = self._facts(connection, post_id)
            level, cause = _descent.levels(connection, [post.id])[post.id]
            others = _descent.sources(connection)
            if level != "quarantined":
                return taint(connection, post.id)
            if post.id not in others:
                raise DataError(
                    f"post {post_id} is quarantined because of post {cause}", remedy="release that one"
                )
            reached = _descent.reach(connection, [post.id]).posts
            kept = _descent.reach(connection, others - {post.id}).posts
            lifted = _independence.facts(connection, reached - kept)
            _require_independent(connection, {**lifted, post.id: post}, author, f"releases post {post_id}")
            before = _level_before(connection, {*lifted, post.id})
            self._append(connection, post.id, before[post.id], author, why, "", ("released",))
            if post.id in kept:
                cause = min(others - {post.id})
                self._append(connection, post.id, "quarantined", author, why, cause, ("kept",))
            for fact in _in_order(lifted):
                if fact.id != post.id:
                    log = self._of(fact.board)
                    log._append(connection, fact.id, before[fact.id], author, why, post.id, ("released",))
            return taint(connection, post.id)

    def taint(self, post_id: str) -> Taint:
        """See `Blackboard.taint`."""
        with self.database.reading() as connection:
            return taint(connection, self._facts(connection, post_id).id)

    def events(self, post_id: str | None = None) -> list[TrustEvent]:
        """See `Blackboard.trust_events`."""
        table = _schema.trust
        query = sa.select(table).where(table.c.board == self.board).order_by(table.c.seq)
        if post_id is not None:
            query = query.where(table.c.post == _text.name(post_id, "the post's id"))
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            self.chain.check(row._mapping)
        return [
            TrustEvent(
                seq=row.seq,
                post=row.post,
                level=row.level,
                by=Author(**_text.decode(row.author)),
                reason=row.reason,
                cause=row.cause,
                created=row.created,
            )
            for row in rows
        ]

    def _of(self, board: str) -> TrustLog:
        return self if board == self.board else TrustLog(self.database, board, self._posts)

    def _facts(self, connection: sa.Connection, post_id: str) -> Facts:
        found = _independence.facts(connection, [_text.name(post_id, "the post's id")])
        if post_id not in found or found[post_id].board != self.board:
            raise DataError(f"board {self.board!r} has no post {post_id!r}", remedy="check the id")
        return found[post_id]

    def _append(
        self,
        connection: sa.Connection,
        post: str,
        level: str,
        author: Author,
        reason: str,
        cause: str,
        parts: tuple[str, ...],
        *,
        event: str = "",
    ) -> None:
        """Writes an event. Without a given id it counts anew each time, so the id holds what came before."""
        if not event:
            last = connection.scalar(_LAST, {"on": post, "at": self.board})
            event = digest(self.board, post, level, cause, *parts, last or 0)[:16]
        values = {
            "id": event,
            "post": post,
            "level": level,
            "cause": cause,
            "author": _text.author(author),
            "reason": reason,
        }
        self.chain.append(connection, {**values, "created": time.time()})


def _stamped(by: Author) -> Author:
    """An author as it is stored."""
    return Author(**_text.decode(_text.author(by)))


def _require_independent(connection: sa.Connection, judged: dict[str, Facts], by: Author, what: str) -> None:
    reason = _independence.objection(connection, judged, by)
    if reason is not None:
        raise AccessError(
            f"agent {by.agent!r} {what}, but {reason}",
            expected="an author that does not depend on the poster",
            remedy="let code or another model judge it",
        )


def _only_flags(by: Author, post_id: str) -> AccessError:
    # A model that could take out the posts of others could silence everybody.
    return AccessError(
        f"agent {by.agent!r}, a model, lowers the trust of post {post_id}, which others wrote or answered",
        expected="a person or code (an author without a model)",
        remedy="board.flag(...) records what it thinks",
    )


def _in_order(posts: dict[str, Facts]) -> list[Facts]:
    return sorted(posts.values(), key=lambda fact: fact.number)


def _level_before(connection: sa.Connection, posts: Iterable[str]) -> dict[str, Trust]:
    """The trust that posts had before they were quarantined: a wrong quarantine undoes no verdict."""
    table, wanted = _schema.trust, sorted(posts)
    found: dict[str, Trust] = dict.fromkeys(wanted, "unverified")
    for start in range(0, len(wanted), 500):
        query = sa.select(table.c.post, table.c.level).where(
            table.c.post.in_(wanted[start : start + 500]), table.c.level.not_in(("quarantined", FLAG))
        )
        for row in connection.execute(query.order_by(table.c.board, table.c.seq)):
            found[row.post] = row.level
    return found
