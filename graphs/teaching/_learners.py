"""Learners and tutors of planned tutoring: agents, functions, or objects of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from docendo.agents import Agent, RunContext
from docendo.checks import short
from docendo.errors import ConfigError, DataError
from docendo.graphs.teaching._exemplars import with_exemplars
from docendo.records import Author, Example, PublicItem, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson(Record):
    """A lesson as a learner has had it.

    Attributes:
        skill: What it was about.
        text: What the tutor said.
        note: What the learner wrote down of it; empty of learners that take no notes.
    """

    skill: str
    text: str
    note: str = ""


class Said(NamedTuple):
    """A text and the id of its trace, which is empty where no model wrote it."""

    text: str
    trace: str = ""


@runtime_checkable
class Learner(Protocol):
    """Who learns. All that it knows is its item and its lessons, so that a resumed run finds it as it was."""

    @property
    def author(self) -> Author:
        """Who answers, as stamped on posts."""

    async def study(
        self, lesson: Lesson, lessons: Sequence[Lesson], context: RunContext, *, item: PublicItem, step: int
    ) -> Said:
        """What it writes down of a lesson, having had others."""

    async def answer(
        self,
        question: PublicItem,
        lessons: Sequence[Lesson],
        context: RunContext,
        *,
        item: PublicItem,
        node: str,
        step: int,
    ) -> Said:
        """What it answers after these lessons."""

    def describe(self) -> dict[str, Any]:
        """The learner as JSON, for a run's configuration."""


#: A learner as a function of the question, the lessons so far and the learner's item.
Answering = Callable[[PublicItem, Sequence[Lesson], PublicItem], str]
#: What a tutor says of each skill, as texts or as a function of the skill and the learner's item.
Saying = Mapping[str, str] | Callable[[str, PublicItem], str]


class _WithoutNotes:
    """A learner whose lessons are all that it keeps of them."""

    __slots__ = ()

    async def study(
        self, lesson: Lesson, lessons: Sequence[Lesson], context: RunContext, *, item: PublicItem, step: int
    ) -> Said:
        """It takes no notes."""
        return Said("")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLearner(_WithoutNotes):
    """A model that learns in its context: its lessons are the last worked examples in its prompt."""

    agent: Agent

    @property
    def author(self) -> Author:
        """The agent."""
        return self.agent.author

    async def answer(
        self,
        question: PublicItem,
        lessons: Sequence[Lesson],
        context: RunContext,
        *,
        item: PublicItem,
        node: str,
        step: int,
    ) -> Said:
        """Answers with its lessons in view."""
        shown = (Example(question=one.skill, answer=one.text, item=item.id) for one in lessons)
        taught = with_exemplars(self.agent, shown)
        turn = await context.ask(self.agent, item.id, taught.messages(question), node=node, step=step)
        return Said(turn.text, turn.trace)

    def describe(self) -> dict[str, Any]:
        """The agent as JSON."""
        return self.agent.describe()


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionLearner(_WithoutNotes):
    """A learner that a function plays, as in simulations."""

    function: Answering

    @property
    def author(self) -> Author:
        """No model."""
        return Author(agent="learner", role="student")

    async def answer(
        self,
        question: PublicItem,
        lessons: Sequence[Lesson],
        context: RunContext,
        *,
        item: PublicItem,
        node: str,
        step: int,
    ) -> Said:
        """What the function says.

        Raises:
            DataError: if it says no text.
        """
        text: Any = self.function(question, lessons, item)
        if not isinstance(text, str):
            raise DataError(f"the learner answered {short(text)}", expected="text")
        return Said(text)

    def describe(self) -> dict[str, Any]:
        """The function's name."""
        return {"class": "function", "name": _name(self.function)}


def as_learner(learner: object) -> Learner:
    """Makes a learner of an agent or a function.

    Raises:
        ConfigError: if it is neither, nor a `Learner`.
    """
    if isinstance(learner, Agent):
        return PromptLearner(agent=learner)
    if isinstance(learner, Learner):
        return learner
    if callable(learner):
        return FunctionLearner(function=learner)
    raise ConfigError(
        f"learner is {short(learner)}",
        expected="an agent, a function of question, lessons and item, or a Learner",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TutorDesk:
    """Who gives the lessons, whichever kind it is."""

    tutor: Agent | Saying

    @property
    def author(self) -> Author:
        """Who speaks; of texts and functions no model."""
        return self.tutor.author if isinstance(self.tutor, Agent) else Author(agent="tutor", role="tutor")

    async def lesson(
        self, skill: str, known: Sequence[str], context: RunContext, *, item: PublicItem, step: int
    ) -> Said:
        """The lesson about a skill. A tutor sees no question, so it cannot give one away.

        Raises:
            DataError: if there is no text of the skill.
        """
        if isinstance(self.tutor, Agent):
            messages = self.tutor.messages(item, skill=skill, known=", ".join(known) or "nothing")
            turn = await context.ask(self.tutor, item.id, messages, node="teach", step=step)
            return Said(turn.text, turn.trace)
        text: Any = self.tutor(skill, item) if callable(self.tutor) else self.tutor.get(skill)
        if not isinstance(text, str):
            raise DataError(f"the tutor said {short(text)} of {skill!r}", expected="the text of a lesson")
        return Said(text)

    def describe(self) -> dict[str, Any]:
        """The tutor as JSON."""
        if isinstance(self.tutor, Agent):
            return self.tutor.describe()
        if callable(self.tutor):
            return {"class": "function", "name": _name(self.tutor)}
        return {"class": "texts", "lessons": dict(self.tutor)}


def as_tutor(tutor: object) -> TutorDesk:
    """Takes an agent, texts by skill, or a function of skill and item.

    Raises:
        ConfigError: if it is none of these.
    """
    if isinstance(tutor, (Agent, Mapping)) or callable(tutor):
        return TutorDesk(tutor=tutor)
    raise ConfigError(
        f"tutor is {short(tutor)}", expected="an agent, texts by skill, or a function of skill and item"
    )


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
