"""A board with volunteers: those who know find a request, whatever they are said to know.

A main agent posts what it needs to know and names nobody; helpers with private notes judge for themselves
whether they can help, and the most confident answers (LLM-based multi-agent blackboard system for
information discovery, Salemi et al. 2025, arXiv 2510.01285). The paper compares whole systems; here the
helpers, their notes and the reader are the same under all protocols, and what differs is who delivers:

- volunteers, by their own notes;
- keepers that are addressed by what they say of themselves, half of which is wrong;
- all of them (broadcast);
- one index over all sheets.

The world: 200 fact sheets in 8 partitions, questions of two hops whose sheets lie in different partitions.
The reader is a small language model. Thresholds are calibrated on other questions.

Claim: with the same helpers, reader and budget, volunteers answer more questions than helpers that are
addressed by descriptions half of which are wrong; with confidences dealt out at random they do not.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docendo import graphs
from docendo.agents import Asker, Engine, NoteKeeper, RunContext, Volunteer, Worker, calibrate
from docendo.errors import InfrastructureError
from docendo.evals import Scores, Trial, experiment, gain, no_gain, shown, within
from docendo.graphs._nodes import blocking
from docendo.graphs.recipes._lake import KINDS, Lake, Question, lake
from docendo.memory import Blackboard, BoardRequest, Database, Notes, Outcome
from docendo.progress import progress
from docendo.records import Gold, Item, Message, PublicItem, Record, SamplingParams
from docendo.registry import recipe

#: A small model continues a text better than it answers in a chat, so messages become one text.
_PLAIN = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}.\n\n"
    "{% elif m.role == 'system' %}{{ m.content }}\n\n{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
_MAST, _LAKE = "- The Aldo mast is led by Mia Kern.", "- The Aldo lake is led by Pia Lott."
#: Seconds in which offers from other processes are gathered, and those in which they may answer.
_WINDOW, _DEADLINE = 1.0, 6.0
#: Seconds in which their processes must have begun.
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VolunteerBoard(Record):
    """Settings.

    Attributes:
        model: Who reads.
        questions: Test questions of a seed.
        dev: Other questions, for the volunteers' thresholds.
        sheets: Sheets that a keeper delivers for a request.
        processes: Processes in which the volunteers work on the board; 0 for this one.
        seed: First seed.
        seeds: Number of seeds.
    """

    model: str = "smollm2-135m-instruct"
    questions: int = 40
    dev: int = 24
    sheets: int = 2
    processes: int = 0
    seed: int = 0
    seeds: int = 5


class Reader(Asker):
    """Reads a name from what the first request brings, asks on with it, and reads the answer."""

    system = "Facts and what follows from them."
    # No stop string: every turn of every protocol writes as much.
    sampling = SamplingParams(max_tokens=8)
    examples_shown = (
        (f"{_MAST}\n{_LAKE}\nThe Aldo mast is led by", "Mia Kern"),
        ("- Mia Kern drinks tea.\n- Ada Kern drinks milk.\nMia Kern drinks", "tea"),
        (f"- The Ems lake is led by Jan Roth.\n{_LAKE}\nThe Aldo lake is led by", "Pia Lott"),
        (f"{_LAKE}\n- The Ems lake is led by Jan Roth.\nThe Aldo lake is led by", "Pia Lott"),
        ("- Jan Roth grows a rose.\n- Mia Roth grows a tulip.\nJan Roth grows a", "rose"),
    )

    def first(self, item: PublicItem) -> tuple[str, ...]:
        """The first hop does not need the model."""
        return (item.metadata["first"],)

    def messages(
        self, item: PublicItem, *, history: Sequence[tuple[str, str]] = (), **fields: Any
    ) -> tuple[Message, ...]:
        """The facts of the last request, and the beginning of the one that is wanted."""
        turns: list[Message] = [{"role": "system", "content": self.system}]
        for asked, answer in self.examples_shown:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        begun = item.metadata["begun"][len(history) - 1].format(_said(history[-1][0]))
        return (*turns, {"role": "user", "content": f"{history[-1][1]}\n{begun}"})

    def decide(self, text: str, *, item: PublicItem | None = None, rounds: int = 0) -> Any:
        """A name leads to the second request; what comes then is the answer."""
        if rounds == 1 and item is not None:
            return super().decide(f"REQUEST: {item.metadata['second'].format(_said(text))}")
        return super().decide(f"ANSWER: {_said(text)}")

    def told(self, request: str, outcome: Outcome) -> str:
        """The sheets as a list."""
        lines = [line for response in outcome.responses for line in response.text.splitlines()]
        return "\n".join(f"- {line}" for line in lines) or "- nothing is known"


def _said(text: str) -> str:
    """The first sentence of a continuation."""
    return text.strip().split("\n")[0].split(".")[0].replace("{", "").replace("}", "").strip()


#: For a request, the confidence of every keeper.
Confidences = Callable[[BoardRequest], Sequence[float]]


class Told(NoteKeeper):
    """A keeper that is told its confidence instead of judging for itself."""

    def __init__(
        self, name: str, notes: Notes | Sequence[str], number: int, confidences: Confidences, *, most: int
    ) -> None:
        super().__init__(name, notes, most=most, threshold=0.01)
        self.number, self.confidences = number, confidences

    async def can_help(self, request: BoardRequest, context: RunContext) -> float:
        """What it is told."""
        return self.confidences(request)[self.number]


def keepers(made: Lake, most: int) -> list[NoteKeeper]:
    """Volunteers that judge by their notes, each with a threshold from the dev questions."""
    found = []
    for number, partition in enumerate(made.partitions):
        notes = Notes(made.sheets[sheet] for sheet in partition)
        confidences, useful = [], []
        for question in made.dev:
            for text, sheet in zip(question.requests, question.sheets, strict=True):
                confidences.append(notes.coverage(text))
                useful.append(sheet in [partition[note.index] for note in notes.search(text, most=most)])
        threshold = calibrate(confidences, useful)
        found.append(NoteKeeper(f"keeper {number}", notes, threshold=threshold, most=most))
    return found


def _by_words(descriptions: Sequence[str]) -> Confidences:
    """A coordinator that compares the words of a request with the descriptions (BM25)."""
    notes = Notes(descriptions)

    def chosen(request: BoardRequest) -> list[float]:
        picked = [note.index for note in notes.search(request.text, most=1)]
        return [1.0 if number in picked else 0.0 for number in range(len(descriptions))]

    return chosen


def _shuffled(volunteers: Sequence[NoteKeeper], seed: int) -> Confidences:
    """The volunteers' own confidences, those below their thresholds as 0, dealt out anew."""

    def dealt(request: BoardRequest) -> list[float]:
        own = [volunteer.notes.coverage(request.text) for volunteer in volunteers]
        kept = [c if c >= volunteer.threshold else 0.0 for c, volunteer in zip(own, volunteers, strict=True)]
        random.Random(f"shuffled/{seed}/{request.text}").shuffle(kept)
        return kept

    return dealt


