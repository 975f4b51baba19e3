"""A classroom, a coordinator with a person, and long input, with an engine that plays a script."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from docendo import SamplingParams, Student, Teacher, graphs
from docendo.agents import RunContext, ScriptedEngine, Verifier
from docendo.distill import sft_dataset
from docendo.errors import ConfigError, DataError
from docendo.evals import ExactScorer, item_efforts, make_item
from docendo.graphs.topologies import (
    NEXT,
    STOP,
    USER,
    Coordinator,
    Floor,
    Human,
    Member,
    ModelController,
    Reasoner,
    Seeker,
    Speaker,
    classroom,
    coordinator_worker,
    long_input,
)
from docendo.records import Item, PublicItem, Request

ITEM = Item(
    public=make_item("How far?", 42).public.replace(split="train"), gold=make_item("How far?", 42).gold
)
THREAD = {"configurable": {"thread_id": "t"}}


def invoke(graph: Any, item: Item = ITEM) -> tuple[dict[str, Any], RunContext]:
    context = RunContext.in_memory([item])
    return graph.invoke({"item": item.id}, context=context), context


# A person


def test_a_person_verifies_and_the_graph_goes_on_where_it_stopped() -> None:
    engine, context = ScriptedEngine(["41", "42"]), RunContext.in_memory([ITEM])
    graph = graphs.tutoring(
        student=Student(engine),
        tutor=None,
        teacher=None,
        verifier=Human(role="verifier"),
        checkpointer=InMemorySaver(),
    )
    stopped = graph.invoke({"item": ITEM.id}, THREAD, context=context)
    (asked,) = stopped["__interrupt__"]
    assert asked.value == {
        "asked": "verdict",
        "of": "human",
        "item": ITEM.id,
        "question": "How far?",
        "answer": "41",
    }
    done = graph.invoke(Command(resume="yes"), THREAD, context=context)
    assert done["solved"] is True
    assert len(engine.requests) == 1, "what was said before the interrupt is not generated again"
    rows = sft_dataset(context.traces.find(), student=Student(engine), items=[ITEM], exclude=[], quiet=True)
    assert [row["completion"][0]["content"] for row in rows] == ["41"]


def test_a_persons_verdicts_of_several_samples_are_not_mixed_up() -> None:
    engine, context = ScriptedEngine([["a", "b", "c"]]), RunContext.in_memory([ITEM])
    graph = graphs.demonstrate(
        teacher=Teacher(engine, sampling=SamplingParams(n=3)),
        verifier=Human(role="verifier"),
        keep=3,
        checkpointer=InMemorySaver(),
    )
    stopped = graph.invoke({"item": ITEM.id}, THREAD, context=context)
    for answer, reply in (("a", "no"), ("b", True), ("c", "no")):
        assert stopped["__interrupt__"][0].value["answer"] == answer
        stopped = graph.invoke(Command(resume=reply), THREAD, context=context)
    assert stopped["answer"] == "b"
    assert len(stopped["demonstrations"]) == 1


@pytest.mark.parametrize("reply", ["perhaps", "", None, 2])
def test_a_verdict_is_yes_or_no(reply: Any) -> None:
    graph = graphs.tutoring(
        student=Student(ScriptedEngine(["42"])),
        tutor=None,
        teacher=None,
        verifier=Human(role="verifier", policy=lambda question: reply),
    )
    with pytest.raises(DataError, match="expected yes or no"):
        invoke(graph)


def test_a_person_cannot_check_hints() -> None:
    with pytest.raises(ConfigError, match="not asked about leaks"):
        Human().leaks(ITEM, "42")


# Coordinator and worker


def test_steps_are_done_by_the_worker_and_judgement_is_asked_of_the_person() -> None:
    engine = ScriptedEngine(["DO: add 20 and 22", "42", "ASK: in km?", "ANSWER: 42"])
    graph = coordinator_worker(
        Coordinator(engine),
        Member(engine, name="worker"),
        human=Human(),
        verifier=Verifier(ExactScorer()),
        checkpointer=InMemorySaver(),
    )
    context = RunContext.in_memory([ITEM])
    stopped = graph.invoke({"item": ITEM.id}, THREAD, context=context)
    assert stopped["__interrupt__"][0].value["request"] == "in km?"
    done = graph.invoke(Command(resume="Yes, in km."), THREAD, context=context)
    assert (done["answer"], done["solved"], done["asked"]) == ("42", True, 1)
    assert len(engine.requests) == 4
    assert '<note from="human">Yes, in km.</note>' in engine.requests[-1].prompt[-1]["content"]
    (told,) = context.traces.find(role="teacher")
    assert (told.completion, told.trust, told.rewards) == ("Yes, in km.", "verified", {"verified": 1.0})
    rows = sft_dataset(
        context.traces.find(), student=None, items=[ITEM], exclude=[], role="teacher", quiet=True
    )
    assert "> in km?" in rows[0]["prompt"][-1]["content"]
    assert rows[0]["completion"][0]["content"] == "Yes, in km."
    # The worker hears a step and the coordinator its result; the person likewise.
    (effort,) = item_efforts(context.traces.find(), {ITEM.id: True})
    assert (effort.turns, effort.messages) == (5, 4)


def test_advice_that_led_to_a_wrong_answer_is_not_learnt_from() -> None:
    engine = ScriptedEngine(["ASK: what is it?", "ANSWER: 41"])
    human = Human(policy=lambda question: "41")
    graph = coordinator_worker(Coordinator(engine), str, human=human, verifier=Verifier(ExactScorer()))
    state, context = invoke(graph)
    assert state["solved"] is False
    (told,) = context.traces.find(role="teacher")
    assert (told.trust, told.rewards) == ("unverified", {"verified": 0.0})


def test_a_tool_is_a_worker_and_nobody_is_asked_beyond_the_limit() -> None:
    engine = ScriptedEngine(["DO: x", "ASK: a", "ASK: b", "DO: more"])
    asked: list[str] = []

    def policy(question: Any) -> str:
        asked.append(question["request"])
        return "fine"

    graph = coordinator_worker(
        Coordinator(engine), str.upper, human=Human(policy=policy), steps=3, questions=1
    )
    state, context = invoke(graph)
    assert asked == ["a"]
    assert state["answer"] == "more", "in the last round what it writes is the answer"
    assert [post.body["text"] for post in context.board.posts(agent="worker")] == ["X", "B"]
    assert engine.requests[-1].prompt[-1]["content"].endswith(Coordinator.last_round)


# A classroom


def lesson(script: Any, controller: Any = None, **options: Any) -> tuple[dict[str, Any], RunContext]:
    engine = ScriptedEngine(script)
    teacher = Speaker(engine, name="teacher", role="teacher")
    mates = [Speaker(engine, name=name, role=role) for name, role in (("ann", "clown"), ("bob", "thinker"))]
    return invoke(classroom(teacher, mates, controller=controller, **options))


class Scripted:
    """A controller that plays a script and remembers what it saw."""

    def __init__(self, *choices: str) -> None:
        self.choices, self.floors = list(choices), list[Floor]()

    async def choose(self, floor: Floor, context: RunContext) -> str:
        self.floors.append(floor)
        return self.choices[len(self.floors) - 1]

    def describe(self) -> dict[str, Any]:
        return {"class": "scripted"}


def names(context: RunContext) -> list[str]:
    return [post.author.agent for post in context.board.posts(kind="message")]


def test_everybody_speaks_on_every_page_and_hears_the_others() -> None:
    state, context = lesson(lambda request: f"by {request.origin.agent}", agenda=["one", "two"])
    assert names(context) == ["teacher", "ann", "bob"] * 2
    assert state["answer"] == "agenda"
    last = context.traces.find(role="thinker")[-1]
    assert len(last.parents) == 5
    assert "> two" in last.messages[0]["content"]
    assert '<note from="ann">by ann</note>' in last.messages[0]["content"]


def test_no_role_speaks_twice_in_a_row_and_a_page_begins_with_the_teacher() -> None:
    controller = Scripted("ann", NEXT, STOP)
    state, context = lesson(lambda request: "so", controller, agenda=["one", "two"])
    assert names(context) == ["teacher", "ann", "teacher"]
    assert [floor.allowed for floor in controller.floors] == [
        ("ann", "bob", NEXT, STOP),
        ("teacher", "bob", NEXT, STOP),
        ("ann", "bob", STOP),
    ]
    assert state["answer"] == "agenda"


@pytest.mark.parametrize("choice", ["nobody", "teacher", "", USER])
def test_a_malformed_decision_ends_the_lesson(choice: str) -> None:
    state, context = lesson(lambda request: "so", Scripted(choice), agenda=["one", "two"])
    assert state["answer"] == "malformed"
    assert names(context) == ["teacher"]


def test_a_lesson_has_an_end_whatever_the_controller_wants() -> None:
    endless = Scripted(*("ann", "bob") * 9)
    state, context = lesson(lambda request: "so", endless, turns=5)
    assert state["answer"] == "turns"
    assert len(names(context)) == 5


def test_the_person_gets_the_floor_and_the_lesson_goes_on() -> None:
    engine, context = ScriptedEngine(lambda request: "so"), RunContext.in_memory([ITEM])
    graph = classroom(
        Speaker(engine, name="teacher", role="teacher"),
        [Speaker(engine, name="ann", role="clown")],
        controller=Scripted(USER, USER, STOP),
        human=Human(name="visitor", role="student"),
        checkpointer=InMemorySaver(),
    )
    stopped = graph.invoke({"item": ITEM.id}, THREAD, context=context)
    assert stopped["__interrupt__"][0].value["page"] == "How far?"
    done = graph.invoke(Command(resume="Why?"), THREAD, context=context)
    assert names(context) == ["teacher", "visitor"]
    assert done["answer"] == "malformed", "nobody has the floor twice in a row"
    assert context.traces.find(role="student")[0].completion == "Why?"


def test_a_model_gives_the_floor_to_the_likeliest() -> None:
    scores = {"ann": -6.0, "bob": -3.0, STOP: -9.0}
    engine = ScriptedEngine([], scores=lambda request: scores[str(request.completion)])
    floor = Floor(
        item=PublicItem(id=ITEM.id, question="How far?"),
        page="one",
        left=0,
        said=(("teacher", "So."),),
        spoke=("teacher",),
        allowed=("ann", "bob", STOP),
    )
    chosen = ModelController(engine).choose(floor, RunContext.in_memory([ITEM]))
    assert asyncio.run(chosen) == "bob"


# Long input

DOCUMENT = "Ann leads the mill in Brix. Some wind blows there. The mill in Brix has nine wheels."


def long(script: Any, **options: Any) -> tuple[dict[str, Any], RunContext, ScriptedEngine]:
    engine = ScriptedEngine(script)
    item = Item(
        public=ITEM.public.replace(
            question="How many wheels has Ann's mill?", metadata={"document": DOCUMENT}
        ),
        gold=ITEM.gold,
    )
    graph = long_input(Seeker(engine), Reasoner(engine), **{"chunk": 6, **options})
    state, context = invoke(graph, item)
    return state, context, engine


def roles(engine: ScriptedEngine) -> list[str]:
    return [request.origin.role for request in engine.requests if request.origin]


def test_the_reasoner_is_shown_more_until_it_can_answer() -> None:
    script = ["Ann leads the mill", "NONE", "Brix has nine wheels", "none.", "nine"]
    state, context, engine = long(script)
    assert roles(engine) == ["seeker"] * 3 + ["reasoner"] * 2
    assert (state["answer"], state["shown"], state["tries"]) == ("nine", 2, 2)
    assert engine.requests[3].prompt[-1]["content"].count("<note") == 1
    assert context.traces.find(role="reasoner")[-1].parents != ()
    (effort,) = item_efforts(context.traces.find(), {ITEM.id: True})
    assert (effort.turns, effort.messages) == (5, 3)


def test_seekers_read_what_the_others_found_and_seek_again() -> None:
    def script(request: Request) -> str:
        text, role = request.prompt[-1]["content"], request.origin.role if request.origin else ""
        if role == "reasoner":
            return "nine" if "nine" in text else "NONE"
        if "Ann leads" in text.split("Known so far")[0]:
            return "Ann leads the mill in Brix"
        return "Brix has nine wheels" if "nine" in text and "Known so far" in text else "NONE"

    state, context, engine = long(script)
    assert state["answer"] == "nine"
    assert roles(engine) == ["seeker"] * 3 + ["reasoner"] + ["seeker"] * 3 + ["reasoner"]
    second = context.traces.find(role="seeker")[-1]
    assert len(second.parents) == 1


def test_where_nothing_is_found_it_has_to_answer_at_once() -> None:
    state, _, engine = long(lambda request: "NONE")
    assert roles(engine) == ["seeker"] * 3 + ["reasoner"]
    assert engine.requests[-1].prompt[-1]["content"].endswith(Reasoner.last_round)
    assert state["answer"] == "NONE"


def test_the_last_round_must_answer() -> None:
    counts = iter(range(100))

    def script(request: Request) -> str:
        role = request.origin.role if request.origin else ""
        return "NONE" if role == "reasoner" else f"fact {next(counts)}"

    state, _, engine = long(script, rounds=2)
    assert roles(engine).count("seeker") == 6
    assert (state["tries"], state["answer"]) == (4, "NONE")


def test_an_item_without_a_document_is_refused() -> None:
    graph = long_input(Seeker(ScriptedEngine([])), Reasoner(ScriptedEngine([])))
    with pytest.raises(DataError, match="has no document"):
        invoke(graph)


@pytest.mark.parametrize("setting", [{"chunk": 0}, {"rounds": 0}, {"growth": 1}])
def test_bad_numbers(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        long_input(Seeker(ScriptedEngine([])), Reasoner(ScriptedEngine([])), **setting)
