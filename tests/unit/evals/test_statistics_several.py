import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from docendo.errors import ConfigError, DataError
from docendo.evals import benjamini_hochberg, holm, simultaneous_level

#: A loaded machine is no failure.
ANY_PACE = settings(deadline=None, max_examples=30)

PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@pytest.mark.parametrize(("method", "name"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
@settings(ANY_PACE, max_examples=8)  # each call of theirs collects garbage first
@given(PROBABILITIES)
def test_adjusted_p_values_are_those_of_statsmodels(method, name, values):
    assert method(values) == pytest.approx(multipletests(values, method=name)[1], abs=1e-12)


@pytest.mark.parametrize("method", [holm, benjamini_hochberg])
def test_ties_one_test_and_none(method):
    assert method([]) == []
    assert method([0.04]) == [0.04]
    assert len(set(method([0.02, 0.02, 0.02]))) == 1
    assert method(np.array([1.0, 0.0]))[1] == 0.0


@ANY_PACE
@given(PROBABILITIES, st.randoms())
def test_the_order_of_tests_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    for method in (holm, benjamini_hochberg):
        found = method([values[k] for k in order])
        assert found == pytest.approx([method(values)[k] for k in order])


@pytest.mark.parametrize("wrong", [[0.5, 1.5], [-0.1], [math.nan], ["a"]])
@pytest.mark.parametrize("method", [holm, benjamini_hochberg])
def test_what_is_no_probability_is_a_clear_error(method, wrong):
    with pytest.raises(DataError, match="p_values"):
        method(wrong)


def test_simultaneous_intervals_share_the_error():
    assert simultaneous_level(1) == pytest.approx(0.95)
    assert simultaneous_level(10, 0.9) == pytest.approx(0.99)
    with pytest.raises(ConfigError, match="number"):
        simultaneous_level(0)