@recipe(
    id="volunteer-board",
    title="Helpers volunteer for requests that name nobody",
    paper="LLM-based Multi-Agent Blackboard System, Salemi et al. 2025, arXiv 2510.01285",
    claim=(
        "With the same helpers, reader and budget, volunteers answer more questions than helpers addressed "
        "by descriptions half of which are wrong; with confidences dealt out at random they do not."
    ),
    config=VolunteerBoard,
    cost="90 seconds a seed on one core with SmolLM2-135M",
    needs=("model:smollm2-135m-instruct",),
    scales={"tiny": {"questions": 3, "dev": 8, "seeds": 2}},
)
@experiment(
    gain("volunteers", over="addressed", equal="generated tokens"),
    gain("volunteers: F1", over="addressed: F1"),
    gain("volunteers: F1", over="broadcast: F1"),
    no_gain("confidences shuffled", over="addressed"),
    no_gain("confidences shuffled: F1", over="addressed: F1"),
    within("sheets of volunteers for each of the addressed", most=1.0),
    shown("volunteers", over="broadcast"),
    shown("volunteers", over="single index"),
    shown("volunteers: F1", over="single index: F1"),
    shown("volunteers", over="addressed, all right"),
    shown("volunteers: F1", over="addressed, all right: F1"),
)
def volunteer_board(config: VolunteerBoard, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """One seed: a lake of its own, and every protocol asked the same questions."""
    made = lake(seed, dev=config.dev, test=config.questions)
    own = keepers(made, config.sheets)
    with Engine.load(config.model) as engine, Database.open(folder / "board.db") as database:
        engine.tokenizer.chat_template = _PLAIN
        everybody = len(KINDS)

        def told(confidences: Confidences) -> list[Volunteer]:
            return [
                Told(keeper.name, keeper.notes, number, confidences, most=config.sheets)
                for number, keeper in enumerate(own)
            ]

        # One place for each request, so that all but broadcast deliver as much.
        protocols: dict[str, tuple[Sequence[Volunteer], int]] = {
            "volunteers": (own, 1),
            "addressed": (told(_by_words(made.stale)), 1),
            "addressed, all right": (told(_by_words(made.right)), 1),
            "broadcast": (told(lambda request: [1.0] * everybody), everybody),
            "single index": ([NoteKeeper("archive", made.sheets, threshold=0.0, most=config.sheets)], 1),
            "confidences shuffled": (told(_shuffled(own, seed)), 1),
        }
        arms: dict[str, Scores] = {}
        sheets: dict[str, float] = {}
        with progress("protocols", len(protocols), quiet=quiet) as bar:
            for arm, (helpers, places) in protocols.items():
                elsewhere = config.processes if arm == "volunteers" else 0
                with _working(config, seed, folder / "board.db", elsewhere) as options:
                    graph = graphs.blackboard(
                        Reader(engine), [] if elsewhere else helpers, places=places, max_rounds=3, **options
                    )
                    answered = _answer(graph, database, made, arm, seed)
                arms[arm], arms[f"{arm}: F1"], sheets[arm] = answered
                bar.advance(note=arm)
    facts = {f"sheets, {arm}": number for arm, number in sheets.items()}
    facts["sheets of volunteers for each of the addressed"] = sheets["volunteers"] / sheets["addressed"]
    return Trial(arms=arms, facts=facts)


def _answer(graph: Any, database: Database, made: Lake, arm: str, seed: int) -> tuple[Scores, Scores, float]:
    """Exact match, discovery F1 (sheets delivered against those needed), and sheets for a question."""
    items = [_item(question, f"{seed}/{number}") for number, question in enumerate(made.test)]
    # One database for all arms: what one has asked the model, the next reads from the journal.
    context = RunContext(items, database, run=arm, seed=seed)

    async def every() -> list[dict[str, Any]]:
        return await asyncio.gather(*(graph.ainvoke({"item": item.id}, context=context) for item in items))

    number_of = {text: number for number, text in enumerate(made.sheets)}
    match, f1, sheets = dict[str, float](), dict[str, float](), 0
    for item, question, state in zip(items, made.test, blocking(every()), strict=True):
        texts = [context.board.get(post).body["text"] for post in state["responses"]]
        delivered = {number_of[line] for text in texts for line in text.splitlines()}
        hits = len(delivered & set(question.sheets))
        sheets += len(delivered)
        match[item.id] = float(_plain(state["answer"]) == _plain(question.answer))
        f1[item.id] = 2 * hits / (len(delivered) + len(question.sheets))
    usage = [trace.usage for trace in context.traces.find(run=arm)]
    spent = {
        "generated tokens": float(sum(one.generated_tokens for one in usage)),
        "prompt tokens": float(sum(one.prompt_tokens for one in usage)),
    }
    return Scores(values=match, spent=spent), Scores(values=f1, spent=spent), sheets / len(items)


def _item(question: Question, id: str) -> Item:
    metadata = {"first": question.first, "second": question.second, "begun": question.begun}
    return Item(
        public=PublicItem(id=id, question=question.text, metadata=metadata), gold=Gold(question.answer)
    )


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum() or c == " ").strip()


