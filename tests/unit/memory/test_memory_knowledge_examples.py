"""The examples in the docstrings of the memories of knowledge run."""

import doctest
import importlib

import pytest

from docendo.memory import Blackboard  # the room is imported before its parts

MODULES = [
    "_causal",
    "_causal_text",
    "_distiller",
    "_graph",
    "_graph_state",
    "_mastery",
    "_messages",
    "_planner",
    "_similarity",
    "_strategies",
    "_tracing",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert Blackboard
    module = importlib.import_module(f"docendo.memory.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed
