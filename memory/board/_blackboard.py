"""The blackboard: what agents tell each other, append-only, typed, with provenance.

Security boundary. Covered: who wrote a post is stamped by the calling code and hash-chained, a post's
trust changes only by recorded events, and no author that depends on the poster can raise it (`_trust`).
Agents read through a `BoardView`, which shows them posts as marked data. Not covered: what a post says, and
whether a model obeys it all the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from docendo.checks import is_count
from docendo.errors import ConfigError, DataError, IntegrityError
from docendo.hashing import digest
from docendo.memory.board import _channels, _descent, _posts, _search
from docendo.memory.board._channels import MAIN, Channel
from docendo.memory.board._keys import Keys
from docendo.memory.board._posts import Hit, Post, Trust
from docendo.memory.board._subscribe import Subscription, subscribe
from docendo.memory.board._taint import Taint
from docendo.memory.board._trust import TrustEvent, TrustLog
from docendo.memory.board._view import BoardView
from docendo.memory.storage import _payloads, _schema, _text
from docendo.memory.storage._chain import Chain, Damage, Report
from docendo.memory.storage._database import Database
from docendo.memory.storage._store import Store
from docendo.records import JSON, Author

MAX_BODY_BYTES = 1 << 20
_TURNS = sa.select(_schema.traces.c.id).where(_schema.traces.c.id.in_(sa.bindparam("wanted", expanding=True)))
_LINK = _schema.links.insert()
#: Posts indexed in one transaction, so that other writers need not wait long.
_INDEXED_AT_ONCE = 2000


class Blackboard(Store):
    """Append-only, typed, shared memory that survives a crash at any moment.

    Every post has a key. Posting the same key again stores nothing and returns the post that is there, so
    a node that runs twice after a crash posts once, and continues with what was stored the first time.

    Attributes:
        name: The board's name; one database holds any number of boards.
        keys: Versioned keys with compare-and-swap.

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
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        self.keys = Keys(database, self.name, self.process)
        self._posts = Chain(_schema.posts, self.name, record="post")
        # All that a post needs to know, in one statement.
        self._before = self._posts.end(
            _posts.known(self.name, "own"),
            _posts.known(self.name, "parent"),
            _descent.ANY_QUARANTINE.label("quarantines"),
        )
        self._trust = TrustLog(database, self.name, self._posts)
        self._channels: dict[str, Channel] = {MAIN.name: MAIN}

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

    def declare(self, channel: Channel) -> Channel:
        """Declares a channel: which kinds and fields it takes, and which roles may write and read it.

        Declaring the same channel again does nothing. The channel `main` is there from the start.

        Raises:
            DataError: if a channel of this name is declared otherwise.

        Example:
            >>> from docendo.memory import Blackboard, Channel
            >>> board = Blackboard.open(":memory:")
            >>> offers = board.declare(Channel(name="offers", kinds=("offer",)))
            >>> sorted(board.channels())
            ['main', 'offers']
        """
        if not isinstance(channel, Channel):
            raise ConfigError(f"the channel is {channel!r}", expected="a Channel(name=...)")
        with self.database.transaction() as connection:
            stored = _channels.declare(connection, self.name, channel)
        self._channels[stored.name] = stored
        return stored

    def channels(self) -> dict[str, Channel]:
        """Returns the channels of the board by name."""
        with self.database.reading() as connection:
            return _channels.read(connection, self.name)

    def post(
        self,
        kind: str,
        body: Mapping[str, JSON],
        *,
        author: Author,
        key: str,
        run: str = "",
        item: str = "",
        parents: Sequence[str] = (),
        traces: Sequence[str] = (),
        channel: str = "main",
    ) -> Post:
        r"""Stores a post, or returns the one that has this key already.

        Args:
            kind: What it is: one of the channel's kinds.
            body: The content. Lone surrogates and NUL in text become visible escapes such as `\x00`.
            author: Who wrote it: known to the calling code, never read from model text.
            key: Idempotency key, for example `run/item/node/step`.
            run: Run id.
            item: Item id.
            parents: Ids of the posts that it answers to, on the same board.
            traces: Ids of the stored turns whose text it holds, so that taint can be followed into training.
            channel: The channel; other ones than `main` are declared first.

        Raises:
            DataError: if an argument is malformed, a parent, a turn or the channel unknown, or the body over
                1 MiB.
            AccessError: if the author's role may not write on the channel.
            StorageError: if it cannot be written; then nothing has changed.
            IntegrityError: if the stored post is damaged.
        """
        key = _text.name(key, "the post's key")
        content = _text.mapping(body, "body", cleaned=True)
        size = len(_text.encode(content).encode())
        if size > MAX_BODY_BYTES:
            raise DataError(
                f"the body of post {key!r} has {size} bytes", expected=f"at most {MAX_BODY_BYTES}"
            )
        links, turns = _ids(parents, "parents"), _ids(traces, "traces")
        stamp = _posts.stamp(_text.require_author(author))
        declared = self._channel(channel)
        declared.check(kind, content, author)
        values = {
            "id": digest(self.name, key)[:16],
            "key": key,
            "channel": declared.name,
            "kind": kind,
            "run": _text.name(run, "run", empty=True),
            "item": _text.name(item, "item", empty=True),
            "process": self.process,
            "parents": _text.encode_list(links),
            "traces": _text.encode_list(turns),
        }
        values["author"] = stamp.stored
        values["body"], parts = _payloads.prepare(content)
        with self.database.transaction() as connection:
            asked = {"own": values["id"], "parent": links[0] if links else ""}
            before = connection.execute(self._before, asked).one()
            if before.own:
                return self._stored(connection, values["id"], key)
            self._require_parents(connection, links, first=bool(before.parent))
            self._require_turns(connection, turns)
            _payloads.keep(self.database, connection, {**stamp.parts, **parts})
            row = self._posts.append(connection, {**values, "created": self.database.now()}, end=before)
            if links:
                pairs = [{"parent": parent, "child": row["id"]} for parent in links]
                connection.execute(_LINK, pairs if len(pairs) > 1 else pairs[0])
            _descent.add(self.database, connection, ((_descent.POSTED, turn, row["id"]) for turn in turns))
            trust: Trust = "unverified"
            if before.quarantines:
                trust = self._trust.born(connection, row["id"], links, turns)
        return _posts.build(row, author=stamp.fields, body=content, trust=trust)

    def get(self, post_id: str) -> Post:
        """Returns a post.

        Raises:
            DataError: if there is none with this id on this board.
            IntegrityError: if it is damaged, naming it.
        """
        with self.database.reading() as connection:
            row = self._row(connection, _text.name(post_id, "the post's id"))
            if row is not None:
                return self._trust.built(connection, [row])[0]
        raise DataError(f"board {self.name!r} has no post {post_id!r}", remedy="check the id")

    def find(self, key: str) -> Post | None:
        """Returns the post with this idempotency key, or None."""
        with self.database.reading() as connection:
            row = self._row(connection, digest(self.name, _text.name(key, "the post's key"))[:16])
            return None if row is None else self._trust.built(connection, [row])[0]

    def posts(
        self,
        *,
        kind: str | None = None,
        run: str | None = None,
        item: str | None = None,
        channel: str | None = None,
        agent: str | None = None,
        trust: Trust | None = None,
        after: int = 0,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[Post]:
        """Returns posts in sequence order.

        Args:
            kind: Only this kind.
            run: Only of this run.
            item: Only of this item.
            channel: Only on this channel.
            agent: Only by this agent.
            trust: Only of this trust.
            after: Only with a sequence number above this; the last one seen continues a listing.
            limit: At most this many, the first ones.
            newest: Take the last `limit` posts instead of the first; they still come in sequence order.

        Raises:
            DataError: if a filter has a value that no post can have.
            IntegrityError: if one of them is damaged, naming it.
        """
        if trust is not None:
            _posts.known_trust(trust)
        if limit is not None and (not is_count(limit) or limit < 0):
            raise DataError(f"limit is {limit!r}", expected="0 or more")
        if not is_count(after):
            raise DataError(f"after is {after!r}", expected="a sequence number")
        with self.database.reading() as connection:
            self._known(connection, kind=kind, channel=channel)
            filters = {"kind": kind, "run": run, "item": item, "channel": channel}
            query = _posts.select(self.name, after=after, newest=newest, **filters)
            # What the database cannot select is in the author's JSON or in events; so ask in batches.
            if agent is None and trust is None:
                found = self._trust.built(connection, connection.execute(query.limit(limit)).all())
                return found[::-1] if newest else found
            kept: list[Post] = []
            for post in self._batches(connection, query):
                if agent in (None, post.author.agent) and trust in (None, post.trust):
                    kept.append(post)
                    if limit is not None and len(kept) >= limit:
                        break
        kept = kept[:limit]
        return kept[::-1] if newest else kept

    def count(
        self,
        *,
        kind: str | None = None,
        run: str | None = None,
        item: str | None = None,
        channel: str | None = None,
    ) -> int:
        """Returns how many posts there are; filters as for `posts`."""
        with self.database.reading() as connection:
            self._known(connection, kind=kind, channel=channel)
            filters = {"kind": kind, "run": run, "item": item, "channel": channel}
            return int(connection.scalar(_posts.count(self.name, **filters)) or 0)

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        kind: str | None = None,
        run: str | None = None,
        item: str | None = None,
        channel: str | None = None,
        trust: Trust | None = None,
    ) -> list[Hit]:
        """Finds posts by their words, best first (BM25).

        A post needs one of the words, not all. Of words that many posts have only the newest
        256 posts are looked at, so a search costs the same on a board of any size.

        Args:
            query: Words; case and punctuation do not matter.
            limit: Most hits.
            kind: Only this kind.
            run: Only of this run.
            item: Only of this item.
            channel: Only on this channel.
            trust: Only of this trust.

        Raises:
            DataError: if the query has no word, or a filter has a value that no post can have.
            IntegrityError: if a post that was found is damaged.

        Example:
            >>> from docendo.memory import Blackboard
            >>> from docendo.records import Author
            >>> board, tutor = Blackboard.open(":memory:"), Author(agent="tutor", role="tutor")
            >>> _ = board.post("lesson", {"text": "Carry the one."}, author=tutor, key="1")
            >>> _ = board.post("lesson", {"text": "Check the units."}, author=tutor, key="2")
            >>> [hit.post.body["text"] for hit in board.search("which units?")]
            ['Check the units.']
        """
        if not isinstance(query, str):
            raise DataError(f"query is {query!r}", expected="words")
        if not is_count(limit) or limit < 1:
            raise DataError(f"limit is {limit!r}", expected="at least 1")
        if trust is not None:
            _posts.known_trust(trust)
        self._index()
        with self.database.reading() as connection:
            self._known(connection, kind=kind, channel=channel)
            places = _posts.places(board=self.name, kind=kind, run=run, item=item, channel=channel)
            total = int(connection.scalar(sa.select(sa.func.max(_schema.posts.c.number))) or 0)
            tail = _posts.all_terms(connection, after=_search.mark(connection))
            candidates = _search.Candidates(connection, query, places, total=total, tail=tail)
            most = _search.candidates(limit, chosen=trust is not None)
            # Compared by their texts: to make a post, with author and trust, takes several times as long.
            bodies = _posts.bodies(connection, self._posts, candidates.best(most))
            scores = candidates.score({number: _search.text_of(body) for number, body in bodies.items()})
            ranked = sorted((-score, -number) for number, score in scores.items() if score > 0)
            hits: list[Hit] = []
            for start in range(0, len(ranked), limit):
                part = {-number: -score for score, number in ranked[start : start + limit]}
                rows = _posts.by_numbers(connection, list(part))
                found = zip((row.number for row in rows), self._trust.built(connection, rows), strict=True)
                kept = [(number, post) for number, post in found if trust in (None, post.trust)]
                hits += [Hit(post=post, score=part[number]) for number, post in kept]
                if len(hits) >= limit:
                    break
        return sorted(hits, key=lambda hit: (-hit.score, -hit.post.seq))[:limit]

    def subscribe(
        self,
        *,
        after: int = 0,
        name: str = "",
        timeout: float | None = None,
        kind: str | None = None,
        run: str | None = None,
        item: str | None = None,
        channel: str | None = None,
        agent: str | None = None,
    ) -> Subscription:
        """Returns the posts that are there and those that come, from any process, in sequence order.

        Args:
            after: Only posts with a sequence number above this.
            name: Remembers the position that is acknowledged, under this name.
            timeout: Iteration ends after so many seconds without a new post; None goes on for ever.
            kind: Only this kind.
            run: Only of this run.
            item: Only of this item.
            channel: Only on this channel.
            agent: Only by this agent.
        """
        filters = {"kind": kind, "run": run, "item": item, "channel": channel, "agent": agent}
        return subscribe(self, after=after, name=name, timeout=timeout, **filters)

    def children(self, post_id: str) -> list[Post]:
        """Returns the posts that name this one as a parent, in sequence order."""
        parent = _text.name(post_id, "the post's id")
        return self._related(sa.select(_schema.links.c.child).where(_schema.links.c.parent == parent))

    def descendants(self, post_id: str) -> list[Post]:
        """Returns the posts that follow from this one, through any number of posts between."""
        return self._related(_posts.reached(_text.name(post_id, "the post's id"), "parent", "child"))

    def ancestors(self, post_id: str) -> list[Post]:
        """Returns the posts that this one follows from, through any number of posts between."""
        return self._related(_posts.reached(_text.name(post_id, "the post's id"), "child", "parent"))

    def trust(self, post_id: str, level: Trust, *, by: Author, reason: str) -> None:
        """Records what a post is held to be; the latest event counts.

        Only an author that does not depend on the poster raises trust: not the same agent; not the same model
        with the same adapter, under whatever name; and nobody who wrote content that the post follows from,
        over any number of posts and turns (`task`, `question`, `request`, `verdict`, `event` and `tombstone`
        are no content). Code, an author without a model, is bound by its name alone. A model with the same
        base and another adapter counts as independent: where all share one base, the adapter is what tells
        agents apart; its judgement is weaker than that of code, because what fools a base often fools its
        adapters.

        The same event (post, level, author, reason) counts once, so a node that runs twice does not undo
        what another agent decided in between. "quarantined" is `quarantine`, which `release` ends.

        Raises:
            DataError: if the post is unknown or quarantined, or the level is none.
            AccessError: if the author depends on the poster, or a model lowers the trust of another's post.
        """
        self._trust.trust(post_id, level, by=by, reason=reason)

    def objection(self, post_id: str, *, by: Author) -> str | None:
        """Says why an author may not raise the trust of a post, or None if it may.

        Example:
            >>> from docendo.memory import Blackboard
            >>> from docendo.records import Author
            >>> board = Blackboard.open(":memory:")
            >>> student = Author(agent="student", role="student", model="m1")
            >>> post = board.post("attempt", {"text": "4"}, author=student, key="1")
            >>> board.objection(post.id, by=Author(agent="judge", role="verifier", model="m1"))
            "post 54defbe390bcde97 was written by the weights of agent 'student'"
            >>> board.objection(post.id, by=Author(agent="judge", role="verifier", model="m2"))
        """
        return self._trust.objection(post_id, by=by)

    def quarantine(self, post_id: str, *, by: Author, reason: str) -> Taint:
        """Takes out a post and all that follows from it, on all boards, in one transaction.

        What follows is what names it as a parent, over any number of posts, and what its turns led to. What
        is posted later under such a post starts quarantined. Views do not show it and training leaves it out.

        People and code (authors without a model) may take out any post. A model may withdraw a post of its
        own as long as nothing of others follows from it, and `flag` the rest: else one malicious agent could
        silence all others.

        Returns:
            What descends from the post, data sets and adapters included. A post that is quarantined already
            on its own account gets no second event.

        Raises:
            DataError: if the post is unknown.
            AccessError: if the author is a model, and the post or one that follows from it is another's.
        """
        return self._trust.quarantine(post_id, by=by, reason=reason)

    def release(self, post_id: str, *, by: Author, reason: str) -> Taint:
        """Ends a post's quarantine, and that of all that was quarantined because of it and nothing else.

        Every post gets back the trust that it had before. What is not quarantined stays as it is.

        Raises:
            DataError: if the post is unknown, or quarantined because of another, which is named.
            AccessError: if the author is a model, or depends on one of the posts, as for `trust`.
        """
        return self._trust.release(post_id, by=by, reason=reason)

    def flag(self, post_id: str, *, by: Author, reason: str) -> None:
        """Records an agent's doubt about a post, once per agent; changes no trust. See `trust_events`."""
        self._trust.flag(post_id, by=by, reason=reason)

    def taint(self, post_id: str) -> Taint:
        """Returns what descends from a post, without changing anything."""
        return self._trust.taint(post_id)

    def trust_events(self, post_id: str | None = None) -> list[TrustEvent]:
        """Returns the board's trust log, or one post's part of it, flags included."""
        return self._trust.events(post_id)

    def view(self, author: Author, *, tokens: Iterable[str] = ()) -> BoardView:
        """Returns what an agent may be handed: it reads by its role, and posts under its own name alone.

        Args:
            author: Who reads and posts.
            tokens: Special tokens of its tokenizer, which are broken up in what it is shown.
        """
        return BoardView(self, author, tokens=tokens)

    def verify(self) -> Report:
        """Recomputes all hashes and walks the chains; the report names each damaged record.

        It also asks the database to check its own structure, where a damaged index hides rows.
        """
        heads = []

        def walk(connection: sa.Connection) -> tuple[int, list[Damage]]:
            posts, damage = self._posts.verify(connection)
            events, more = self._trust.chain.verify(connection)
            versions, others = self.keys.chain.verify(connection)
            heads.append(self._posts.head(connection))
            damage += more + others + _channels.verify(connection, self.name)
            # What follows from damaged posts is not worth reporting.
            derived = damage or [*_posts.verify(connection, self.name), *_descent.verify_posts(connection)]
            return posts + events + versions, derived

        report = self._verified(f"board {self.name!r}", walk)
        structure = tuple(Damage(record="database", reason=line) for line in self.database.check())
        # A database that cannot be read is in both lists.
        damage = tuple(dict.fromkeys((*report.damage, *structure)))
        return report.replace(damage=damage, head=heads[0] if heads else "")

    def digest(self) -> str:
        """Returns a digest of what was posted, whatever the order, time and process.

        Two boards of one name have the same digest if and only if they hold the same posts: same keys,
        channels, kinds, bodies, authors and parents. A resumed run must end with the digest of an
        uninterrupted one.
        """
        return digest(
            sorted(
                digest(p.key, p.channel, p.kind, p.body, p.author.to_json(), list(p.parents))
                for p in self.posts()
            )
        )

    def reindex(self) -> int:
        """Makes the full-text index of the database anew, for all its boards; returns the number of posts."""
        with self.database.transaction() as connection:
            _search.clear(connection)
            return _search.catch_up(connection, _posts.all_terms(connection))

    def _index(self) -> None:
        """Indexes what was posted since the last search: much is never searched, and posting is faster so."""
        while self.database.writable:
            with self.database.transaction() as connection:
                rest = _posts.all_terms(connection, after=_search.mark(connection))
                if _search.catch_up(connection, islice(rest, _INDEXED_AT_ONCE)) < _INDEXED_AT_ONCE:
                    return

    def _channel(self, name: str) -> Channel:
        name = _text.name(name, "the post's channel", empty=True)
        # A declaration never changes, so one that is known need not be read again.
        if name not in self._channels:
            self._channels = self.channels()
        if name not in self._channels:
            raise DataError(
                f"board {self.name!r} has no channel {name!r}",
                expected=f"one of {', '.join(self._channels)}",
                remedy="declare it first: board.declare(Channel(name=...))",
            )
        return self._channels[name]

    def _known(self, connection: sa.Connection, *, kind: str | None, channel: str | None) -> None:
        """A mistyped kind or channel must not look like one without posts."""
        declared = _channels.read(connection, self.name)
        if channel is not None and _text.name(channel, "the channel", empty=True) not in declared:
            raise DataError(
                f"board {self.name!r} has no channel {channel!r}", expected=f"one of {', '.join(declared)}"
            )
        kinds = list(dict.fromkeys(kind for entry in declared.values() for kind in entry.kinds))
        if kind is not None and kind not in kinds:
            raise DataError(f"the post's kind is {kind!r}", expected=f"one of {', '.join(kinds)}")

    def _row(self, connection: sa.Connection, post_id: str) -> sa.Row[Any] | None:
        return connection.execute(_posts.BY_ID, {"post_id": post_id, "on_board": self.name}).one_or_none()

    def _require_parents(self, connection: sa.Connection, links: Sequence[str], *, first: bool) -> None:
        there = set(links[:1] if first else ())
        if len(links) > 1:
            there.update(connection.scalars(_posts.KNOWN, {"ids": links, "on_board": self.name}))
        if (parent := _missing(links, there)) is not None:
            raise DataError(
                f"the parent {parent!r} is not on board {self.name!r}",
                expected="ids of posts on this board",
                remedy="post the parent first",
            )

    def _require_turns(self, connection: sa.Connection, traces: Sequence[str]) -> None:
        there = set(connection.scalars(_TURNS, {"wanted": traces})) if traces else set()
        if (trace := _missing(traces, there)) is not None:
            raise DataError(
                f"the turn {trace!r} is not stored in {self.database.label}",
                expected="ids of traces in the board's database",
                remedy="store the trace first",
            )

    def _stored(self, connection: sa.Connection, post_id: str, key: str) -> Post:
        rows = connection.execute(_posts.BY_ID, {"post_id": post_id, "on_board": self.name}).all()
        post = self._trust.built(connection, rows)[0]
        if post.key != key:
            raise IntegrityError(
                f"post {post.seq} ({post.id}) of board {self.name!r} has the key {post.key!r}; "
                f"expected {key!r}; restore a backup"
            )
        return post

    def _related(self, ids: Any) -> list[Post]:
        with self.database.reading() as connection:
            query = _posts.select(self.name).where(_schema.posts.c.id.in_(ids))
            return self._trust.built(connection, connection.execute(query).all())

    def _batches(self, connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Post]:
        for rows in connection.execute(query).partitions(500):
            yield from self._trust.built(connection, rows)


def _missing(wanted: Sequence[str], there: Container[str]) -> str | None:
    return next((one for one in wanted if one not in there), None)


def _ids(values: Sequence[str], where: str) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        seen = "a string" if isinstance(values, str) else repr(values)
        raise DataError(f"{where} is {seen}", expected="a sequence of ids")
    return list(dict.fromkeys(_text.name(value, where) for value in values))
