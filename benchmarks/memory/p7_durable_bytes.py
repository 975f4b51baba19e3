"""P7: 200 steps that append 1 KB each, bytes on disk over payload; reference: LangGraph's SQLite saver.

docendo's run stores each message as a post and keeps ids in the graph's state; it resumes from the start,
which repeats nothing that is on the board. The reference keeps the transcript in the state, as LangGraph's
own examples do, and saves it at every step: with the saver for event loops, on which docendo runs graphs, and
with the other, which is faster. Bytes are those of all files after the database was closed.
Messages are words, and random letters that hardly compress; static state is 50 KB of either.
"""

import asyncio
import operator
import random
import string
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypedDict

from _harness import Bar, Options, Part, alternate, ratios, shown
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from docendo import graphs
from docendo.agents import RunContext, ScriptedEngine, Student
from docendo.hashing import digest
from docendo.records import Completion, Gold, Item, PublicItem, Result

KILOBYTE, STATIC = 1024, 50 * 1024
ITEM = Item(public=PublicItem(id="item", question="?"), gold=Gold("yes"))
WORDS = tuple(
    "".join(random.Random(number).choices(string.ascii_lowercase, k=2 + number % 8)) for number in range(3000)
)


class Talk(TypedDict, total=False):
    """What docendo's graph keeps."""

    item: str
    step: int
    last: str


class Transcript(TypedDict, total=False):
    """What the reference keeps."""

    said: Annotated[list[str], operator.add]
    static: str
    step: int


