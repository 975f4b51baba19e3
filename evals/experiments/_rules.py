"""What an experiment must show, written before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from docendo.checks import check_kind, is_number, short
from docendo.errors import ConfigError
from docendo.records import Record

Expected = Literal["gain", "no gain", "anything"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """A difference of two methods on the same items. Made by `gain`, `no_gain` and `shown`.

    Attributes:
        of: The method.
        over: What it is compared with.
        expected: "gain": its interval must lie on the good side of zero; "no gain": it must not, as of a
            control that keeps the plumbing and takes the information away; "anything": it is printed.
        equal: The unit of cost that both must have spent alike, within 2 %, for a gain to count.
        less: Whether less of the value is better.

    Raises:
        ConfigError: if one of them is of another type, or the two methods are one.
    """

    of: str
    over: str
    expected: Expected
    equal: str | None = None
    less: bool = False

    def __post_init__(self) -> None:
        """Checks that there are two methods: of one with itself a control could not fail."""
        for name in ("of", "over"):
            check_kind(name, getattr(self, name), str, "the name of a method")
        check_kind("equal", self.equal, (str, type(None)), "the name of a unit of cost, or None")
        check_kind("less", self.less, bool, "True or False")
        if self.of == self.over:
            raise ConfigError(f"a rule compares {self.of!r} with itself", expected="two methods")

    @property
    def name(self) -> str:
        """Both methods."""
        return f"{self.of} over {self.over}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Within(Record):
    """A fact that must lie in a range in the mean over the seeds. Made by `within`.

    Attributes:
        fact: Its name in `Trial.facts`.
        least: Lower end, or None.
        most: Upper end, or None.

    Raises:
        ConfigError: if the name is no text, there is no end, one is no finite number, or they are the wrong
            way round.
    """

    fact: str
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        """Checks the range; numbers of arrays become Python's own, which can be stored."""
        check_kind("fact", self.fact, str, "the name of a fact")
        ends = {name: end for name in ("least", "most") if (end := getattr(self, name)) is not None}
        for name, end in ends.items():
            if not is_number(end):
                raise ConfigError(f"{name} is {short(end)}", expected="a finite number, or None")
            object.__setattr__(self, name, float(end))
        if not ends or (len(ends) == 2 and ends["least"] > ends["most"]):
            raise ConfigError(
                f"{self.fact} must lie between {self.least} and {self.most}",
                expected="one end, or two in their order",
            )

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range; NaN does not."""
        if math.isnan(value):
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def wanted(self) -> str:
        """The range in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


Rule = Difference | Within


def gain(of: str, over: str, *, equal: str | None = None, less: bool = False) -> Difference:
    """The claim: a method is better than another; its 95 % interval excludes zero.

    Args:
        of: The method.
        over: What it is compared with.
        equal: Unit of cost that both must have spent alike (2 %), or None.
        less: Whether less of the value is better.

    Example:
        >>> gain("teaching scores", over="majority", equal="generated tokens").name
        'teaching scores over majority'
    """
    return Difference(of=of, over=over, expected="gain", equal=equal, less=less)


def no_gain(of: str, over: str, *, less: bool = False) -> Difference:
    """A control: it must not be better than the other.

    Where claims hold, the control's interval must also exclude a gain as large as the smallest of them: with
    few items nothing is seen of anything.
    """
    return Difference(of=of, over=over, expected="no gain", less=less)


def shown(of: str, over: str, *, less: bool = False) -> Difference:
    """A difference that is printed whatever it is."""
    return Difference(of=of, over=over, expected="anything", less=less)


def within(fact: str, least: float | None = None, most: float | None = None) -> Within:
    """A check of the mechanism: the mean of a fact over the seeds lies in a range.

    Raises:
        ConfigError: if there is no end, one is no finite number, or they are the wrong way round.

    Example:
        >>> within("AUROC", 0.75).wanted
        'at least 0.75'
    """
    return Within(fact=fact, least=least, most=most)
