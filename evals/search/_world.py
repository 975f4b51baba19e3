"""Problems whose search tree can be written down: with its dead ends, or only the path to the solution."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from docendo.checks import check_count, check_kind, entries, short
from docendo.errors import ConfigError, DataError
from docendo.evals.statistics._checks import check_seed
from docendo.hashing import derive_seed, digest
from docendo.records import Gold, Item, PublicItem, Record, Split
from docendo.scoring import Score, Scorer

#: Ends a problem, says that the last step is taken back, ends a completion.
ASK, BACK, END = ":", "<", ";"
#: The parts of a world's problems, in the order in which they are filled.
PARTS: tuple[Split, ...] = ("test", "dev", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Record):
    """What a verifier found in a text.

    Attributes:
        length: Characters until a solution stands there, or None.
        fault: Where the first step stands that its state does not allow, or None.
    """

    length: int | None
    fault: int | None

    @property
    def solved(self) -> bool:
        """Whether a solution stands in the text."""
        return self.length is not None


class SearchWorld(ABC):
    """Problems with a search tree of fixed depth, written one step after the other.

    A subclass says which states there are and which steps lead from one to the next; depth-first search,
    its trace, the path to the solution and the check of either follow. A trace is the search as it goes:
    every step that is tried, and `<` where a state has no further steps and is left. A step that completes
    a wrong solution is taken back without a sign.

    Attributes:
        name: Name of the world.
        alphabet: All characters that occur, for `pretrain`.
        width: Characters of a step.
        end: The character that ends a path or a trace, as a stop string.
    """

    name: ClassVar[str]
    alphabet: ClassVar[str]
    width: ClassVar[int]
    end: ClassVar[str] = END

    @abstractmethod
    def problems(self, seed: int, sizes: Mapping[Split, int]) -> dict[Split, tuple[str, ...]]:
        """Different problems for each part, none in two; a number of each part, or fewer if there are not."""

    @abstractmethod
    def start(self, problem: str) -> Hashable:
        """The state in which the search begins.

        Raises:
            DataError: if it is no problem of this world. Whatever takes a problem asks here first.
        """

    @abstractmethod
    def steps(self, state: Any) -> Mapping[str, Hashable]:
        """The steps that lead on from a state, in the order in which they are tried, and where they lead."""

    @abstractmethod
    def depth(self, problem: str) -> int:
        """Steps of a complete solution."""

    @abstractmethod
    def solved(self, problem: str, state: Any) -> bool:
        """Whether a state after `depth` steps solves the problem."""

    def search(self, problem: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Depth-first search: all that it tried, and the path to the solution it found.

        Raises:
            DataError: if it is no problem of this world, or has no solution.
        """
        tried: list[str] = []
        path = self._descend(problem, self.start(problem), (), tried)
        if path is None:
            raise DataError(f"the problem {problem!r} has no solution", expected="one that has")
        return tuple(tried), path

    def _descend(
        self, problem: str, state: Hashable, path: tuple[str, ...], tried: list[str]
    ) -> tuple[str, ...] | None:
        complete = len(path) + 1 == self.depth(problem)
        for step, after in self.steps(state).items():
            tried.append(step)
            if complete:
                if self.solved(problem, after):
                    return (*path, step)
            elif found := self._descend(problem, after, (*path, step), tried):
                return found
        if path:
            tried.append(BACK)
        return None

    def path(self, problem: str) -> str:
        """The steps to the solution alone, with their end."""
        return "".join(self.search(problem)[1]) + END

    def trace(self, problem: str) -> str:
        """The whole search, with its end."""
        return "".join(self.search(problem)[0]) + END

    def shuffled(self, problem: str, rng: random.Random) -> str:
        """The trace with its dead ends in another order: a control.

        Steps that lead to the solution and all `<` stay where they are, so that length and form do not change
        and the end is as right as before; the other steps change places, and are no search any more.

        Raises:
            ConfigError: if `rng` is no `random.Random`.
            DataError: as for `search`.
        """
        check_kind("rng", rng, random.Random, "a random.Random")
        tried = self.search(problem)[0]
        kept = _places(tried, self.depth(problem))
        dead = [place for place, step in enumerate(tried) if step != BACK and place not in kept]
        order = dead.copy()
        rng.shuffle(order)
        mixed = list(tried)
        for place, other in zip(dead, order, strict=True):
            mixed[place] = tried[other]
        return "".join(mixed) + END

    def judge(self, problem: str, text: str) -> Judged:
        """The verifier: follows the steps as they are written and looks at every complete solution.

        It judges a path and a trace alike, and reads no further than the first solution that is right. A step
        that the state does not allow leads nowhere until it is taken back.

        Raises:
            DataError: if it is no problem of this world, or the answer is no text.
        """
        if not isinstance(text, str):
            raise DataError(f"text is {short(text)}", expected="the text of an answer")
        states: list[Hashable | None] = [self.start(problem)]
        depth = self.depth(problem)
        place, fault = 0, None
        while place < len(text) and text[place] != END:
            if text[place] == BACK:
                place += 1
                del states[max(1, len(states) - 1) :]
                continue
            step, began, place = text[place : place + self.width], place, place + self.width
            last = states[-1]
            after = None if last is None else self.steps(last).get(step)
            if after is None and fault is None:
                fault = began
            if len(states) < depth:
                states.append(after)
            elif after is not None and self.solved(problem, after):
                return Judged(length=place, fault=fault)
        return Judged(length=None, fault=fault)

    def items(self, problems: Sequence[str], split: Split) -> tuple[Item, ...]:
        """Problems as items whose question is the problem.

        Raises:
            DataError: if one is no problem of this world, or the split is unknown.
        """
        if split not in get_args(Split):
            raise DataError(f"split is {short(split)}", expected=f"one of {', '.join(get_args(Split))}")
        problems = entries("problems", problems, expected="problems of this world")
        for each in problems:
            self.start(each)
        return tuple(
            Item(
                public=PublicItem(
                    # Not `item_id`, to which capital and small letters are the same.
                    id=digest("item", self.name, each)[:16],
                    question=each,
                    task=self.name,
                    split=split,
                ),
                gold=Gold(None),
            )
            for each in problems
        )

    def _split(
        self, pool: Sequence[Any], seed: int, sizes: Mapping[Split, int]
    ) -> dict[Split, tuple[Any, ...]]:
        """Parts of a pool in a random order: test first, then dev, and training with what is left."""
        mixed = list(pool)
        random.Random(derive_seed(self.name, seed)).shuffle(mixed)
        parts: dict[Split, tuple[Any, ...]] = {}
        for split in PARTS:
            size = sizes.get(split, 0)
            parts[split], mixed = tuple(mixed[:size]), mixed[size:]
            if size and not parts[split]:
                raise ConfigError(f"nothing is left of {self.name} for {split}", remedy="ask for fewer items")
        return parts


