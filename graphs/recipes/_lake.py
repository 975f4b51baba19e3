"""A lake of fact sheets in partitions, and questions of two hops over it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("harbor", "mill", "garden", "choir", "mine", "school", "bakery", "museum")
PLACE_NAMES = (
    *("Vellmar", "Tarnow", "Brix", "Corlay", "Dunmere", "Eskil", "Farrow", "Gantry", "Holm", "Ister"),
    *("Jarrow", "Kelso", "Lunde"),
)
FIRST = ("Orla", "Tam", "Ines", "Bram", "Dora", "Egon", "Faye", "Gil", "Hanna", "Ivo", "Jo", "Kaj", "Lena")
LAST = ("Denn", "Pike", "Moss", "Reyes", "Stroud", "Ulmer", "Voss", "Wray", "Zeller", "Abt", "Carne", "Dahl")
#: What is known of a person: the question, how a sheet says it, and the values.
TRAITS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Which instrument does {} play?", "{} plays the {}.", ("cello", "flute", "harp", "oboe", "drum")),
    ("Which pet does {} keep?", "{} keeps a pet {}.", ("parrot", "rabbit", "tortoise", "ferret", "hen")),
    ("Which dish does {} cook best?", "{} cooks the best {}.", ("soup", "curry", "stew", "pie", "risotto")),
    ("Which sport does {} train?", "{} trains in the sport of {}.", ("rowing", "judo", "tennis", "golf")),
    ("Which language does {} learn?", "{} learns the language {}.", ("Welsh", "Greek", "Czech", "Hindi")),
    ("Which color does {} wear?", "{} wears the color {}.", ("green", "purple", "orange", "white")),
    ("Which tree did {} plant?", "{} has planted a tree, a {}.", ("birch", "cedar", "maple", "willow")),
    ("Which game does {} win?", "{} wins every game of {}.", ("chess", "dominoes", "darts", "poker")),
)
LEADS, SECOND = "Who leads the {} {}?", "The {} {} is led by {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of two hops.

    Attributes:
        first: The first request.
        second: The second, with a place for the name.
        name: The right name.
        begun: How the sheets begin, as the reader continues them.
        sheets: Numbers of the two sheets that are needed.
        answer: The answer.
    """

    first: str
    second: str
    name: str
    begun: tuple[str, str]
    sheets: tuple[int, int]
    answer: str

    @property
    def text(self) -> str:
        """The question as it is asked."""
        place = self.first.removeprefix("Who leads ").rstrip("?")
        return self.second.format(f"the one who leads {place}")

    @property
    def requests(self) -> tuple[str, str]:
        """Both requests, with the right name."""
        return self.first, self.second.format(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lake:
    """The sheets by partition, and questions about them.

    Attributes:
        sheets: All sheets.
        partitions: Numbers of the sheets of each keeper.
        right: What each keeper says of itself, all right.
        stale: The same, half of it wrong.
        dev: Questions for thresholds.
        test: Other questions.
    """

    sheets: Sequence[str]
    partitions: Sequence[Sequence[int]]
    right: Sequence[str]
    stale: Sequence[str]
    dev: Sequence[Question]
    test: Sequence[Question]


def lake(seed: int, *, dev: int, test: int) -> Lake:
    """Makes the sheets: 12 or 13 places per kind, and for each leader one trait in another partition.

    Names of places occur with several kinds, first and last names with several persons, so every word of a
    request is in several partitions. Two descriptions are those of other keepers, and two tell of the
    traits that their keepers used to hold.
    """
    draw = random.Random(f"volunteer-board/{seed}")
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    draw.shuffle(names)
    order = list(range(len(KINDS)))
    draw.shuffle(order)
    # The keeper of kind k holds the traits of place order[k]; never of its own leaders.
    sheets: list[str] = []
    partitions: list[list[int]] = [[] for _ in KINDS]
    questions: list[Question] = []
    for number in range(100):
        kind = number % len(KINDS)
        place, name = PLACE_NAMES[number // len(KINDS)], names[number]
        keeper = draw.choice([other for other in range(len(KINDS)) if other != kind])
        ask, say, values = TRAITS[order[keeper]]
        value = draw.choice(values)
        first = _sheet(sheets, partitions[kind], SECOND.format(place, KINDS[kind], name))
        second = _sheet(sheets, partitions[keeper], say.format(name, value))
        questions.append(
            Question(
                first=LEADS.format(place, KINDS[kind]),
                second=ask,
                name=name,
                begun=(SECOND.format(place, KINDS[kind], "").rstrip(" ."), say.format("{}", "").rstrip(" .")),
                sheets=(first, second),
                answer=value,
            )
        )
    nouns = [TRAITS[order[kind]][0].split()[1] for kind in range(len(KINDS))]
    right = [f"who leads which {KINDS[k]}; which {nouns[k]} a person has" for k in range(len(KINDS))]
    stale = list(right)
    wrong = draw.sample(range(len(KINDS)), 4)
    stale[wrong[0]], stale[wrong[1]] = right[wrong[1]], right[wrong[0]]
    for one, other in ((wrong[2], wrong[3]), (wrong[3], wrong[2])):
        stale[one] = f"who leads which {KINDS[one]}; which {nouns[other]} a person has"
    draw.shuffle(questions)
    return Lake(
        sheets=sheets,
        partitions=partitions,
        right=right,
        stale=stale,
        dev=questions[:dev],
        test=questions[dev : dev + test],
    )


def _sheet(sheets: list[str], partition: list[int], text: str) -> int:
    partition.append(len(sheets))
    sheets.append(text)
    return len(sheets) - 1
