"""Roles: what they send, what they may see, and how verdicts come about."""

from __future__ import annotations

import math
from typing import Any

import pytest

from docendo.agents import (
    Agent,
    Engine,
    ModelVerifier,
    RunContext,
    ScriptedEngine,
    Student,
    Teacher,
    Tutor,
    Verifier,
)
from docendo.errors import AdapterError, CapabilityError, ConfigError
from docendo.records import Capabilities, Example, Gold, Grammar, Item, PublicItem, SamplingParams
from docendo.scoring import Score, Scorer

ITEM = PublicItem(id="i1", question="2 + 2?")
SEALED = Item(public=ITEM, gold=Gold("4"))


class Contains(Scorer):
    """Right if the gold is in the text."""

    name = "contains"

    def score(self, item: Item, text: str) -> Score:
        good = self.open(item) in text
        return Score(correct=good, value=float(good), parsed=text)

    def leaks(self, item: Item, text: str) -> bool:
        return self.open(item) in text


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(lambda _: "an answer")


def test_messages_in_order(scripted: ScriptedEngine) -> None:
    agent = Student(scripted, system="Be brief.", examples=[Example(question="1 + 1?", answer="2")])
    messages = agent.messages(ITEM, history=[("5", "Count again.")])
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "Be brief."),
        ("user", "1 + 1?"),
        ("assistant", "2"),
        ("user", "2 + 2?"),
        ("assistant", "5"),
        ("user", "> Count again."),
    ]


def test_prompt_fields(scripted: ScriptedEngine) -> None:
    tutor = Tutor(scripted)
    assert "{not a field}" in tutor.messages(ITEM, attempt="{not a field}")[-1]["content"]
    with pytest.raises(ConfigError, match=r"'tutor' names the field 'attempt'.*attempt=\.\.\."):
        tutor.messages(ITEM)
    for broken in ("{question", "{0}", "{}", "{question.secret}"):
        with pytest.raises(ConfigError, match="the prompt of 'agent'"):
            Agent(scripted, prompt=broken).messages(ITEM)


def test_requests_carry_their_origin(scripted: ScriptedEngine) -> None:
    scripted.load_adapter("a", "somewhere")
    agent = Teacher(scripted, name="anna", adapter="a")
    assert agent.reply(ITEM) == "an answer"
    (request,) = scripted.requests
    assert (request.origin.role, request.origin.agent, request.origin.item) == ("teacher", "anna", "i1")
    assert (request.adapter, request.sampling) == ("a", Teacher.sampling)
    assert agent.author.adapter == scripted.adapter_hash("a")


def test_copies_leave_the_original_alone(scripted: ScriptedEngine) -> None:
    scripted.load_adapter("a", "somewhere")
    student = Student(scripted)
    tuned = student.with_adapter("a").with_sampling(n=3, temperature=0.5)
    assert type(tuned) is Student
    assert (tuned.adapter, tuned.sampling.n, tuned.sampling.max_tokens) == ("a", 3, 96)
    assert (student.adapter, student.sampling.n) == (None, 1)
    assert tuned.with_adapter(None).describe() == student.with_sampling(n=3, temperature=0.5).describe()
    assert tuned.describe() != student.describe()
    for make in (lambda: student.with_adapter("b"), lambda: Student(scripted, adapter="b")):
        with pytest.raises(AdapterError, match="'b' is not loaded"):
            make()


def test_description_tells_settings_apart(scripted: ScriptedEngine) -> None:
    agents = [
        Student(scripted),
        Student(scripted, system="x"),
        Student(scripted, prompt="{question}!"),
        Student(scripted, sampling=SamplingParams(n=2)),
        Student(scripted, examples=[Example(question="a", answer="b")]),
        Student(scripted, examples=[Example(question="a", answer="c")]),
        Teacher(scripted),
    ]
    assert len({str(agent.describe()) for agent in agents}) == len(agents)


def test_description_does_not_say_where_a_model_lies(scripted: ScriptedEngine) -> None:
    """A run begun with `models/small` is resumed from another folder with an absolute path."""
    described = []
    for scripted.name in ("models/small", "/models/small"):
        described.append(Student(scripted).describe())
    assert described[0] == described[1]
    assert described[0]["model"] == "small"


async def test_exact_verifier() -> None:
    verifier = Verifier(Contains())
    context = RunContext.in_memory([SEALED])
    assert verifier.check(SEALED, "it is 4").correct
    assert not (await verifier.grade(context, "i1", "it is 5")).correct
    assert verifier.leaks(SEALED, "4!")
    assert verifier.author.model == ""
    assert verifier.describe()["scorer"] == "contains"


@pytest.mark.parametrize(
    ("yes", "no", "threshold", "correct"),
    [(-1.0, -2.0, 0.5, True), (-2.0, -1.0, 0.5, False), (-1.0, -2.0, 0.8, False), (-900.0, 0.0, 0.1, False)],
)
async def test_model_verifier(yes: float, no: float, threshold: float, correct: bool) -> None:
    engine = ScriptedEngine([], scores=lambda request: yes if request.completion == "yes" else no)
    verdict = await ModelVerifier(engine, threshold=threshold).grade(
        RunContext.in_memory([SEALED]), "i1", "it is 4"
    )
    assert verdict.correct is correct
    assert verdict.value == pytest.approx(1 / (1 + math.exp(min(700, no - yes))))


async def test_model_verifier_on_a_model(engine: Engine) -> None:
    verifier = ModelVerifier(engine)
    context = RunContext.in_memory([SEALED])
    first = await verifier.grade(context, "i1", "it is 4")
    assert 0 < first.value < 1
    assert await verifier.grade(context, "i1", "it is 4") == first
    (row,) = engine.ledger()
    assert (row["role"], row["calls"], row["generated_tokens"]) == ("verifier", 2, 0)


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 2])
def test_thresholds_that_are_refused(scripted: ScriptedEngine, threshold: Any) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        ModelVerifier(scripted, threshold=threshold)


def test_a_model_verifier_cannot_see_leaks(scripted: ScriptedEngine) -> None:
    assert not ModelVerifier.sees_gold
    with pytest.raises(ConfigError, match="cannot tell a leak"):
        ModelVerifier(scripted).leaks(SEALED, "4")


def test_an_agent_that_needs_more_than_its_engine_offers_is_refused_when_built() -> None:
    poor = ScriptedEngine(["x"], capabilities=Capabilities(features=frozenset({"messages"})))
    assert Student(poor).reply(ITEM) == "x"
    for build, lacks in (
        (lambda: ModelVerifier(poor), "score"),
        (lambda: Teacher(poor, sampling=SamplingParams(n=4, temperature=1.0)), "n"),
        (lambda: Student(poor).with_sampling(grammar=Grammar.choice(["a", "b"])), "choice"),
        (lambda: Student(poor).with_adapter("tuned"), "adapters"),
    ):
        with pytest.raises(CapabilityError, match=rf"needs {lacks}, which the engine 'scripted' lacks"):
            build()