@contextmanager
def _working(config: VolunteerBoard, seed: int, board: Path, processes: int) -> Iterator[dict[str, Any]]:
    """Lets volunteers work in other processes; gives the options with which the graph waits for them."""
    if not processes:
        yield {}
        return
    spawn = multiprocessing.get_context("spawn")  # nothing of this process's threads and models goes along
    stop, ready = spawn.Event(), spawn.Semaphore(0)
    workers = [
        spawn.Process(target=_serve, args=(config, seed, str(board), number, stop, ready))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in workers:
            if not ready.acquire(timeout=_PATIENCE):
                raise InfrastructureError(
                    f"a process with volunteers did not begin in {_PATIENCE:.0f} s; look for its error above"
                )
        yield {"deadline": _DEADLINE, "window": _WINDOW}
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _serve(config: VolunteerBoard, seed: int, board: str, number: int, stop: Any, ready: Any) -> None:
    """A process with every so manieth volunteer, which ends with the one that started it."""
    started_by = multiprocessing.parent_process()
    own = keepers(lake(seed, dev=config.dev, test=config.questions), config.sheets)

    async def work() -> None:
        ended = asyncio.Event()
        with Blackboard.open(board) as opened:
            working = asyncio.create_task(Worker(opened, own[number :: config.processes]).run(stop=ended))
            ready.release()
            while not stop.is_set() and not working.done() and (not started_by or started_by.is_alive()):
                await asyncio.sleep(0.05)
            ended.set()
            await working

    asyncio.run(work())
