"""What each item cost a graph and what came of it: turns, messages and tokens, read from traces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar

from docendo.checks import entries, short
from docendo.errors import DataError
from docendo.evals.metrics._coordination_overlap import Embedder, redundancies, word_overlap
from docendo.records import Record, Trace, Usage

T = TypeVar("T")


class Judged(Protocol):
    """What is read of an `EvalRecord`."""

    @property
    def item(self) -> str:
        """Item id."""

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None if there was none."""

    @property
    def usage(self) -> Usage:
        """Tokens of the item."""


class Posted(Protocol):
    """What is read of a `docendo.memory.Post`."""

    @property
    def id(self) -> str:
        """Post id."""

    @property
    def parents(self) -> Sequence[str]:
        """Ids of the posts it answers to."""

    @property
    def traces(self) -> Sequence[str]:
        """Ids of the turns whose text it holds."""

    @property
    def body(self) -> Mapping[str, Any]:
        """The content; `trace` may name the turn."""


#: Which tokens count as the budget: those written, or those read and written.
Budget = Literal["generated", "total"]
Outcomes: TypeAlias = "Mapping[str, Any] | Iterable[Judged]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEffort(Record):
    """What one item cost, and what came of it.

    Attributes:
        item: Item id.
        correct: Whether the answer is right; None if there was none.
        agents: Names of the agents that spoke, sorted.
        turns: Requests to a model; several samples of one request are one turn.
        messages: Texts of one agent that turns of another agent answer to.
        prompt_tokens: Tokens read, those from a stored prefix included.
        generated_tokens: Tokens written.
        redundancy: Mean pairwise cosine of the agents' last texts; None for fewer than two agents.
        overlap: Shares of unique, shared and contradictory words; None for fewer than two agents.

    Example:
        >>> ItemEffort(item="i", correct=True, prompt_tokens=90, generated_tokens=10).tokens("total")
        100
    """

    item: str
    correct: bool | None
    agents: tuple[str, ...] = ()
    turns: int = 0
    messages: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    redundancy: float | None = None
    overlap: tuple[float, float, float] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds an effort stored by `to_json`."""
        overlap = value.get("overlap")
        return cls(
            **{
                **value,
                "agents": tuple(value.get("agents", ())),
                "overlap": tuple(overlap) if overlap is not None else None,
            }
        )

    def tokens(self, budget: Budget) -> int:
        """Tokens that count as the budget."""
        return self.generated_tokens + (self.prompt_tokens if budget == "total" else 0)


def item_efforts(
    traces: Iterable[Trace] | None,
    outcomes: Outcomes,
    *,
    posts: Iterable[Posted] = (),
    embedder: Embedder | None = None,
) -> tuple[ItemEffort, ...]:
    """Reads from traces what each item cost, and joins it with what came of it.

    A message is a text of one agent that a turn of another agent answers to: a trace whose id is among the
    `parents` of a trace with another `author.agent`. Each such text counts once for each turn that answers
    to it, however many samples that turn has. Where agents hear each other over a blackboard, give the
    posts, too: a turn then also answers to the turns whose texts stand in the parents of its own post.

    Args:
        traces: The turns, such as `run.traces()`, of each agent in their order. None if there are none
            because one agent was asked once for each item (`evaluate(agent, ...)`): then each record is one
            turn and its `usage` is what it cost.
        outcomes: The records of an `EvalResult`; or a mapping from item id to True, False or None (no
            answer); or `run.outcomes` of a graph whose state says `solved`.
        posts: Posts of the run's board.
        embedder: Gives vectors for the redundancy instead of n-grams; see `redundancies`.

    Returns:
        One effort for each outcome, sorted by item id. Turns of other items are left out.

    Raises:
        DataError: if an item has two outcomes, or turns of several runs, an outcome is of no known kind, a
            trace is given twice, or none belongs to an item with an outcome.

    Example:
        >>> from docendo.records import Author, Trace, Usage
        >>> def turn(id, agent, text, tokens, *parents):
        ...     return Trace(id=id, run="r", item="i", author=Author(agent=agent, role=agent), messages=(),
        ...                  completion=text, usage=Usage(generated_tokens=tokens), parents=parents)
        >>> turns = [turn("1", "student", "4", 10), turn("2", "tutor", "count again", 20, "1")]
        >>> effort, = item_efforts(turns, {"i": False})
        >>> effort.turns, effort.messages, effort.generated_tokens
        (2, 1, 30)
    """
    if traces is None:
        return _single_turns(outcomes)
    results = _results(outcomes)
    turns, authors = _turns(traces)
    if turns and not turns.keys() & results.keys():
        raise DataError("no trace belongs to an item with an outcome", expected="traces of the same items")
    parents = _parents(posts)
    spoken = {item: _last_texts(turns.get(item, ())) for item in sorted(results)}
    alike = redundancies(list(spoken.values()), embedder)
    return tuple(
        ItemEffort(
            item=item,
            correct=results[item],
            agents=tuple(sorted({turn.author.agent for turn in turns.get(item, ())})),
            turns=len(turns.get(item, ())),
            messages=sum(_heard(turn, parents, authors) for turn in turns.get(item, ())),
            prompt_tokens=sum(turn.usage.prompt_tokens for turn in turns.get(item, ())),
            generated_tokens=sum(turn.usage.generated_tokens for turn in turns.get(item, ())),
            redundancy=redundancy,
            overlap=word_overlap(texts),
        )
        for (item, texts), redundancy in zip(spoken.items(), alike, strict=True)
    )


def _single_turns(outcomes: Outcomes) -> tuple[ItemEffort, ...]:
    if isinstance(outcomes, Mapping):
        raise DataError(
            "there are neither traces nor records", expected="records of an EvalResult, which hold the usage"
        )
    records = _records(outcomes)
    _results(records)
    return tuple(
        ItemEffort(
            item=record.item,
            correct=record.correct,
            turns=1,
            prompt_tokens=record.usage.prompt_tokens,
            generated_tokens=record.usage.generated_tokens,
        )
        for record in sorted(records, key=lambda record: record.item)
    )


def _results(outcomes: Outcomes) -> dict[str, bool | None]:
    if isinstance(outcomes, Mapping):
        return {str(item): _result(item, outcome) for item, outcome in outcomes.items()}
    records = _records(outcomes)
    twice = [item for item, n in Counter(record.item for record in records).items() if n > 1]
    if twice:
        raise DataError(f"item {twice[0]} has more than one outcome", expected="each item once")
    return {record.item: record.correct for record in records}


def _records(outcomes: Iterable[Judged]) -> list[Judged]:
    return _having("outcomes", outcomes, ("item", "correct", "usage"), "records of an EvalResult")


def _having(name: str, values: Iterable[T], fields: Sequence[str], expected: str) -> list[T]:
    """The values as a list, each with these fields."""
    found = entries(name, values, expected=expected)
    for place, value in enumerate(found):
        if not all(hasattr(value, field) for field in fields):
            raise DataError(f"{name}[{place}] is {short(value)}", expected=expected)
    return found


def _result(item: object, outcome: object) -> bool | None:
    if outcome is None or isinstance(outcome, bool):
        return outcome
    if isinstance(outcome, Mapping):
        if outcome.get("status") == "failed":
            return None
        if isinstance(outcome.get("solved"), bool):
            return bool(outcome["solved"])
    raise DataError(
        f"the outcome of item {item} is {outcome!r}"[:200],
        expected="True, False, None, or a run's outcome that says whether it was solved",
        remedy="evaluate the graph and give the result's records",
    )


def _turns(traces: Iterable[Trace]) -> tuple[dict[str, list[Trace]], dict[str, str]]:
    """The first sample of each turn by item, and who wrote each text."""
    turns: dict[str, list[Trace]] = defaultdict(list)
    authors: dict[str, str] = {}
    runs: dict[str, str] = {}
    for trace in entries("traces", traces, Trace, "turns, such as run.traces()"):
        if trace.id in authors:
            raise DataError(f"trace {trace.id!r} is given twice", expected="each trace once")
        authors[trace.id] = trace.author.agent
        if runs.setdefault(trace.item, trace.run) != trace.run:
            raise DataError(
                f"item {trace.item} has turns of the runs {runs[trace.item]!r} and {trace.run!r}",
                expected="one run for each item",
                remedy="measure each run by itself",
            )
        if trace.sample == 0:
            turns[trace.item].append(trace)
    return turns, authors


def _parents(posts: Iterable[Posted]) -> dict[str, set[str]]:
    """For each turn whose text was posted, the turns whose texts stand in the post's parents."""
    given = _having("posts", posts, ("id", "parents", "traces", "body"), "posts of a board")
    held = {
        post.id: {*post.traces, *([post.body["trace"]] if "trace" in post.body else [])} for post in given
    }
    parents: dict[str, set[str]] = defaultdict(set)
    for post in given:
        heard = set().union(*(held.get(parent, set()) for parent in post.parents))
        for turn in held[post.id]:
            parents[turn] |= heard
    return parents


def _heard(turn: Trace, posted: Mapping[str, set[str]], authors: Mapping[str, str]) -> int:
    heard = {*turn.parents, *posted.get(turn.id, ())}
    return sum(authors.get(parent, turn.author.agent) != turn.author.agent for parent in heard)


def _last_texts(turns: Iterable[Trace]) -> list[str]:
    last = {turn.author.agent: turn.completion for turn in turns}
    return [last[agent] for agent in sorted(last) if last[agent].strip()]
