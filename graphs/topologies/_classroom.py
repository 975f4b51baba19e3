"""A classroom: a controller gives the floor to teacher, assistant, classmates or a person, page by page.

The roles and the controller follow "From MOOC to MAIC" (Yu et al. 2024, arXiv 2409.03512): the controller
sees the state of the class and chooses who speaks next. It chooses among what is allowed, and a decision that
is not ends the lesson, so that no controller can run wild.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext
from docendo.agents._marked import marked
from docendo.checks import check_count
from docendo.errors import ConfigError
from docendo.graphs._nodes import finish, node, require_agents
from docendo.graphs.topologies._human import Human
from docendo.graphs.topologies._members import Member, Said
from docendo.memory import Post
from docendo.records import Message, PublicItem, Record, SamplingParams

#: What a controller may choose beside the names of those who may speak.
NEXT, USER, STOP = "next page", "the person", "end"
#: Messages that speakers and controller see of what was said before.
_RECENT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor(Record):
    """The state of the class, as a controller sees it.

    Attributes:
        item: The lesson.
        page: The page that is being taught.
        left: Pages after it.
        said: What was said last: (name, text).
        spoke: Names of those who spoke on this page, in their order.
        allowed: What may be chosen now: names, `NEXT`, `USER` or `STOP`.
    """

    item: PublicItem
    page: str
    left: int
    said: tuple[Said, ...]
    spoke: tuple[str, ...]
    allowed: tuple[str, ...]


@runtime_checkable
class Controller(Protocol):
    """Who gives the floor."""

    async def choose(self, floor: Floor, context: RunContext) -> str:
        """Who speaks next, or what happens: one of `floor.allowed`."""

    def describe(self) -> dict[str, Any]:
        """The controller as JSON, for a run's configuration."""


class TakeTurns:
    """Everybody speaks once on every page, in the order of the class; then the page is turned.

    Example:
        >>> import asyncio
        >>> floor = Floor(item=PublicItem(id="i", question=""), page="", left=1, said=(), spoke=("ann",),
        ...               allowed=("bob", NEXT, STOP))
        >>> asyncio.run(TakeTurns().choose(floor, None))
        'bob'
    """

    async def choose(self, floor: Floor, context: RunContext | None) -> str:
        """The first who has not spoken on this page; then the next page, and the end."""
        return next(choice for choice in floor.allowed if choice not in floor.spoke)

    def describe(self) -> dict[str, Any]:
        """The controller as JSON."""
        return {"class": type(self).__name__}


class ModelController(Agent):
    """A model that gives the floor: the likeliest of what is allowed, so that no choice can be malformed.

    Choices are compared by their log-probability for each character, because names differ in length.
    """

    role = "controller"
    system = (
        "You lead a lesson: you decide who speaks next, or that the page is turned, or that the lesson ends."
    )
    needs = frozenset({"score"})

    async def choose(self, floor: Floor, context: RunContext) -> str:
        """The likeliest choice; of equally likely ones the first."""
        notes = marked((name, self._neutral(text)) for name, text in floor.said)
        turns = list(super().messages(floor.item))
        asked = f"Page: {floor.page}\n{notes}\nWho is next: {', '.join(floor.allowed)}?"
        turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}\n\n{asked}"}
        scores = [(await context.score(self, turns, choice)).total / len(choice) for choice in floor.allowed]
        return floor.allowed[scores.index(max(scores))]


class ClassroomState(TypedDict, total=False):
    """State of a lesson: ids and small JSON only.

    Attributes:
        item: Item id.
        page: Number of the page, from 0.
        begun: How many messages there were when the page was opened.
        said: Post ids of what was said.
        choices: What the controller chose, one after the other; the last one may be malformed.
        answer: Why the lesson ended: "agenda", "turns", "controller" or "malformed".
    """

    item: str
    page: int
    begun: int
    said: list[str]
    choices: list[str]
    answer: str


