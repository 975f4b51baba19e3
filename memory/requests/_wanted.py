"""Requests, claims, responses and outcomes as records, and how they are read from posts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docendo.checks import is_number
from docendo.errors import DataError
from docendo.memory.board._channels import Channel, FieldType
from docendo.memory.board._posts import Post
from docendo.memory.requests._claims import RequestState, Rules
from docendo.records import Author, Record

REQUESTS, OFFERS, RESPONSES = "requests", "offers", "responses"
#: Fields of a request's body that `Requests.ask` writes.
FIELDS = ("text", "places", "window", "patience", "deadline")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRequest(Record):
    """A request as it stands on the board.

    Attributes:
        id: Id of its post.
        seq: Position on the board.
        text: What is needed.
        author: Who asks.
        rules: When and by how many it may be claimed.
        details: The other fields of its body.
        run: Run id, or empty.
        item: Item id, or empty.
    """

    id: str
    seq: int
    text: str
    author: Author
    rules: Rules
    details: Mapping[str, Any]
    run: str
    item: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """A place that a volunteer holds: what `renew`, `release` and `respond` ask for.

    Attributes:
        request: Id of the request.
        volunteer: Name of the volunteer.
        worker: Who works on it.
        token: Fencing token: higher for every later claim to the request.
        attempt: Which claim of this volunteer to the request it is, from 1.
        expires: When the lease runs out, by the database's clock.
        offer: Id of the volunteer's offer.
    """

    request: str
    volunteer: str
    worker: str
    token: int
    attempt: int
    expires: float
    offer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Record):
    """A response.

    Attributes:
        post: Id of its post.
        volunteer: Who responded.
        text: What it says.
        confidence: The confidence of its offer.
        late: Whether its place was taken over, or the request over, before it came; then it is not used.
        details: The other fields of its body.
    """

    post: str
    volunteer: str
    text: str
    confidence: float
    late: bool
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Record):
    """What became of a request.

    Attributes:
        request: Id of the request.
        state: Where it stands.
        responses: Responses in time, most confident first; quarantined ones are left out.
        volunteers: How many offered.
        claims: How many of them have had a place.
    """

    request: str
    state: RequestState
    responses: tuple[Response, ...]
    volunteers: int
    claims: int


def channels(askers: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of requests: the roles in `askers` ask, and alone read offers and responses."""
    roles = tuple(askers)
    fields: dict[str, FieldType] = {"text": "string", "late": "boolean"}
    return (
        Channel(name=REQUESTS, kinds=("request",), fields={"text": "string"}, writers=roles),
        Channel(name=OFFERS, kinds=("offer",), fields={"confidence": "number"}, readers=roles),
        Channel(name=RESPONSES, kinds=("response",), fields=fields, readers=roles),
    )


def read_request(post: Post) -> BoardRequest:
    """Reads a request from its post.

    Raises:
        DataError: if it was not made by `Requests.ask`.
    """
    body = post.body
    for name in FIELDS[1:]:
        value = body.get(name)
        if not (is_number(value) or (value is None and name in body and name in ("patience", "deadline"))):
            raise DataError(
                f"request {post.id} has the {name} {value!r}", expected="a number", remedy="use Requests.ask"
            )
    # The body holds spans and no times, so that a run that is repeated posts the same.
    opens = post.created + body["window"]
    rules = Rules(
        places=body["places"],
        opens=opens,
        yields=None if body["patience"] is None else opens + body["patience"],
        deadline=None if body["deadline"] is None else post.created + body["deadline"],
    )
    return BoardRequest(
        id=post.id,
        seq=post.seq,
        text=body["text"],
        author=post.author,
        rules=rules,
        details={name: value for name, value in body.items() if name not in FIELDS},
        run=post.run,
        item=post.item,
    )


def read_response(post: Post, offer: Post) -> Response:
    """Reads a response from its post and that of the offer."""
    body = post.body
    return Response(
        post=post.id,
        volunteer=post.author.agent,
        text=body["text"],
        confidence=float(offer.body["confidence"]),
        late=body["late"],
        details={name: value for name, value in body.items() if name not in ("text", "late")},
    )
