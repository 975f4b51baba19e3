"""A3: a blackboard with volunteers: do those who know find a request better than one who addresses it?

A lake of 200 fact sheets in 8 partitions, one keeper each. A question needs two sheets of different
partitions: who leads a place, and something about that person. The same keepers and the same reader (a small
language model) work under all protocols; what differs is who delivers: keepers that a coordinator addresses
by their descriptions, of which half are wrong or stale; all of them; or those that volunteer by their own
notes. The thresholds of volunteers are calibrated on other questions. Control: the volunteers' confidences,
shuffled among them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from _harness import Options
from _lake import KINDS, Lake, Question, lake
from _study import Finding, Study, difference

from docendo import graphs
from docendo.agents import Asker, Engine, NoteKeeper, RunContext, Volunteer, calibrate
from docendo.graphs._nodes import blocking
from docendo.memory import BoardRequest, Database, Notes, Outcome
from docendo.records import Gold, Item, Message, PublicItem, Request, SamplingParams

SEEDS = 3
#: Keepers that deliver per request, and sheets of each, under every protocol but broadcast.
PLACES, MOST = 2, 2
DEV = 24
#: A small model continues a text better than it answers in a chat, so messages become one text.
PLAIN = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}.\n\n"
    "{% elif m.role == 'system' %}{{ m.content }}\n\n{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
_MAST, _LAKE = "- The Aldo mast is led by Mia Kern.", "- The Aldo lake is led by Pia Lott."


class Reader(Asker):
    """Reads a name from what the first request brings, asks on with it, and reads the answer."""

    system = "Facts and what follows from them."
    sampling = SamplingParams(max_tokens=8, stop=("\n", "."))
    shown = (
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
        """The facts of the last request, and what it asked."""
        turns: list[Message] = [{"role": "system", "content": self.system}]
        for asked, answer in self.shown:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        begun = item.metadata["begun"][len(history) - 1].format(_name(history[-1][0]))
        return (*turns, {"role": "user", "content": f"{history[-1][1]}\n{begun}"})

    def decide(self, text: str, *, item: PublicItem | None = None, rounds: int = 0) -> Any:
        """A name leads to the second request; what comes then is the answer."""
        if rounds == 1 and item is not None:
            return super().decide(f"REQUEST: {item.metadata['second'].format(_name(text))}")
        return super().decide(f"ANSWER: {_name(text)}")

    def told(self, request: str, outcome: Outcome) -> str:
        """The sheets as a list."""
        lines = [line for response in outcome.responses for line in response.text.splitlines()]
        return "\n".join(f"- {line}" for line in lines) or "- nothing is known"


def _name(text: str) -> str:
    return text.strip().rstrip(".").replace("{", "").replace("}", "")


#: For a request, the confidence of every keeper.
Confidences = Callable[[BoardRequest], Sequence[float]]


class Told(NoteKeeper):
    """A keeper that is told its confidence instead of judging for itself."""

    def __init__(self, name: str, notes: Sequence[str], number: int, confidences: Confidences) -> None:
        super().__init__(name, notes, most=MOST, threshold=0.01)
        self.number, self.confidences = number, confidences

    async def can_help(self, request: BoardRequest, context: RunContext) -> float:
        """What it is told."""
        return self.confidences(request)[self.number]


def _volunteers(made: Lake) -> list[NoteKeeper]:
    """Keepers that judge by their notes, each with a threshold from the dev questions."""
    keepers = []
    for number, partition in enumerate(made.partitions):
        notes = Notes(made.sheets[sheet] for sheet in partition)
        confidences, useful = [], []
        for question in made.dev:
            for text, sheet in zip(_requests(question), question.sheets, strict=True):
                found = [partition[note.index] for note in notes.search(text, most=MOST)]
                confidences.append(notes.coverage(text))
                useful.append(sheet in found)
        threshold = calibrate(confidences, useful)
        keepers.append(NoteKeeper(f"keeper {number}", notes, threshold=threshold, most=MOST))
    return keepers


def _requests(question: Question) -> tuple[str, str]:
    return question.first, question.second.format(question.name)


def _told(made: Lake, confidences: Confidences) -> list[Volunteer]:
    return [
        Told(f"keeper {number}", [made.sheets[sheet] for sheet in partition], number, confidences)
        for number, partition in enumerate(made.partitions)
    ]


def _by_words(descriptions: Sequence[str], *, most: int = PLACES) -> Confidences:
    """A coordinator that compares the words of a request with the descriptions (BM25)."""
    notes = Notes(descriptions)

    def chosen(request: BoardRequest) -> list[float]:
        picked = [note.index for note in notes.search(request.text, most=most)]
        return [1.0 if number in picked else 0.0 for number in range(len(descriptions))]

    return chosen


def _by_model(engine: Engine, descriptions: Sequence[str]) -> Confidences:
    """A coordinator that reads the descriptions and names a letter; the likeliest two are addressed."""
    letters = "ABCDEFGH"
    listed = "\n".join(f"{letter}: {text}" for letter, text in zip(letters, descriptions, strict=True))
    known: dict[str, list[float]] = {}

    def chosen(request: BoardRequest) -> list[float]:
        if request.text not in known:
            prompt = f"Who knows the answer?\n{listed}\nQuestion: {request.text}\nAnswered by"
            sampling = SamplingParams(max_tokens=1, top_logprobs=20)
            asked = Request(prompt=({"role": "user", "content": prompt},), sampling=sampling)
            (found,) = engine.generate(asked).completions[0].top_logprobs
            named = [engine.tokenizer.decode([token]).strip() for token, _ in found]
            picked = list(dict.fromkeys(n for n in named if n and n in letters and len(n) == 1))[:PLACES]
            known[request.text] = [1.0 if letter in picked else 0.0 for letter in letters]
        return known[request.text]

    return chosen


def _shuffled(keepers: Sequence[NoteKeeper], seed: int) -> Confidences:
    """The volunteers' own confidences, those below their thresholds as 0, dealt out anew."""

    def dealt(request: BoardRequest) -> list[float]:
        own = [keeper.notes.coverage(request.text) for keeper in keepers]
        kept = [c if c >= keeper.threshold else 0.0 for c, keeper in zip(own, keepers, strict=True)]
        random.Random(f"shuffled/{seed}/{request.text}").shuffle(kept)
        return kept

    return dealt