class Speaker(Member):
    """One who speaks in class."""

    sampling = SamplingParams(max_tokens=64, temperature=0.8)
    having_heard = "Say what you have to say next, in one or two sentences."
    having_said = having_heard


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and who acts in them."""

    speakers: dict[str, Member]
    teacher: str
    controller: Controller
    agenda: Callable[[PublicItem], Sequence[str]]
    human: Human | None
    turns: int

    async def control(self, state: ClassroomState, context: RunContext) -> dict[str, Any]:
        """The controller chooses among what is allowed, and pages are turned."""
        public, said = context.public(state["item"]), state.get("said", [])
        pages = list(self.agenda(public))
        if not pages:
            raise ConfigError(f"the agenda of item {public.id} is empty", expected="a page at least")
        choices, page, begun = list(state.get("choices", [])), state.get("page", 0), state.get("begun", 0)
        while True:
            if len(said) >= self.turns:
                return self._end(choices, page, begun, "turns")
            posts = [context.board.get(post) for post in said]
            allowed = self._allowed(posts, begun, pages[page + 1 :])
            if len(allowed) == 1 and allowed[0] == self.teacher:  # a page begins: nothing to choose
                chosen = self.teacher
            else:
                floor = Floor(
                    item=public,
                    page=pages[page],
                    left=len(pages) - page - 1,
                    said=tuple((post.author.agent, str(post.body["text"])) for post in posts[-_RECENT:]),
                    spoke=tuple(post.author.agent for post in posts[begun:]),
                    allowed=allowed,
                )
                chosen = await self.controller.choose(floor, context)
            choices.append(chosen)
            if chosen not in allowed:
                return self._end(choices, page, begun, "malformed")
            if chosen == STOP:
                return self._end(choices, page, begun, "controller" if pages[page + 1 :] else "agenda")
            if chosen != NEXT:
                return {"choices": choices, "page": page, "begun": begun}
            page, begun = page + 1, len(said)

    def _allowed(self, posts: Sequence[Post], begun: int, left: Sequence[str]) -> tuple[str, ...]:
        """The teacher opens a page; no role speaks twice in a row, and nobody twice."""
        if len(posts) == begun:
            return (self.teacher,)
        last = posts[-1].author
        may = [name for name, one in self.speakers.items() if name != last.agent and one.role != last.role]
        if self.human is not None and last.agent != self.human.name:
            may.append(USER)
        return (*may, NEXT, STOP) if left else (*may, STOP)

    @staticmethod
    def _end(choices: list[str], page: int, begun: int, why: str) -> dict[str, Any]:
        return {"choices": choices, "page": page, "begun": begun, "answer": why}

    async def speak(self, state: ClassroomState, context: RunContext) -> dict[str, Any]:
        """Who has the floor speaks, having heard what was said last."""
        speaker, item, said = self.speakers[state["choices"][-1]], state["item"], state.get("said", [])
        public = context.public(item)
        heard = [context.board.get(post) for post in said[-_RECENT:]]
        there = [post for post in heard if post.trust != "quarantined"]
        messages = speaker.messages(
            public,
            task=list(self.agenda(public))[state["page"]],
            heard=[(post.author.agent, str(post.body["text"])) for post in there],
        )
        turns = [str(post.body["trace"]) for post in there]
        turn = await context.ask(speaker, item, messages, node="speak", step=len(said), parents=turns)
        post = context.post(
            "message",
            {"text": turn.text, "trace": turn.trace, "page": state["page"]},
            author=speaker.author,
            item=item,
            node="speak",
            step=len(said),
            parents=[post.id for post in there],
            traces=[turn.trace],
        )
        return {"said": [*said, post.id]}

    async def listen(self, state: ClassroomState, context: RunContext) -> dict[str, Any]:
        """The person has the floor."""
        if self.human is None:
            raise ConfigError("the graph was built without a person")
        item, said, public = state["item"], state.get("said", []), context.public(state["item"])
        page = list(self.agenda(public))[state["page"]]
        last = context.board.get(said[-1])
        reply = str(self.human.ask("floor", item=item, page=page, said=str(last.body["text"])))
        prompt: Sequence[Message] = ({"role": "user", "content": str(last.body["text"])},)
        trace = self.human.told(
            context,
            item,
            reply,
            messages=prompt,
            node="listen",
            step=len(said),
            parents=[str(last.body["trace"])],
        )
        post = context.post(
            "message",
            {"text": reply, "trace": trace, "page": state["page"]},
            author=self.human.author,
            item=item,
            node="listen",
            step=len(said),
            parents=[last.id],
            traces=[trace],
        )
        return {"said": [*said, post.id]}

    def after_control(self, state: ClassroomState) -> str:
        """To the end, to the person, or to a speaker."""
        if "answer" in state:
            return END
        return "listen" if state["choices"][-1] == USER else "speak"


def _one_page(item: PublicItem) -> tuple[str, ...]:
    """The question alone."""
    return (item.question,)


def classroom(
    teacher: Member,
    classmates: Sequence[Member],
    *,
    controller: Controller | None = None,
    agenda: Sequence[str] | Callable[[PublicItem], Sequence[str]] = _one_page,
    assistant: Member | None = None,
    human: Human | None = None,
    turns: int = 24,
    **compile_options: Any,
) -> Any:
    """Builds the graph of a lesson.

    The teacher opens every page. Then the controller gives the floor, again and again: to a speaker, to the
    person, to the next page, or to the end. Nobody speaks twice in a row, no role does, and after `turns`
    messages the lesson ends.

    Args:
        teacher: Who opens each page.
        classmates: Others who speak.
        controller: Who gives the floor, such as `ModelController`; None for `TakeTurns()`.
        agenda: The pages, or a function of the item that gives them.
        assistant: One who helps the teacher.
        human: A person who may be given the floor; without a policy the graph stops there.
        turns: Most messages.
        **compile_options: For `StateGraph.compile`; without the person's policy a `checkpointer` is needed.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `ClassroomState`.

    Raises:
        ConfigError: if two have one name, or one that a controller may choose otherwise.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> from docendo.evals import make_item
        >>> engine, item = ScriptedEngine(lambda request: "Well."), make_item("Sums", None)
        >>> speakers = [Speaker(engine, name=name, role=name) for name in ("teacher", "ann")]
        >>> graph = classroom(speakers[0], speakers[1:], agenda=["one", "two"])
        >>> state = graph.invoke({"item": item.id}, context=RunContext.in_memory([item]))
        >>> state["choices"]
        ['teacher', 'ann', 'next page', 'teacher', 'ann', 'end']
    """
    speakers = [teacher, *([assistant] if assistant else []), *classmates]
    require_agents(**{f"speaker {place}": speaker for place, speaker in enumerate(speakers)})
    check_count("turns", turns, 1)
    names = [*(speaker.name for speaker in speakers), *([human.name] if human else []), NEXT, USER, STOP]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"the class is {', '.join(names[:-3])}",
            expected=f"different names, none {NEXT}, {USER} or {STOP}",
        )
    chosen = controller or TakeTurns()
    pages = agenda if callable(agenda) else (lambda item: agenda)
    nodes = _Nodes(
        speakers={speaker.name: speaker for speaker in speakers},
        teacher=teacher.name,
        controller=chosen,
        agenda=pages,
        human=human,
        turns=turns,
    )
    builder = StateGraph(ClassroomState, context_schema=RunContext)
    functions = [nodes.control, nodes.speak, *([nodes.listen] if human else [])]
    for function in functions:
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "control")
    builder.add_conditional_edges("control", nodes.after_control, [END, *(f.__name__ for f in functions[1:])])
    for function in functions[1:]:
        builder.add_edge(function.__name__, "control")
    config = {
        "speakers": [speaker.describe() for speaker in speakers],
        "controller": chosen.describe(),
        "agenda": list(agenda) if not callable(agenda) else getattr(agenda, "__name__", "function"),
        "human": human.describe() if human else None,
        "turns": turns,
    }
    return finish(builder, "classroom", config, **compile_options)
