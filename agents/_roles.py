"""The roles: an agent is an engine, an adapter, a prompt and decoding settings under a name.

Agents see `item.public` alone. Verifiers that score exactly are the only ones that are handed the whole
item, and even they pass it on to a `Scorer`, which alone can open the gold.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Self

from docendo.agents._protocol import EngineProtocol
from docendo.checks import is_number
from docendo.errors import ConfigError
from docendo.hashing import digest
from docendo.quoting import neutral, quoted, special_tokens
from docendo.records import (
    Author,
    Example,
    Feature,
    Item,
    Message,
    Origin,
    PublicItem,
    Record,
    Request,
    SamplingParams,
)
from docendo.scoring import Scorer, blaming, scored

if TYPE_CHECKING:
    from docendo.agents._context import RunContext


class Agent:
    """A role bound to an engine, an adapter, a prompt and decoding settings.

    Build one with a prompt, or subclass it and override `messages`.

    Args:
        engine: What runs the model.
        role: Its role, such as "critic"; subclasses bring their own.
        name: Its name in records, by default its role.
        system: System message, or None for the class's own; an empty string sends none.
        prompt: Template of the user message; `{question}` and the fields given to `messages` are filled in.
        adapter: Name of an adapter loaded in the engine, or None for the base model.
        sampling: Decoding settings.
        examples: Worked examples shown before the question, from training items.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> critic = Agent(ScriptedEngine(["too short"]), role="critic", prompt="Criticise: {answer}")
        >>> critic.reply(PublicItem(id="1", question="?"), answer="42")
        'too short'
    """

    role = "agent"
    system = ""
    prompt = "{question}"
    sampling = SamplingParams()
    #: What the engine must offer beyond what the decoding settings ask for.
    needs: ClassVar[frozenset[Feature]] = frozenset()

    def __init__(
        self,
        engine: EngineProtocol,
        *,
        role: str | None = None,
        name: str | None = None,
        system: str | None = None,
        prompt: str | None = None,
        adapter: str | None = None,
        sampling: SamplingParams | None = None,
        examples: Iterable[Example] = (),
    ) -> None:
        self.engine = engine
        self.role = role or type(self).role
        self.name = name or self.role
        self.system = type(self).system if system is None else system
        self.prompt = type(self).prompt if prompt is None else prompt
        self.adapter = adapter
        self.sampling = sampling or type(self).sampling
        self.examples = tuple(examples)
        self._check()

    def _check(self) -> None:
        """Refuses an engine that lacks what this agent needs, before any graph runs."""
        adapters: frozenset[Feature] = frozenset({"adapters"} if self.adapter else ())
        needs = type(self).needs | self.sampling.needs() | adapters
        self.engine.capabilities.require(needs, engine=self.engine.name, by=f"agent {self.name!r}")
        self.engine.adapter_hash(self.adapter)

    def messages(self, item: PublicItem, **fields: Any) -> tuple[Message, ...]:
        """The prompt for an item: system message, examples as earlier turns, then the user message.

        Raises:
            ConfigError: if the template names a field that is not given.
        """
        turns: list[Message] = []
        if self.system:
            turns.append({"role": "system", "content": self.system})
        for example in self.examples:
            turns.append({"role": "user", "content": self._fill(example.question, fields)})
            turns.append({"role": "assistant", "content": example.answer})
        turns.append({"role": "user", "content": self._fill(item.question, fields)})
        return tuple(turns)

    def _neutral(self, text: str) -> str:
        return neutral(text, tokens=special_tokens(self.engine))

    def _quoted(self, text: str) -> str:
        return quoted(text, tokens=special_tokens(self.engine))

    def _fill(self, question: str, fields: Mapping[str, Any]) -> str:
        # Fields hold what others said.
        said = {name: self._neutral(f) if isinstance(f, str) else f for name, f in fields.items()}
        try:
            return self.prompt.format_map({"question": question, **said})
        except KeyError as error:
            raise ConfigError(
                f"the prompt of {self.name!r} names the field {error.args[0]!r}, which was not given",
                remedy=f"pass {error.args[0]}=... to messages()",
            ) from None
        except (ValueError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"the prompt of {self.name!r} cannot be filled in: {error}",
                expected="fields such as {question}, and {{ }} for braces that are meant",
            ) from None

    def request(self, item: PublicItem, **fields: Any) -> Request:
        """The engine request for an item."""
        return Request(
            prompt=self.messages(item, **fields),
            sampling=self.sampling,
            adapter=self.adapter,
            origin=Origin(role=self.role, agent=self.name, item=item.id),
        )

    def reply(self, item: PublicItem, **fields: Any) -> str:
        """Asks about one item and waits for the first sample's text. Outside of runs; nothing is stored."""
        return self.engine.generate(self.request(item, **fields)).text

    @property
    def author(self) -> Author:
        """Who speaks, as stamped on posts and traces."""
        return Author(
            agent=self.name,
            role=self.role,
            model=self.engine.fingerprint,
            adapter=self.engine.adapter_hash(self.adapter),
        )

    def with_adapter(self, adapter: str | None) -> Self:
        """A copy that speaks through another adapter."""
        return self._copy(adapter=adapter)

    def with_sampling(self, **changes: Any) -> Self:
        """A copy with other decoding settings, such as `with_sampling(n=8, temperature=0.8)`."""
        return self._copy(sampling=self.sampling.replace(**changes))

    def with_examples(self, *examples: Example) -> Self:
        """A copy that is shown these worked examples instead of its own."""
        return self._copy(examples=examples)

    def _copy(self, **changes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changes)
        other._check()
        return other

    def describe(self) -> dict[str, Any]:
        """The agent as JSON, for a run's configuration: a resumed run must have the same agents.

        A model is its fingerprint; of a folder only the last name is told: it may be named from elsewhere.
        """
        return {
            "class": type(self).__name__,
            "name": self.name,
            "role": self.role,
            "model": PurePath(self.engine.name).name,
            "fingerprint": self.engine.fingerprint,
            "adapter": self.engine.adapter_hash(self.adapter),
            "system": self.system,
            "prompt": self.prompt,
            "sampling": self.sampling.to_json(),
            "examples": digest([e.to_json() for e in self.examples])[:16] if self.examples else None,
        }


