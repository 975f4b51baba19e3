"""What builders work on: traces that may be learnt from, drafts of rows, and how they are grouped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from docendo.distill.datasets._messages import messages_of
from docendo.errors import ConfigError
from docendo.hashing import digest
from docendo.records import Message, PublicItem, Trace


class Prompter(Protocol):
    """What a builder needs of a student: the prompt it is asked with. Every `Agent` has it."""

    def messages(self, item: PublicItem) -> tuple[Message, ...]:
        """Returns the chat messages for `item`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trace that may go into a row.

    Attributes:
        trace: The trace.
        prompt: What the student is asked: its own prompt, or without a student that of the trace.
        answer: What was said, without surrounding space.
        value: The reward that builders go by; 0 where none is asked for.
    """

    trace: Trace
    prompt: list[dict[str, Any]]
    answer: str
    value: float = 0.0

    @property
    def promoted(self) -> bool:
        """Whether it may be learnt as good: of a run without a board nothing is known."""
        return self.trace.trust in ("", "verified")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row before it is known whether it is one too many.

    Attributes:
        fields: What the row teaches.
        item: The item it belongs to.
        sources: Ids of what it was made of, of what is counted.
        origin: The provenance columns beside `item`.
        bucket: Rows are limited per item and bucket.
    """

    fields: Mapping[str, Any]
    item: str
    sources: tuple[str, ...]
    origin: Mapping[str, Any]
    bucket: str = ""


def spoken(trace: Trace) -> str | None:
    """Why what a trace says cannot be learnt, or None."""
    if not trace.completion.strip():
        return "empty"
    # It would teach to stop mid-sentence.
    return None if trace.finish_reason == "stop" else "cut off"


def judged(reward: str) -> Callable[[Trace], str | None]:
    """Why a trace cannot be judged good or bad by a reward, or None."""

    def against(trace: Trace) -> str | None:
        if not math.isfinite(trace.rewards.get(reward, math.nan)):
            return f"without the reward {reward}"
        return spoken(trace)

    return against


def check_threshold(name: str, value: float) -> None:
    """Refuses a threshold, margin or ratio that is no finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}", expected="a finite number")


def grouped(candidates: Iterable[Candidate], key: Callable[[Candidate], Any]) -> list[list[Candidate]]:
    """Candidates of equal key, in the order in which keys come up."""
    found: dict[Any, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(key(candidate), []).append(candidate)
    return list(found.values())


def by_item(drafts: Iterable[Draft]) -> list[list[Draft]]:
    """Drafts of one item each, in the order in which items come up."""
    found: dict[str, list[Draft]] = {}
    for draft in drafts:
        found.setdefault(draft.item, []).append(draft)
    return list(found.values())


def name_of(function: object) -> str:
    """What a function is called in a manifest."""
    return str(getattr(function, "__qualname__", type(function).__name__))


def sibling_key(candidate: Candidate) -> tuple[Any, ...]:
    """Equal for answers to one prompt, on one item, under the same turns."""
    trace = candidate.trace
    return trace.item, tuple(sorted(trace.parents)), digest(messages_of(trace.messages), candidate.prompt)


def origin(traces: Iterable[Trace]) -> dict[str, Any]:
    """The provenance columns of a row that was made of several traces."""
    given = list(traces)
    posts = dict.fromkeys(post for trace in given for post in trace.posts)
    return {"traces": list(dict.fromkeys(trace.id for trace in given)), "posts": list(posts)}


def place(candidate: Candidate) -> tuple[Any, ...]:
    """Where a candidate stands, in whatever order traces were given."""
    trace = candidate.trace
    return trace.run, trace.node, trace.step, trace.sample, trace.id


def draft_of(one: Candidate, fields: Mapping[str, Any], *, bucket: str = "") -> Draft:
    """A row of one trace."""
    return Draft(
        fields=fields,
        item=one.trace.item,
        sources=(one.trace.id,),
        origin=origin([one.trace]),
        bucket=bucket,
    )
