"""The rules by which several methods are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from docendo.checks import is_number, short
from docendo.errors import ConfigError
from docendo.evals.comparison._meter import UNITS, Unit
from docendo.evals.harness._records import EvalRecord
from docendo.records import Record

Direction = Literal["more", "less"]
#: The number that is compared: of a record's samples the mean. A function may leave an item out with None.
Metric = Literal["correct", "value", "confidence"] | Callable[[EvalRecord], float | None]
_METRICS = ("correct", "value", "confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Record):
    """How arms are judged; the fields are those of `Comparison`."""

    baseline: str
    control: str | None = None
    unit: Unit = "tokens"
    budget: float | None = None
    tolerance: float = 0.02
    metric: Metric = "correct"
    direction: Direction = "more"
    level: float = 0.95
    seeds: tuple[int, ...] = ()
    #: Whether unlike budgets forbid a verdict.
    equal_budgets: bool = True

    def checked(self, arms: Mapping[str, Any]) -> Rules:
        """Returns the rules if they fit the arms.

        Raises:
            ConfigError: if baseline or control is no arm, or a setting is unknown.
        """
        for name in (self.baseline, self.control):
            if name is not None and not (isinstance(name, str) and name in arms):
                raise ConfigError(f"there is no arm {short(name)}", expected=f"one of {', '.join(arms)}")
        if self.control == self.baseline:
            raise ConfigError(f"{self.control!r} is the baseline and the control", expected="two arms")
        if not callable(self.metric) and self.metric not in _METRICS:
            raise ConfigError(
                f"metric is {short(self.metric)}",
                expected=f"one of {', '.join(_METRICS)}, or a function of a record",
            )
        if self.direction not in get_args(Direction):
            raise ConfigError(f"direction is {short(self.direction)}", expected='"more" or "less"')
        if self.unit not in UNITS:
            raise ConfigError(f"unit is {short(self.unit)}", expected=f"one of {', '.join(UNITS)}")
        if not (is_number(self.level) and 0 < self.level < 1):
            raise ConfigError(f"level is {short(self.level)}", expected="between 0 and 1, such as 0.95")
        return self

    @property
    def metric_name(self) -> str:
        """The metric's name; a function is told from what is measured here by the same name."""
        if not callable(self.metric):
            return self.metric
        name = str(getattr(self.metric, "__name__", "metric"))
        return f"{name} (a function)" if name in _METRICS else name

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON; a function by its name."""
        return Record.to_json(self.replace(metric="correct")) | {"metric": self.metric_name}
