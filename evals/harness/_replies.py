"""What a subject says to an item, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from docendo.errors import ConfigError, DataError, UserError, blame
from docendo.records import Item, Record, SamplingParams, Trace, Usage

if TYPE_CHECKING:
    from docendo.memory import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Said(Record):
    """One sample: its text, and how sure the subject was of it, in [0, 1], if that is known."""

    text: str
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Record):
    """What came back for one item: its samples, or why there is none.

    Attributes:
        samples: What was said, at least once if there is no failure.
        failure: Why nothing was said, beginning with who is to blame.
        refusal: The error of an item that was refused, such as one too long for the model; never stored.
        choices: Log-likelihood of each choice, if that is how it was asked.
        traces: Ids of the stored turns.
        usage: Tokens of all requests.
        seconds: Compute seconds; of a function, wall seconds.
        flops: Estimated floating-point operations; 0 if unknown.
    """

    samples: tuple[Said, ...] = ()
    failure: str | None = None
    refusal: UserError | None = None
    choices: tuple[float, ...] = ()
    traces: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    flops: float = 0.0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reply:
        """Rebuilds a reply stored by `to_json`."""
        return cls(
            samples=tuple(Said(**said) for said in value["samples"]),
            choices=tuple(value["choices"]),
            traces=tuple(value["traces"]),
            usage=Usage(**value["usage"]),
            seconds=value["seconds"],
            flops=value["flops"],
        )


class Done(Protocol):
    """Told of each reply, on the thread that asks, with the turns that are still to be stored."""

    def __call__(self, item: Item, reply: Reply, turns: Sequence[Trace] = ()) -> None:
        """Takes the reply to an item."""


class Asker(Protocol):
    """Gets the replies of one kind of subject."""

    model: str
    adapter: str | None
    sampling: SamplingParams | None

    def key(self, item: Item) -> str | None:
        """Key of the item's reply in the journal; None if it cannot be resumed."""

    def ask(self, items: Sequence[Item], done: Done, database: Database | None) -> None:
        """Asks all items and reports each reply; `database` is where it stores what it has to."""


def refused(error: Exception) -> Reply:
    """The reply to an item where an error came instead.

    A `ConfigError` or `DataError` may be due to this item alone, such as a prompt that is too long for the
    model. Whether all items are refused is seen at the end.

    Raises:
        UserError: the error itself if it is of another kind, such as a missing adapter.
    """
    if not isinstance(error, UserError):
        return Reply(failure=failure_of(error))
    if not isinstance(error, (ConfigError, DataError)):
        raise error
    return Reply(failure=f"task: {reason_of(error)}", refusal=error)


def failure_of(error: BaseException) -> str:
    """An error as the reason of a failed item; its first word says who is to blame."""
    return f"{blame(error)}: {reason_of(error)}"


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    reason = " ".join(str(error).split())
    return type(error).__name__ + (f": {reason}" if reason else "")
