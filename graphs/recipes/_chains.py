"""Chains of steps for teams: one task falls into parts, the other is one step after the other.

A chain such as `3eb` is a value and letters that change it, modulo 7: `a` to `g` add 0 to 6, `h` to `l`
multiply by 2 to 6. What is written of it are the values on the way (`01`). Two tasks:

- "parts": three chains of three steps, one behind the other; the answer is their three ends;
- "steps": one chain of eleven steps, of which three members do three each, one after the other, and the
  orchestrator the last two; the answer is its end.

Either way a solution has eleven characters. The same small model does everything: whole questions, also
beside the answers of others, single parts, the last steps, and repeating the ends of three parts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from docendo.graphs.topologies import Member, Orchestrator
from docendo.graphs.topologies._members import Said
from docendo.hashing import digest
from docendo.records import Gold, Item, Message, PublicItem, Split
from docendo.scoring import Score, Scorer

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["parts", "steps"]
KINDS: tuple[Kind, ...] = ("parts", "steps")
MODULUS = 7
#: The letters, and what each does to a value: the factor and the addend.
LETTERS = {letter: (1, place) for place, letter in enumerate("abcdefg")} | {
    letter: (factor, 0) for factor, letter in enumerate("hijkl", start=2)
}
ALPHABET = "".join([*map(str, range(MODULUS)), *LETTERS, ">="])
#: Parts of a question, and steps of a part.
PARTS, LONG = 3, 3
#: Characters of a whole solution (a digit that begins a chain within a question is written again), and of
#: what the orchestrator writes in the end.
LENGTH = PARTS * (LONG + 1) - 1
LAST: Mapping[Kind, int] = {"parts": 1 + PARTS, "steps": LONG}


def values(chain: str) -> str:
    """The values on the way; a digit within a chain begins anew.

    Example:
        >>> values("3eb"), values("3eb6h")
        ('01', '0165')
    """
    value, found = int(chain[0]), []
    for sign in chain[1:]:
        factor, addend = LETTERS.get(sign) or (0, int(sign))
        value = (value * factor + addend) % MODULUS
        found.append(str(value))
    return "".join(found)


def answer(kind: Kind, text: str) -> str:
    """The answer in what was written: of parts their three ends, else the last character.

    Example:
        >>> answer("parts", "01123422261"), answer("parts", ">121"), answer("parts", "012")
        ('121', '121', '2')
        >>> answer("steps", "01123422261")
        '1'
    """
    if kind == "parts" and len(text) > LONG:
        return text[1 : 1 + PARTS] if text.startswith(">") else text[LONG - 1 :: LONG + 1]
    return text[-1:]


def chains(question: str) -> list[str]:
    """The chains of a question in parts."""
    return [question[at : at + 1 + LONG] for at in range(0, len(question), 1 + LONG)]


def runs(kind: Kind, question: str) -> list[str]:
    """The steps of each part.

    Example:
        >>> runs("parts", "3abc1def2ghi"), runs("steps", "3abcdefghijk")
        (['abc', 'def', 'ghi'], ['abc', 'def', 'ghi'])
    """
    if kind == "parts":
        return [chain[1:] for chain in chains(question)]
    return [question[1 + LONG * part :][:LONG] for part in range(PARTS)]


def rest(start: str, question: str) -> str:
    """The last two steps, after one that changes nothing: as long as a part.

    Example:
        >>> rest("3", "0abcabcabchi")
        '3ahi'
    """
    return f"{start}a{question[1 + PARTS * LONG :]}"


def _split(steps: str) -> Split:
    """A run of steps is for testing, for choosing settings, or for training, wherever it occurs."""
    return ("test", "dev", "train", "train", "train")[int(digest("chain", steps)[:8], 16) % 5]


def _steps(draw: random.Random, long: int, split: Split) -> str:
    while True:
        steps = "".join(draw.choices(tuple(LETTERS), k=long))
        if long != LONG or _split(steps) == split:
            return steps


def question(kind: Kind, draw: random.Random, split: Split) -> str:
    """A question whose parts are all of one split."""
    runs = [_steps(draw, LONG, split) for _ in range(PARTS)]
    if kind == "parts":
        return "".join(f"{draw.randrange(MODULUS)}{steps}" for steps in runs)
    return f"{draw.randrange(MODULUS)}{''.join(runs)}{_steps(draw, LENGTH - PARTS * LONG, split)}"


def items(kind: Kind, count: int, seed: int, split: Split = "test") -> list[Item]:
    """Questions of a split, each once."""
    draw, found = random.Random(f"chains/{kind}/{split}/{seed}"), dict[str, None]()
    while len(found) < count:
        found[question(kind, draw, split)] = None
    return [
        Item(
            public=PublicItem(
                id=f"{kind}-{split}-{number}", question=text, split=split, metadata={"kind": kind}
            ),
            gold=Gold(answer(kind, values(text))),
        )
        for number, text in enumerate(found)
    ]


def rows(rng: np.random.Generator, batch: int) -> list[tuple[str, str]]:
    """Rows to learn from: as many whole questions as single parts and questions beside others' answers."""
    draw = random.Random(int(rng.integers(2**62)))
    return [_row(draw) for _ in range(batch)]


def _row(draw: random.Random) -> tuple[str, str]:
    kind = draw.choice(KINDS)
    return draw.choice((_whole, _beside, _part, _last))(kind, question(kind, draw, "train"), draw)


