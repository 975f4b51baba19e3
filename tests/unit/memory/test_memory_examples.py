"""The examples in the docstrings run, and the tables suit PostgreSQL."""

import doctest
import importlib

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from docendo.memory.storage import _schema

MODULES = [
    "board._blackboard",
    "storage._database",
    "runs._journal",
    "runs._runs",
    "storage._text",
    "runs._traces",
    "_verify",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"docendo.memory.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


def test_tables_can_be_made_in_postgresql():
    for table in _schema.metadata.sorted_tables:
        assert table.name.startswith("docendo_")
        statement = str(sa.schema.CreateTable(table).compile(dialect=postgresql.dialect()))
        assert f"CREATE TABLE {table.name}" in statement
