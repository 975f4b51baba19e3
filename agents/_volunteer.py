"""Agents that answer requests which nobody sent to them: each judges for itself whether it can help."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from docendo.agents._context import RunContext
from docendo.agents._marked import marked
from docendo.agents._roles import Agent
from docendo.errors import ConfigError
from docendo.memory import BoardRequest, Notes
from docendo.records import JSON, Author, PublicItem

Body: TypeAlias = str | Mapping[str, JSON]
ROLE = "volunteer"


@runtime_checkable
class Volunteer(Protocol):
    """What the board's protocol needs of a volunteer.

    Attributes:
        name: Its name; two processes that run the same volunteer use the same name.
        threshold: It offers to answer if its confidence is at least this.
    """

    name: str
    threshold: float

    @property
    def author(self) -> Author:
        """Who offers and responds."""

    async def can_help(self, request: BoardRequest, context: RunContext) -> float:
        """How confident it is, from 0 to 1, that it can answer."""

    async def answer(self, request: BoardRequest, context: RunContext) -> Body:
        """Answers: a text, or a mapping with `text` and more."""

    def describe(self) -> dict[str, Any]:
        """The volunteer as JSON, for a run's configuration."""


class _Function:
    """A volunteer made of functions."""

    def __init__(
        self, answer: Callable[..., Any], confidence: Callable[..., Any], name: str, threshold: float
    ) -> None:
        self.name, self.threshold = name, _threshold(threshold, name)
        self._answer, self._confidence = answer, confidence

    @property
    def author(self) -> Author:
        return Author(agent=self.name, role=ROLE)

    async def can_help(self, request: BoardRequest, context: RunContext) -> float:
        return float(await _called(self._confidence, request))

    async def answer(self, request: BoardRequest, context: RunContext) -> Body:
        body: Body = await _called(self._answer, request)
        return body

    def describe(self) -> dict[str, Any]:
        return {"class": "function", "name": self.name, "threshold": self.threshold}


def volunteers(
    *, confidence: Callable[[BoardRequest], Any], threshold: float = 0.5, name: str | None = None
) -> Callable[[Callable[[BoardRequest], Any]], Volunteer]:
    """Makes a volunteer of a function that answers a request.

    Both functions get the `BoardRequest`; they may be async. One that is not runs in a thread of its own,
    so it may take its time.

    Args:
        confidence: How sure it is, 0 to 1, that it can answer.
        threshold: From which confidence on it offers.
        name: Its name, by default the function's.

    Example:
        >>> @volunteers(confidence=lambda request: 0.9 if "tern" in request.text else 0.0)
        ... def birds(request):
        ...     return "Terns fly 70,000 km a year."
        >>> birds.name, birds.threshold
        ('birds', 0.5)
    """

    def made(answer: Callable[[BoardRequest], Any]) -> Volunteer:
        return _Function(answer, confidence, name or answer.__name__, threshold)

    return made