@cache
def text(kind: str, size: int, seed: int) -> str:
    """A text of so many bytes; made in the warm-up, so that nobody's time is spent on it."""
    chance = random.Random(f"{kind} {seed}")
    if kind == "letters":
        return "".join(chance.choices(string.ascii_letters + string.digits, k=size))
    return " ".join(chance.choice(WORDS) for _ in range(size // 3))[:size]


class Load:
    """One amount of work, done in both ways."""

    def __init__(self, kind: str, *, steps: int, static: bool, asked: bool = False) -> None:
        self.kind, self.steps, self.static, self.asked = kind, steps, static, asked
        self.payload = steps * KILOBYTE + (STATIC if static else 0)
        self.bytes: dict[str, list[int]] = {"docendo": [], "reference": []}

    def ours(self, number: int) -> float:
        """A run of docendo: posts, and in `asked` traces and the journal of a scripted engine as well."""
        steps, kind = self.steps, self.kind
        engine = ScriptedEngine(
            lambda request: Result(completions=(Completion(text=text(kind, KILOBYTE, len(request.prompt))),))
        )
        student = Student(engine, system="")

        async def say(state: Talk, context: RunContext) -> Talk:
            step = state.get("step", 0)
            said = text(kind, KILOBYTE, step)
            if self.asked:
                history = [
                    {"role": "assistant" if n % 2 else "user", "content": text(kind, KILOBYTE, n)}
                    for n in range(step + 1)
                ]
                said = (await context.ask(student, "item", history, node="say", step=step)).text
            parents = (state["last"],) if "last" in state else ()
            post = context.post(
                "message",
                {"text": said},
                author=student.author,
                item="item",
                node="say",
                step=step,
                parents=parents,
            )
            return {"step": step + 1, "last": post.id}

        async def begin(state: Talk, context: RunContext) -> Talk:
            body = {"text": text(kind, STATIC, -1)}
            context.post("task", body, author=student.author, item="item", node="begin")
            return {"step": 0}

        async def onwards(state: Talk) -> str:
            return "say" if state["step"] < steps else END

        builder = StateGraph(Talk, context_schema=RunContext)
        builder.add_node("begin", graphs.node(begin, "begin")).add_node("say", graphs.node(say, "say"))
        builder.add_edge(START, "begin" if self.static else "say").add_edge("begin", "say")
        builder.add_conditional_edges("say", onwards, ["say", END])
        graph = builder.compile().with_config(recursion_limit=steps + 10)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "run"
            began = time.perf_counter()
            with graphs.run(graph, [ITEM], name="run", folder=folder, quiet=True) as run:
                if run.summary()["posts"] < steps:
                    raise SystemExit("the run has not posted every message")
            seconds = time.perf_counter() - began
            self.bytes["docendo"].append(size_of(folder))
        return seconds

    def reference(self, number: int) -> float:
        """The same transcript in LangGraph's state, saved at every step."""
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            with SqliteSaver.from_conn_string(str(Path(scratch) / "saved.db")) as saver:
                graph, first, config = self._transcript(saver, number)
                graph.invoke(first, config, durability="sync")
            seconds = time.perf_counter() - began
            self.bytes["reference"].append(size_of(Path(scratch)))
        return seconds

    def reference_async(self, number: int) -> float:
        """The same on an event loop, where docendo runs its graphs as well."""

        async def work(file: Path) -> None:
            async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
                graph, first, config = self._transcript(saver, number)
                await graph.ainvoke(first, config, durability="sync")

        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            asyncio.run(work(Path(scratch) / "saved.db"))
            return time.perf_counter() - began

    def _transcript(self, saver: Any, number: int) -> tuple[Any, dict[str, Any], Any]:
        steps, kind = self.steps, self.kind

        def say(state: Transcript) -> Transcript:
            return {"said": [text(kind, KILOBYTE, state["step"])], "step": state["step"] + 1}

        async def asay(state: Transcript) -> Transcript:
            return say(state)

        def onwards(state: Transcript) -> str:
            return "say" if state["step"] < steps else END

        async def aonwards(state: Transcript) -> str:
            return onwards(state)

        both = isinstance(saver, AsyncSqliteSaver)
        builder = StateGraph(Transcript).add_node("say", asay if both else say).add_edge(START, "say")
        builder.add_conditional_edges("say", aonwards if both else onwards, ["say", END])
        first: dict[str, Any] = {"said": [], "step": 0}
        if self.static:
            first["static"] = text(kind, STATIC, -1)
        config = {"configurable": {"thread_id": digest(number)[:8]}, "recursion_limit": steps + 10}
        return builder.compile(checkpointer=saver), first, config

    def over(self, side: str) -> list[float]:
        """Bytes on disk over payload, of every run but the warm-up."""
        return [count / self.payload for count in self.bytes[side][1:]]


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(options: Options) -> Bar:
    """Bytes of four loads, and the time of both sides on the first."""
    steps = options.size(200, 20)
    loads = {
        f"{kind}{', with 50 KB of static state' if static else ''}": Load(kind, steps=steps, static=static)
        for kind in ("words", "letters")
        for static in (False, True)
    }
    parts, seconds, reference = [], {}, {}
    for name, load in loads.items():
        arms = {"docendo": load.ours, "sync": load.reference, "async": load.reference_async}
        costs = alternate(arms, rounds=options.rounds(9))  # short arms
        parts.append(
            Part(name=f"{name}: bytes over payload", target=2.0, at_most=True, ratios=load.over("docendo"))
        )
        for mode in ("async", "sync"):
            parts.append(
                Part(
                    name=f"{name}: time over the {mode} saver's",
                    target=1.0,
                    at_most=True,
                    ratios=ratios(costs["docendo"], costs[mode]),
                )
            )
        reference[f"LangGraph SqliteSaver, {name}"] = round(load.over("reference")[0], 1)
        seconds[name] = shown(costs)
    asked = Load("words", steps=steps, static=False, asked=True)
    asked.ours(-1)
    asked.ours(0)
    return Bar(
        name="P7",
        parts=parts,
        peers=reference,
        detail={
            "steps": steps,
            "seconds": seconds,
            "with traces and journal, bytes over payload": round(asked.over("docendo")[0], 2),
        },
    )
