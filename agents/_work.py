"""Volunteers at work: offering, claiming, answering, and keeping leases alive meanwhile.

`Worker` serves a board from a process of its own; graphs let their own volunteers do the same steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from docendo.agents._context import RunContext
from docendo.agents._volunteer import Volunteer
from docendo.errors import ConfigError, ModelFailure
from docendo.memory import LEASE, Blackboard, BoardRequest, Claim, Requests, Response
from docendo.records import Gold, Item, PublicItem, Record, Split

#: How long a worker sleeps at most before it looks whether it should stop.
_SLICE = 0.5
#: Renewals per lease: two may fail before it runs out.
_BEATS = 3


async def offer(
    requests: Requests, request: BoardRequest, volunteer: Volunteer, context: RunContext
) -> float | None:
    """Lets a volunteer judge a request; it offers if it is confident enough.

    Returns:
        Its confidence if it offered, else None.
    """
    if request.author.agent == volunteer.name:
        return None
    confidence = await volunteer.can_help(request, context)
    if confidence < volunteer.threshold:
        return None
    requests.offer(request, min(1.0, max(0.0, confidence)), author=volunteer.author)
    return confidence


async def fulfil(
    requests: Requests, claim: Claim, volunteer: Volunteer, context: RunContext, *, lease: float
) -> Response | None:
    """Answers a claimed request and renews the lease until then.

    Returns:
        The response, or None if the volunteer's model failed; it does not get this request again.
        Anything else that goes wrong, cancellation too, gives the place back and is raised.
    """
    author = volunteer.author
    request = requests.get(claim.request)
    try:
        async with _renewed(requests, claim, volunteer, lease):
            body = await volunteer.answer(request, context)
    except ModelFailure:
        requests.release(claim, author=author, failed=True)
        return None
    except BaseException:
        requests.release(claim, author=author)
        raise
    return requests.respond(claim, body, author=author)


@asynccontextmanager
async def _renewed(
    requests: Requests, claim: Claim, volunteer: Volunteer, lease: float
) -> AsyncIterator[None]:
    async def beat() -> None:
        # A lease that is lost is lost: whether the response is late is judged when it comes.
        while True:
            await asyncio.sleep(lease / _BEATS)
            if requests.renew(claim, author=volunteer.author, lease=lease) is None:
                return

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """Something that a worker did, for whoever watches it.

    Attributes:
        what: "offered", "claimed", "answered", "late", "failed" or "released".
        volunteer: Name of the volunteer.
        request: Text of the request.
        seconds: How long the answer took.
        confidence: Of an offer.
    """

    what: str
    volunteer: str
    request: str
    seconds: float = 0.0
    confidence: float = 0.0


@dataclass(slots=True)
class _Pending:
    """A request that volunteers of this worker have offered to answer."""

    request: BoardRequest
    context: RunContext
    offered: list[Volunteer] = field(default_factory=list)


class Worker:
    """Serves the requests of a board with some volunteers, until it is stopped.

    Everything it knows is on the board: a worker that was killed is started again, goes through the open
    requests, and claims what is free. Under the same `name` it takes up its own claims at once, else when
    their leases have run out.

    Args:
        board: The board.
        volunteers: Who answers.
        name: The worker's name; by default host and process id.
        lease: Seconds until the claims of a dead worker are free. They are renewed three times as often.
        concurrency: Most requests answered at once.
        notify: Called with each `Event`.

    Example:
        >>> from docendo.agents import volunteers
        >>> from docendo.records import Author
        >>> @volunteers(confidence=lambda request: 0.9)
        ... def birds(request):
        ...     return "70,000 km a year."
        >>> board, main = Blackboard.open(":memory:"), Author(agent="main", role="main")
        >>> requests = Requests(board, askers=("main",))
        >>> request = requests.ask("How far do terns fly?", author=main, key="1", places=1)
        >>> asyncio.run(Worker(board, [birds]).run(once=True))
        1
        >>> requests.collect(request, reader=main).responses[0].text
        '70,000 km a year.'
        >>> board.close()
    """

    def __init__(
        self,
        board: Blackboard,
        volunteers: Sequence[Volunteer],
        *,
        name: str = "",
        lease: float = LEASE,
        concurrency: int = 4,
        notify: Callable[[Event], None] = lambda event: None,
    ) -> None:
        names = [volunteer.name for volunteer in volunteers]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"the volunteers are {', '.join(names) or 'none'}", expected="some with different names"
            )
        if not 0.1 <= lease < 1e6:
            raise ConfigError(f"lease is {lease}", expected="seconds, at least 0.1")
        if concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}", expected="at least 1")
        self.board, self.volunteers = board, tuple(volunteers)
        self.name, self.lease, self.concurrency = name or board.process, lease, concurrency
        self._requests = Requests(board)
        self._notify = notify
        self._after = 0
        self._pending: dict[str, _Pending] = {}
        self._running: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._answered = 0

    async def run(self, *, once: bool = False, stop: asyncio.Event | None = None) -> int:
        """Works until `stop` is set, finishing what it has claimed; cancelled, it gives it back.

        Args:
            once: End when there is nothing left to do.
            stop: Claims nothing more once it is set.

        Returns:
            How many requests it has answered.
        """
        stop, waiting = stop or asyncio.Event(), None
        database = self.board.database
        try:
            while not stop.is_set():
                mark = database.mark()
                await self._look()
                self._claim()
                if once and not self._pending and not self._running:
                    break
                if waiting is None or waiting.done():
                    waiting = asyncio.ensure_future(asyncio.to_thread(database.wait, mark, self._pause()))
                await asyncio.wait([waiting, *self._running], return_when=asyncio.FIRST_COMPLETED)
                await self._reap()
            while self._running:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                await self._reap()
        finally:
            tasks = list(self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *([waiting] if waiting else []), return_exceptions=True)
        return self._answered

    async def _look(self) -> None:
        """Lets the volunteers judge what is new, and forgets what they cannot get any more."""
        for request in list(self._requests.posted(after=self._after)):
            if self._requests.state(request) in ("open", "claimed", "answered"):
                await self._judge(request)
            self._after = request.seq
        for entry in list(self._pending.values()):
            entry.offered = [
                volunteer
                for volunteer in entry.offered
                if self._requests.may_claim(entry.request, author=volunteer.author, worker=self.name)
            ]
            if not entry.offered:
                del self._pending[entry.request.id]

    async def _judge(self, request: BoardRequest) -> None:
        free = [
            volunteer
            for volunteer in self.volunteers
            if self._requests.may_claim(request, author=volunteer.author, worker=self.name)
        ]
        entry = _Pending(request, _context(self.board, request))
        made = await asyncio.gather(*(self._offer(entry, volunteer) for volunteer in free))
        entry.offered = [volunteer for volunteer, offered in zip(free, made, strict=True) if offered]
        if entry.offered:
            self._pending[request.id] = entry

    async def _offer(self, entry: _Pending, volunteer: Volunteer) -> bool:
        try:
            confidence = await offer(self._requests, entry.request, volunteer, entry.context)
        except ModelFailure:
            return False
        if confidence is None:
            return False
        self._tell("offered", volunteer, entry.request, confidence=confidence)
        return True

    def _claim(self) -> None:
        for entry in self._pending.values():
            for volunteer in entry.offered:
                mine = (entry.request.id, volunteer.name)
                if mine in self._running.values() or len(self._running) >= self.concurrency:
                    continue
                claim = self._requests.claim(
                    entry.request, author=volunteer.author, worker=self.name, lease=self.lease
                )
                if claim is not None:
                    self._tell("claimed", volunteer, entry.request)
                    task = asyncio.create_task(self._fulfil(claim, volunteer, entry))
                    self._running[task] = mine

    async def _fulfil(self, claim: Claim, volunteer: Volunteer, entry: _Pending) -> None:
        began = time.monotonic()
        try:
            response = await fulfil(self._requests, claim, volunteer, entry.context, lease=self.lease)
        except BaseException:
            self._tell("released", volunteer, entry.request)
            raise
        what = "failed" if response is None else "late" if response.late else "answered"
        self._answered += what == "answered"
        self._tell(what, volunteer, entry.request, seconds=time.monotonic() - began)

    async def _reap(self) -> None:
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            await task  # an error that is no model's ends the worker

    def _pause(self) -> float:
        now = self.board.database.now()
        moments = [self._requests.moment(entry.request) for entry in self._pending.values()]
        return min([_SLICE, *(max(0.01, moment - now) for moment in moments)])

    def _tell(
        self,
        what: str,
        volunteer: Volunteer,
        request: BoardRequest,
        *,
        seconds: float = 0.0,
        confidence: float = 0.0,
    ) -> None:
        self._notify(
            Event(
                what=what,
                volunteer=volunteer.name,
                request=request.text,
                seconds=seconds,
                confidence=confidence,
            )
        )


def _context(board: Blackboard, request: BoardRequest) -> RunContext:
    """A run's context for a process that knows nothing of the run but its request."""
    split: Any = request.details.get("split")
    public = PublicItem(
        id=request.item or request.id,
        question=request.text,
        split=split if split in get_args(Split) else "user",
    )
    return RunContext([Item(public=public, gold=Gold(None))], board.database, run=request.run or "work")
