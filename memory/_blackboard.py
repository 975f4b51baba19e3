"""The blackboard: what agents tell each other, append-only, typed, with provenance.

Security boundary. Covered: who wrote a post is stamped by the calling code and hash-chained, a post's
trust changes only by recorded events, and an author cannot raise the trust of its own post. Not covered:
what a post says. Text that a model wrote is data; whoever puts it into a prompt must mark it as such.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import sqlalchemy as sa

from docendo.errors import DataError, IntegrityError
from docendo.hashing import digest
from docendo.memory import _schema, _text
from docendo.memory._chain import Chain, Damage, Report
from docendo.memory._database import Database
from docendo.memory._store import Store
from docendo.records import JSON, Author, Record

PostKind = Literal["task", "attempt", "verdict", "hint", "demonstration", "lesson"]
Trust = Literal["unverified", "verified", "quarantined"]

MAX_BODY_BYTES = 1 << 20
_RANK = {"quarantined": 0, "unverified": 1, "verified": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Post(Record):
    """One entry of a blackboard.

    Attributes:
        id: 16 hex digits, a digest of board and key.
        seq: Position on the board: 1, 2, 3, ... without gaps.
        board: The board's name.
        kind: What it is.
        run: Run id, or empty.
        item: Item id, or empty.
        author: Who wrote it.
        parents: Ids of the posts it answers to.
        body: The content, JSON.
        trust: What it is held to be now.
        key: Idempotency key: the same key is the same post.
        created: When it was written, in seconds since 1970.
        hash: Covers the content and the hash of the post before it.
    """

    id: str
    seq: int
    board: str
    kind: PostKind
    run: str
    item: str
    author: Author
    parents: tuple[str, ...]
    body: Mapping[str, Any]
    trust: Trust
    key: str
    created: float
    hash: str


class Blackboard(Store):
    """Append-only, typed, shared memory that survives a crash at any moment.

    Every post has a key. Posting the same key again stores nothing and returns the post that is there, so
    a node that runs twice after a crash posts once, and continues with what was stored the first time.

    Attributes:
        name: The board's name; one database holds any number of boards.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> student = Author(agent="student", role="student")
        >>> first = board.post("attempt", {"text": "4"}, author=student, key="run-1/item-1/attempt/0")
        >>> again = board.post("attempt", {"text": "5"}, author=student, key="run-1/item-1/attempt/0")
        >>> again.body["text"], len(board.posts())
        ('4', 1)
        >>> board.trust(first.id, "verified", by=Author(agent="checker", role="code"), reason="exact")
        >>> board.get(first.id).trust
        'verified'
        >>> print(board.verify())
        board 'main': 2 records, ok
        >>> board.close()
    """

    def __init__(self, database: Database, *, name: str = "main") -> None:
        super().__init__(database)
        self.name = _text.name(name, "the board's name")
        self._posts = Chain(_schema.posts, self.name, record="post")
        self._trust = Chain(_schema.trust, self.name, record="trust event")

    @classmethod
    def open(cls, url_or_path: str | Path, *, name: str = "main", **options: Any) -> Self:
        """Opens a board in a database of its own; `options` go to `Database.open`."""
        return cls(Database.open(url_or_path, **options), name=name)

    @staticmethod
    def names(database: Database) -> tuple[str, ...]:
        """Returns the names of the boards that have posts."""
        with database.reading() as connection:
            column = _schema.posts.c.board
            return tuple(connection.scalars(sa.select(column).distinct().order_by(column)))

    def post(
        self,
        kind: PostKind,
        body: Mapping[str, JSON],
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: Sequence[str] = (),
    ) -> Post:
        r"""Stores a post, or returns the one that has this key already.

        Args:
            kind: What it is.
            body: The content. Lone surrogates and NUL in text become visible escapes such as `\x00`.
            author: Who wrote it: known to the calling code, never read from model text.
            key: Idempotency key, for example `run/item/node/step`.
            run: Run id.
            item: Item id.
            parents: Ids of the posts that it answers to, on the same board.

        Raises:
            DataError: if an argument is malformed, a parent unknown, or the body over 1 MiB.
            StorageError: if it cannot be written; then nothing has changed.
            IntegrityError: if the stored post is damaged.
        """
        if kind not in get_args(PostKind):
            raise DataError(
                f"the post's kind is {kind!r}", expected=f"one of {', '.join(get_args(PostKind))}"
            )
        if isinstance(parents, str):
            raise DataError("parents is a string", expected="a sequence of post ids")
        key = _text.name(key, "the post's key")
        text = _text.encode(_text.mapping(body, "body", cleaned=True))
        size = len(text.encode())
        if size > MAX_BODY_BYTES:
            raise DataError(
                f"the body of post {key!r} has {size} bytes", expected=f"at most {MAX_BODY_BYTES}"
            )
        links = list(dict.fromkeys(_text.name(parent, "parents") for parent in parents))
        values = {
            "id": digest(self.name, key)[:16],
            "key": key,
            "kind": kind,
            "run": _text.name(run, "run", empty=True),
            "item": _text.name(item, "item", empty=True),
            "author": _author_text(author),
            "parents": _text.encode(links),
            "body": text,
        }
        with self.database.transaction() as connection:
            stored = self._row(connection, values["id"])
            if stored is not None:
                if stored.key != key:
                    raise IntegrityError(
                        f"post {stored.seq} ({stored.id}) of board {self.name!r} has the key {stored.key!r}; "
                        f"expected {key!r}; restore a backup"
                    )
                return self._post(stored)
            self._require(connection, links)
            row = self._posts.append(connection, {**values, "created": time.time()})
        return _build(row, "unverified")

    def get(self, post_id: str) -> Post:
        """Returns a post.

        Raises:
            DataError: if there is none with this id on this board.
            IntegrityError: if it is damaged, naming it.
        """
        with self.database.reading() as connection:
            row = self._row(connection, _text.name(post_id, "the post's id"))
        if row is None:
            raise DataError(f"board {self.name!r} has no post {post_id!r}", remedy="check the id")
        return self._post(row)

    def posts(
        self,
        *,
        kind: PostKind | None = None,
        run: str | None = None,
        item: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Post]:
        """Returns posts in sequence order.

        Args:
            kind: Only this kind.
            run: Only of this run.
            item: Only of this item.
            after: Only with a sequence number above this; the last one seen continues a listing.
            limit: At most this many, the first ones.

        Raises:
            DataError: if a filter has a value that no post can have.
            IntegrityError: if one of them is damaged, naming it.
        """
        if kind is not None:
            _known_kind(kind)
        if limit is not None and limit < 0:
            raise DataError(f"limit is {limit}", expected="0 or more")
        table = _schema.posts
        query = _POSTS.where(table.c.board == self.name, table.c.seq > after)
        for column, value in ((table.c.kind, kind), (table.c.run, run), (table.c.item, item)):
            if value is not None:
                query = query.where(column == _text.clean(value))
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.seq).limit(limit)).all()
        return [self._post(row) for row in rows]

    def trust(self, post_id: str, level: Trust, *, by: Author, reason: str) -> None:
        """Records what a post is held to be; the latest event counts.

        The same event (post, level, author, reason) counts once, so a node that runs twice does not undo
        what another agent decided in between. To verify a post again after a quarantine, say why.

        Raises:
            DataError: if the post is unknown, the level is none, or a poster raises its own post's trust.
        """
        if level not in _RANK:
            raise DataError(f"the trust level is {level!r}", expected=f"one of {', '.join(_RANK)}")
        author, why = _author_text(by), _text.clean(reason)
        event = digest(self.name, post_id, level, author, why)[:16]
        table = _schema.trust
        with self.database.transaction() as connection:
            row = self._row(connection, _text.name(post_id, "the post's id"))
            if row is None:
                raise DataError(f"board {self.name!r} has no post {post_id!r}", remedy="check the id")
            post = self._post(row)
            if post.author.agent == _text.clean(by.agent) and _RANK[level] > _RANK[post.trust]:
                raise DataError(
                    f"agent {by.agent!r} set its own post {post_id} from {post.trust} to {level}",
                    expected="another agent",
                    remedy="let a verifier judge it",
                )
            if connection.scalar(sa.select(table.c.seq).where(table.c.id == event)) is None:
                values = {"id": event, "post": post_id, "level": level, "author": author, "reason": why}
                self._trust.append(connection, {**values, "created": time.time()})

    def verify(self) -> Report:
        """Recomputes all hashes and walks the chains; the report names each damaged record.

        It also asks the database to check its own structure, where a damaged index hides rows.
        """
        heads = []

        def walk(connection: sa.Connection) -> tuple[int, list[Damage]]:
            posts, damage = self._posts.verify(connection)
            events, more = self._trust.verify(connection)
            heads.append(self._posts.head(connection))
            return posts + events, damage + more

        report = self._verified(f"board {self.name!r}", walk)
        structure = tuple(Damage(record="database", reason=line) for line in self.database.check())
        # A database that cannot be read is in both lists.
        damage = tuple(dict.fromkeys((*report.damage, *structure)))
        return report.replace(damage=damage, head=heads[0] if heads else "")

    def digest(self) -> str:
        """Returns a digest of what was posted, whatever the order and time.

        Two boards of one name have the same digest if and only if they hold the same posts: same keys,
        kinds, bodies, authors and parents. A resumed run must end with the digest of an uninterrupted one.
        """
        return digest(
            sorted(digest(p.key, p.kind, p.body, p.author.to_json(), list(p.parents)) for p in self.posts())
        )

    def _row(self, connection: sa.Connection, post_id: str) -> sa.Row[Any] | None:
        return connection.execute(_POST, {"post_id": post_id, "on_board": self.name}).one_or_none()

    def _require(self, connection: sa.Connection, parents: Sequence[str]) -> None:
        for parent in parents:
            if connection.scalar(_SEQ, {"post_id": parent, "on_board": self.name}) is None:
                raise DataError(
                    f"the parent {parent!r} is not on board {self.name!r}",
                    expected="ids of posts on this board",
                    remedy="post the parent first",
                )

    def _post(self, row: sa.Row[Any]) -> Post:
        fields = dict(row._mapping)
        event = {column.name: fields.pop(f"trust_{column.name}") for column in _schema.trust.columns}
        self._posts.check(fields)
        if event["seq"] is None:
            return _build(fields, "unverified")
        self._trust.check(event)
        return _build(fields, event["level"])


def _with_trust() -> sa.Select[Any]:
    """Selects posts, each with its latest trust event (columns `trust_...`, NULL if there is none)."""
    posts, trust, other = _schema.posts, _schema.trust, _schema.trust.alias()
    latest = (
        sa.select(sa.func.max(other.c.seq))
        .where(other.c.post == posts.c.id, other.c.board == posts.c.board)
        .correlate(posts)
        .scalar_subquery()
    )
    joined = posts.outerjoin(trust, sa.and_(trust.c.board == posts.c.board, trust.c.seq == latest))
    labelled = [column.label(f"trust_{column.name}") for column in trust.columns]
    return sa.select(*posts.columns, *labelled).select_from(joined)


# Built once: building a statement takes longer than running it.
_POSTS = _with_trust()
_HERE = (_schema.posts.c.id == sa.bindparam("post_id"), _schema.posts.c.board == sa.bindparam("on_board"))
_POST = _POSTS.where(*_HERE)
_SEQ = sa.select(_schema.posts.c.seq).where(*_HERE)


def _known_kind(kind: str) -> None:
    kinds = get_args(PostKind)
    if kind not in kinds:
        raise DataError(f"the post's kind is {kind!r}", expected=f"one of {', '.join(kinds)}")


def _author_text(author: Author) -> str:
    if not isinstance(author, Author):
        raise DataError(f"the author is a {type(author).__name__}", expected="a docendo.records.Author")
    _text.name(author.agent, "author.agent")
    return _text.encode(_text.mapping(author.to_json(), "author", cleaned=True))


def _build(row: Mapping[str, Any], trust: Trust) -> Post:
    return Post(
        id=row["id"],
        seq=row["seq"],
        board=row["board"],
        kind=row["kind"],
        run=row["run"],
        item=row["item"],
        author=Author(**_text.decode(row["author"])),
        parents=tuple(_text.decode(row["parents"])),
        body=_text.decode(row["body"]),
        trust=trust,
        key=row["key"],
        created=row["created"],
        hash=row["hash"],
    )
