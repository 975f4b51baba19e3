"""Traces as trees: what a turn was worth is what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from docendo.checks import is_number
from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import Candidate, Prompter, check_threshold, sibling_key
from docendo.distill.datasets._order import by_id, in_order, known_parents
from docendo.distill.datasets._pairs import Pairing, build_pairs, by_interval, by_threshold, top_bottom
from docendo.distill.datasets._sft import sft_dataset
from docendo.errors import ConfigError, DataError
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

#: What a leaf is worth: the name of a reward, or a function; None where nothing is known.
Reward: TypeAlias = "str | Callable[[Trace], float | None]"
Reduce = Literal["mean", "max"]
TreeSelection = Literal["threshold", "interval", "top_bottom"]
VALUE = "value"


class TraceTree:
    """Turns and what answers to them, for any number of items: a forest, or a graph without cycles.

    A turn may answer to several others. A parent that is not among the traces, or belongs to another run or
    item, is `missing`. `backup` gives every turn its value from the leaves that it led to, as in MALT (arXiv
    2412.01928), and `pairs` and `rows` make training sets of one role by these values.

    Args:
        traces: Recorded turns, in any order.

    Attributes:
        traces: The turns by id, parents before children, in an order that does not depend on the given one.
        missing: Ids of parents that are not there.
        values: The value of each turn that has one; empty before `backup`.

    Raises:
        DataError: if turns answer to each other in a circle, or two different ones have one id.

    Example:
        >>> from docendo.distill import TraceTree
        >>> from docendo.records import Author, Trace
        >>> def turn(name, *parents, **rewards):
        ...     return Trace(id=name, run="r", item="i", author=Author(agent="a", role="solver"), messages=(),
        ...                  completion=name, parents=parents, rewards=rewards)
        >>> tree = TraceTree([turn("g"), turn("a", "g", verified=1.0), turn("b", "g", verified=0.0)])
        >>> [leaf.id for leaf in tree.leaves()], tree.backup("verified").values["g"]
        (['a', 'b'], 0.5)
    """

    def __init__(self, traces: Iterable[Trace]) -> None:
        given = by_id(traces)
        self._parents, self.missing = known_parents(given)
        self.traces: Mapping[str, Trace] = MappingProxyType(in_order(given, self._parents))
        self._children: dict[str, list[str]] = {name: [] for name in self.traces}
        self._families: dict[tuple[Any, ...], list[Trace]] = {}
        for trace in self.traces.values():
            self._families.setdefault(_family(trace), []).append(trace)
            for parent in self._parents[trace.id]:
                self._children[parent].append(trace.id)
        self.values: Mapping[str, float] = MappingProxyType({})
        self._backed_up = False

    def __len__(self) -> int:
        return len(self.traces)

    @property
    def roots(self) -> tuple[Trace, ...]:
        """Turns without a parent that is there."""
        return tuple(trace for name, trace in self.traces.items() if not self._parents[name])

    def parents(self, name: str) -> tuple[Trace, ...]:
        """The turns that a turn answers to, as far as they are there."""
        return tuple(self.traces[parent] for parent in self._parents[self._known(name)])

    def children(self, name: str) -> tuple[Trace, ...]:
        """The turns that answer to a turn."""
        return tuple(self.traces[child] for child in self._children[self._known(name)])

    def siblings(self, name: str) -> tuple[Trace, ...]:
        """Other turns of the same node that answer to exactly the same turns, missing ones included."""
        own = self.traces[self._known(name)]
        return tuple(trace for trace in self._families[_family(own)] if trace.id != name)

    def leaves(self, name: str | None = None) -> tuple[Trace, ...]:
        """Turns that nothing answers to: all, or those below a turn (itself, if it is one)."""
        below = self.traces if name is None else self._below(self._known(name))
        return tuple(trace for one, trace in self.traces.items() if one in below and not self._children[one])

    def paths(self, name: str | None = None) -> Iterator[tuple[Trace, ...]]:
        """All ways from the roots, or from one turn, to a leaf: many where turns have several parents."""
        starts = [one.id for one in self.roots] if name is None else [self._known(name)]
        stack: list[tuple[str, ...]] = [(start,) for start in reversed(starts)]
        while stack:
            path = stack.pop()
            below = self._children[path[-1]]
            if below:
                stack.extend((*path, child) for child in reversed(below))
            else:
                yield tuple(self.traces[one] for one in path)

    def backup(
        self, reward: Reward = "verified", *, reduce: Reduce = "mean", gamma: float = 1.0
    ) -> TraceTree:
        """Returns the tree with values: a leaf's is its reward, another turn's comes from its children.

        A leaf without the reward has no value, and neither has a turn none of whose children has one; means
        and maxima are over the children that do. What is quarantined has no value either: neither its own
        reward nor what came of it counts for anybody. The traces stay as they are.

        Args:
            reward: What a leaf is worth.
            reduce: "mean" (MALT) or "max".
            gamma: Factor for each step away from a leaf, more than 0 and at most 1; 1 as in MALT.

        Raises:
            ConfigError: if `reduce` or `gamma` is out of range.
            DataError: if a reward is no finite number.
        """
        if reduce not in get_args(Reduce):
            raise ConfigError(f"reduce is {reduce!r}", expected=f"one of {', '.join(get_args(Reduce))}")
        if not is_number(gamma) or not 0 < gamma <= 1:
            raise ConfigError(f"gamma is {gamma!r}", expected="more than 0 and at most 1")
        values: dict[str, float] = {}
        for name, trace in reversed(list(self.traces.items())):
            if trace.trust == "quarantined":
                continue
            if not self._children[name]:
                value = trace.rewards.get(reward) if isinstance(reward, str) else reward(trace)
                if value is not None:
                    values[name] = _finite(value, trace)
                continue
            below = [values[child] for child in self._children[name] if child in values]
            if below:
                values[name] = gamma * (max(below) if reduce == "max" else math.fsum(below) / len(below))
        made = TraceTree(self.traces.values())
        made.values = MappingProxyType({name: values[name] for name in self.traces if name in values})
        made._backed_up = True
        return made

    def valued(self, role: str | None = None, *, node: str | None = None, name: str = VALUE) -> list[Trace]:
        """Copies of the turns of a role or node whose rewards hold their value, for any builder.

        Args:
            role: Only by agents of this role.
            node: Only of this node.
            name: What the reward is called.

        Raises:
            ConfigError: before `backup`.
        """
        if not self._backed_up:
            raise ConfigError("the tree has no values", expected="tree.backup(reward) before")
        return [
            trace.replace(rewards={**trace.rewards, name: self.values[trace.id]})
            if trace.id in self.values
            else trace.replace(rewards={key: value for key, value in trace.rewards.items() if key != name})
            for trace in self.traces.values()
            if role in (None, trace.author.role) and node in (None, trace.node)
        ]

    def pairs(
        self,
        role: str | None = None,
        *,
        items: Iterable[Item],
        exclude: Iterable[Item],
        node: str | None = None,
        select: TreeSelection = "threshold",
        theta: float = 0.5,
        gap: float = 0.5,
        student: Prompter | None = None,
        max_per_item: int | None = None,
        database: Database | None = None,
        quiet: bool = False,
    ) -> Dataset:
        """Builds preference pairs of siblings, as `pairs_dataset` does, by their values.

        Args:
            role: Only turns by agents of this role.
            items: The training items.
            exclude: The test items.
            node: Only turns of this node.
            select: "threshold": a turn of a value above `theta` and one that is not above (MALT); "interval":
                any two whose values differ by at least `gap`; "top_bottom": the best and the worst.
            theta: The threshold; 0.5 as in MALT.
            gap: The least difference, more than 0.
            student: The agent whose prompt takes the place of the one that was sent, or None to keep that.
            max_per_item: Most pairs per item, or None for all.
            database: Where to record what the pairs were made of.
            quiet: Do not say how many traces were left out for what they are held to be.

        Raises:
            ConfigError: before `backup`, or if a setting is out of range.
            LeakError: as for `pairs_dataset`.
            DataError: if there is no pair; the message counts why.
        """
        check_threshold("theta", theta)
        check_threshold("gap", gap)
        if gap <= 0:
            raise ConfigError(f"gap is {gap}", expected="more than 0")
        pairings: Mapping[str, Pairing] = {
            "threshold": by_threshold(lambda value: value > theta),
            "interval": by_interval(gap),
            "top_bottom": top_bottom,
        }
        if select not in pairings:
            raise ConfigError(f"select is {select!r}", expected=f"one of {', '.join(pairings)}")
        traces = self.valued(role, node=node)
        builder = Builder(
            "tree_pairs",
            {"role": role, "node": node, "select": select, "theta": theta, "gap": gap},
            items=items,
            exclude=exclude,
            student=student,
            max_per_item=max_per_item,
            database=database,
            quiet=quiet,
        )
        return build_pairs(builder, traces, pairings[select], key=_siblings, reward=VALUE)

    def rows(
        self,
        role: str | None = None,
        *,
        items: Iterable[Item],
        exclude: Iterable[Item],
        node: str | None = None,
        theta: float = 0.5,
        student: Prompter | None = None,
        max_per_item: int | None = None,
        database: Database | None = None,
        quiet: bool = False,
    ) -> Dataset:
        """Builds a set for supervised training, as `sft_dataset` does, of turns of a value above `theta`.

        Arguments and errors as for `pairs`.
        """
        check_threshold("theta", theta)
        name = f"{VALUE}>{theta:g}"
        labelled = [
            trace.replace(rewards={**trace.rewards, name: float(trace.rewards[VALUE] > theta)})
            if VALUE in trace.rewards
            else trace
            for trace in self.valued(role, node=node)
        ]
        return sft_dataset(
            labelled,
            student=student,
            items=items,
            exclude=exclude,
            reward=name,
            max_per_item=max_per_item,
            role=role,
            database=database,
            quiet=quiet,
        )

    def _known(self, name: str) -> str:
        if name not in self.traces:
            raise DataError(f"the tree has no trace {name!r}", remedy="check the id")
        return name

    def _below(self, name: str) -> set[str]:
        found, stack = {name}, [name]
        while stack:
            for child in self._children[stack.pop()]:
                if child not in found:
                    found.add(child)
                    stack.append(child)
        return found


def _family(trace: Trace) -> tuple[Any, ...]:
    return trace.run, trace.item, trace.node, frozenset(trace.parents)


def _siblings(candidate: Candidate) -> tuple[Any, ...]:
    return candidate.trace.run, candidate.trace.node, *sibling_key(candidate)


def _finite(value: object, trace: Trace) -> float:
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise DataError(f"the reward of trace {trace.id!r} is {value!r}", expected="a finite number")
    return float(value)
