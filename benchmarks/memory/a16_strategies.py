"""A16: a library of strategies: a task with another trick in each scenario, and a teacher that knows them.

Twelve scenarios, each with two cues; in each the same two numbers have to be put together in another way. The
student is a reader trained to follow advice and examples on other scenarios, and frozen. Strategies are
distilled with this student: it tries, the teacher writes, it tries again.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

from _harness import Options
from _reader import Question, Reader, sampled
from _study import Study, difference

from docendo.hashing import derive_seed
from docendo.memory import (
    Blackboard,
    Budget,
    Case,
    Scenario,
    ShuffledLibrary,
    StrategyDistiller,
    StrategyLibrary,
)
from docendo.records import Author

SEEDS = (0, 1, 2)
PLACES = ("farm", "mill", "port", "mine", "shop", "camp", "school", "inn", "lab", "bank", "forge", "dock")
MOODS = ("calm", "late", "rainy", "busy", "cold", "dark", "quiet", "hot", "loud", "early", "windy", "dry")
DIGITS = tuple("012345")
#: The tricks: advice in words, and what it comes to.
TRICKS: dict[str, Callable[[int, int], int]] = {
    "say the first number": lambda a, b: a,
    "say the second number": lambda a, b: b,
    "say the larger number": max,
    "say the smaller number": min,
    "say one more than first": lambda a, b: (a + 1) % 6,
    "say one more than second": lambda a, b: (b + 1) % 6,
    "say one less than first": lambda a, b: (a - 1) % 6,
    "say one less than second": lambda a, b: (b - 1) % 6,
}
GLOBAL = "say the number you think"
TEACHER = Author(agent="teacher", role="teacher")


def measure(options: Options) -> Study:
    """Trains students, distils a library with each, and asks all of them with every kind of help."""
    items, steps = options.size(20, 3), options.size(1200, 30)
    scores: dict[str, list[list[float]]] = {}
    facts = []
    readers = [_student(seed, steps) for seed in SEEDS]
    libraries = [_library(reader, seed) for seed, (reader, _) in enumerate(readers)]
    for seed, (reader, trained) in enumerate(readers):
        library, distilled = libraries[seed]
        facts.append({**trained, **distilled})
        shuffled = ShuffledLibrary(library, seed=seed)
        other, _ = libraries[(seed + 1) % len(SEEDS)]
        for arm, helping in (
            ("no library", lambda place, text: ""),
            ("one global strategy", lambda place, text: GLOBAL),
            ("nearest teacher answer", _example),
            ("library", lambda place, text, library=library: _first(library, text)),
            ("library of another student", lambda place, text, library=other: _first(library, text)),
            ("shuffled library", lambda place, text, library=shuffled: _first(library, text)),
        ):
            scores.setdefault(arm, []).append(_ask(reader, helping, items, seed))
    for library, _ in libraries:
        library.board.close()
    # One value per scenario and question: the mean over students.
    mean = {arm: [statistics.fmean(one) for one in zip(*runs, strict=True)] for arm, runs in scores.items()}
    findings = [
        difference(f"accuracy, {of} over {over}", of=mean[of], over=mean[over])
        for of, over in (
            ("library", "no library"),
            ("library", "one global strategy"),
            ("library", "nearest teacher answer"),
            ("library of another student", "no library"),
        )
    ]
    findings.append(
        difference(
            "accuracy, shuffled library over library",
            of=mean["shuffled library"],
            over=mean["library"],
            control="loss",
        )
    )
    findings.append(
        difference(
            "accuracy, shuffled library over no library", of=mean["shuffled library"], over=mean["no library"]
        )
    )
    return Study(
        name="A16",
        setting=(
            f"{len(PLACES)} scenarios with {len(TRICKS)} tricks, {items} new questions each, answers are "
            f"digits from 0 to 5. {len(SEEDS)} students trained on advice and examples under other names, "
            f"then frozen; they answer by sampling. At most {len(TRICKS)} tries per strategy."
        ),
        arms={arm: {"accuracy": statistics.fmean(values)} for arm, values in mean.items()},
        findings=findings,
        notes=[
            "A question is one pair, averaged over the students. All help has four or five words.",
            "The teacher does not know which advice helps the student: it proposes tricks in random order, "
            "and the verifier's scores on eight practice questions decide. The questions asked are others.",
        ],
        detail={"students": facts},
    )


def _trick(place: str) -> str:
    return random.Random(derive_seed("a16 trick", place)).choice(list(TRICKS))


def _question(help_: str, place: str, mood: str, a: int, b: int, right: int | None = None) -> Question:
    return Question(
        text=f"{help_} at {mood} {place} first {a} second {b}".strip(),
        asked=place,
        options=DIGITS,
        right="" if right is None else str(right),
    )


def _numbers(draw: random.Random) -> tuple[int, int]:
    return draw.randrange(6), draw.randrange(6)


def _student(seed: int, steps: int) -> tuple[Reader, dict[str, float]]:
    """A student that has learnt to follow advice and examples, in scenarios whose tricks are random."""
    draw = random.Random(derive_seed("a16 lesson", seed))
    questions = []
    for _ in range(12_000):
        trick = draw.choice(list(TRICKS))
        (a, b), (c, d) = _numbers(draw), _numbers(draw)
        example = f"first {c} second {d} {TRICKS[trick](c, d)}"
        help_ = draw.choice(("", GLOBAL, trick, trick, example))
        questions.append(_question(help_, draw.choice(PLACES), draw.choice(MOODS), a, b, TRICKS[trick](a, b)))
    words = dict.fromkeys(word for text in (*TRICKS, GLOBAL, "at first second") for word in text.split())
    reader = Reader(
        [PLACES, MOODS], [*words, *DIGITS], seed=derive_seed("a16", seed) % (1 << 31), channels=96
    )
    return reader, reader.train(questions, steps=steps)


def _library(reader: Reader, seed: int) -> tuple[StrategyLibrary, dict[str, float]]:
    """Distils a strategy per scenario; the judge is the verifier, on eight practice questions."""
    draw = random.Random(derive_seed("a16 practice", seed))
    library = StrategyLibrary(Blackboard.open(":memory:"), channel="strategies")
    practice = {place: [(*_numbers(draw), draw.choice(MOODS)) for _ in range(8)] for place in PLACES}

    def reply(text: str, strategies: tuple[str, ...]) -> str:
        place = text.split()[-1]
        asked = [
            _question(strategies[0] if strategies else "", place, mood, a, b)
            for a, b, mood in practice[place]
        ]
        return " ".join(DIGITS[sampled(row, draw)] for row in reader.probabilities(asked))

    def right(place: str) -> list[str]:
        return [str(TRICKS[_trick(place)](a, b)) for a, b, _ in practice[place]]

    def write(case: Case) -> str:
        tried = {text for text, _ in case.rejected}
        order = random.Random(derive_seed("a16 writer", seed, case.scenario.id))
        return order.choice([trick for trick in TRICKS if trick not in tried])

    def judge(scenario: Scenario, said: str) -> float:
        pairs = zip(said.split(), right(scenario.id), strict=True)
        return statistics.fmean(float(one == other) for one, other in pairs)

    distiller = StrategyDistiller(
        library,
        student=reply,
        teacher=lambda text: " ".join(right(text.split()[-1])),
        writer=write,
        judge=judge,
        author=TEACHER,
        tries=len(TRICKS),
        tolerance=0.25,
    )
    distiller.fit(Scenario(id=place, text=f"at {place}") for place in PLACES)
    kept = library.strategies()
    return library, {
        "strategies": len(kept),
        "right strategies": sum(one.text == _trick(one.scenario.split()[-1]) for one in kept),
        "mean tries": statistics.fmean(one.tries for one in kept) if kept else 0.0,
    }


def _first(library: StrategyLibrary, text: str) -> str:
    found = library.read(text, Budget(entries=1))
    return found[0].text if found else ""


def _example(place: str, text: str) -> str:
    """The teacher's answer to another question of the scenario."""
    a, b = _numbers(random.Random(derive_seed("a16 example", place, text)))
    return f"first {a} second {b} {TRICKS[_trick(place)](a, b)}"


def _ask(reader: Reader, helping: Callable[[str, str], str], items: int, seed: int) -> list[float]:
    draw = random.Random(derive_seed("a16 test"))
    asked, gold = [], []
    for place in PLACES:
        for _ in range(items):
            (a, b), mood = _numbers(draw), draw.choice(MOODS)
            help_ = helping(place, f"at {mood} {place}")
            asked.append(_question(help_, place, mood, a, b))
            gold.append(str(TRICKS[_trick(place)](a, b)))
    said = random.Random(derive_seed("a16 answers", seed))
    return [
        float(DIGITS[sampled(row, said)] == right)
        for row, right in zip(_rows(reader, asked), gold, strict=True)
    ]


def _rows(reader: Reader, asked: Sequence[Question]) -> list[list[float]]:
    return [
        row for start in range(0, len(asked), 64) for row in reader.probabilities(asked[start : start + 64])
    ]