def check_parts(seed: int, sizes: Mapping[Split, int]) -> None:
    """Refuses what is no seed, or no number of problems for each part.

    Raises:
        ConfigError: naming it.
    """
    check_seed(seed)
    check_kind("sizes", sizes, Mapping, "a number of problems for each part")
    for split, size in sizes.items():
        if split not in PARTS:
            raise ConfigError(f"sizes has the part {short(split)}", expected=f"some of {', '.join(PARTS)}")
        check_count(f"sizes[{split!r}]", size, 0)


def _places(tried: Sequence[str], depth: int) -> set[int]:
    """Places of the steps on the way to the solution, which is the last one tried."""
    stack: list[int] = []
    for place, step in enumerate(tried):
        del stack[depth - 1 :]  # a step that completed a wrong solution is taken back without a sign
        if step == BACK:
            stack.pop()
        else:
            stack.append(place)
    return set(stack)


class WorldScorer(Scorer):
    """Judges answers by a world's own rules; there is no gold, because many answers may be right.

    Raises:
        ConfigError: if the world is no `SearchWorld`.

    Example:
        >>> from docendo.evals import Countdown
        >>> world = Countdown()
        >>> item, = world.items(["235B:"], "test")
        >>> [WorldScorer(world).score(item, text).correct for text in ("3*25;", "3*266+5B;")]
        [False, True]
    """

    def __init__(self, world: SearchWorld) -> None:
        check_kind("world", world, SearchWorld, "a SearchWorld, such as Countdown()")
        self.world = world
        self.name = f"{world.name} by its rules"

    def score(self, item: Item, text: str) -> Score:
        """Right if a solution stands in the text, along a path or at the end of a search.

        Raises:
            DataError: if the item is none, or its question is no problem of the world.
        """
        if not isinstance(item, Item):
            raise DataError(f"item is {short(item)}", expected="an item, as from the world's items")
        judged = self.world.judge(item.public.question, text)
        parsed = text[: judged.length] if judged.solved else None
        return Score(correct=judged.solved, value=float(judged.solved), parsed=parsed)

    def leaks(self, item: Item, text: str) -> bool:
        """A text leaks if it holds a solution."""
        return self.score(item, text).correct