class NoteKeeper:
    """A volunteer with private notes that nobody else reads.

    It offers by how well its notes cover the request, or by what a judge finds of the best ones; it answers
    with the best notes, or with what an agent makes of them.

    Args:
        name: Its name.
        notes: Its notes.
        agent: Who answers from the notes, with the prompt fields `{question}` and `{notes}`; None answers
            with the notes themselves.
        judge: Who says how likely "yes" is to the question whether the notes help, with the same fields;
            None goes by the words.
        threshold: From which confidence on it offers; see `calibrate`.
        most: Notes in an answer, at most.

    Example:
        >>> birds = NoteKeeper("birds", ["Terns fly 70,000 km a year.", "Swifts sleep on the wing."])
        >>> birds.notes.coverage("km that terns fly a year") >= birds.threshold
        True
    """

    #: The words of a judge.
    verdicts = ("yes", "no")

    def __init__(
        self,
        name: str,
        notes: Notes | Sequence[str],
        *,
        agent: Agent | None = None,
        judge: Agent | None = None,
        threshold: float = 0.5,
        most: int = 2,
    ) -> None:
        self.name, self.threshold, self.most = name, _threshold(threshold, name), most
        self.notes = notes if isinstance(notes, Notes) else Notes(notes)
        self.agent, self.judge = agent, judge
        if judge is not None:
            judge.engine.capabilities.require(
                frozenset({"score"}), engine=judge.engine.name, by=f"the judge of {name!r}"
            )

    @property
    def author(self) -> Author:
        """Who offers and responds."""
        speaker = self.agent or self.judge
        if speaker is None:
            return Author(agent=self.name, role=ROLE)
        return speaker.author.replace(agent=self.name, role=ROLE)

    async def can_help(self, request: BoardRequest, context: RunContext) -> float:
        """How well the notes cover the request, or the judge's probability of "yes"."""
        found = self.notes.search(request.text, most=self.most)
        if not found:
            return 0.0
        if self.judge is None:
            return self.notes.coverage(request.text)
        item = PublicItem(id=request.item or request.id, question=request.text)
        messages = self.judge.messages(item, notes=marked((self.name, note.text) for note in found))
        totals = [(await context.score(self.judge, messages, word)).total for word in self.verdicts]
        return 1.0 / (1.0 + math.exp(min(700.0, totals[1] - totals[0])))

    async def answer(self, request: BoardRequest, context: RunContext) -> Body:
        """The best notes as they are, or the agent's answer; `notes` says which ones they were."""
        found = self.notes.search(request.text, most=self.most)
        indexes = [note.index for note in found]
        if self.agent is None:
            return {"text": "\n".join(note.text for note in found), "notes": indexes}
        item = PublicItem(id=request.item or request.id, question=request.text)
        messages = self.agent.messages(item, notes=marked((self.name, note.text) for note in found))
        step = int(request.details.get("step", request.seq))
        asked = request.details.get("turn")
        turn = await context.ask(
            self.agent,
            item.id,
            messages,
            node=f"respond/{self.name}",
            step=step,
            parents=[str(asked)] if asked else (),
        )
        return {"text": turn.text, "notes": indexes, "trace": turn.trace}

    def describe(self) -> dict[str, Any]:
        """The volunteer as JSON; of its notes only how many there are."""
        return {
            "class": type(self).__name__,
            "name": self.name,
            "notes": len(self.notes.texts),
            "agent": self.agent.describe() if self.agent else None,
            "judge": self.judge.describe() if self.judge else None,
            "threshold": self.threshold,
            "most": self.most,
        }


def calibrate(confidences: Sequence[float], useful: Sequence[bool]) -> float:
    """Returns the threshold with the best F1 on requests for which it is known who could help.

    Args:
        confidences: A volunteer's confidence in each request, for example of a dev set.
        useful: Whether it could have helped.

    Returns:
        A threshold half-way between two confidences; of equally good ones the highest. 1 if it could
        never have helped.

    Example:
        >>> round(calibrate([0.9, 0.8, 0.3, 0.1], [True, True, False, False]), 2)
        0.55
    """
    if len(confidences) != len(useful) or not confidences:
        raise ConfigError(
            f"there are {len(confidences)} confidences and {len(useful)} labels", expected="as many, some"
        )
    if not any(useful):
        return 1.0
    levels = sorted(set(confidences), reverse=True)
    best, chosen = -1.0, 1.0
    for place, level in enumerate(levels):
        taken = [label for confidence, label in zip(confidences, useful, strict=True) if confidence >= level]
        f1 = 2 * sum(taken) / (len(taken) + sum(useful))
        if f1 > best:
            below = levels[place + 1] if place + 1 < len(levels) else 0.0
            best, chosen = f1, (level + below) / 2
    return chosen


async def _called(function: Callable[..., Any], request: BoardRequest) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(request)
    value = await asyncio.to_thread(function, request)
    return await value if isinstance(value, Awaitable) else value


def _threshold(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(f"the threshold of {name!r} is {value}", expected="0 to 1")
    return value
