"""Learning paths: what to learn next, in which order, so that weak concepts are covered at little cost.

Candidate paths are shortest paths (Dijkstra from a virtual source that is linked to all real ones) to each
goal. Out of them a cover of the weak concepts is chosen greedily by cost per newly covered concept; its cost
is at most H(k) times that of the cheapest cover by the same candidates, where k is the largest number of
weak concepts that one path covers and H the harmonic number (Chvatal 1979), so at most 1 + ln k.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from docendo.errors import ConfigError, DataError
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost(Record):
    """What it costs to go on to a concept: a weighted sum, none of whose terms is negative.

    Attributes:
        base: Of every step.
        difficulty: Times the concept's difficulty.
        weakness: Times one minus its mastery.
        missing: Times the number of its weak prerequisites that the step does not come from.

    Example:
        >>> StepCost(base=1, difficulty=2, weakness=0, missing=1).of(difficulty=0.5, mastery=0.3, missing=2)
        4.0
    """

    base: float = 1.0
    difficulty: float = 1.0
    weakness: float = 1.0
    missing: float = 0.5

    def __post_init__(self) -> None:
        """Checks that no weight is negative: shortest paths need that."""
        for name in ("base", "difficulty", "weakness", "missing"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value!r}", expected="a finite number, 0 or more")

    def of(self, *, difficulty: float, mastery: float, missing: int) -> float:
        """The cost of one step."""
        return (
            self.base
            + self.difficulty * difficulty
            + self.weakness * (1.0 - mastery)
            + self.missing * missing
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPath(Record):
    """A way to one goal.

    Attributes:
        concepts: From the first concept to the goal.
        covers: The weak concepts on it or needed by one on it, sorted.
        cost: Sum of the costs of its steps.
    """

    concepts: tuple[str, ...]
    covers: tuple[str, ...]
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPlan(Record):
    """What to learn.

    Attributes:
        steps: The weak concepts of the chosen paths; each comes after all its weak prerequisites.
        paths: The chosen paths, in the order in which they were chosen.
        candidates: All paths there was a choice of.
        cost: Sum of the costs of the chosen paths.
        bound: `cost` is at most this times the cheapest cover that the candidates allow.
        uncovered: Weak concepts that no candidate covers: no goal needs them, or no source leads there.
    """

    steps: tuple[str, ...]
    paths: tuple[LearningPath, ...]
    candidates: tuple[LearningPath, ...]
    cost: float
    bound: float
    uncovered: tuple[str, ...] = ()


class PathPlanner:
    """Plans learning paths over a graph of prerequisites.

    Args:
        cost: What a step costs.
        threshold: A concept with less mastery than this is weak.

    Example:
        >>> needs = {"add": (), "multiply": ("add",), "divide": ("multiply",), "powers": ("multiply",)}
        >>> plan = PathPlanner().plan(needs, mastery={"add": 0.9}, goals=["powers", "divide"])
        >>> plan.steps, plan.cost
        (('multiply', 'divide', 'powers'), 8.0)
        >>> PathPlanner().plan({"a": ("b",), "b": ("a",)}, mastery={})
        Traceback (most recent call last):
            ...
        docendo.errors.DataError: the prerequisites go in a circle: a, b, a; expected none; drop one of them.
    """

    def __init__(self, *, cost: StepCost | None = None, threshold: float = 0.6) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold is {threshold!r}", expected="more than 0 and at most 1")
        self.cost = cost or StepCost()
        self.threshold = threshold

    def plan(
        self,
        prerequisites: Mapping[str, Iterable[str]],
        *,
        mastery: Mapping[str, float],
        goals: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        difficulty: Mapping[str, float] | None = None,
    ) -> LearningPlan:
        """Returns the order in which to learn what the goals need.

        Args:
            prerequisites: For each concept those that come before it. A concept named only as a
                prerequisite has none itself.
            mastery: Between 0 and 1; a concept that is not named has 0.
            goals: Concepts to reach; by default all.
            sources: Where paths may start; by default mastered concepts next to weak ones, and weak
                concepts without prerequisites.
            difficulty: 0 or more; a concept that is not named has 0.

        Raises:
            DataError: if the prerequisites go in a circle, or a goal or source is not in the graph.
        """
        field = _Field(prerequisites, mastery, difficulty or {}, self.threshold, self.cost)
        wanted = field.known(list(field.before) if goals is None else goals, "goal")
        starts = field.sources() if sources is None else field.known(sources, "source")
        candidates = field.paths(starts, [goal for goal in wanted if goal in field.weak])
        needed = {concept for path in candidates for concept in path.covers}
        chosen = _greedy(candidates, needed)
        return LearningPlan(
            steps=field.order(chosen),
            paths=tuple(chosen),
            candidates=tuple(candidates),
            cost=math.fsum(path.cost for path in chosen),
            bound=harmonic(max((len(path.covers) for path in candidates), default=0)),
            uncovered=tuple(sorted(field.weak - needed)),
        )


def harmonic(n: int) -> float:
    """The harmonic number 1 + 1/2 + ... + 1/n; 0 for 0.

    Example:
        >>> harmonic(2), harmonic(0)
        (1.5, 0.0)
    """
    return math.fsum(1 / k for k in range(1, n + 1))


class _Field:
    """The graph with all that a step's cost depends on."""

    def __init__(
        self,
        prerequisites: Mapping[str, Iterable[str]],
        mastery: Mapping[str, float],
        difficulty: Mapping[str, float],
        threshold: float,
        cost: StepCost,
    ) -> None:
        before = {concept: tuple(dict.fromkeys(needs)) for concept, needs in prerequisites.items()}
        for needs in list(before.values()):
            before.update({need: () for need in needs if need not in before})
        self.before = {concept: before[concept] for concept in sorted(before)}
        try:
            self.sorted = tuple(TopologicalSorter(self.before).static_order())
        except CycleError as error:
            raise DataError(
                f"the prerequisites go in a circle: {', '.join(map(str, error.args[1]))}",
                expected="none",
                remedy="drop one of them",
            ) from None
        self.after: dict[str, list[str]] = {concept: [] for concept in self.before}
        for concept, needs in self.before.items():
            for need in needs:
                self.after[need].append(concept)
        self.mastery = {concept: _share(mastery.get(concept, 0.0), concept) for concept in self.before}
        self.difficulty = {
            concept: _positive(difficulty.get(concept, 0.0), concept) for concept in self.before
        }
        self.weak = {concept for concept, value in self.mastery.items() if value < threshold}
        self.cost = cost
        self.needs: dict[str, frozenset[str]] = {}  # of a concept: itself and whatever comes before it
        for concept in self.sorted:
            self.needs[concept] = frozenset({concept}.union(*(self.needs[n] for n in self.before[concept])))

    def known(self, names: Sequence[str], what: str) -> list[str]:
        for name in names:
            if name not in self.before:
                raise DataError(f"the {what} {name!r} is not in the graph", expected="one of its concepts")
        return list(dict.fromkeys(names))

    def sources(self) -> list[str]:
        edge = {need for concept in self.weak for need in self.before[concept] if need not in self.weak}
        return sorted(edge | {concept for concept in self.weak if not self.before[concept]})

    def step(self, origin: str | None, concept: str) -> float:
        missing = sum(need in self.weak and need != origin for need in self.before[concept])
        return self.cost.of(
            difficulty=self.difficulty[concept], mastery=self.mastery[concept], missing=missing
        )

    def paths(self, sources: Sequence[str], goals: Sequence[str]) -> list[LearningPath]:
        """One shortest path to each goal that can be reached; ties go to the path that sorts first."""
        # A mastered source costs nothing to stand on, a weak one has to be learnt.
        heap: list[tuple[float, tuple[str, ...]]] = [
            (self.step(None, source) if source in self.weak else 0.0, (source,)) for source in sorted(sources)
        ]
        heapq.heapify(heap)
        found: dict[str, tuple[float, tuple[str, ...]]] = {}
        while heap:
            cost, path = heapq.heappop(heap)
            if path[-1] in found:
                continue
            found[path[-1]] = (cost, path)
            for concept in self.after[path[-1]]:
                if concept not in found:
                    heapq.heappush(heap, (cost + self.step(path[-1], concept), (*path, concept)))
        return [
            LearningPath(concepts=found[goal][1], covers=self._covers(found[goal][1]), cost=found[goal][0])
            for goal in goals
            if goal in found
        ]

    def _covers(self, path: tuple[str, ...]) -> tuple[str, ...]:
        # What comes before any concept of the path comes before its last one.
        return tuple(sorted(self.weak & self.needs[path[-1]]))

    def order(self, paths: Sequence[LearningPath]) -> tuple[str, ...]:
        """All that the paths cover, path by path, each concept after what it needs."""
        wanted = (set(path.covers) for path in paths)
        return tuple(
            dict.fromkeys(concept for covers in wanted for concept in self.sorted if concept in covers)
        )


def _greedy(candidates: Sequence[LearningPath], needed: set[str]) -> list[LearningPath]:
    """Paths that cover `needed`: each time the one with the least cost per newly covered concept."""
    chosen: list[LearningPath] = []
    left = set(needed)
    while left:
        useful = [path for path in candidates if left.intersection(path.covers)]
        best = min(useful, key=lambda path: (path.cost / len(left.intersection(path.covers)), path.concepts))
        chosen.append(best)
        left.difference_update(best.covers)
    return chosen


def _share(value: float, concept: str) -> float:
    if not 0 <= value <= 1:
        raise DataError(f"the mastery of {concept!r} is {value!r}", expected="between 0 and 1")
    return value


def _positive(value: float, concept: str) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"the difficulty of {concept!r} is {value!r}", expected="a finite number, 0 or more")
    return value
