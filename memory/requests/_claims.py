"""Who may answer a request: places, leases and fencing tokens, as arithmetic over one JSON value.

The claims of a request are one versioned key. A claim's token is the version that made it, so a worker that
was overtaken holds a lower token than the one that took its place, whatever their clocks say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from docendo.records import Record

#: held: somebody works on it. done: it was answered. lost: the lease ran out and another took the place.
#: released: given back. failed: given back for good.
Standing = Literal["held", "done", "lost", "released", "failed"]
RequestState = Literal["open", "claimed", "answered", "unanswered", "expired"]

#: How often one volunteer may claim one request: a request that kills its worker must not do so for ever.
ATTEMPTS = 3
#: How often a worker may take up a claim of its own that runs: every step of a run may be killed and resumed.
TAKE_UPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Record):
    """When and by how many a request may be claimed; times are those of the database.

    Attributes:
        places: Most volunteers that answer.
        opens: From when it may be claimed; until then offers are gathered.
        yields: Until when only the most confident may claim, or None for always.
        deadline: Until when it may be answered, or None for ever.
    """

    places: int
    opens: float
    yields: float | None
    deadline: float | None

    def past(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Record):
    """A volunteer's last claim to a request: one of `Table.claims`.

    Attributes:
        worker: Who works on it: a worker's name, by default host and process.
        token: Version of the key that made the claim.
        expires: When the lease runs out.
        state: What became of it.
        count: How often this volunteer has claimed it.
        taken_up: How often its worker has taken this claim up again.
        response: Id of the response's post, once it is done.
    """

    worker: str
    token: int
    expires: float
    state: Standing = "held"
    count: int = 1
    taken_up: int = 0
    response: str = ""

    def live(self, now: float) -> bool:
        """Whether its place is taken: it is done, or its lease runs."""
        return self.state == "done" or (self.state == "held" and self.expires > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All claims to one request, by volunteer, and how the request ended.

    Attributes:
        claims: The last claim of each volunteer.
        ended: How the asker closed it, or None.
        responses: Ids of the responses that the asker took.
    """

    claims: Mapping[str, Held] = field(default_factory=dict)
    ended: Literal["answered", "unanswered"] | None = None
    responses: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Self:
        """Reads a key's value; None is a key that was never written."""
        if value is None:
            return cls()
        claims = {name: Held(**held) for name, held in value["claims"].items()}
        return cls(claims=claims, ended=value["ended"], responses=tuple(value["responses"]))

    def to_json(self) -> dict[str, Any]:
        """The key's value."""
        claims = {name: held.to_json() for name, held in self.claims.items()}
        return {"claims": claims, "ended": self.ended, "responses": list(self.responses)}

    def having(self, changed: Mapping[str, Held]) -> Table:
        """A copy with some claims changed."""
        return Table(claims={**self.claims, **changed}, ended=self.ended, responses=self.responses)

    def done(self) -> list[Held]:
        """The claims that were answered in time."""
        return [held for held in self.claims.values() if held.state == "done"]

    def state(self, rules: Rules, now: float) -> RequestState:
        """Where the request stands."""
        if self.ended is not None:
            return self.ended
        if self.done():
            return "answered"
        if rules.past(now):
            return "expired"
        return "claimed" if any(held.live(now) for held in self.claims.values()) else "open"

    def may_still(self, name: str, worker: str, now: float) -> bool:
        """Whether this volunteer may claim, as far as its own earlier claims go."""
        held = self.claims.get(name)
        if held is None:
            return True
        if held.state in ("done", "failed"):
            return False
        # A worker that was started again under its name takes up its own claim at once.
        if held.live(now):
            return held.worker == worker and held.taken_up < TAKE_UPS
        return held.count < ATTEMPTS

    def waiting(self, offers: Sequence[str], now: float) -> list[str]:
        """Those of the volunteers in `offers` that hold no place and may claim one, in the same order."""
        return [
            name
            for name in offers
            if self.may_still(name, "", now) and not (name in self.claims and self.claims[name].live(now))
        ]

    def room(self, rules: Rules, *, name: str, worker: str, now: float) -> int:
        """How many places are free for a volunteer now, its own included; whoever else offered."""
        if self.ended is not None or rules.past(now) or now < rules.opens:
            return 0
        if not self.may_still(name, worker, now):
            return 0
        others = sum(held.live(now) for other, held in self.claims.items() if other != name)
        return max(0, rules.places - others)

    def grant(
        self, rules: Rules, offers: Sequence[str], *, name: str, claim: Held, now: float
    ) -> Table | None:
        """The table with a new claim, or None if it cannot be had now.

        Args:
            rules: The request's rules.
            offers: Names of the volunteers that offered, most confident first.
            name: Who claims.
            claim: The claim; its count is set here.
            now: The database's time.
        """
        free = self.room(rules, name=name, worker=claim.worker, now=now)
        if not free or name not in offers:
            return None
        mine = self.claims.get(name)
        others = {other: held for other, held in self.claims.items() if other != name}
        ranked = rules.yields is None or now < rules.yields
        # Who holds a place already need not be among the first for it.
        if ranked and not (mine and mine.live(now)) and self.waiting(offers, now).index(name) >= free:
            return None
        if mine and mine.state == "held" and mine.live(now):
            # Its own, taken up again by a worker that was killed: what it does next is what it did before.
            # Under a token of its own, so that the one before it, should it live, can end nothing any more.
            return self.having({name: claim.replace(count=mine.count, taken_up=mine.taken_up + 1)})
        claim = claim.replace(count=mine.count + 1 if mine else 1)
        changed = {name: claim}
        kept = {other: held for other, held in others.items() if held.state in ("held", "done")}
        if len(kept) >= rules.places:
            # All places were given out and one lease has run out: its holder's answer is late from now on.
            lost = min((other for other in kept if not kept[other].live(now)), key=lambda o: kept[o].token)
            changed[lost] = kept[lost].replace(state="lost")
        return self.having(changed)

    def settled(self, rules: Rules, offers: Sequence[str], *, now: float, quorum: int | None) -> bool:
        """Whether waiting longer would bring the asker nothing that it asked for."""
        done = len(self.done())
        if self.ended is not None or rules.past(now) or done >= min(quorum or rules.places, rules.places):
            return True
        if quorum is not None or not done or now < rules.opens:
            return False
        if any(held.state == "held" and held.live(now) for held in self.claims.values()):
            return False
        # Who has had its time to claim and did not is not waited for.
        return (rules.yields is not None and now >= rules.yields) or not self.waiting(offers, now)

    def moment(self, rules: Rules, now: float) -> float:
        """When the next thing happens by time alone; infinity if nothing does."""
        held = [claim.expires for claim in self.claims.values() if claim.state == "held"]
        moments = [rules.opens, rules.yields, rules.deadline, *held]
        return min((at for at in moments if at is not None and at > now), default=math.inf)
