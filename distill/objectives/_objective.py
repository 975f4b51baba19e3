"""What an objective is: a loss over the labels of a batch, which can be weighted and added to others.

There are three kinds, by what they look at. `TokenObjective` sees the student's whole distribution at each
label, a few labels at a time; `PathObjective` sees one number per label, its log-probability;
`StateObjective` sees the last hidden state at the end of each sequence. The trainer computes what the
objectives of a training look at and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from docendo.checks import is_number
from docendo.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The labels of a batch: N tokens to learn, in S sequences of E examples.

    An example is one sequence, or several (an anchor with its positives and negatives).

    Attributes:
        ids: The tokens, N.
        weights: Their weights, N, float32.
        sequence: The sequence of each, N, ascending.
        example: The example of each sequence, S, ascending.
        role: What each sequence is in its example, S: 0 the anchor, 1 a positive, -1 a negative.
        columns: What objectives asked for of each label (`Objective.encode`), N first.
    """

    ids: Any
    weights: Any
    sequence: Any
    example: Any
    role: Any
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return int(self.role.shape[0])

    def sequence_weights(self) -> Any:
        """The weight of each sequence, S, float32: that of its labels, 0 where it has none."""
        found = self.weights.new_zeros(self.sequences)
        return found.scatter_reduce(0, self.sequence, self.weights, "amax")

    def rows(self, part: slice) -> Labels:
        """The labels of a slice, for the kind of objective that sees few at a time."""
        return Labels(
            ids=self.ids[part],
            weights=self.weights[part],
            sequence=self.sequence[part],
            example=self.example,
            role=self.role,
            columns={name: column[part] for name, column in self.columns.items()},
        )

    def column(self, name: str, objective: str) -> Any:
        """A column of the labels.

        Raises:
            DataError: if the batch has none of that name.
        """
        if name not in self.columns:
            raise DataError(f"the batch has no column {name!r}", expected=f"what {objective} learns from")
        return self.columns[name]


class Objective(ABC):
    """One term of a loss. Terms are added with `+` and weighted with `*`.

    Subclasses are frozen dataclasses; their fields are their settings.

    Attributes:
        name: Its name in logs.
        needs_teacher: Whether it needs the teacher's distribution at every label.

    Example:
        >>> from docendo.distill import KL, CrossEntropy
        >>> [(weight, term.name) for weight, term in (0.5 * CrossEntropy() + KL(beta=0.5)).terms]
        [(0.5, 'cross_entropy'), (1.0, 'kl')]
    """

    __slots__ = ()
    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = False

    @property
    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """The terms and their weights."""
        return ((1.0, self),)

    def identity(self) -> list[dict[str, Any]]:
        """The terms with their weights and settings, as JSON values."""
        return [
            {"name": term.name, "weight": weight, **_class_of(term), **term.settings()}
            for weight, term in self.terms
        ]

    def settings(self) -> dict[str, Any]:
        """Its settings as JSON values."""
        return asdict(self)  # type: ignore[call-overload]

    def encode(self, row: Mapping[str, Any], labels: Sequence[int], tokenizer: Any) -> Mapping[str, Any]:
        """Columns that the objective needs of each label of a row's completion.

        Args:
            row: The row.
            labels: Token ids of its completion, in order.
            tokenizer: The student's tokenizer.

        Returns:
            Arrays by name, whose first dimension is `len(labels)`.
        """
        return {}

    def count(self, labels: Labels) -> float:
        """What the sum over a step is divided by: the weight of its labels, unless overridden."""
        return float(labels.weights.sum())

    def __add__(self, other: Objective) -> Objective:
        """The sum of two."""
        return Sum(parts=(*self.terms, *other.terms))

    def __mul__(self, weight: float) -> Objective:
        """The objective, weighted."""
        if not is_number(weight) or weight < 0:
            raise ConfigError(f"the weight of {self.name} is {weight!r}", expected="a number, 0 or more")
        return Sum(parts=tuple((float(weight) * own, term) for own, term in self.terms))

    __rmul__ = __mul__


def _class_of(term: Objective) -> dict[str, str]:
    """What tells an objective of the user's own from one of ours with the same name and settings."""
    kind = type(term)
    own = kind.__module__.startswith("docendo.")
    return {} if own else {"class": f"{kind.__module__}.{kind.__qualname__}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(Objective):
    """A weighted sum of objectives; made by `+` and `*`."""

    name: ClassVar[str] = "sum"
    parts: tuple[tuple[float, Objective], ...]

    def __post_init__(self) -> None:
        """Two terms of one name could not be told apart in the logs."""
        names = [term.name for _, term in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the objective {twice[0]} is in the sum twice", expected="each term once")

    @property
    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """The terms and their weights."""
        return self.parts


class TokenObjective(Objective):
    """A loss of the student's distribution at each label by itself."""

    __slots__ = ()

    @abstractmethod
    def per_token(self, student: Any, labels: Labels, teacher: Any) -> Any:
        """Losses of some labels.

        Args:
            student: The student's log-probabilities, n x vocabulary, float32.
            labels: The n labels.
            teacher: A live teacher's log-probabilities, n x vocabulary, or None.

        Returns:
            n losses, not yet weighted.
        """


class PathObjective(Objective):
    """A loss of the log-probabilities that the student gives to the labels themselves."""

    __slots__ = ()

    @abstractmethod
    def on_path(self, logprobs: Any, labels: Labels) -> Any:
        """The sum of the losses of a batch.

        Args:
            logprobs: Log-probability of each label, N, float32.
            labels: The labels.

        Returns:
            A scalar, to be divided by `count` over the whole step.
        """


class StateObjective(Objective):
    """A loss of the last hidden state at the last token of each sequence.

    Attributes:
        needs_states: Whether it needs a live teacher's states; the student's are then projected to their
            width by a linear layer that is trained along and thrown away.
        needs_families: Whether it compares answers, so that rows need positives and negatives.
    """

    __slots__ = ()
    needs_states: ClassVar[bool] = False
    needs_families: ClassVar[bool] = False

    @abstractmethod
    def on_states(self, states: Any, labels: Labels, teacher: Any) -> Any:
        """The sum of the losses of a batch.

        Args:
            states: Last hidden states, S x width, float32.
            labels: The labels.
            teacher: A live teacher's, S x width, float32, or None.

        Returns:
            A scalar, to be divided by `count` over the whole step.
        """
