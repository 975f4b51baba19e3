"""Posts as records and as rows: how they are selected, and checked against what is derived from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from docendo.errors import DataError, IntegrityError
from docendo.memory.board import _search
from docendo.memory.storage import _payloads, _schema, _text
from docendo.memory.storage._chain import Chain, Damage
from docendo.records import Author, Record

Trust = Literal["unverified", "verified", "quarantined"]

#: The channel that most posts are on; it has no index of its own.
MAIN = "main"
_OFF_MAIN = sa.text("docendo_posts.channel <> 'main'")
#: The level of an event that changes no trust: an agent that has no right to says what it thinks.
FLAG = "flagged"
RANK = {"quarantined": 0, "unverified": 1, "verified": 2}
_BATCH = 500
_PLACES = ("board", "channel", "kind", "run", "item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Post(Record):
    """One entry of a blackboard.

    Attributes:
        id: 16 hex digits, a digest of board and key.
        seq: Position on the board: 1, 2, 3, ... without gaps.
        board: The board's name.
        channel: The channel's name.
        kind: What it is.
        run: Run id, or empty.
        item: Item id, or empty.
        author: Who wrote it.
        process: The process that wrote it, host and process id.
        parents: Ids of the posts it answers to.
        traces: Ids of the turns whose text it holds.
        body: The content, JSON.
        trust: What it is held to be now.
        key: Idempotency key: the same key is the same post.
        created: When it was written, in seconds since 1970, by the database's clock.
        hash: Covers the content and the hash of the post before it.
    """

    id: str
    seq: int
    board: str
    channel: str
    kind: str
    run: str
    item: str
    author: Author
    process: str
    parents: tuple[str, ...]
    traces: tuple[str, ...] = ()
    body: Mapping[str, Any]
    trust: Trust
    key: str
    created: float
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit(Record):
    """A post that a search has found, and its score: higher is better, comparable within one search."""

    post: Post
    score: float


class Stamp(NamedTuple):
    """An author as it is stored: the fields, their text, and the payloads that the text refers to."""

    fields: Mapping[str, Any]
    stored: str
    parts: Mapping[str, bytes]


@lru_cache(maxsize=256)
def stamp(author: Author) -> Stamp:
    """The stored form of an author, made once: few agents write many posts."""
    fields = _text.mapping(_text.decode(_text.author(author)), "author")
    return Stamp(fields, *_payloads.prepare(fields, whole=True))


def build(
    row: Mapping[Any, Any], *, author: Mapping[str, Any], body: Mapping[str, Any], trust: Trust
) -> Post:
    """Makes a post of a row and the values that it refers to."""
    return Post(
        author=Author(**author),
        parents=_text.decode_list(row["parents"]),
        traces=_text.decode_list(row["traces"]),
        body=body,
        trust=trust,
        **{name: row[name] for name in _AS_THEY_ARE},
    )


_AS_THEY_ARE = (
    *("id", "seq", "board", "channel", "kind", "run", "item"),
    *("process", "key", "created", "hash"),
)


def by_numbers(connection: sa.Connection, numbers: Sequence[int]) -> list[sa.Row[Any]]:
    """Rows of posts with their latest trust event, by the database's numbers, in any order."""
    return [
        row
        for start in range(0, len(numbers), _BATCH)
        for row in connection.execute(BY_NUMBER, {"numbers": numbers[start : start + _BATCH]})
    ]


def bodies(connection: sa.Connection, chain: Chain, numbers: Sequence[int]) -> dict[int, Any]:
    """The bodies of posts by the database's numbers.

    Raises:
        IntegrityError: if a post is damaged, naming it.
    """
    found: dict[int, str] = {}
    for start in range(0, len(numbers), _BATCH):
        for row in connection.execute(_ROWS, {"numbers": numbers[start : start + _BATCH]}):
            chain.check(row._mapping)
            found[row.number] = row.body
    return dict(zip(found, _payloads.load(connection, found.values()), strict=True))


def known_trust(level: str) -> None:
    """Raises a `DataError` if a trust level is none."""
    if level not in RANK:
        raise DataError(f"the trust level is {level!r}", expected=f"one of {', '.join(RANK)}")