def measure(options: Options) -> Study:
    """All protocols on all seeds."""
    size = options.size(18, 3)
    seeds = 1 if options.quick else SEEDS
    scores: dict[str, list[dict[str, float]]] = {}
    detail: dict[str, Any] = {"thresholds": {}}
    with Engine.load(options.model) as engine:
        engine.tokenizer.chat_template = PLAIN
        for seed in range(seeds):
            made = lake(seed, dev=DEV, test=size)
            keepers = _volunteers(made)
            detail["thresholds"][str(seed)] = [round(keeper.threshold, 3) for keeper in keepers]
            # One keeper of all sheets: with as many sheets, and with as many as volunteers mostly deliver.
            archives = {most: NoteKeeper("archive", made.sheets, threshold=0.0, most=most) for most in (4, 2)}
            # `places` keepers deliver; under broadcast all of them.
            arms: dict[str, tuple[Sequence[Volunteer], int]] = {
                "blackboard, volunteers": (keepers, PLACES),
                "blackboard, confidences shuffled": (_told(made, _shuffled(keepers, seed)), PLACES),
                "addressed by words, half wrong": (_told(made, _by_words(made.stale)), PLACES),
                "addressed by the model, half wrong": (_told(made, _by_model(engine, made.stale)), PLACES),
                "addressed by words, all right": (_told(made, _by_words(made.right)), PLACES),
                "addressed by words, half wrong, one keeper": (_told(made, _by_words(made.stale, most=1)), 1),
                "addressed by words, all right, one keeper": (_told(made, _by_words(made.right, most=1)), 1),
                "broadcast": (_told(made, lambda request: [1.0] * len(KINDS)), len(KINDS)),
                **{f"single index, BM25, best {most}": ([one], 1) for most, one in archives.items()},
            }
            with Database.open(":memory:") as database:
                for arm, (helpers, places) in arms.items():
                    found = _run(engine, database, made, arm, helpers, places, seed)
                    scores.setdefault(arm, []).extend(found)
    board = "blackboard, volunteers"
    findings: list[Finding] = []
    for metric in ("exact match", "discovery F1"):
        own = [row[metric] for row in scores[board]]
        for arm, rows in scores.items():
            if arm != board:
                other = [row[metric] for row in rows]
                control = "gain" if "shuffled" in arm else None
                name = f"{metric}: blackboard over {arm}"
                findings.append(difference(name, of=own, over=other, control=control))
    return Study(
        name="A3",
        setting=(
            f"{seeds} seeds, each a lake of 200 sheets in 8 partitions and {size} questions of two hops, "
            f"{DEV} others for thresholds. Reader and addressing model: {options.model}, greedy. {PLACES} "
            f"keepers with up to {MOST} sheets each deliver per request, all 8 under broadcast."
        ),
        arms={
            arm: {metric: statistics.fmean(row[metric] for row in rows) for metric in rows[0]}
            for arm, rows in scores.items()
        },
        findings=findings,
        notes=(
            "Gold sheets are two per question, so F1 is at most 0.4 where eight are delivered; recall is "
            "the share of gold sheets delivered.",
            "Volunteers judge by the words of their own notes, which cannot be stale; descriptions can. The "
            "arm with right descriptions shows how much of the difference that is.",
            "Tokens are the reader's per question; those of the model that addresses are not in them.",
        ),
        detail=detail,
    )


