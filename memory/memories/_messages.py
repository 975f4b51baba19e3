"""Structured messages: what one agent tells others, in fixed fields, and only when it changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from docendo.errors import DataError
from docendo.hashing import digest
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.board._fold import Fold
from docendo.memory.board._posts import Post
from docendo.memory.memories._graph_state import Status
from docendo.memory.storage import _text
from docendo.records import JSON, Author, Record

# Fields that matter to everybody; of the others only what names something that the receivers need.
_ALWAYS = ("goal", "task", "request", "commitment")
_THINGS = ("has", "needs")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredMessage(Record):
    """What an agent says about itself.

    Attributes:
        sender: Who speaks: stamped by the calling code.
        at: When it was so, in the clock that the agents share.
        goal: What it is after.
        task: What it does now.
        has: Things that it has, by amount.
        needs: Things that it needs, by amount.
        location: Where it is.
        found: Things that it has found, each with the place.
        request: What it asks of the others.
        commitment: What it promises to do.

    Example:
        >>> one = StructuredMessage(sender="ann", at=3, task="chop wood", found={"iron": "cave"})
        >>> one.text
        'ann: task chop wood; found iron cave'
    """

    sender: str
    at: float = 0.0
    goal: str = ""
    task: str = ""
    has: Mapping[str, int] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)
    location: str = ""
    found: Mapping[str, str] = field(default_factory=dict)
    request: str = ""
    commitment: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a message from a post's body; what else is in there is left alone."""
        try:
            return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})
        except TypeError:
            raise DataError("the message has no sender", expected="a structured message") from None

    @property
    def text(self) -> str:
        """The message as it goes into a prompt, and as its length is counted."""
        parts = []
        for name in ("goal", "task", *_THINGS, "location", "found", "request", "commitment"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                value = ", ".join(f"{thing} {amount}" for thing, amount in sorted(value.items()))
            if value:
                parts.append(f"{name} {value}")
        return f"{self.sender}: {'; '.join(parts)}"

    def since(self, before: StructuredMessage | None, *, relevant: Collection[str] | None = None) -> Self:
        """What is new compared with an earlier message; what is not is left empty.

        Args:
            before: What was said last.
            relevant: Things that the receivers need; None for all. Of others nothing is said.

        Example:
            >>> old = StructuredMessage(sender="ann", task="chop", has={"wood": 1})
            >>> new = StructuredMessage(sender="ann", at=1, task="chop", has={"wood": 2})
            >>> new.since(old).text
            'ann: has wood 2'
        """
        empty = type(self)(sender=self.sender)
        last = before or empty
        changes: dict[str, Any] = {}
        for name in (*_ALWAYS, "location"):
            new = getattr(self, name)
            changes[name] = new if new != getattr(last, name) else ""
        for name in (*_THINGS, "found"):
            new, old = getattr(self, name), getattr(last, name)
            changes[name] = {
                thing: value
                for thing, value in new.items()
                if old.get(thing) != value and (relevant is None or thing in relevant)
            }
            if name in _THINGS:  # what is not named any more is used up
                gone = {thing: 0 for thing, amount in old.items() if amount and thing not in new}
                changes[name].update({thing: 0 for thing in gone if relevant is None or thing in relevant})
        if relevant is not None and not any(changes[name] for name in (*_ALWAYS, *_THINGS, "found")):
            changes["location"] = ""
        return empty.replace(at=self.at, **changes)

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        names = (*_ALWAYS, *_THINGS, "location", "found")
        return not any(getattr(self, name) for name in names)


class MessageBoard:
    """Where agents leave structured messages for each other.

    A message is posted only if something has changed since the sender's last one, and then only with what
    has changed. What was said last is read from the board, so a restarted agent does not repeat itself.

    Example:
        >>> from docendo.memory import Blackboard
        >>> board = Blackboard.open(":memory:")
        >>> ann = Author(agent="ann", role="student")
        >>> said = MessageBoard(board)
        >>> first = said.say(StructuredMessage(sender="ann", at=1, task="chop"), author=ann)
        >>> said.say(StructuredMessage(sender="ann", at=2, task="chop"), author=ann) is None
        True
        >>> [post.body["task"] for post in said.heard("bob")]
        ['chop']
        >>> board.close()
    """

    def __init__(self, board: Blackboard, *, channel: str = "main") -> None:
        self.board = board
        self.channel = _text.name(channel, "the channel")
        self._fold: Fold[dict[str, StructuredMessage]] = Fold(
            board, channel=channel, kinds=("message",), start=dict, step=_hear
        )

    def say(
        self, message: StructuredMessage, *, author: Author, relevant: Collection[str] | None = None
    ) -> Post | None:
        """Posts what is new, or nothing.

        Args:
            message: All that the sender has to say now.
            author: The sender.
            relevant: Things that the receivers need; None for all.
        """
        if message.sender != author.agent:
            raise DataError(
                f"the message's sender is {message.sender!r}", expected=f"its author, {author.agent!r}"
            )
        news = message.since(self._fold().get(message.sender), relevant=relevant)
        if news.empty:
            return None
        body: dict[str, JSON] = {
            name: value for name, value in news.to_json().items() if value not in ("", {})
        }
        return self.board.post(
            "message",
            {**body, "at": news.at, "text": news.text},
            author=author,
            key=f"{self.channel}/message/{digest(body)[:24]}",
            channel=self.channel,
        )

    def heard(self, receiver: str, *, after: int = 0) -> list[Post]:
        """Messages of the others, in order; the last one's `seq` continues the listing."""
        posts = self.board.posts(channel=self.channel, kind="message", after=after)
        return [post for post in posts if post.author.agent != receiver and post.trust != "quarantined"]


def facts(
    message: StructuredMessage,
) -> Iterator[tuple[str, str, Status | None, Mapping[str, JSON]]]:
    """What a receiver can note down: name, text, status (of a plan) and fields of each node."""
    sender = message.sender
    for thing, place in sorted(message.found.items()):
        yield f"found/{thing}", f"{thing} is at {place}", None, {"thing": thing, "place": place}
    for thing, amount in sorted(message.has.items()):
        yield (
            f"has/{sender}/{thing}",
            f"{sender} has {amount} {thing}",
            None,
            {"thing": thing, "amount": amount, "agent": sender},
        )
    for thing, amount in sorted(message.needs.items()):
        yield (
            f"needs/{sender}/{thing}",
            f"{sender} needs {amount} {thing}",
            None,
            {"thing": thing, "amount": amount, "agent": sender},
        )
    if message.location:
        where = message.location
        yield f"where/{sender}", f"{sender} is at {where}", None, {"agent": sender, "place": where}
    for name, status in (("goal", "need"), ("task", "in progress"), ("commitment", "in progress")):
        text = getattr(message, name)
        if text:
            fields = {"agent": sender, name: text}
            yield f"{name}/{sender}", f"{sender}'s {name}: {text}", status, fields  # type: ignore[misc]
    if message.request:
        yield (
            f"request/{sender}",
            f"{sender} asks: {message.request}",
            None,
            {"agent": sender, "request": message.request},
        )


def _hear(last: dict[str, StructuredMessage], post: Post) -> None:
    news = StructuredMessage.from_json(post.body)
    before = last.get(news.sender)
    if before is None:
        last[news.sender] = news
        return
    changes: dict[str, Any] = {"at": news.at}
    for name in (*_ALWAYS, "location"):
        changes[name] = getattr(news, name) or getattr(before, name)
    for name in (*_THINGS, "found"):
        changes[name] = {**getattr(before, name), **getattr(news, name)}
    last[news.sender] = before.replace(**changes)
