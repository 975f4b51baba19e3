"""Traces: every agent turn, stored once, found again by run, role, item and reward."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from docendo.errors import DataError, StorageError
from docendo.files import write_text
from docendo.hashing import digest
from docendo.memory.board import _descent, _posts
from docendo.memory.storage import _payloads, _prompts, _schema, _text
from docendo.memory.storage._chain import CHANGED, Damage, Report
from docendo.memory.storage._store import Store
from docendo.records import Split, Trace


class TraceStore(Store):
    """Agent turns with what it takes to learn from them.

    The prompt is stored once however many samples share it, and rewards are stored beside the traces,
    so that a verifier can add them later.

    Example:
        >>> from docendo.memory import TraceStore
        >>> from docendo.records import Author, Message, Trace
        >>> store = TraceStore.open(":memory:")
        >>> turn = Trace(
        ...     id="t1", run="demo", item="i1", author=Author(agent="student", role="student"), split="train",
        ...     messages=(Message(role="user", content="What is 2 + 2?"),), completion="4",
        ... )
        >>> store.add([turn])
        >>> store.reward("t1", "verified", 1.0)
        1.0
        >>> [trace.completion for trace in store.find(run="demo", min_reward={"verified": 1.0})]
        ['4']
        >>> store.close()
    """

    def add(self, traces: Iterable[Trace]) -> None:
        """Stores traces, all or none. One whose id is stored already changes nothing.

        Raises:
            DataError: if an id is stored with another prompt or completion, or a trace holds something that
                JSON has no form for, naming trace and field.
            StorageError: if they cannot be written.
        """
        given = [(trace, _record(trace)) for trace in traces]
        rewards = [
            _reward_row(record["id"], name, value)
            for trace, record in given
            for name, value in trace.rewards.items()
        ]
        with self.database.transaction() as connection:
            rows = [self._row(connection, record) for _, record in given]
            self.database.insert_new(connection, _schema.traces, *rows)
            self._require_same(connection, rows)
            edges = [edge for _, record in given for edge in _descent.turn_edges(record)]
            _descent.add(self.database, connection, edges)
            self.database.insert_new(connection, _schema.rewards, *rewards)

    def _row(self, connection: sa.Connection, record: Mapping[str, Any]) -> dict[str, Any]:
        row = {name: record[name] for name in ("id", "run", "item", "split")}
        row["role"] = record["author"]["role"]
        row["prompt"] = _prompts.store(self.database, connection, record["messages"])
        rest = {name: value for name, value in record.items() if name not in (*row, "messages", "rewards")}
        row["record"] = _payloads.store(self.database, connection, rest)
        return {**row, "hash": digest(*_content(row))}

    @staticmethod
    def _require_same(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
        """A second turn under the id of a first would lend its reward to the first one's text."""
        table = _schema.traces
        ids = [row["id"] for row in rows]
        query = sa.select(table.c.id, table.c.prompt, table.c.record).where(table.c.id.in_(ids))
        stored = {kept.id: kept for kept in connection.execute(query)}
        # What was stored as it is now needs no second look: equal records have equal texts.
        changed = [row for row in rows if (kept := stored[row["id"]]) and kept.record != row["record"]]
        texts = _payloads.load(
            connection, (text for row in changed for text in (stored[row["id"]].record, row["record"]))
        )
        completions = {
            row["id"]: said["completion"] == says["completion"]
            for row, said, says in zip(changed, texts[::2], texts[1::2], strict=True)
        }
        for row in rows:
            if stored[row["id"]].prompt != row["prompt"] or not completions.get(row["id"], True):
                node = _payloads.load(connection, [row["record"]])[0]["node"]
                raise DataError(
                    f"trace {row['id']!r} of node {node!r} is stored with another text",
                    expected="one turn per item, node and step",
                    remedy="give each turn of a node its own step=",
                )

    def get(self, trace_id: str) -> Trace:
        """Returns a trace.

        Raises:
            DataError: if there is none with this id.
            IntegrityError: if it is damaged, naming it.
        """
        found = self._select(_schema.traces.c.id == _text.name(trace_id, "the trace id"))
        if not found:
            raise DataError(f"there is no trace {trace_id!r}", remedy="check the id")
        return found[0]

    def find(
        self,
        *,
        run: str | None = None,
        role: str | None = None,
        item: str | None = None,
        split: Split | None = None,
        min_reward: Mapping[str, float] | None = None,
    ) -> list[Trace]:
        """Returns traces in the order in which they were stored.

        Args:
            run: Only of this run.
            role: Only by agents of this role.
            item: Only about this item.
            split: Only of items of this split.
            min_reward: Only with each of these rewards, and at least this much of it.

        Raises:
            IntegrityError: if one of them is damaged, naming it.
        """
        table, rewards = _schema.traces, _schema.rewards
        wanted = ((table.c.run, run), (table.c.role, role), (table.c.item, item), (table.c.split, split))
        conditions = [column == _text.clean(value) for column, value in wanted if value is not None]
        for name, least in (min_reward or {}).items():
            conditions.append(
                sa.exists().where(
                    rewards.c.trace == table.c.id,
                    rewards.c.name == _text.clean(name),
                    rewards.c.value >= float(least),
                )
            )
        return self._select(*conditions)

    def reward(self, trace_id: str, name: str, value: float) -> float:
        """Adds a named reward to a stored trace and returns the stored one: the first of a name stays.

        Raises:
            DataError: if the trace is unknown or the value is not a finite number.
        """
        trace_id = _text.name(trace_id, "the trace id")
        row = _reward_row(trace_id, name, value)
        table, traces = _schema.rewards, _schema.traces
        with self.database.transaction() as connection:
            if connection.scalar(sa.select(traces.c.seq).where(traces.c.id == trace_id)) is None:
                raise DataError(f"there is no trace {trace_id!r}", remedy="add the trace before its rewards")
            self.database.insert_new(connection, table, row)
            query = sa.select(table).where(table.c.trace == trace_id, table.c.name == row["name"])
            stored = connection.execute(query).one()
        _check_reward(stored)
        return float(stored.value)

    def export_jsonl(
        self, path: str | Path, *, run: str | None = None, role: str | None = None, split: Split | None = None
    ) -> int:
        """Writes traces as JSON lines, atomically, and returns how many; `read_traces` reads them back.

        Raises:
            StorageError: if the file cannot be written; an old one is untouched.
            IntegrityError: if a trace is damaged.
        """
        found = self.find(run=run, role=role, split=split)
        write_text(Path(path), "".join(_text.encode(trace.to_json()) + "\n" for trace in found))
        return len(found)

    def verify(self) -> Report:
        """Recomputes the digests of all traces, prompts and rewards; the report names each damaged record."""
        return self._verified("traces", _walk)

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Trace]:
        table, rewards = _schema.traces, _schema.rewards
        where = sa.and_(sa.true(), *conditions)
        chosen = sa.select(table.c.id).where(where)
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(table).where(where).order_by(table.c.seq)).all()
            for row in rows:
                _text.check_seal(row.hash, *_content(row._mapping), record=f"trace {row.id!r}")
            given = connection.execute(sa.select(rewards).where(rewards.c.trace.in_(chosen))).all()
            messages = _prompts.load(connection, {row.prompt: f"trace {row.id!r}" for row in rows})
            records = _payloads.load(connection, (row.record for row in rows))
            standing = _standing(connection, {row.id: row.run for row in rows})
        named: dict[str, dict[str, float]] = {}
        for row in sorted(given, key=lambda row: str(row.name)):
            _check_reward(row)
            named.setdefault(row.trace, {})[row.name] = float(row.value)
        return [
            Trace.from_json(
                {
                    **{name: getattr(row, name) for name in ("id", "run", "item", "split")},
                    **record,
                    "messages": messages[row.prompt],
                    "rewards": named.get(row.id, {}),
                    **_combined(record, *standing[row.id]),
                }
            )
            for row, record in zip(rows, records, strict=True)
        ]


