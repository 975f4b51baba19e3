"""Which stacks of adapters are fused, and which are let go."""

import math
from typing import Any

import pytest

from docendo.agents import _fusing
from docendo.agents._fusing import Fusing

RANKS = {"a": 16, "b": 16, "c": 16, "wide": 120}


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three passes, five for sets that are served; two copies of ten bytes."""
    monkeypatch.setattr(_fusing, "FUSED_AFTER", 3)
    monkeypatch.setattr(_fusing, "SERVED_AFTER", 5)
    monkeypatch.setattr(_fusing, "FUSED_BYTES", 20)


@pytest.fixture
def fusing() -> Fusing[str, str, Any]:
    """A chooser for which all adapters are loaded."""
    made: Fusing[str, str, Any] = Fusing(RANKS.__getitem__)
    made.keep(set(RANKS))
    return made


def run(fusing: Fusing[str, str, Any], *adapters: str, passes: int = 1, nbytes: float = 10) -> str:
    """Runs passes of these adapters; the stack of the last one, by its adapters' names."""
    for _ in range(passes):
        stack = fusing.choose(frozenset(adapters), lambda ranks: nbytes)
    return "".join(sorted(stack or ()))


def kept(fusing: Fusing[str, str, Any]) -> list[str]:
    """The stacks, the one that has served last at the end."""
    return ["".join(sorted(stack)) for stack in fusing.stacks]


def test_a_set_of_adapters_pays_for_its_stack(fusing: Fusing[str, str, Any]) -> None:
    """It goes without until it has met often enough; passes of the base alone are not counted."""
    assert run(fusing, "a", passes=2) == ""
    assert run(fusing, passes=9) == ""
    assert run(fusing, "a") == "a"
    assert run(fusing, "b") == ""


def test_a_wider_stack_serves_until_there_is_an_own_one(fusing: Fusing[str, str, Any]) -> None:
    """One of more ranks is better than none, one of fewer better than that."""
    assert run(fusing, "a", "b", passes=3) == "ab"
    assert run(fusing, "a", passes=4) == "ab"
    assert run(fusing, "a") == "a"
    assert run(fusing, "b") == "ab"
    assert kept(fusing) == ["a", "ab"]
    assert run(fusing, "b", passes=9) == "ab", "no other stack is let go for a set that is served"


def test_without_room_the_one_that_served_least_lately_gives_way(fusing: Fusing[str, str, Any]) -> None:
    """Its adapters come along, so that sets that take turns end in one stack."""
    run(fusing, "a", passes=3), run(fusing, "b", passes=3), run(fusing, "a")
    assert kept(fusing) == ["b", "a"]
    assert run(fusing, "c", passes=3) == "bc"
    assert kept(fusing) == ["a", "bc"]
    assert run(fusing, "wide", passes=3) == "wide", "with a there would be too many ranks"
    assert kept(fusing) == ["bc", "wide"]


def test_limits(fusing: Fusing[str, str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither too many ranks are fused nor too many bytes, however large copies have become."""
    assert run(fusing, "a", "wide", passes=9) == ""
    assert run(fusing, "a", passes=9, nbytes=21) == ""
    assert run(fusing, "a", passes=9, nbytes=math.inf) == ""
    for adapter in "abc":
        run(fusing, adapter, passes=3, nbytes=5)
    assert kept(fusing) == ["a", "b", "c"]
    assert run(fusing, "a", "b", "c", passes=3, nbytes=9) == "abc"
    assert kept(fusing) == ["c", "abc"]
    off: Fusing[str, str, Any] = Fusing(RANKS.__getitem__, enabled=False)
    off.keep(set(RANKS))
    assert run(off, "a", passes=9) == ""


def test_what_is_not_loaded_is_not_kept(fusing: Fusing[str, str, Any]) -> None:
    """A stack goes with any of its adapters, and none is made for those whose last requests still run."""
    run(fusing, "a", "b", passes=3), run(fusing, "c", passes=3)
    fusing.keep({"a", "c"})
    assert kept(fusing) == ["c"]
    assert run(fusing, "a", "b", passes=9) == ""
    assert run(fusing, "a", passes=3) == "a"
    assert run(fusing, "a", "c", passes=2) == ""
    fusing.keep({"c"})
    assert not fusing._uses, "a count keeps nothing alive"


def test_counting_has_an_end(fusing: Fusing[str, str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sets of adapters meet."""
    monkeypatch.setattr(_fusing, "COUNTED_SETS", 2)
    run(fusing, "a", passes=2), run(fusing, "b"), run(fusing, "c")
    assert run(fusing, "a") == "", "begun anew"
    assert len(fusing._uses) <= 2
