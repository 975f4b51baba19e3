"""Prompts as chains of messages: a prompt is its last message and the prompt before it.

A conversation of 200 turns has 200 prompts that hold 20,000 messages together, and 200 different ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from docendo.errors import IntegrityError
from docendo.hashing import digest
from docendo.memory.storage import _payloads, _schema, _text
from docendo.memory.storage._chain import CHANGED, Damage
from docendo.records import Message

if TYPE_CHECKING:
    from docendo.memory.storage._database import Database

_THERE = sa.select(sa.true()).where(_schema.prompts.c.hash == sa.bindparam("name"))

#: The prompt without messages.
EMPTY = ""


def store(database: Database, connection: sa.Connection, messages: Sequence[Mapping[str, Any]]) -> str:
    """Stores a prompt and returns its hash. Must run inside a write transaction."""
    rows: list[dict[str, str]] = []
    parts: dict[int, dict[str, bytes]] = {}
    parent = EMPTY
    for message in messages:
        text, parts[len(rows)] = _payloads.prepare(message)
        name = digest(parent, text)
        rows.append({"hash": name, "parent": parent, "message": text})
        parent = name
    # Where a message is stored, all before it are. A conversation grows at its end, so look from there.
    new = len(rows)
    while new and not connection.scalar(_THERE, {"name": rows[new - 1]["hash"]}):
        new -= 1
    for number in range(new, len(rows)):
        _payloads.keep(database, connection, parts[number])
    database.insert_new(connection, _schema.prompts, *rows[new:])
    return parent


def load(connection: sa.Connection, wanted: Mapping[str, str]) -> dict[str, Sequence[Message]]:
    """Reads prompts by their hashes; each comes with what it belongs to, for error messages.

    Raises:
        IntegrityError: if one is damaged or missing.
    """
    rows = {row.hash: row for row in connection.execute(_chains(set(wanted) - {EMPTY}))}
    texts = _payloads.load(connection, (row.message for row in rows.values()))
    said = dict(zip(rows, texts, strict=True))
    found: dict[str, Sequence[Message]] = {EMPTY: ()}
    for name, owner in wanted.items():
        chain, at = [], name
        while at not in found:
            row = rows.get(at)
            if row is None:
                raise IntegrityError(f"the prompt of {owner} is missing; restore a backup")
            _text.check_seal(row.hash, row.parent, row.message, record=f"prompt {row.hash!r}")
            chain.append(row)
            at = row.parent
        for row in reversed(chain):
            found[row.hash] = (*found[row.parent], said[row.hash])
    return found


def verify(connection: sa.Connection, intact: set[str]) -> tuple[set[str], list[Damage]]:
    """Recomputes all digests; returns the prompts that there are, and the damage.

    Args:
        connection: A reading transaction.
        intact: Hashes of the intact payloads.
    """
    damage: list[Damage] = []
    parents = {EMPTY: EMPTY}
    for row in connection.execute(sa.select(_schema.prompts).order_by(_schema.prompts.c.hash)):
        parents[row.hash] = row.parent
        if not _text.sealed(row.hash, row.parent, row.message):
            damage.append(Damage(record="prompt", id=str(row.hash), reason=CHANGED))
        elif not _payloads.references(row.message) <= intact:
            damage.append(Damage(record="prompt", id=str(row.hash), reason=_payloads.INCOMPLETE))
    for name, parent in parents.items():
        if parent not in parents:
            damage.append(Damage(record="prompt", id=name, reason="the message before it is missing"))
    return set(parents), damage


def _chains(names: set[str]) -> sa.Select[Any]:
    """Selects prompts and all that come before them, each once."""
    table = _schema.prompts
    found = sa.select(table.c.hash, table.c.parent).where(table.c.hash.in_(sorted(names)))
    reached = found.cte("reached", recursive=True)
    before = sa.select(table.c.hash, table.c.parent).join(reached, table.c.hash == reached.c.parent)
    every = reached.union(before)
    return sa.select(table).where(table.c.hash.in_(sa.select(every.c.hash)))