def read_traces(path: str | Path) -> list[Trace]:
    """Reads traces from a JSON lines file, as `TraceStore.export_jsonl` writes it.

    Raises:
        DataError: if the file is missing or a line is malformed, naming file, line and field.
        StorageError: if the file cannot be read.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", expected="JSON lines") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    return [
        trace_from_json(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]


def trace_from_json(line: str, where: str) -> Trace:
    """Builds a trace from one line of JSON; `where` is what error messages call it."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error})", expected="one trace as a JSON object") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is a {type(value).__name__}", expected="one trace as a JSON object")
    for field in ("id", "run", "item", "author", "messages", "completion"):
        if field not in value:
            raise DataError(f"{where} has no field {field!r}", expected="the fields of a trace")
    if value.get("trust", "") not in ("", *_posts.RANK):
        raise DataError(
            f"{where} has the trust {value['trust']!r}", expected=f"one of {', '.join(_posts.RANK)}, or none"
        )
    try:
        return Trace.from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is not a trace ({error})", expected="the fields of a trace") from error


def _record(trace: Trace) -> dict[str, Any]:
    given: object = trace
    if not isinstance(given, Trace):
        raise DataError(f"a trace is {given!r}"[:200], expected="a docendo.records.Trace")
    record = _text.mapping(trace.to_json(), f"trace {trace.id!r}")
    for name, empty in (("id", False), ("run", True), ("item", True), ("split", False)):
        record[name] = _text.name(record[name], "the trace id" if name == "id" else name, empty=empty)
    record["author"]["role"] = _text.name(record["author"]["role"], "author.role", empty=True)
    # Only what came with a trace from elsewhere is stored with it; here both follow from its posts.
    for name in ("trust", "posts"):
        if not record[name]:
            del record[name]
    return record


