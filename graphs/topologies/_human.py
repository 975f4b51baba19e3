"""A person in a graph, asked with LangGraph's `interrupt`: a teacher who answers, a verifier who judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.types import interrupt

from docendo.agents import RunContext, Verdict
from docendo.errors import ConfigError, DataError
from docendo.hashing import digest
from docendo.records import Author, Item, Message, Trace

#: What a person is asked, as JSON: what it is about, and fields that are to be shown.
Question = Mapping[str, Any]
_YES, _NO = ("yes", "y", "true", "right"), ("no", "n", "false", "wrong")


class Human:
    """A person who is asked while a graph runs.

    Without a policy the graph stops where the person is asked: the value of its interrupt is the question,
    and `graph.invoke(Command(resume=reply), ...)` goes on. That needs a checkpointer, and one item at a time.
    What models have said until then is in the journal and is not generated again. With a policy a function
    replies at once, in tests or where the replies are known.

    As a verifier (`tutoring(verifier=Human(role="verifier"))` and so on) it is asked to judge an answer: a
    right one is verified and can be learnt from. It cannot check hints for leaks.

    Args:
        name: Its name in records.
        role: "teacher" or "verifier", or one of your own.
        policy: Called with the question; returns the reply. None interrupts the graph.

    Example:
        >>> from docendo.evals import make_item
        >>> item = make_item("2 + 2?", 4)
        >>> judge = Human(role="verifier", policy=lambda question: question["answer"] == "4")
        >>> import asyncio
        >>> asyncio.run(judge.grade(RunContext.in_memory([item]), item.id, "4")).correct
        True
    """

    #: A person is not asked whether a hint states the answer.
    sees_gold = False

    def __init__(
        self, *, name: str = "human", role: str = "teacher", policy: Callable[[Question], Any] | None = None
    ) -> None:
        self.name, self.role, self.policy = name, role, policy

    @property
    def author(self) -> Author:
        """Who speaks, as stamped on posts and traces: no model."""
        return Author(agent=self.name, role=self.role)

    def ask(self, asked: str, **fields: Any) -> Any:
        """Asks once and returns the reply.

        Args:
            asked: What for, such as "verdict" or "advice".
            **fields: What the person needs to see, as JSON values.
        """
        question = {"asked": asked, "of": self.name, **fields}
        return interrupt(question) if self.policy is None else self.policy(question)

    async def grade(self, context: RunContext, item: str, text: str) -> Verdict:
        """Asks whether an answer is right; the reply is yes or no, or True or False.

        Raises:
            DataError: if the reply is neither.
        """
        reply = self.ask("verdict", item=item, question=context.public(item).question, answer=text)
        said = str(reply).strip().casefold()
        if said not in (*_YES, *_NO):
            raise DataError(
                f"{self.name} replied {reply!r} to an answer of item {item}", expected="yes or no"
            )
        return Verdict(correct=said in _YES, value=float(said in _YES))

    def leaks(self, item: Item, text: str) -> bool:
        """A person is not asked whether a hint states the answer.

        Raises:
            ConfigError: always; graphs that need this check ask `sees_gold` when they are built.
        """
        raise ConfigError(
            "a person is not asked about leaks", remedy="use Verifier(scorer) where hints are given"
        )

    def told(
        self,
        context: RunContext,
        item: str,
        reply: str,
        *,
        messages: Sequence[Message],
        node: str,
        step: int = 0,
        parents: Sequence[str] = (),
    ) -> str:
        """Stores a reply as a turn, as those of models are; returns its id.

        Args:
            context: The run.
            item: Id of the item it is about.
            reply: What the person said.
            messages: The prompt that a model would have to answer like that.
            node: Name of the graph's node.
            step: Ordinal of this turn within run, item and node.
            parents: Ids of the turns it answers to.
        """
        turn = Trace(
            id=digest(context.run, item, node, step, 0)[:32],
            run=context.run,
            item=item,
            split=context.public(item).split,
            author=self.author,
            messages=tuple(messages),
            completion=reply,
            parents=tuple(parents),
            graph=context.graph,
            node=node,
            step=step,
        )
        context.traces.add([turn])
        return turn.id

    def describe(self) -> dict[str, Any]:
        """The person as JSON, for a run's configuration."""
        return {
            "class": type(self).__name__,
            "name": self.name,
            "role": self.role,
            "asked": "by interrupts" if self.policy is None else "by a policy",
        }