def _whole(kind: Kind, text: str, draw: random.Random) -> tuple[str, str]:
    """A whole question."""
    return f"{text}=", values(text)


def _beside(kind: Kind, text: str, draw: random.Random) -> tuple[str, str]:
    """A whole question beside three answers, each right more often than not."""
    digits = answer(kind, values(text)) * PARTS
    heard = "".join(d if draw.random() < 0.6 else str(draw.randrange(MODULUS)) for d in digits)
    return f"{text}>{heard}=", values(text)


def _part(kind: Kind, text: str, draw: random.Random) -> tuple[str, str]:
    """A part of a question."""
    chain = f"{draw.randrange(MODULUS)}{draw.choice(runs(kind, text))}"
    return f"{chain}=", values(chain)


def _last(kind: Kind, text: str, draw: random.Random) -> tuple[str, str]:
    """What the orchestrator writes: three ends once more, or the last steps."""
    ends = "".join(str(draw.randrange(MODULUS)) for _ in range(PARTS))
    if kind == "parts":
        return f">{ends}=", f">{ends}"
    chain = rest(ends[0], text)
    return f"{chain}=", values(chain)


def drills(kind: Kind, questions: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Rows of every form about the same questions, in groups of one length: to see whether all are known."""
    groups: dict[tuple[int, int], list[tuple[str, str]]] = {}
    draw = random.Random(f"drills/{kind}")
    for text in questions:
        for form in (_whole, _beside, _part, _last):
            prompt, right = form(kind, text, draw)
            groups.setdefault((len(prompt), len(right)), []).append((prompt, right))
    return list(groups.values())


class Solver(Member):
    """A member that writes chains: a whole question, also beside answers, or a part."""

    system = ""

    def messages(
        self, item: PublicItem, *, task: str = "", said: str = "", heard: Sequence[Said] = (), **fields: Any
    ) -> tuple[Message, ...]:
        """Exactly what the model was trained on."""
        kind: Kind = item.metadata["kind"]
        texts = [said, *(text for _, text in heard)]
        # Who hears nobody has its own answer three times: the model knows three answers.
        answers = "".join(answer(kind, text) for text in (texts if heard else texts * PARTS))
        if not task:
            prompt = f"{item.question}>{answers}=" if answers else f"{item.question}="
        else:
            # A member whose start is another one's end takes it from that one.
            ends = {name: text[-1:] for name, text in heard} if kind == "steps" else {}
            before = f"member {int(self.name.split()[1]) - 1}"
            prompt = f"{ends.get(before, task[0])}{task[1:]}="
        return ({"role": "user", "content": prompt},)


class Chief(Orchestrator):
    """Hands out the parts by a rule, and has the model do what is left.

    A part is begun with the end of the one before that was reported most often for the start that is
    believed now; until there is one, with 0.
    """

    system = ""

    def assign(
        self, item: PublicItem, *, members: Sequence[str], reports: Sequence[Sequence[Said]]
    ) -> Mapping[str, str]:
        """One part for each member."""
        starts, _ = self._believed(item, members, reports)
        parts = runs(item.metadata["kind"], item.question)
        return {m: f"{start}{steps}" for m, start, steps in zip(members, starts, parts, strict=True)}

    def messages(
        self,
        item: PublicItem,
        *,
        members: Sequence[str] = (),
        reports: Sequence[Sequence[Said]] = (),
        last: bool = False,
        **fields: Any,
    ) -> tuple[Message, ...]:
        """The three ends to repeat, or the last steps from the last end."""
        _, ends = self._believed(item, members, reports)
        parts = item.metadata["kind"] == "parts"
        prompt = f">{''.join(ends)}" if parts else rest(ends[-1], item.question)
        return ({"role": "user", "content": f"{prompt}="},)

    def _believed(
        self, item: PublicItem, members: Sequence[str], reports: Sequence[Sequence[Said]]
    ) -> tuple[list[str], list[str]]:
        """Starts and ends of the parts, from the rounds one after the other."""
        ends: dict[tuple[str, str], Counter[str]] = {}
        starts = self._starts(item, members, ends)
        for said in reports:
            for name, text in said:
                start = starts[members.index(name)]
                ends.setdefault((name, start), Counter())[text[-1:]] += 1
            starts = self._starts(item, members, ends)
        pairs = zip(members, starts, strict=True)
        return starts, [_commonest(ends.get((name, start))) for name, start in pairs]

    def _starts(
        self, item: PublicItem, members: Sequence[str], ends: Mapping[tuple[str, str], Counter[str]]
    ) -> list[str]:
        if item.metadata["kind"] == "parts":
            return [chain[0] for chain in chains(item.question)]
        starts = [item.question[0]]
        for name in members[:-1]:
            starts.append(_commonest(ends.get((name, starts[-1]))))
        return starts


def _commonest(counts: Counter[str] | None) -> str:
    return counts.most_common(1)[0][0] if counts else "0"


class Ending(Scorer):
    """Compares the answer in what was written with the gold."""

    name = "ending"

    def score(self, item: Item, text: str) -> Score:
        """Right if it is the gold."""
        read = answer(item.public.metadata["kind"], text)
        right = read == self.open(item)
        return Score(correct=right, value=float(right), parsed=read or None)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether the text is a right solution."""
        return self.score(item, text).correct
