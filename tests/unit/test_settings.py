"""Settings by name become a config's fields, or are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from docendo.errors import ConfigError
from docendo.records import Record
from docendo.settings import with_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Record):
    width: int = 64
    layers: int = 2

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigError(f"layers is {self.layers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Record):
    model: Model = Model(width=96)
    rate: float = 0.1
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    further: Mapping[str, Any] = field(default_factory=dict)
    loud: bool = False


def test_values_are_put_into_fields() -> None:
    settings = {"rate": 1, "mode": "slow", "limit": 3, "sizes": [3], "further": {"a": 1}, "loud": True}
    made = with_settings(Settings(), settings, of="it")
    assert made == Settings(rate=1, mode="slow", limit=3, sizes=(3,), further={"a": 1}, loud=True)
    assert with_settings(made, {"limit": None}, of="it").limit is None


def test_a_mapping_changes_only_what_it_names() -> None:
    assert with_settings(Settings(), {"model": {"layers": 3}}, of="it").model == Model(width=96, layers=3)
    assert with_settings(Settings(), {"model": Model()}, of="it").model == Model()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rat": 1}, "it has no setting 'rat'; expected one of model, rate"),
        ({"model": {"widht": 1}}, "model of it has no setting 'widht'; expected one of width, layers"),
        ({"model": {"width": "x"}}, "width of model of it is 'x'; expected a whole number"),
        ({"model": {"layers": 0}}, "layers is 0"),
        ({"model": 3}, "model of it is 3; expected settings of Model by name"),
        ({"rate": "high"}, "expected a number"),
        ({"rate": float("nan")}, "expected a number"),
        ({"mode": "medium"}, "expected one of fast, slow"),
        ({"limit": "x"}, "expected a whole number or null"),
        ({"limit": True}, "expected a whole number or null"),
        ({"sizes": 3}, "expected a list"),
        ({"further": [1]}, "expected settings of Mapping by name"),
        ({"loud": 1}, "expected true or false"),
    ],
)
def test_what_does_not_fit_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_settings(Settings(), settings, of="it")
