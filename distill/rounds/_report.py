"""What rounds came to: accuracy by round with its interval, tokens, and one digest of everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from docendo.checks import is_count
from docendo.errors import DataError
from docendo.evals import wilson
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow(Record):
    """One round.

    Attributes:
        round: Its number; 0 is before all rounds.
        correct: Right answers.
        n: Answered items.
        interval: Wilson's 95 % interval of the accuracy.
        tokens: Tokens that the arrows of the round counted.
        seconds: Wall seconds of its arrows.
        adapter: SHA-256 of the adapter that was evaluated, or None.
    """

    round: int
    correct: int
    n: int
    interval: tuple[float, float]
    tokens: int
    seconds: float
    adapter: str | None = None

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN if nothing was answered."""
        return self.correct / self.n if self.n else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsReport(Record):
    """All rounds.

    Attributes:
        rows: The rounds in order.
        digest: Digest of all results; rounds that were killed and resumed have the same one.
        stopped: Why there are no more rounds.
        seed: Seed that those of the rounds are derived from.
        budget: Tokens after which no round begins, or None.
    """

    rows: tuple[RoundRow, ...]
    digest: str
    stopped: str
    seed: int = 0
    budget: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all rounds."""
        return sum(row.tokens for row in self.rows)

    @property
    def seconds(self) -> float:
        """Wall seconds of all arrows."""
        return sum(row.seconds for row in self.rows)

    @property
    def last(self) -> RoundRow:
        """The last round. The best on the same items would look better than it is."""
        return self.rows[-1]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a report stored by `to_json`."""
        rows = tuple(RoundRow(**{**row, "interval": tuple(row["interval"])}) for row in value["rows"])
        return cls(**{**value, "rows": rows})

    def __str__(self) -> str:
        lines = ["round  accuracy  95 % interval   right of n     tokens  seconds"]
        for row in self.rows:
            low, high = (100 * bound for bound in row.interval)
            lines.append(
                f"{row.round:>5}  {100 * row.accuracy:>6.1f} %  {low:>5.1f} to {high:<5.1f}"
                f"  {row.correct:>5} of {row.n:<5}  {row.tokens:>9,}  {row.seconds:>7.1f}"
            )
        return "\n".join([*lines, self.stopped])


def row_of(number: int, results: Mapping[str, Mapping[str, Any]], seconds: float) -> RoundRow:
    """The row of a round from the results of its arrows.

    Raises:
        DataError: if the evaluation says not how many of how many were right, or tokens are no count.
    """
    found = results["evaluate"]
    correct, n = found.get("correct"), found.get("n")
    if not (is_count(correct) and is_count(n) and 0 <= correct <= n):
        raise DataError(
            f"evaluate of round {number} returned {correct!r} correct of n {n!r}",
            expected="whole numbers, correct at most n",
        )
    return RoundRow(
        round=number,
        correct=int(correct),
        n=int(n),
        interval=wilson(int(correct), int(n)),
        tokens=sum(tokens_of(name, result) for name, result in results.items()),
        seconds=round(seconds, 3),
        adapter=found.get("adapter"),
    )


def tokens_of(arrow: str, result: Mapping[str, Any]) -> int:
    """The tokens that an arrow counted; 0 if it counts none."""
    tokens = result.get("tokens", 0)
    if not (is_count(tokens) and tokens >= 0):
        raise DataError(f"{arrow} returned {tokens!r} tokens", expected="a whole number, 0 or more")
    return int(tokens)
