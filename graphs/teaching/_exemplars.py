"""Learning by teaching M3: a teacher revises its exemplars after its students' failures."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from langgraph.graph import END, START, StateGraph

from docendo.agents import Agent, RunContext, Verifier
from docendo.checks import check_count
from docendo.errors import ConfigError
from docendo.graphs._nodes import finish, node, require_agents
from docendo.graphs.teaching._exams import Exam, require_other, teaching_score
from docendo.hashing import derive_seed
from docendo.quoting import neutral, special_tokens
from docendo.records import Example, Item, PublicItem, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Record):
    """An exam question that a student got wrong with some exemplars.

    Attributes:
        question: The question.
        answer: What the student answered.
        solution: The right answer, where the graph was given a way to know it.
    """

    question: str
    answer: str
    solution: str | None = None


Read = Callable[[PublicItem, str], Sequence[Example]]
Show = Callable[[PublicItem, Sequence[Failure]], str]


class ExemplarsState(TypedDict, total=False):
    """State of the graph: ids and small JSON only; sets are traces, exams are posts.

    Attributes:
        item: Item id of the task.
        proposals: Trace ids of all sets of exemplars, in the order in which they were written.
        exams: Post ids of their exams.
        scores: Their exam scores: the share of right answers over students and questions.
        beam: Places of the sets that are revised next, the best first.
        round: Rounds of revision that are done.
        chosen: Trace id of the set with the highest score, the earliest of several.
        answer: Its text.
    """

    item: str
    proposals: list[str]
    exams: list[str]
    scores: list[float]
    beam: list[int]
    round: int
    chosen: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """The nodes of the graph and the agents that act in them."""

    teacher: Agent
    reviser: Agent
    students: Sequence[Agent]
    exam: Exam
    verifier: Verifier
    read: Read
    show: Show
    solution: Callable[[Item], str] | None
    beam: int
    expansions: int
    rounds: int
    handful: int

    async def propose(self, state: ExemplarsState, context: RunContext) -> dict[str, Any]:
        """The teacher writes the first sets from the task alone."""
        item = state["item"]
        sampling = self.teacher.sampling.replace(n=self.beam)
        messages = self.teacher.messages(context.public(item))
        turn = await context.ask(self.teacher, item, messages, node="propose", sampling=sampling)
        return {"proposals": list(turn.traces), "exams": [], "scores": [], "round": 0}

    async def examine(self, state: ExemplarsState, context: RunContext) -> dict[str, Any]:
        """The students sit the exam with each new set; the best sets are gone on with."""
        public = context.public(state["item"])
        questions = list(self.exam.questions(public))
        require_other(public, questions)
        if not questions:
            raise ConfigError(
                f"there is no exam for item {public.id}", expected="questions by which exemplars are chosen"
            )
        known = len(state["exams"])
        found = await asyncio.gather(
            *(
                self._examine_one(context, public, questions, place, state["proposals"][place])
                for place in range(known, len(state["proposals"]))
            )
        )
        scores = state["scores"] + [score for _, score in found]
        texts = [context.traces.get(trace).completion for trace in state["proposals"]]
        return {
            "exams": state["exams"] + [post for post, _ in found],
            "scores": scores,
            "beam": best_sets(texts, scores, self.beam),
        }

    async def _examine_one(
        self, context: RunContext, task: PublicItem, questions: Sequence[Item], place: int, trace: str
    ) -> tuple[str, float]:
        shown = self.read(task, context.traces.get(trace).completion)
        sittings = [(student, question) for student in self.students for question in questions]
        turns = await asyncio.gather(
            *(
                context.ask(
                    student,
                    task.id,
                    with_exemplars(student, shown).messages(question.public),
                    node="examine",
                    step=place * len(sittings) + number,
                    parents=[trace],
                    sampling=student.sampling.replace(n=1),
                )
                for number, (student, question) in enumerate(sittings)
            )
        )
        rights = [
            self.verifier.check(question, turn.text).correct
            for (_, question), turn in zip(sittings, turns, strict=True)
        ]
        failures = [
            Failure(
                question=question.public.question,
                answer=turn.text,
                solution=self.solution(question) if self.solution else None,
            )
            for (_, question), turn, right in zip(sittings, turns, rights, strict=True)
            if not right
        ]
        score = teaching_score(rights)
        with context.database.transaction():
            context.traces.reward(trace, "teaching", score)
            for turn, right in zip(turns, rights, strict=True):
                context.traces.reward(turn.trace, "verified", float(right))
            post = context.post(
                "exam",
                {"exemplars": trace, "score": score, "failures": [each.to_json() for each in failures]},
                author=self.verifier.author,
                item=task.id,
                node="examine",
                step=place,
                traces=[turn.trace for turn in turns],
            )
        return post.id, score

    async def revise(self, state: ExemplarsState, context: RunContext) -> dict[str, Any]:
        """The teacher writes new sets, each with a set and a handful of its failures in view."""
        drawn = [(place, number) for place in state["beam"] for number in range(self.expansions)]
        first = len(state["proposals"])
        found = await asyncio.gather(
            *(
                self._revise_one(context, state, place, number, step=first + step)
                for step, (place, number) in enumerate(drawn)
            )
        )
        return {"proposals": state["proposals"] + found, "round": state["round"] + 1}

    async def _revise_one(
        self, context: RunContext, state: ExemplarsState, place: int, number: int, *, step: int
    ) -> str:
        item, trace = state["item"], state["proposals"][place]
        public = context.public(item)
        stored = context.board.get(state["exams"][place]).body["failures"]
        failures = [Failure(**failure) for failure in stored]
        rng = np.random.default_rng(
            derive_seed("failures", context.seed, item, state["round"], place, number)
        )
        picked = rng.permutation(len(failures))[: self.handful]
        shown = self.show(public, [failures[n] for n in picked]) if failures else ""
        agent, fields = self.teacher, {}
        if shown:
            agent = self.reviser
            fields = {"exemplars": context.traces.get(trace).completion, "failures": shown}
        turn = await context.ask(
            agent,
            item,
            agent.messages(public, **fields),
            node="revise",
            step=step,
            parents=[trace],
            sampling=agent.sampling.replace(n=1),
        )
        return turn.trace

    async def choose(self, state: ExemplarsState, context: RunContext) -> dict[str, Any]:
        """The set with the best exam, the earliest of several."""
        chosen = state["proposals"][state["scores"].index(max(state["scores"]))]
        return {"chosen": chosen, "answer": context.traces.get(chosen).completion}

    def after_exam(self, state: ExemplarsState) -> str:
        """Where the graph goes on."""
        return "revise" if state["round"] < self.rounds else "choose"


def exemplar_refinement(
    *,
    teacher: Agent,
    reviser: Agent,
    students: Sequence[Agent],
    exam: Exam,
    verifier: Verifier,
    read: Read | None = None,
    show: Show | None = None,
    solution: Callable[[Item], str] | None = None,
    beam: int = 4,
    expansions: int = 8,
    rounds: int = 5,
    handful: int = 3,
    **compile_options: Any,
) -> Any:
    r"""Builds the graph of learning by teaching M3 (Ning et al. 2024, arXiv 2406.14629).

    An item is a task; its question describes it. The teacher writes sets of exemplars, the students sit an
    exam with each set as their worked examples, and the reviser, as a rule the same model with another
    prompt, writes new sets with a set and some of the students' failures in view. The sets with the best
    exams, old or new, are gone on with. The exam's questions are labelled training or development items.

    The paper's numbers are the defaults but for `handful`, of which it does not speak. It differs in two
    points: it asks first for reasons why the exemplars mislead, which a reviser's prompt may do as well, and
    it selects by the teacher's own score with the exemplars, here the students' decides.

    Args:
        teacher: Who writes sets from the task alone; its prompt has the field `{question}`.
        reviser: Who writes them anew; its prompt has the fields `{question}`, `{exemplars}`, `{failures}`.
        students: Who sit the exams; each answers every question once. Their own examples come first.
        exam: Chooses the labelled questions of a task, the same for all its sets.
        verifier: Judges exam answers.
        read: Reads the exemplars out of a teacher's text, given the task; None takes `read_exemplars`. Where
            it finds none, the students sit the exam without.
        show: Writes failures for the reviser, given the task; None takes `write_failures`. Where it returns
            an empty text, and where a set has no failure, the teacher writes a set from the task alone, so
            that the number of sets is always the same: `beam * (1 + rounds * expansions)`.
        solution: The right answer of an exam question, to be shown with a failure; None, the default, shows
            only that the student's answer is wrong.
        beam: Sets that are gone on with.
        expansions: New sets for each of them in a round.
        rounds: Rounds of revision.
        handful: Failures in the reviser's view, drawn at random for each new set.
        **compile_options: For `StateGraph.compile`, such as `checkpointer` or `store`.

    Returns:
        A compiled LangGraph graph from `{"item": id}` to `ExemplarsState`; run it with `docendo.run`.

    Raises:
        ConfigError: if there is no student, an agent is none, the verifier does not see the answers, or a
            number is out of range; when it runs, if a task has no exam.
        LeakError: when it runs, if an exam asks the task itself or a test item.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> from docendo.evals import ExactScorer, make_item
        >>> from docendo.graphs import VariantExam
        >>> told = {"Write": "Question: 2 + 3\nAnswer: 6", "Revise": "Question: 2 + 3\nAnswer: 2 and 3 are 5"}
        >>> def say(request):
        ...     asked = str(request.prompt[-1]["content"])
        ...     shown = any("are 5" in str(message["content"]) for message in request.prompt)
        ...     return [told.get(asked.split()[0], "9" if shown else "?")]
        >>> engine = ScriptedEngine(say)
        >>> graph = exemplar_refinement(
        ...     teacher=Agent(engine, role="teacher", prompt="Write for {question}"),
        ...     reviser=Agent(engine, role="teacher", prompt="Revise {question} {exemplars} {failures}"),
        ...     students=[Agent(engine, role="student")],
        ...     exam=VariantExam([make_item("4 + 5", 9)], variant_of=lambda item: "sums"),
        ...     verifier=Verifier(ExactScorer()), beam=1, expansions=1, rounds=1)
        >>> task = make_item("adding", None)
        >>> state = graph.invoke({"item": task.id}, context=RunContext.in_memory([task]))
        >>> state["scores"], state["answer"]
        ([0.0, 1.0], 'Question: 2 + 3\nAnswer: 2 and 3 are 5')
    """
    require_agents(
        teacher=teacher,
        reviser=reviser,
        verifier=verifier,
        **{f"students[{n}]": student for n, student in enumerate(students)},
    )
    if not students:
        raise ConfigError("there are no students", expected="one at least; the teacher may be one")
    if not callable(getattr(verifier, "check", None)):
        raise ConfigError("the verifier cannot judge exam answers", remedy="use Verifier(scorer)")
    numbers = {"beam": beam, "expansions": expansions, "rounds": rounds, "handful": handful}
    for name, number in numbers.items():
        check_count(name, number, 0 if name == "rounds" else 1)
    nodes = _Nodes(
        teacher=teacher,
        reviser=reviser,
        students=tuple(students),
        exam=exam,
        verifier=verifier,
        read=read or (lambda _, text: read_exemplars(text)),
        show=show or (lambda _, failures: write_failures(failures)),
        solution=solution,
        **numbers,
    )
    builder = StateGraph(ExemplarsState, context_schema=RunContext)
    for function in (nodes.propose, nodes.examine, nodes.revise, nodes.choose):
        builder.add_node(function.__name__, node(function, function.__name__))
    builder.add_edge(START, "propose")
    builder.add_edge("propose", "examine")
    builder.add_conditional_edges("examine", nodes.after_exam, ["revise", "choose"])
    builder.add_edge("revise", "examine")
    builder.add_edge("choose", END)
    config = {
        "teacher": teacher.describe(),
        "reviser": reviser.describe(),
        "students": [student.describe() for student in students],
        "exam": exam.describe(),
        "verifier": verifier.describe(),
        **numbers,
    }
    return finish(builder, "exemplar_refinement", config, **compile_options)


def best_sets(texts: Sequence[str], scores: Sequence[float], count: int) -> list[int]:
    """Places of the best sets of exemplars, the earlier of equally good ones first.

    A text is taken twice only where there are too few others.

    Example:
        >>> best_sets(["a", "b", "a", "c"], [0.5, 0.2, 0.9, 0.5], 2)
        [2, 3]
    """
    ranked = sorted(range(len(texts)), key=lambda place: (-scores[place], place))
    found = {texts[place]: place for place in reversed(ranked)}  # the best place of each text
    return sorted(ranked, key=lambda place: found[texts[place]] != place)[:count]


def with_exemplars(student: Agent, exemplars: Iterable[Example]) -> Agent:
    """The student with exemplars behind its own examples. They are another's text, so made neutral.

    Example:
        >>> from docendo.agents import ScriptedEngine, Student
        >>> shown = with_exemplars(Student(ScriptedEngine(["4"])), [Example(question="1 + 1", answer="2")])
        >>> shown.messages(PublicItem(id="i", question="2 + 2"))[-2]["content"]
        '2'
    """
    tokens = special_tokens(student.engine)
    said = (
        each.replace(
            question=neutral(each.question, tokens=tokens), answer=neutral(each.answer, tokens=tokens)
        )
        for each in exemplars
    )
    return student.with_examples(*student.examples, *said)


_EXEMPLAR = re.compile(r"Question:[ \t]*(.+?)\s*\nAnswer:[ \t]*(.+?)\s*(?=\n+Question:|\Z)", re.DOTALL)


def read_exemplars(text: str) -> list[Example]:
    r"""Reads exemplars written as "Question: ..." and "Answer: ..." lines; what comes before is left out.

    Example:
        >>> text = "Here:\nQuestion: 1 + 1\nAnswer: 2\n\nQuestion: 2 + 2\nAnswer: 4"
        >>> [each.answer for each in read_exemplars(text)]
        ['2', '4']
    """
    return [Example(question=question, answer=answer) for question, answer in _EXEMPLAR.findall(text)]


def write_failures(failures: Sequence[Failure]) -> str:
    r"""Writes failures as lines of question, wrong answer and, where it is known, the right one.

    Example:
        >>> write_failures([Failure(question="2 + 3", answer="6", solution="5")])
        'Question: 2 + 3\nWrong answer: 6\nRight answer: 5'
    """
    return "\n\n".join(
        f"Question: {each.question}\nWrong answer: {each.answer}"
        + (f"\nRight answer: {each.solution}" if each.solution is not None else "")
        for each in failures
    )