def _standing(connection: sa.Connection, runs: Mapping[str, str]) -> dict[str, tuple[list[str], str]]:
    """The posts that hold some traces, and what these are held to be: see `Trace.trust`."""
    where = _descent.posts_of(connection, runs)
    levels = _descent.levels(connection, (post for posts in where.values() for post in posts))
    tainted = _descent.tainted(connection).traces
    unposted = {run for trace, run in runs.items() if trace not in where}
    on_boards = _descent.runs_on_boards(connection, unposted)
    found = {}
    for trace, run in runs.items():
        posts = sorted(where.get(trace, ()))
        if trace in tainted:
            trust = "quarantined"
        elif posts:
            verified = any(levels[post][0] == "verified" for post in posts)
            trust = "verified" if verified else "unverified"
        else:
            trust = "unverified" if run in on_boards else ""
        found[trace] = (posts, trust)
    return found


def _combined(record: Mapping[str, Any], posts: list[str], trust: str) -> dict[str, Any]:
    """A trace that came from elsewhere keeps what it was held to be there, unless it stands worse here."""
    came = record.get("trust", "")
    worse = "quarantined" in (came, trust)
    return {
        "posts": [*dict.fromkeys([*record.get("posts", ()), *posts])],
        "trust": "quarantined" if worse else trust if posts or not came else came,
    }


def _content(row: Mapping[Any, Any]) -> list[Any]:
    return [row[name] for name in ("id", "run", "item", "role", "split", "prompt", "record")]


def _reward_row(trace_id: str, name: str, value: float) -> dict[str, Any]:
    name = _text.name(name, "the reward's name")
    if isinstance(value, bool):
        value = float(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"reward {name!r} of trace {trace_id!r} is {value!r}", expected="a finite number")
    number = float(value)
    return {"trace": trace_id, "name": name, "value": number, "hash": digest(trace_id, name, number)}


def _check_reward(row: sa.Row[Any]) -> None:
    _text.check_seal(
        row.hash, row.trace, row.name, row.value, record=f"reward {row.name!r} of trace {row.trace!r}"
    )


def _walk(connection: sa.Connection) -> tuple[int, list[Damage]]:
    damage: list[Damage] = []

    def report(record: str, name: object, reason: str, seq: int | None = None) -> None:
        damage.append(Damage(record=record, seq=seq, id=str(name), reason=reason))

    intact, broken = _payloads.verify(connection)
    damage += broken
    prompts, broken = _prompts.verify(connection, intact)
    damage += broken
    known = set()
    for row in connection.execute(sa.select(_schema.traces).order_by(_schema.traces.c.seq)):
        known.add(row.id)
        if not _text.sealed(row.hash, *_content(row._mapping)):
            report("trace", row.id, CHANGED, row.seq)
        elif row.prompt not in prompts:
            report("trace", row.id, "its prompt is missing", row.seq)
        elif not _payloads.references(row.record) <= intact:
            report("trace", row.id, _payloads.INCOMPLETE, row.seq)
    for row in connection.execute(sa.select(_schema.rewards)):
        if not _text.sealed(row.hash, row.trace, row.name, row.value):
            report("reward", f"{row.trace} {row.name}", CHANGED)
        elif row.trace not in known:
            report("reward", f"{row.trace} {row.name}", "its trace is missing")
    # What follows from damaged traces is not worth reporting.
    return len(known), damage or [*_descent.verify_turns(connection)]
