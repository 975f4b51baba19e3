"""Checks of what a user gives: what they take, what they refuse, and how they say so."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from docendo import evals
from docendo.checks import MOST, check_count, check_kind, entries, given_path, is_number, short
from docendo.errors import ConfigError, DataError


def test_a_number_that_no_float_holds_is_none():
    assert is_number(np.float32(0.5))
    assert is_number(Fraction(1, 3))
    assert is_number(MOST)
    assert not any(map(is_number, (10**400, Fraction(10**400), math.inf, math.nan, True, "1", None)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1, "at least 2"),
        (11, "at most 10"),
        (2.0, "at least 2"),
        (True, "at least 2"),
        pytest.param(10**5000, "at most 10", id="huge"),
    ],
)
def test_a_count_is_a_whole_number_within_its_limits(value, says):
    check_count("seeds", np.int64(2), 2, 10)
    check_count("seeds", 10, 2, 10)
    with pytest.raises(ConfigError, match=f"seeds is .*{says}"):
        check_count("seeds", value, 2, 10)


def test_a_value_of_another_type_is_named_with_what_it_should_be():
    check_kind("created", None, (str, type(None)), "text or None")
    with pytest.raises(ConfigError, match=r"^created is 3; expected text or None\.$"):
        check_kind("created", 3, (str, type(None)), "text or None")


def test_entries_are_those_of_anything_that_can_be_gone_through():
    assert entries("scores", (n for n in range(3))) == [0, 1, 2]
    assert entries("scores", np.array([0.5, 1.0])) == [0.5, 1.0]
    for wrong in (None, 3, "abc", b"abc"):
        with pytest.raises(DataError, match=r"^scores is "):
            entries("scores", wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^names\[1\] is 3; expected names\.$"):
        entries("names", ["a", 3], str, "names", ConfigError)


@pytest.mark.parametrize("value", ["", "\ud800", "a\x00b", b"a", 3, None, True])
def test_what_no_file_can_be_called_is_no_path(value):
    with pytest.raises(ConfigError, match=r"^folder is .*expected a path"):
        given_path("folder", value)


def test_a_path_is_taken_as_it_is_even_if_its_name_is_no_utf8(tmp_path: Path):
    odd = tmp_path / "\udc80"
    odd.mkdir()
    assert given_path("folder", str(odd)) == odd
    assert given_path("folder", odd).is_dir()


def test_what_is_shown_is_one_short_line():
    assert short("a\n\nb") == r"'a\n\nb'"
    assert short(np.zeros((3, 3))).count("\n") == 0
    assert len(short([0] * 1000)) == 80
    assert short(10**5000) == "a int that cannot be shown"


def test_more_resamples_than_ten_million_are_refused_at_once():
    for call in (
        lambda n: evals.paired_bootstrap([0, 1], [1, 1], resamples=n),
        lambda n: evals.sign_flip([0, 1], [1, 1], resamples=n),
        lambda n: evals.pass_at_k([[True, False]], 1, resamples=n),
        lambda n: evals.calibration([0.5], [True], resamples=n),
        lambda n: evals.diversity([["a", "b"]], vocabulary=9, resamples=n),
        lambda n: evals.diversity([["a", "b"]], vocabulary=9, orders=n),
    ):
        with pytest.raises(ConfigError, match="at most 10,000,000"):
            call(10_000_001)


def test_spreads_too_small_to_be_squared_are_none():
    with pytest.raises(ConfigError, match="noise and spreads are 0"):
        evals.crossed_detectable_difference(3, 100, noise=1e-200)


def test_one_seed_may_be_a_row_or_a_table_of_one_row():
    before, after = [0.0, 1.0, 0.0, 0.5], [1.0, 1.0, 0.5, 0.5]
    alone = evals.crossed_difference(before, after)
    assert alone == evals.crossed_difference([before], np.array([after]))
    assert alone.seeds == 1
    assert alone.items == 4


def test_a_matrix_keeps_tuples_whatever_it_is_given():
    lists = evals.StageMatrix(tasks=["a", "b"], scores=[[0.5, None], np.array([0.25, 0.5])], base=[0, 0])
    assert lists.tasks == ("a", "b")
    assert lists.scores == ((0.5, None), (0.25, 0.5))
    assert lists.base == (0, 0)


def test_a_row_of_a_ledger_that_counts_no_number_is_named():
    with pytest.raises(DataError, match=r"calls of ledger\[1\] is 'two'; expected a number"):
        evals.costs([{"role": "student", "calls": 1}, {"role": "student", "calls": "two"}])
