"""Probabilities of labels: checked where rows bring them, else asked of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from docendo.checks import is_number
from docendo.distill.selectors._asking import Asked, JournalLike, Voice, ask, mean_logprob
from docendo.distill.selectors._rows import Row, as_rows, prompt
from docendo.errors import ConfigError, DataError
from docendo.records import Usage

#: How far from 1 the sum of given probabilities may be: they may have been rounded to three digits.
_TOLERANCE = 5e-3


class Probabilities(NamedTuple):
    """For each row the probability of each label, in the order of the labels; what was asked cost `usage`."""

    labels: tuple[str, ...]
    rows: list[tuple[float, ...]]
    usage: Usage


def label_probs(
    rows: Iterable[Row],
    model: Any,
    labels: Sequence[str],
    *,
    journal: JournalLike | None = None,
    quiet: bool = False,
) -> list[dict[str, float]]:
    """How likely a model holds each label, by scoring every label as the answer to every row's prompt.

    The probabilities are the softmax of the mean log-probabilities of the labels' tokens, so that a long
    label does not lose by its length.

    Args:
        rows: Rows with `prompt`.
        model: An engine that can score, or an agent, which also names an adapter.
        labels: The texts of all labels, at least two.
        journal: Where answers are kept as they come, or None.
        quiet: Show no progress.

    Returns:
        For each row the probability of each label; they add up to 1.

    Raises:
        ConfigError: if there are fewer than two labels, or two are equal.
        CapabilityError: if the engine cannot score.
        DataError: if a row has no prompt, or the engine refuses it.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> engine = ScriptedEngine([], scores=lambda asked: -1.0 if asked.completion == "sad" else -2.0)
        >>> (found,) = label_probs([{"prompt": "I weep."}], engine, ["glad", "sad"], quiet=True)
        >>> round(found["sad"], 4)  # 1 / (1 + exp(-1))
        0.7311
    """
    found = asked_probs(as_rows(rows), Voice.of(model, "model"), labels, journal=journal, quiet=quiet)
    return [dict(zip(found.labels, row, strict=True)) for row in found.rows]


def asked_probs(
    rows: Sequence[Row],
    voice: Voice,
    labels: Sequence[str],
    *,
    journal: JournalLike | None,
    quiet: bool,
) -> Probabilities:
    """As `label_probs`, in the order of the labels."""
    names = checked_labels(labels)
    requests: list[Asked | None] = [
        voice.scoring(prompt(row, index), label, role="labels")
        for index, row in enumerate(rows)
        for label in names
    ]
    answers = ask(
        voice,
        requests,
        title="scoring labels",
        about=lambda place: f"row {place // len(names)}",
        journal=journal,
        quiet=quiet,
    )
    found = []
    for index in range(len(rows)):
        here = slice(index * len(names), (index + 1) * len(names))
        for refused in filter(None, answers.refused[here]):
            raise DataError(f"the labels of row {index} cannot be scored: {refused}")
        means = [mean_logprob(said) for said in answers.said[here]]
        shares = [math.exp(mean - max(means)) for mean in means]
        found.append(tuple(share / math.fsum(shares) for share in shares))
    return Probabilities(names, found, answers.usage)


def given_probs(rows: Sequence[Row], column: str, labels: Sequence[str] = ()) -> Probabilities:
    """The probabilities that rows bring in a column, as a mapping of labels or as a list.

    Raises:
        DataError: if a row lacks them, names other labels than the first, or they are no probabilities.
    """
    names = checked_labels(labels) if labels else _names(rows[0].get(column), column)
    return Probabilities(
        names,
        [_row(row.get(column), names, f"{column} of row {index}") for index, row in enumerate(rows)],
        Usage(),
    )


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels.

    Raises:
        ConfigError: if there are fewer than two, two are equal, or one is no text.
    """
    names = tuple(labels)
    good = not isinstance(labels, str) and all(isinstance(name, str) and name.strip() for name in names)
    if not good or len(names) < 2 or len(set(names)) != len(names):
        raise ConfigError(f"the labels are {labels!r}", expected="at least two texts, all different")
    return names


def _names(first: Any, column: str) -> tuple[str, ...]:
    if isinstance(first, Mapping):
        names = tuple(sorted(str(name) for name in first))
    elif isinstance(first, Sequence) and not isinstance(first, str):
        names = tuple(str(number) for number in range(len(first)))
    else:
        raise DataError(f"{column} of row 0 is {first!r}", expected="the probability of each label")
    if len(names) < 2:
        raise DataError(f"{column} of row 0 names {len(names)} labels", expected="at least two")
    return names


def _row(given: Any, names: tuple[str, ...], where: str) -> tuple[float, ...]:
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise DataError(f"{where} names the labels {sorted(given)}", expected=", ".join(names))
        values = [given[name] for name in names]
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(names):
        values = list(given)
    else:
        raise DataError(f"{where} is {given!r}"[:200], expected=f"{len(names)} probabilities")
    if not all(is_number(value) and value >= 0 for value in values):
        raise DataError(f"{where} is {given!r}"[:200], expected="finite numbers, 0 or more")
    total = math.fsum(values)
    if abs(total - 1) > _TOLERANCE:
        raise DataError(f"{where} adds up to {total:g}", expected="1")
    return tuple(value / total for value in values)