class Student(Agent):
    """Answers questions, alone or after hints. The role that learns."""

    role = "student"
    sampling = SamplingParams(max_tokens=96)

    def messages(
        self, item: PublicItem, *, history: Sequence[tuple[str, str]] = (), **fields: Any
    ) -> tuple[Message, ...]:
        """The question, then earlier attempts and the hints they were given, in `history`.

        A hint is another's text, so it is marked as such; both are made neutral (`docendo.quoting`).
        """
        turns = list(super().messages(item, **fields))
        for attempt, hint in history:
            turns.append({"role": "assistant", "content": self._neutral(attempt)})
            turns.append({"role": "user", "content": self._quoted(hint)})
        return tuple(turns)


class Teacher(Agent):
    """Demonstrates: worked examples in the prompt, several samples, of which the verified ones are kept."""

    role = "teacher"
    sampling = SamplingParams(max_tokens=96, temperature=0.8, n=8)


class Tutor(Agent):
    """Reads a wrong attempt and gives a hint.

    A tutor does not know the answer; graphs refuse a hint that states it all the same.
    """

    role = "tutor"
    # What is the same for every item comes first, so that engines compute it once.
    system = (
        "You are a patient tutor. A student's answer is wrong. In one short sentence, say what to check "
        "or try next. Never state the answer."
    )
    prompt = "Question: {question}\nThe student's wrong answer:\n{attempt}"
    sampling = SamplingParams(max_tokens=32, temperature=0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """A verifier's judgement.

    Attributes:
        correct: Whether the answer is accepted.
        value: The verifier's number in [0, 1]: the scorer's value, or a judge's probability of "yes".
        parsed: The answer as read, if the verifier reads one.
        failure: Why the answer could not be judged, or None.
    """

    correct: bool
    value: float
    parsed: str | None = None
    failure: str | None = None


class Verifier:
    """Judges answers with an exact scorer. `ModelVerifier` judges with a model."""

    role = "verifier"
    #: Whether `leaks` can tell that a hint states the answer.
    sees_gold = True

    def __init__(self, scorer: Scorer, *, name: str | None = None) -> None:
        """Wraps a scorer."""
        self.scorer = scorer
        self.name = name or self.role

    @property
    def author(self) -> Author:
        """Who judges, as stamped on verdicts."""
        return Author(agent=self.name, role=self.role)

    async def grade(self, context: RunContext, item: str, text: str) -> Verdict:
        """Judges the text of an answer to the item with this id."""
        return self.check(context.item(item), text)

    def check(self, item: Item, text: str) -> Verdict:
        """Judges outside of a run.

        Raises:
            TaskFailure: if the scorer crashes.
        """
        score = scored(self.scorer, item, text)
        return Verdict(correct=score.correct, value=score.value, parsed=score.parsed, failure=score.failure)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether a text meant for a student gives the answer away."""
        with blaming(self.scorer, item):
            return self.scorer.leaks(item, text)

    def describe(self) -> dict[str, Any]:
        """The verifier as JSON, for a run's configuration."""
        return {"class": type(self).__name__, "name": self.name, "scorer": self.scorer.name}


class ModelVerifier(Agent):
    """Judges with a model: how likely it finds "yes" against "no" as the next word.

    The two verdict words are scored, nothing is generated, so a verdict costs one prefill and cannot be
    malformed. It has no gold, so it cannot check hints for leaks.

    Args:
        engine: What runs the judge.
        threshold: Probability of "yes" from which an answer is accepted.
        **settings: As for `Agent`; the prompt's fields are `{question}` and `{answer}`.
    """

    role = "verifier"
    sees_gold = False
    prompt = (
        "Question: {question}\nProposed answer:\n{answer}\n\nIs the proposed answer correct? Reply yes or no."
    )
    verdicts = ("yes", "no")
    needs = frozenset({"score"})

    def __init__(self, engine: EngineProtocol, *, threshold: float = 0.5, **settings: Any) -> None:
        if not (is_number(threshold) and 0 < threshold < 1):
            raise ConfigError(f"threshold is {threshold!r}", expected="more than 0 and less than 1")
        super().__init__(engine, **settings)
        self.threshold = threshold

    async def grade(self, context: RunContext, item: str, text: str) -> Verdict:
        """Judges the text of an answer to the item with this id."""
        messages = self.messages(context.public(item), answer=self._quoted(text))
        totals = [(await context.score(self, messages, word)).total for word in self.verdicts]
        accepted = 1.0 / (1.0 + math.exp(min(700.0, totals[1] - totals[0])))
        return Verdict(correct=accepted >= self.threshold, value=accepted)

    def leaks(self, item: Item, text: str) -> bool:
        """A judge does not know the answer.

        Raises:
            ConfigError: always; graphs that need this check ask `sees_gold` when they are built.
        """
        raise ConfigError(
            "a model verifier cannot tell a leak", remedy="use Verifier(scorer) where hints are given"
        )

    def describe(self) -> dict[str, Any]:
        """The verifier as JSON, for a run's configuration."""
        return {**super().describe(), "threshold": self.threshold, "verdicts": list(self.verdicts)}