def _with_trust(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Selects columns of posts and their latest trust event (columns `trust_...`, NULL if there is none)."""
    posts, trust, other = _schema.posts, _schema.trust, _schema.trust.alias()
    latest = (
        sa.select(sa.func.max(other.c.seq))
        .where(other.c.post == posts.c.id, other.c.board == posts.c.board, other.c.level != FLAG)
        .correlate(posts)
        .scalar_subquery()
    )
    joined = posts.outerjoin(trust, sa.and_(trust.c.board == posts.c.board, trust.c.seq == latest))
    labelled = [column.label(f"trust_{column.name}") for column in trust.columns]
    return sa.select(*columns, *labelled).select_from(joined)


# Built once: building a statement takes longer than running it.
_POSTS = _with_trust(*_schema.posts.columns)
_HERE = (_schema.posts.c.id == sa.bindparam("post_id"), _schema.posts.c.board == sa.bindparam("on_board"))
BY_ID = _POSTS.where(*_HERE)
_NUMBERED = _schema.posts.c.number.in_(sa.bindparam("numbers", expanding=True))
BY_NUMBER = _POSTS.where(_NUMBERED)
_ROWS = sa.select(_schema.posts).where(_NUMBERED)
_WANTED = _schema.posts.c.id.in_(sa.bindparam("wanted", expanding=True))
BY_IDS = sa.select(_schema.posts).where(_WANTED)
LEVELS = _with_trust(_schema.posts.c.id, _schema.posts.c.board).where(_WANTED)
KNOWN = sa.select(_schema.posts.c.id).where(
    _schema.posts.c.board == sa.bindparam("on_board"),
    _schema.posts.c.id.in_(sa.bindparam("ids", expanding=True)),
)


def known(board: str, parameter: str) -> sa.ColumnElement[bool]:
    """Whether a board has the post whose id is a parameter of this name."""
    posts = _schema.posts.alias()  # not the table of the query that it is part of
    return sa.exists().where(posts.c.board == board, posts.c.id == sa.bindparam(parameter)).label(parameter)


def select(board: str, *, after: int = 0, newest: bool = False, **equal: str | None) -> sa.Select[Any]:
    """Selects posts of a board in sequence order, or backwards; `equal` compares columns unless None."""
    seq = _schema.posts.c.seq
    return _where(_POSTS.where(seq > after), board, equal).order_by(seq.desc() if newest else seq)


def count(board: str, **equal: str | None) -> sa.Select[Any]:
    """Selects how many posts of a board there are."""
    return _where(sa.select(sa.func.count()).select_from(_schema.posts), board, equal)


def _where(query: sa.Select[Any], board: str, equal: Mapping[str, str | None]) -> sa.Select[Any]:
    table = _schema.posts
    query = query.where(table.c.board == board)
    for name, value in equal.items():
        if value is not None:
            query = query.where(table.c[name] == _text.name(value, name, empty=True))
    if equal.get("channel") not in (None, MAIN):
        query = query.where(_OFF_MAIN)  # repeats what the partial index says, so that it is used
    return query


def reached(post_id: str, start: str, end: str) -> sa.Select[Any]:
    """Selects the ids that can be reached over links from `start` to `end`, over any number of them."""
    links = _schema.links
    first = sa.select(links.c[end].label("id")).where(links.c[start] == post_id)
    found = first.cte("found", recursive=True)
    further = sa.select(links.c[end]).join(found, links.c[start] == found.c.id)
    return sa.select(found.union(further).c.id)


def places(**names: str | None) -> list[str]:
    """Search terms for where posts stand; None is anywhere."""
    given = {name: value for name, value in names.items() if value is not None and value != ""}
    return _search.scope(**{name: _text.name(value, name) for name, value in given.items()})


def terms(row: Mapping[Any, Any], body: Any) -> list[str]:
    """All search terms of a post."""
    return _search.terms(body, places(**{name: row[name] for name in _PLACES}))


def all_terms(connection: sa.Connection, *, after: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Number and search terms of every post in the database whose number is above `after`."""
    table, last = _schema.posts, after
    while True:
        query = sa.select(table).where(table.c.number > last).order_by(table.c.number).limit(_BATCH)
        rows = connection.execute(query).all()
        for row in rows:
            if not all(isinstance(getattr(row, name), str) for name in (*_PLACES, "body")):
                raise IntegrityError(
                    f"post {row.seq} ({row.id}) was damaged after it was written; restore a backup"
                )
        bodies = _payloads.load(connection, (row.body for row in rows))
        for row, body in zip(rows, bodies, strict=True):
            yield row.number, terms(row._mapping, body)
        if len(rows) < _BATCH:
            return
        last = rows[-1].number


def verify(connection: sa.Connection, board: str) -> list[Damage]:
    """Compares payloads, links and search index with the posts of a database whose chains are intact."""
    return [*_verify_payloads(connection, board), *_verify_links(connection), *_verify_search(connection)]


def _verify_payloads(connection: sa.Connection, board: str) -> Iterator[Damage]:
    intact, damage = _payloads.verify(connection)
    yield from damage
    table = _schema.posts
    columns = (table.c.seq, table.c.id, table.c.author, table.c.body)
    for row in connection.execute(sa.select(*columns).where(table.c.board == board).order_by(table.c.seq)):
        if not (_payloads.references(row.author) | _payloads.references(row.body)) <= intact:
            yield Damage(record="post", seq=row.seq, id=row.id, reason=_payloads.INCOMPLETE)


def _verify_links(connection: sa.Connection) -> Iterator[Damage]:
    posts, links = _schema.posts, _schema.links
    expected = {
        (parent, row.id)
        for row in connection.execute(sa.select(posts.c.id, posts.c.parents))
        for parent in _text.decode_list(row.parents)
    }
    found = {(row.parent, row.child) for row in connection.execute(sa.select(links))}
    for parent, child in sorted(expected ^ found):
        reason = "is missing" if (parent, child) in expected else "belongs to no post"
        yield Damage(record="link", id=f"{parent} {child}", reason=reason)


def _verify_search(connection: sa.Connection) -> Iterator[Damage]:
    expected, found = _search.Seal(), _search.Seal()
    try:
        last = _search.mark(connection)
        for number, post_terms in all_terms(connection):
            if number > last:
                break
            for term in post_terms:
                expected.add(number, term)
    except IntegrityError as error:
        # A damaged payload is reported by its own name.
        if "search index" in str(error):
            yield Damage(record="search index", reason=str(error))
        return
    for number, term in _search.indexed(connection):
        found.add(number, term)
    if expected.value != found.value:
        yield Damage(
            record="search index",
            reason="does not match the posts; the posts are not affected: run `docendo board reindex`",
        )
