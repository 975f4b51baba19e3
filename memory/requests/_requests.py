"""Requests that name no addressee: volunteers offer themselves, claim a place under a lease, and respond.

Who answers is decided on the board and nowhere else, so asker and volunteers may be threads, processes or
machines, and each of them may be killed at any moment. Requests, offers and responses are posts; the claims
of a request are one versioned key, and a response and its claim change in one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from docendo.errors import AccessError, ConfigError, DataError
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._posts import Post
from docendo.memory.requests._claims import Held, RequestState, Table
from docendo.memory.requests._wanted import (
    FIELDS,
    OFFERS,
    REQUESTS,
    RESPONSES,
    BoardRequest,
    Claim,
    Outcome,
    Response,
    channels,
    read_request,
    read_response,
)
from docendo.records import JSON, Author

#: Seconds until a claim that is not renewed may be taken over.
LEASE = 30.0
#: Between two looks of an asker that waits, where the database cannot tell it earlier.
_GLANCE = 1.0


class Requests:
    """Requests, offers, claims and responses on a board.

    A request is open, claimed (somebody works on it), answered, expired (the deadline passed without an
    answer) or unanswered (the asker went on without one). All of that follows from the board and the
    database's clock.

    Attributes:
        board: The board.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> main, birds = Author(agent="main", role="main"), Author(agent="birds", role="volunteer")
        >>> requests = Requests(board, askers=("main",))
        >>> request = requests.ask("How far do terns fly?", author=main, key="run/item/ask/0")
        >>> offer = requests.offer(request, 0.9, author=birds)
        >>> claim = requests.claim(request, author=birds, worker="w1")
        >>> requests.respond(claim, "70,000 km a year.", author=birds).late
        False
        >>> outcome = requests.collect(request, reader=main)
        >>> outcome.state, [response.text for response in outcome.responses]
        ('answered', ['70,000 km a year.'])
        >>> board.close()
    """

    def __init__(self, board: Blackboard, *, askers: Sequence[str] = ()) -> None:
        """Binds a board.

        Args:
            board: The board.
            askers: Roles that ask, and alone read offers and responses: declares the channels. Volunteers
                give none and use what was declared.
        """
        self.board = board
        known = board.channels() if askers else {}
        for channel in channels(askers) if askers else ():
            if known.get(channel.name) != channel:
                board.declare(channel)

    def ask(
        self,
        body: str | Mapping[str, JSON],
        *,
        author: Author,
        key: str,
        deadline: float | None = 60.0,
        window: float = 0.0,
        patience: float | None = 1.0,
        places: int = 3,
        run: str = "",
        item: str = "",
        parents: Sequence[str] = (),
    ) -> BoardRequest:
        """Posts a request to whom it may concern, or returns the one with this key, with its times.

        Args:
            body: What is needed: a text, or a mapping with `text` and more.
            author: Who asks.
            key: Idempotency key.
            deadline: Seconds in which it can be answered; None for ever.
            window: Seconds in which offers are gathered before anybody may claim.
            patience: Seconds after that in which only the most confident may claim; None keeps it so.
            places: Most volunteers that answer.
            run: Run id.
            item: Item id.
            parents: Ids of the posts that it follows from.

        Raises:
            ConfigError: if a number cannot be used.
            AccessError: if the author's role is none that asks.
        """
        content: dict[str, JSON] = {"text": body} if isinstance(body, str) else dict(body)
        reserved = set(FIELDS[1:]) & set(content)
        if reserved:
            raise DataError(f"the body of a request has the field {min(reserved)!r}", remedy="rename it")
        if places < 1:
            raise ConfigError(f"places is {places}", expected="at least 1")
        for name, seconds in (("deadline", deadline), ("window", window), ("patience", patience)):
            if seconds is not None and not 0 <= seconds < 1e9:
                raise ConfigError(f"{name} is {seconds}", expected="seconds, 0 or more")
        content |= {"places": places, "window": window, "patience": patience, "deadline": deadline}
        post = self.board.post(
            "request",
            content,
            author=author,
            key=key,
            run=run,
            item=item,
            parents=parents,
            channel=REQUESTS,
        )
        return read_request(post)

    def get(self, request: str) -> BoardRequest:
        """Returns the request with this id.

        Raises:
            DataError: if there is none.
        """
        post = self.board.get(request)
        if post.channel != REQUESTS:
            raise DataError(f"post {request!r} is on channel {post.channel!r}", expected="a request")
        return read_request(post)

    def posted(self, *, after: int = 0) -> Iterator[BoardRequest]:
        """Yields the requests with a sequence number above `after`, without quarantined ones.

        A volunteer's process may start first: before the channels are declared there are none.
        """
        if not {REQUESTS, OFFERS, RESPONSES} <= set(self.board.channels()):
            return
        for post in self.board.posts(channel=REQUESTS, after=after):
            if post.trust == "quarantined":
                continue
            try:
                request = read_request(post)
            except DataError:
                continue  # not made by `ask`: nobody's to answer, and it must not end a worker
            yield request

    def offer(self, request: BoardRequest, confidence: float, *, author: Author) -> Post:
        """Offers to answer, once per volunteer; a second offer is the first one.

        Raises:
            DataError: if the confidence is none.
        """
        if not 0 <= confidence <= 1:
            raise DataError(f"the confidence of {author.agent!r} is {confidence}", expected="0 to 1")
        return self.board.post(
            "offer",
            {"confidence": float(confidence), "request": request.id},
            author=author,
            key=f"{_key(request.id)}/offer/{author.agent}",
            run=request.run,
            item=request.item,
            parents=[request.id],
            channel=OFFERS,
        )

    def offers(self, request: BoardRequest, *, reader: Author) -> list[Post]:
        """Returns the offers, most confident first.

        Raises:
            AccessError: if the reader's role may not read them.
        """
        self._may_read(OFFERS, reader)
        return self._offers(request.id)

    def claim(
        self, request: BoardRequest, *, author: Author, worker: str = "", lease: float = LEASE
    ) -> Claim | None:
        """Takes a place, or returns None if there is none for this volunteer now.

        A volunteer gets one place of a request, after it has offered. While all places are taken it gets
        one only when a lease runs out; whoever held that place is late from then on.

        Args:
            request: The request.
            author: The volunteer.
            worker: Name of the process that works on it, by default host and process id. One that was
                killed and started again under the same name takes up its own claim, which is the same
                attempt; it need not wait for its own lease.
            lease: Seconds until the claim lapses unless it is renewed.
        """
        _check_lease(lease)
        board, worker = self.board, worker or self.board.process
        _, table = self._table(request.id)
        if not table.room(request.rules, name=author.agent, worker=worker, now=board.database.now()):
            return None  # most tries end here, without a write transaction
        with board.database.transaction():
            version, table = self._table(request.id)
            now = board.database.now()
            offers = self._offers(request.id)
            names = [offer.author.agent for offer in offers]
            wanted = Held(worker=worker, token=version + 1, expires=now + lease)
            granted = table.grant(request.rules, names, name=author.agent, claim=wanted, now=now)
            if granted is None:
                return None
            self._write(request.id, granted, author=author, expected=version)
        held = granted.claims[author.agent]
        return Claim(
            request=request.id,
            volunteer=author.agent,
            worker=worker,
            token=held.token,
            attempt=held.count,
            expires=held.expires,
            offer=offers[names.index(author.agent)].id,
        )

    def renew(self, claim: Claim, *, author: Author, lease: float = LEASE) -> Claim | None:
        """Lengthens a lease, counted from now, also one that ran out; None if the place is lost."""
        _check_lease(lease)
        with self.board.database.transaction():
            version, table = self._table(claim.request)
            held = self._own(table, claim)
            if held is None:
                return None
            expires = self.board.database.now() + lease
            changed = table.having({claim.volunteer: held.replace(expires=expires)})
            self._write(claim.request, changed, author=author, expected=version)
        return claim.replace(expires=expires)

    def release(self, claim: Claim, *, author: Author, failed: bool = False) -> bool:
        """Gives a place back at once; False if it was lost already.

        Args:
            claim: The claim.
            author: The volunteer.
            failed: Whether it shall not try again.
        """
        with self.board.database.transaction():
            version, table = self._table(claim.request)
            held = self._own(table, claim)
            if held is None:
                return False
            changed = held.replace(state="failed" if failed else "released")
            self._write(
                claim.request, table.having({claim.volunteer: changed}), author=author, expected=version
            )
        return True

    def respond(self, claim: Claim, body: str | Mapping[str, JSON], *, author: Author) -> Response:
        """Posts the one response of a claim.

        If the place was taken over meanwhile, or the request is over, the response is kept as late and the
        asker does not get it.
        """
        content: dict[str, JSON] = {"text": body} if isinstance(body, str) else dict(body)
        board, key = self.board, f"{_key(claim.request)}/response/{claim.volunteer}/{claim.attempt}"
        offer = board.get(claim.offer)
        request = self.get(claim.request)
        with board.database.transaction():
            version, table = self._table(claim.request)
            last = table.claims.get(claim.volunteer)
            if last is not None and (last.state, last.token) == ("done", claim.token):
                return read_response(board.get(last.response), offer)
            held = self._own(table, claim)
            late = held is None or table.ended is not None or request.rules.past(board.database.now())
            post = board.post(
                "response",
                {**content, "late": late},
                author=author,
                key=f"{key}/late/{claim.token}" if late else key,
                run=request.run,
                item=request.item,
                parents=[request.id, claim.offer],
                channel=RESPONSES,
            )
            if held is not None and not late:
                done = held.replace(state="done", response=post.id)
                self._write(
                    claim.request, table.having({claim.volunteer: done}), author=author, expected=version
                )
        return read_response(post, offer)

    def responses(self, request: BoardRequest, *, reader: Author) -> list[Response]:
        """Returns all responses, late ones too, in the order in which they came.

        Raises:
            AccessError: if the reader's role may not read them.
        """
        self._may_read(RESPONSES, reader)
        posts = [post for post in self.board.children(request.id) if post.channel == RESPONSES]
        return [read_response(post, self.board.get(post.parents[1])) for post in posts]

    def state(self, request: BoardRequest) -> RequestState:
        """Where the request stands now."""
        return self._table(request.id)[1].state(request.rules, self.board.database.now())

    def moment(self, request: BoardRequest) -> float:
        """When the next thing happens to the request by time alone, such as the end of a lease."""
        return self._table(request.id)[1].moment(request.rules, self.board.database.now())

    def may_claim(self, request: BoardRequest, *, author: Author, worker: str = "") -> bool:
        """Whether this volunteer might still get a place, now or later; `worker` as for `claim`."""
        _, table = self._table(request.id)
        now = self.board.database.now()
        over = table.ended is not None or request.rules.past(now)
        return (
            not over
            and len(table.done()) < request.rules.places
            and any(
                table.may_still(author.agent, worker or self.board.process, moment)
                for moment in (now, now + 1e9)
            )
        )

    def collect(
        self,
        request: BoardRequest,
        *,
        reader: Author,
        wait: float | None = 0.0,
        quorum: int | None = None,
    ) -> Outcome:
        """Closes a request and returns what came in time; again the same if it is collected again.

        Args:
            request: The request.
            reader: Who asked.
            wait: Seconds to wait at most; None waits until the request is settled or its deadline passes.
            quorum: Responses that are enough. By default all places, or those that were claimed once nobody
                works on it any more.

        Raises:
            AccessError: if the reader's role may not read responses.
        """
        until = None if wait is None else time.monotonic() + wait
        database = self.board.database
        while True:
            mark = database.mark()
            left = 0.0 if until is not None and time.monotonic() >= until else 1.0
            outcome = self.settle(request, reader=reader, quorum=quorum, force=not left)
            if outcome is not None:
                return outcome
            pause = min(_GLANCE, max(0.01, self.moment(request) - database.now()))
            database.wait(mark, pause if until is None else min(pause, max(0.0, until - time.monotonic())))

    def settle(
        self, request: BoardRequest, *, reader: Author, quorum: int | None = None, force: bool = True
    ) -> Outcome | None:
        """One step of `collect`: closes a request that is settled, or any with `force`; else None."""
        self._may_read(RESPONSES, reader)
        if quorum is not None and quorum < 1:
            raise ConfigError(f"quorum is {quorum}", expected="at least 1")
        if not force and not self.settled(request, quorum=quorum):
            return None
        table = self._end(request, reader)
        return self._outcome(request, table, self._offers(request.id))

    def settled(self, request: BoardRequest, *, quorum: int | None = None) -> bool:
        """Whether waiting longer would bring nothing that the asker wants; see `collect`."""
        with self.board.database.reading():
            names = [offer.author.agent for offer in self._offers(request.id)]
            _, table = self._table(request.id)
            now = self.board.database.now()
        return table.settled(request.rules, names, now=now, quorum=quorum)

    def _end(self, request: BoardRequest, author: Author) -> Table:
        _, table = self._table(request.id)
        if table.ended is not None:
            return table
        with self.board.database.transaction():
            version, table = self._table(request.id)
            if table.ended is not None:
                return table
            given = [held.response for held in table.done()]
            ended = Table(
                claims=table.claims,
                ended="answered" if given else "unanswered",
                responses=tuple(given),
            )
            self._write(request.id, ended, author=author, expected=version)
            return ended

    def _outcome(self, request: BoardRequest, table: Table, offers: Sequence[Post]) -> Outcome:
        by_id = {offer.id: offer for offer in offers}
        posts = [self.board.get(post_id) for post_id in table.responses]
        kept = [read_response(post, by_id[post.parents[1]]) for post in posts if post.trust != "quarantined"]
        order = {offer.author.agent: place for place, offer in enumerate(offers)}
        return Outcome(
            request=request.id,
            state=table.state(request.rules, self.board.database.now()),
            responses=tuple(sorted(kept, key=lambda response: order[response.volunteer])),
            volunteers=len(offers),
            claims=len(table.claims),
        )

    def _offers(self, request: str) -> list[Post]:
        found = [post for post in self.board.children(request) if post.channel == OFFERS]
        kept = [post for post in found if post.trust != "quarantined"]
        return sorted(kept, key=lambda post: (-float(post.body["confidence"]), post.seq))

    def _table(self, request: str) -> tuple[int, Table]:
        stored = self.board.keys.read(_key(request))
        return (0, Table()) if stored is None else (stored.version, Table.of(stored.value))

    def _write(self, request: str, table: Table, *, author: Author, expected: int) -> None:
        self.board.keys.write(_key(request), table.to_json(), author=author, expected=expected)

    def _own(self, table: Table, claim: Claim) -> Held | None:
        """The claim as it stands, if it is still the volunteer's own."""
        held = table.claims.get(claim.volunteer)
        mine = held is not None and held.token == claim.token and held.state == "held"
        return held if mine and table.ended is None else None

    def _may_read(self, channel: str, reader: Author) -> None:
        declared = self.board.channels().get(channel)
        if declared is None:
            raise ConfigError(
                f"board {self.board.name!r} has no channel {channel!r}",
                remedy="use Requests(board, askers=...)",
            )
        if not declared.may_read(reader.role):
            raise AccessError(
                f"role {reader.role!r} reads channel {channel!r}",
                expected=f"one of the roles {', '.join(declared.readers)}",
            )


def _key(request: str) -> str:
    return f"request/{request}"


def _check_lease(lease: float) -> None:
    if not 0 < lease < 1e9:
        raise ConfigError(f"lease is {lease}", expected="seconds, more than 0")
