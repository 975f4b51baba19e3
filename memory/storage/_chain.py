"""Hash chains: each row's hash covers its content and the hash of the row before it.

What this covers: a changed, lost, inserted or reordered row, by accident, is found and named. What it
does not cover: someone with write access can rewrite a whole chain; the hashes are not signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from docendo.errors import IntegrityError
from docendo.hashing import digest
from docendo.memory.storage import _schema
from docendo.memory.storage._text import sealed
from docendo.records import Record

START = "0" * 64
CHANGED = "content does not match its hash"
_BATCH = 500
_told: ContextVar[Callable[[int], None] | None] = ContextVar("docendo_told", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage(Record):
    """One damaged record.

    Attributes:
        record: What it is: "post", "trust event", "journal entry", "trace", ..., or "database".
        seq: Its sequence number, or None if it has none.
        id: Its id or key, as far as it can be read.
        reason: What is wrong with it.
    """

    record: str
    seq: int | None = None
    id: str = ""
    reason: str

    def __str__(self) -> str:
        place = "" if self.seq is None else f" {self.seq}"
        return f"{self.record}{place}{f' ({self.id})' if self.id else ''}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Record):
    """What `verify()` found.

    Attributes:
        name: What was verified, such as the board's name.
        records: How many records were read.
        damage: The damaged ones, empty if all is well.
        head: Hash of the last link of the board's chain, "" where there is no chain. Whoever notes it down
            can tell later whether history was rewritten.
    """

    name: str
    records: int
    damage: tuple[Damage, ...] = ()
    head: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage

    def raise_for_damage(self) -> None:
        """Raises an `IntegrityError` that names the first damaged record, if there is one."""
        if self.damage:
            more = f" (and {len(self.damage) - 1} more)" if len(self.damage) > 1 else ""
            raise IntegrityError(f"{self.name} is damaged: {self.damage[0]}{more}; restore a backup")

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name}: {self.records} records, ok"
        return "\n".join(
            [
                f"{self.name}: {self.records} records, {len(self.damage)} damaged",
                *(f"  {entry}" for entry in self.damage),
            ]
        )


@contextmanager
def watched(told: Callable[[int], None] | None) -> Iterator[None]:
    """Tells, within the block, how many more links of chains were verified."""
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


# Statements are built once: building one takes longer than running it.
_ADD_HEAD = _schema.heads.insert()
_MOVE_HEAD = _schema.heads.update().where(_schema.heads.c.chain == sa.bindparam("chain_name"))


class Chain:
    """The chain of one board in one table, which has `board`, `seq`, `id`, `previous` and `hash`.

    A column `number` is the database's own and not covered.
    """

    def __init__(self, table: sa.Table, board: str, *, record: str) -> None:
        self.table, self.board, self.record = table, board, record
        self._name = f"{table.name}:{board}"
        self._content = [column.name for column in table.columns if column.name not in ("hash", "number")]
        self._insert = table.insert()
        self._head_query = self.end()

    def end(self, *also: sa.ColumnElement[Any]) -> sa.Select[Any]:
        """Selects the end of the chain for `append`, in one row, and other values with it.

        A statement takes longer to send than to run. One without a chain yet gives a row of NULL.
        """
        heads, table = _schema.heads, self.table
        one = sa.select(sa.literal_column("1").label("one")).subquery()
        head = one.outerjoin(heads, heads.c.chain == self._name)
        last = sa.and_(table.c.board == self.board, table.c.seq == heads.c.seq)
        found = table.c.hash.label("found")
        return sa.select(heads.c.chain, heads.c.seq, heads.c.hash, found, *also).select_from(
            head.outerjoin(table, last)
        )

    def append(
        self, connection: sa.Connection, values: dict[str, Any], *, end: sa.Row[Any] | None = None
    ) -> dict[str, Any]:
        """Writes a row as the next link and returns it. Must run inside a write transaction.

        Args:
            connection: The transaction.
            values: The row, without what the chain gives it.
            end: What `end` selects in this transaction; asked for here if it is not given.

        Raises:
            IntegrityError: if the end of the chain is damaged, so that nothing can be linked to it.
        """
        head = self._head(connection) if end is None else end if end.chain is not None else None
        if head is not None and (not isinstance(head.seq, int) or head.hash != head.found):
            raise IntegrityError(
                f"the chain of {self.record}s of board {self.board!r} is damaged at its end ({head.seq}); "
                "run `docendo board verify` and restore a backup"
            )
        seq, previous = (head.seq + 1, head.hash) if head else (1, START)
        row = {**values, "board": self.board, "seq": seq, "previous": previous}
        row["hash"] = digest(*(row[name] for name in self._content))
        inserted = connection.execute(self._insert, row)
        if "number" in self.table.c:
            (row["number"],) = inserted.inserted_primary_key or (None,)
        link = {"seq": seq, "hash": row["hash"]}
        if head:
            connection.execute(_MOVE_HEAD, {"chain_name": self._name, **link})
        else:
            connection.execute(_ADD_HEAD, {"chain": self._name, **link})
        return row

    def intact(self, row: Mapping[Any, Any]) -> bool:
        """Whether a row is what was written."""
        return sealed(row["hash"], *(row[name] for name in self._content))

    def check(self, row: Mapping[Any, Any]) -> None:
        """Raises an `IntegrityError` that names the row, if it is damaged."""
        if not self.intact(row):
            raise IntegrityError(
                f"{self.record} {row['seq']} ({row['id']}) of board {self.board!r} does not match its hash: "
                "it was damaged after it was written; restore a backup"
            )

    def head(self, connection: sa.Connection) -> str:
        """Returns the hash of the last link, or "" if there is none."""
        head = self._head(connection)
        return str(head.hash) if head else ""

    def _head(self, connection: sa.Connection) -> sa.Row[Any] | None:
        head = connection.execute(self._head_query, {}).one()
        return head if head.chain is not None else None

    def verify(self, connection: sa.Connection) -> tuple[int, list[Damage]]:
        """Walks the chain; returns how many rows were read and which records are damaged."""
        damage: list[Damage] = []

        def report(seq: int | None, reason: str, row_id: object = "") -> None:
            damage.append(Damage(record=self.record, seq=seq, id=str(row_id), reason=reason))

        count, seq, previous = 0, 0, START
        for row in self._rows(connection):
            count += 1
            if not isinstance(row.seq, int):
                report(None, "its sequence number is not a number", row.id)
                continue
            if row.seq != seq + 1:
                report(seq + 1, "is missing" if row.seq == seq + 2 else f"is missing, up to {row.seq - 1}")
            if not self.intact(row._mapping):
                report(row.seq, CHANGED, row.id)
            elif row.seq == seq + 1 and row.previous != previous:
                report(row.seq, "does not follow from the record before it", row.id)
            seq, previous = row.seq, row.hash
        head = self._head(connection)
        if head is None and count:
            report(seq, "the end of the chain is not recorded")
        elif head is not None and head.seq != seq:
            report(seq, f"is the last one found, but {head.seq} were written")
        elif head is not None and head.hash != previous:
            report(seq, "differs from the recorded end of the chain")
        return count, damage

    def _rows(self, connection: sa.Connection) -> Iterator[sa.Row[Any]]:
        table, last = self.table, -1
        while True:
            query = sa.select(table).where(table.c.board == self.board, table.c.seq > last)
            rows = connection.execute(query.order_by(table.c.seq).limit(_BATCH)).all()
            yield from rows
            if (told := _told.get()) is not None:
                told(len(rows))
            if len(rows) < _BATCH:
                return
            last = rows[-1].seq
