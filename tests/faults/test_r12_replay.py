"""R12: The same seed gives the same result, also if every step of the work is resumed in a fresh process.

Each graph and each recipe of docendo runs in one go and once more, and then so that the process ends at every
commit that brought a new post, call, trace or outcome, and at every new file: the next process has nothing
but what is stored. (Of long work only the first ends are that close; the short form runs recipes in one go
once.) Of a recipe that is an experiment one seed runs, at the scale "tiny". Ledger digest, traces, outcomes,
evaluation, trials with their costs, and weights have to be identical. Only wall seconds differ, and tokens
that an engine found in its cache, which a fresh process does not have.

The tiny model's engine is `invariant`: under `seeded` a token may hang on the last bit of sums whose order
depends on the batch, and a resumed process has other batches. A fresh process is a fork of one that has
loaded libraries and weights and has done no work.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

import pytest
from fault_forks import Order, Ready, Server, serving

pytestmark = pytest.mark.slow

#: The exit status of a process that has made a step and has more to do.
STEP = 75
#: Processes in which work has to be done.
MOST = 5000
SEED = 5
#: What measures time or this process's luck and not the work, and which commit it ran from.
UNEQUAL = {"seconds", "flops", "phases", "path", "report", "cached_tokens", "generated_tokens_per_second"}
UNEQUAL |= {"tokens_per_second", "peak_memory_gb", "commits"}


# --- in the processes -------------------------------------------------------------------------------


def works(model: str) -> dict[str, Callable[[Order, Ready], object]]:
    import torch
    from langgraph.checkpoint.sqlite import SqliteSaver
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from docendo import Engine, distill, graphs
    from docendo.registry import recipes

    _ = Engine, distill.train, [getattr(graphs, name) for name in built_in()], recipes(), SqliteSaver
    tasks_of(1, 0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return {
        "graph": lambda order, ready: run_graph(loaded, tokenizer, order),
        "recipe": lambda order, ready: run_recipe(model, order),
        "langgraph": lambda order, ready: converse(order),
    }


def tasks_of(train: int, test: int) -> Any:
    from docendo import evals

    settings = {"min_terms": 2, "max_terms": 3, "max_digits": 1}
    return evals.tasks("reasoning_gym:chain_sum", train=train, test=test, **settings)


def end_at_each_step(folder: Path, stride: int) -> None:
    """Ends this process at its step of that number.

    A step is what a kill leaves: a commit to a file that then has more records, or a new name in the folder.
    What changes in memory alone is none: to be killed there is to be killed at the step before.
    """
    import sqlalchemy as sa

    from docendo.memory import Database
    from docendo.memory.storage import _schema

    steps = itertools.count(1)

    def step() -> None:
        if next(steps) >= stride:
            os._exit(STEP)

    # Not claims to requests: a claim is a lease, made anew by each process, and no progress.
    tables = [each.name for each in (_schema.posts, _schema.journal, _schema.traces, _schema.items)]
    query = sa.text("SELECT " + " + ".join(f"(SELECT count(*) FROM {name})" for name in tables))
    commit, before = Database._commit, dict[Path, int]()

    def committed(self: Database, connection: sa.Connection, write: bool) -> None:
        commit(self, connection, write)
        if write and self.path is not None:
            rows = connection.scalar(query)
            if rows > before.setdefault(self.path, rows):
                before[self.path] = rows
                step()

    begin = Database._begin

    def begun(self: Database, connection: sa.Connection, write: bool) -> None:
        begin(self, connection, write)
        known = self.path is None or self.path in before
        if write and not known and sa.inspect(connection).has_table(tables[0]):
            before[self.path] = int(connection.scalar(query) or 0)

    Database._commit = committed  # type: ignore[method-assign]
    Database._begin = begun  # type: ignore[method-assign]
    os.rename = naming(os.rename, folder, step)
    os.replace = naming(os.replace, folder, step)


def naming(rename: Callable[..., None], folder: Path, step: Callable[[], None]) -> Callable[..., None]:
    """`os.rename` or `os.replace` with a step behind each new name; a temporary one begins with a dot."""

    def renamed(old: Any, new: Any, **options: Any) -> None:
        path, known = Path(new), os.path.exists(new)
        rename(old, new, **options)
        if known or not path.is_relative_to(folder):
            return
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            step()

    return renamed


def spoil(broken: str) -> None:
    """What the bar has to notice."""
    import time

    from docendo import Student
    from docendo.agents import _context

    derive = _context.derive_seed
    if broken == "clock":
        _context.derive_seed = lambda *parts: derive(time.time_ns(), *parts)  # type: ignore[assignment]
    if broken == "memory":
        messages, said = Student.messages, [0]

        def counting(self: Any, item: Any, **fields: Any) -> Any:
            said[0] += 1
            turns = list(messages(self, item, **fields))
            turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']} ({said[0]})"}
            return tuple(turns)

        Student.messages = counting  # type: ignore[method-assign,assignment]


#: How each graph is built, by the name of its builder.
GRAPHS: dict[str, Callable[[Any, Any], Any]] = {}


def builds(build: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    GRAPHS[build.__name__] = build
    return build


def sampling(n: int = 1) -> Any:
    from docendo.records import SamplingParams

    # As many bytes as "Answer: 7" has, and one more.
    return SamplingParams(temperature=1.0, max_tokens=10, n=n)


def verifier() -> Any:
    """Half of what the tiny model guesses is right, so that posts are promoted and refused."""
    from docendo import Verifier, evals

    class Parity(evals.ExactScorer):
        """A digit is right if it is even where the answer is even."""

        name = "parity"

        def score(self, item: Any, text: str) -> Any:
            found = super().score(item, text)
            last = (found.parsed or "")[-1:]
            right = last.isdecimal() and (int(last) - int(self.open(item).text)) % 2 == 0
            return found.replace(correct=right, value=float(right))

    return Verifier(Parity())


@builds
def tutoring(engine: Any, task: Any) -> Any:
    from docendo import Student, Teacher, Tutor, graphs

    return graphs.tutoring(
        student=Student(engine, sampling=sampling()),
        tutor=Tutor(engine, sampling=sampling(2)),
        teacher=Teacher(engine, examples=task.examples(1), sampling=sampling(4)),
        verifier=verifier(),
    )


@builds
def demonstrate(engine: Any, task: Any) -> Any:
    from docendo import Teacher, graphs

    teacher = Teacher(engine, examples=task.examples(1), sampling=sampling(8))
    return graphs.demonstrate(teacher=teacher, verifier=verifier())


@builds
def blackboard(engine: Any, task: Any) -> Any:
    from docendo import Student, graphs
    from docendo.agents import Agent, Asker, NoteKeeper

    class Curious(Asker):
        """Asks before its first turn: the tiny model does not write requests."""

        def first(self, item: Any) -> tuple[str, ...]:
            return (f"What is {item.question}?", "How are sums made?")

    notes = ["Sums are made from left to right.", "What is left is the sum of the terms."]
    speaker = Agent(engine, sampling=sampling(), prompt="{notes} {question}")
    helpers = [
        NoteKeeper("reader", notes, threshold=0.0),
        NoteKeeper("speaker", notes, agent=speaker, threshold=0.0),
        NoteKeeper("judge", notes, judge=Student(engine, prompt="{notes} {question}"), threshold=0.0),
    ]
    return graphs.blackboard(Curious(engine, sampling=sampling()), helpers)


@builds
def sample_and_choose(engine: Any, task: Any) -> Any:
    from docendo import Student, graphs

    solver = Student(engine, sampling=sampling(4))
    return graphs.sample_and_choose(solver=solver, by="sum", verifier=verifier())


@builds
def generate_verify_refine(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.agents import Agent

    return graphs.generate_verify_refine(
        generator=Agent(engine, role="generator", sampling=sampling(2)),
        critic=Agent(engine, role="critic", sampling=sampling(), prompt="{question} {answer}"),
        refiner=Agent(engine, role="refiner", sampling=sampling(2), prompt="{question} {answer} {critique}"),
        grader=verifier(),
    )


@builds
def tailored_lessons(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.agents import Agent

    return graphs.tailored_lessons(
        student=Agent(engine, role="student", sampling=sampling(2)),
        teacher=Agent(engine, role="teacher", sampling=sampling(2), prompt="{question} {attempt}"),
        verifier=verifier(),
        mistakes=2,
    )


@builds
def learning_by_teaching(engine: Any, task: Any) -> Any:
    from docendo import Student, Teacher, graphs

    return graphs.learning_by_teaching(
        teacher=Teacher(engine, sampling=sampling(2)),
        students=[Student(engine, name=name, sampling=sampling()) for name in ("ann", "bob")],
        exam=graphs.VariantExam(tasks_of(6, 0).train, variant_of=lambda item: item.task, questions=2),
        verifier=verifier(),
        repeats=2,
        grade=0.5,
    )


@builds
def exemplar_refinement(engine: Any, task: Any) -> Any:
    from docendo import Student, Teacher, graphs
    from docendo.agents import Agent

    return graphs.exemplar_refinement(
        teacher=Teacher(engine, sampling=sampling()),
        reviser=Agent(
            engine, role="teacher", prompt="{question} {exemplars} {failures}", sampling=sampling()
        ),
        students=[Student(engine, name=name, sampling=sampling()) for name in ("ann", "bob")],
        exam=graphs.VariantExam(tasks_of(6, 0).train, variant_of=lambda item: item.task, questions=2),
        verifier=verifier(),
        beam=2,
        expansions=1,
        rounds=2,
    )


@builds
def planned_tutoring(engine: Any, task: Any) -> Any:
    from docendo import Student, graphs
    from docendo.agents import Agent

    asked = tasks_of(6, 0).train
    return graphs.planned_tutoring(
        learner=Student(engine, sampling=sampling()),
        tutor=Agent(engine, role="tutor", prompt="{skill} {known}", sampling=sampling()),
        course=graphs.Course(
            skills={"first": (), "then": ("first",)},
            goals=["then"],
            questions={"first": asked[:3], "then": asked[3:]},
        ),
        verifier=verifier(),
        lessons=2,
    )


def two_models(engine: Any, prompt: str = "{question}") -> dict[str, Any]:
    """The tiny model as the small and as the large one, with a budget that lasts for all items."""
    from docendo.agents import Agent
    from docendo.graphs.routing import LargeBudget

    agents = {
        name: Agent(engine, name=name, role=name, prompt=prompt, sampling=sampling())
        for name in ("small", "large")
    }
    return {**agents, "budget": LargeBudget(tokens=10_000, decisions=100)}


@builds
def route(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.routing import LengthRouter, RoutingExample

    known = [RoutingExample(question=item.public.question, small=0.0, large=1.0) for item in task.test]
    return graphs.route(**two_models(engine), router=LengthRouter().fit(known), switch=0.25)


@builds
def cascade(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.routing import AgreementUncertainty

    return graphs.cascade(**two_models(engine), uncertainty=AgreementUncertainty(3), switch=0.3)


@builds
def switching(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.routing import RandomUncertainty

    models = two_models(engine, "{question} {steps}")
    return graphs.switching(**models, uncertainty=RandomUncertainty(SEED), switch=0.5, steps=4, separator=" ")


@builds
def team(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.topologies import Member, Orchestrator, Order

    class Chief(Orchestrator):
        """Always hands out work: the tiny model writes no orders."""

        def decide(self, text: str, *, item: Any, members: Any) -> Order:
            return Order(tasks=dict.fromkeys(members, text))

    return graphs.team(
        "hybrid",
        [Member(engine, name=name, sampling=sampling(2)) for name in ("ann", "bob")],
        orchestrator=Chief(engine, sampling=sampling()),
        rounds=2,
        exchanges=1,
        verifier=verifier(),
    )


@builds
def classroom(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.topologies import Floor, Human, ModelController, Speaker

    class Lively(ModelController):
        """Never ends the lesson early, so that everybody is heard."""

        async def choose(self, floor: Floor, context: Any) -> str:
            fresh = tuple(choice for choice in floor.allowed if choice not in floor.spoke)
            return await super().choose(floor.replace(allowed=fresh[: max(1, len(fresh) - 1)]), context)

    return graphs.classroom(
        Speaker(engine, name="teacher", role="teacher", sampling=sampling()),
        [Speaker(engine, name=name, role="classmate", sampling=sampling()) for name in ("ann", "bob")],
        assistant=Speaker(engine, name="assistant", role="assistant", sampling=sampling()),
        controller=Lively(engine),
        agenda=["Sums", "More sums"],
        human=Human(policy=lambda question: f"What does it mean: {question['said']}?"),
        turns=8,
    )


@builds
def coordinator_worker(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.topologies import Coordinator, Human, Member, Move

    class Planner(Coordinator):
        """Has a step done, asks the person and answers: the tiny model makes no plans."""

        def decide(self, text: str, *, moves: int = 0) -> Move:
            return Move(kind=("do", "ask", "answer")[moves], text=text)

    return graphs.coordinator_worker(
        Planner(engine, sampling=sampling()),
        Member(engine, sampling=sampling()),
        human=Human(policy=lambda question: f"You asked: {question['request']}"),
        verifier=verifier(),
    )


@builds
def long_input(engine: Any, task: Any) -> Any:
    from docendo import graphs
    from docendo.graphs.topologies import Reasoner, Seeker

    class Doubting(Reasoner):
        """Answers only when it has to: the tiny model never says that it cannot."""

        def says_nothing(self, text: str) -> bool:
            return True

    return graphs.long_input(
        Seeker(engine, sampling=sampling()),
        Doubting(engine, sampling=sampling()),
        chunk=8,
        rounds=2,
        document=lambda item: f"Sums are made from left to right. {item.question} Its end is the sum.",
        verifier=verifier(),
    )


def run_graph(model: Any, tokenizer: Any, order: Order) -> None:
    """Runs a graph and evaluates a student, on one database; resumes both."""
    from docendo import Engine, Student, evals, graphs
    from docendo.memory import Database, Journal

    spoil(order["broken"])
    if order["step"]:
        end_at_each_step(Path(order["folder"]), order["stride"])
    folder, task = Path(order["folder"]), tasks_of(order["items"], 2)
    with (
        Engine(model, tokenizer, determinism="invariant") as engine,
        Database.open(folder / "all.db") as database,
    ):
        graphs.run(
            GRAPHS[order["name"]](engine, task),
            task.train,
            name="run",
            folder=folder,
            database=database,
            seed=SEED,
            concurrency=order["concurrency"],
            resume=True,
            quiet=True,
        )
        student = Student(engine, sampling=sampling().replace(seed=SEED))
        evals.evaluate(
            student, task.test, scorer=task.scorer, name="eval", journal=Journal(database), quiet=True
        ).save(folder / "eval")


def run_recipe(model: str, order: Order) -> None:
    """Runs a recipe with the smallest settings; resumes it."""
    from docendo import Engine
    from docendo.agents import Engine as Loaded
    from docendo.registry import get_recipe

    load = Loaded.load.__func__  # type: ignore[attr-defined]
    Engine.load = classmethod(  # type: ignore[method-assign,assignment]
        lambda cls, name, **options: load(cls, name, **{**options, "determinism": "invariant"})
    )
    if order["step"]:
        end_at_each_step(Path(order["folder"]), order["stride"])
    recipe = get_recipe(order["name"])
    recipe.run(
        settings(recipe, model, order["items"]),
        folder=Path(order["folder"]) / "run",
        resume=True,
        quiet=True,
    )


def settings(recipe: Any, model: str, items: int) -> Any:
    """The smallest settings, by name; an experiment's are one seed of its scale "tiny"."""
    from docendo.distill import TrainConfig

    defaults = {each.name: each.default for each in dataclasses.fields(recipe.config)}
    if "seeds" in defaults:
        named = {"model": model} if isinstance(defaults.get("model"), str) else {}
        return recipe.configure({"seeds": 1, **named}, scale="tiny")
    tiny: dict[str, Any] = {
        "student": model,
        "train": items + 2,
        "test": max(2, items // 2),
        "rounds": 1,
        "samples": 16,
        "examples": 2,
        "train_config": TrainConfig(max_steps=2, per_device_train_batch_size=4, dtype="float32"),
    }
    return recipe.configure({name: value for name, value in tiny.items() if name in defaults})


# --- what has to be equal ---------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A result without what measures time."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items() if key not in UNEQUAL}
    return [plain(each) for each in value] if isinstance(value, list) else value


def facts(folder: Path) -> dict[str, str]:
    """Everything that a piece of work leaves: databases by what they say, JSON files, and weights."""
    from docendo.hashing import file_sha256
    from docendo.memory import Blackboard, Database, TraceStore, verify

    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".db":
            with Database.open(path) as database:
                damage = [str(each) for report in verify(database) for each in report.damage]
                traces = sorted(
                    (t.id, t.messages, t.completion, t.token_ids, t.logprobs, sorted(t.rewards.items()))
                    for t in TraceStore(database).find()
                )
                found[f"{name}: ledger"] = Blackboard(database).digest()
                found[f"{name}: traces"] = json.dumps(traces)
                found[f"{name}: damage"] = json.dumps(damage)
        elif path.suffix == ".safetensors":
            found[name] = file_sha256(path)
        elif path.name in ("summary.json", "config.json"):
            kept = plain(json.loads(path.read_text()))
            # The digest of the records covers their seconds; the records themselves are compared.
            found[name] = json.dumps({**kept, "records": None})
        elif path.name == "trial.json":  # costs are results as well; the order of items says nothing
            found[name] = json.dumps(json.loads(path.read_text())["trial"], sort_keys=True)
        elif path.suffix == ".jsonl":
            found[name] = json.dumps([plain(json.loads(line)) for line in path.read_text().splitlines()])
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [f"other {name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def stepwise(server: Server, work: str, *, most: int = MOST, close: int = MOST, **order: Any) -> int:
    """Has the work done, a fresh process for every step; returns how many steps ended a process.

    After the first `close` processes the next makes twice as many steps as the one before: long work ends.
    """
    for number in range(most):
        stride = 2 ** max(0, number - close)
        if server.run(work, fine=(0, STEP), step=True, stride=stride, **order).status == 0:
            return number
    raise AssertionError(f"{work} is not done after {most} steps")


@pytest.fixture(scope="module")
def server(guessing_model_dir: Path) -> Iterator[Server]:
    with serving(__file__, str(guessing_model_dir)) as found:
        yield found


def folder_of(tmp_path: Path, name: str) -> str:
    (tmp_path / name).mkdir()
    return str(tmp_path / name)


def replayed(
    server: Server,
    tmp_path: Path,
    work: str,
    name: str,
    *,
    again: bool = True,
    close: int = MOST,
    **order: Any,
) -> tuple[list[str], int]:
    """Does the work in one go, again with other concurrency, and step by step; returns what differs."""
    order = {"name": name, "broken": "", **order}
    whole = {"once": 4, "again": 1} if again else {"once": 4}
    for how, concurrency in whole.items():
        server.run(
            work, fine=(0,), folder=folder_of(tmp_path, how), step=False, concurrency=concurrency, **order
        )
    order |= {"concurrency": 4, "close": close}
    steps = stepwise(server, work, folder=folder_of(tmp_path, "steps"), **order)
    first = facts(tmp_path / "once")
    assert any(": ledger" in fact for fact in first)
    others = [how for how in (*whole, "steps") if how != "once"]
    return [f"{how}: {line}" for how in others for line in differences(first, facts(tmp_path / how))], steps


def built_in() -> list[str]:
    """The builders of `docendo.graphs`: what passes options on to LangGraph's `compile`."""
    from docendo import graphs

    return [
        name
        for name in graphs.__all__
        if inspect.isfunction(function := getattr(graphs, name))
        and "compile_options" in inspect.signature(function).parameters
    ]


def recipe_ids() -> list[str]:
    from docendo.registry import recipes

    return [recipe.id for recipe in recipes()]


@pytest.mark.parametrize("name", built_in())
def test_graphs(bar: Any, server: Server, tmp_path: Path, name: str) -> None:
    assert name in GRAPHS, f"a new graph: say in {Path(__file__).name} how it is built"
    problems, steps = replayed(server, tmp_path, "graph", name, items=bar.size(4, short=1))
    reached = {"forced resumes": steps}
    bar.part(f"graph {name}", cases=3, failed=problems, needed=3, reached=reached)


@pytest.mark.parametrize("name", recipe_ids())
def test_recipes(bar: Any, server: Server, tmp_path: Path, name: str) -> None:
    # A result that is another each time is noticed step by step as well: the short form saves the second run.
    size = {"items": bar.size(24, short=8), "close": bar.size(300, short=0), "again": bar.full}
    problems, steps = replayed(server, tmp_path, "recipe", name, **size)
    cases = bar.size(3, short=2)
    bar.part(
        f"recipe {name}",
        cases=cases,
        failed=problems,
        needed=cases,
        reached={"forced resumes": steps},
    )


def test_the_bar_catches_a_seed_from_the_clock(bar: Any, server: Server, tmp_path: Path) -> None:
    # Of so many items two runs do not guess the same by luck.
    order = {"name": "tutoring", "broken": "clock", "step": False, "items": 8, "concurrency": 4}
    for how in ("once", "again"):
        server.run("graph", fine=(0,), folder=folder_of(tmp_path, how), **order)
    caught = differences(facts(tmp_path / "once"), facts(tmp_path / "again"))
    bar.broken("a seed from the clock", cases=1, failed=caught)


def test_the_bar_catches_state_in_the_process(bar: Any, server: Server, tmp_path: Path) -> None:
    """What depends on what this process did before: the same twice, and another when it is resumed."""
    order = {"name": "tutoring", "broken": "memory", "items": 2, "concurrency": 1}
    for how in ("once", "again"):
        server.run("graph", fine=(0,), folder=folder_of(tmp_path, how), step=False, **order)
    first = facts(tmp_path / "once")
    assert differences(first, facts(tmp_path / "again")) == []
    steps = stepwise(server, "graph", most=300, folder=folder_of(tmp_path, "steps"), **order)
    caught = differences(first, facts(tmp_path / "steps"))
    bar.broken(
        "prompts that count the calls of the process",
        cases=1,
        failed=caught,
        reached={"forced resumes": steps},
    )


# --- LangGraph, a fresh process for each step -------------------------------------------------------


class Walk(TypedDict):
    drawn: list[int]


def converse(order: Order) -> None:
    """Four nodes that draw a number and post it; the process ends after each checkpoint of a step."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    folder = Path(order["folder"])
    generator = random.Random(order["seed"])
    posts = sqlite3.connect(folder / "posts.db", isolation_level=None)
    posts.execute("CREATE TABLE IF NOT EXISTS posts (node TEXT, number INTEGER)")

    def drawing(name: str) -> Callable[[Walk], dict[str, list[int]]]:
        def draw(state: Walk) -> dict[str, list[int]]:
            source = random.Random(f"{order['seed']} {name}") if order["each"] else generator
            number = source.randrange(1000)
            posts.execute("INSERT INTO posts VALUES (?, ?)", (name, number))
            return {"drawn": [*state["drawn"], number]}

        return draw

    names = [f"node {number}" for number in range(4)]
    builder = StateGraph(Walk)
    for before, name in zip((START, *names), names, strict=False):
        builder.add_node(name, drawing(name))
        builder.add_edge(before, name)
    builder.add_edge(names[-1], END)
    if order["step"]:
        put = SqliteSaver.put

        def ending(*args: Any, **options: Any) -> Any:
            put(*args, **options)
            os._exit(STEP)

        SqliteSaver.put = ending  # type: ignore[method-assign]
    with SqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
        graph = builder.compile(checkpointer=saver)
        thread: Any = {"configurable": {"thread_id": "1"}}
        known = graph.get_state(thread).metadata is not None
        state = graph.invoke(None if known else {"drawn": []}, thread, durability="sync")
    (folder / "drawn.json").write_text(json.dumps(state["drawn"]))


def drawn(folder: Path) -> tuple[list[int], list[Any]]:
    with closing(sqlite3.connect(folder / "posts.db")) as posts:
        rows = posts.execute("SELECT node, number FROM posts").fetchall()
    return json.loads((folder / "drawn.json").read_text()), rows


@pytest.mark.parametrize(
    ("each", "how"), [(False, "one generator, seeded when the process starts"), (True, "a seed per node")]
)
def test_anchor_langgraph(bar: Any, server: Server, tmp_path: Path, each: bool, how: str) -> None:
    runs, failed, steps = bar.size(20, short=2), [], 0
    for seed in range(runs):
        order = {"seed": seed, "each": each}
        for name in ("once", "again"):
            folder = folder_of(tmp_path, f"{name}-{seed}")
            server.run("langgraph", fine=(0,), folder=folder, step=False, **order)
        steps += stepwise(server, "langgraph", most=50, folder=folder_of(tmp_path, f"steps-{seed}"), **order)
        whole = drawn(tmp_path / f"once-{seed}")
        failed += ["again"] * (whole != drawn(tmp_path / f"again-{seed}"))
        failed += ["step by step"] * (whole != drawn(tmp_path / f"steps-{seed}"))
    bar.anchor(
        f"LangGraph and SqliteSaver, durability 'sync', 4 nodes, {how}",
        cases=2 * runs,
        failed=failed,
        note="runs whose state or posts differ from the first one of the same seed",
        reached={"forced resumes": steps},
        outcomes={f"{name} differ": failed.count(name) for name in ("again", "step by step")},
    )