def _run(
    engine: Engine,
    database: Database,
    made: Lake,
    arm: str,
    helpers: Sequence[Volunteer],
    places: int,
    seed: int,
) -> list[dict[str, float]]:
    """The metrics of one protocol for every question."""
    items = [
        Item(
            public=PublicItem(
                id=f"{seed}/{number}",
                question=_question(question),
                metadata={"first": question.first, "second": question.second, "begun": question.begun},
            ),
            gold=Gold(question.answer),
        )
        for number, question in enumerate(made.test)
    ]
    # One database for all arms: what one has asked the model, the next reads from the journal.
    context = RunContext(items, database, run=arm, seed=seed)
    graph = graphs.blackboard(Reader(engine), helpers, places=places, max_rounds=3)
    number_of = {text: number for number, text in enumerate(made.sheets)}

    async def every() -> list[dict[str, Any]]:
        import asyncio

        return await asyncio.gather(*(graph.ainvoke({"item": i.id}, context=context) for i in items))

    rows = []
    for item, question, state in zip(items, made.test, blocking(every()), strict=True):
        texts = [context.board.get(post).body["text"] for post in state["responses"]]
        delivered = {number_of[line] for text in texts for line in text.splitlines()}
        hits = len(delivered & set(question.sheets))
        usage = [trace.usage for trace in context.traces.find(run=arm, item=item.id)]
        rows.append(
            {
                "exact match": float(_plain(state["answer"]) == _plain(question.answer)),
                "discovery F1": 2 * hits / (len(delivered) + len(question.sheets)),
                "recall": hits / len(question.sheets),
                "sheets": float(len(delivered)),
                "tokens": float(sum(one.prompt_tokens + one.generated_tokens for one in usage)),
                "unanswered": float(state.get("unanswered", 0)),
            }
        )
    return rows


def _question(question: Question) -> str:
    place = question.first.removeprefix("Who leads ").rstrip("?")
    return question.second.format(f"the one who leads {place}")


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum() or c == " ").strip()
