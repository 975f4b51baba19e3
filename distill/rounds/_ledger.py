"""The record of gates: which held-out items were used, for whom, and how many chances an alias has had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from docendo.checks import short
from docendo.distill.adapters._index import locked
from docendo.distill.rounds._gate import Gate, GateVerdict
from docendo.errors import DataError, IntegrityError, ResumeError
from docendo.evals import normalise
from docendo.evals.items._identity import key_digest
from docendo.files import write_json
from docendo.hashing import digest
from docendo.records import Item, Record

LEDGER = "gates.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord(Record):
    """One gate, from when its items were chosen.

    Attributes:
        alias: What was to be promoted to.
        number: How many gates there have been for the adapter's name or on these test items, this one
            included, whatever their aliases.
        candidate: SHA-256 of the candidate.
        incumbent: SHA-256 of the incumbent, or None for the base model.
        questions: Digests of the questions that were used, sorted.
        settings: The gate's settings.
        opened: When, in UTC.
        guards: Digests of the questions of its regression set, sorted.
        asked: Who was asked, and by what the answers were judged, as JSON; empty if unknown.
        key: Digest of the items' gold answers; empty if unknown.
        verdict: The verdict as JSON, or None if it was never reached; the gate counts in any case.
    """

    alias: str
    number: int
    candidate: str
    incumbent: str | None
    questions: tuple[str, ...]
    settings: Mapping[str, Any]
    opened: str
    guards: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    verdict: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a record stored by `to_json`."""
        lists = {name: tuple(value.get(name, ())) for name in ("questions", "guards")}
        return cls(**{**value, **lists})


class GateLedger:
    """All gates of a registry, in one file beside its index. Several processes may use it.

    A held-out item serves at one gate: once a decision was made on it, it is no longer fresh. All gates of an
    adapter's name, and all on the same test items, count as chances together: another alias is no new
    beginning.

    Args:
        folder: The registry's folder, or another one.

    Example:
        >>> GateLedger("registry").records()
        ()
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def records(self, alias: str | None = None) -> tuple[GateRecord, ...]:
        """All gates, or those of an alias, oldest first.

        Raises:
            IntegrityError: if the file is damaged.
        """
        path = self.folder / LEDGER
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["sha256"] != digest(stored["gates"]):
                raise ValueError("its checksum differs")
            found = tuple(GateRecord.from_json(record) for record in stored["gates"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is damaged ({error}); restore a copy of it") from error
        return tuple(record for record in found if alias in (None, record.alias))

    def find(self, alias: str, candidate: str, incumbent: str | None) -> GateRecord | None:
        """The gate of a candidate against an incumbent, None being the base model; there is one at most."""
        sides = candidate, incumbent
        return next((each for each in self.records(alias) if (each.candidate, each.incumbent) == sides), None)

    def fresh(self, gate: Gate, items: Sequence[Item], *, alias: str) -> tuple[int, list[tuple[str, Item]]]:
        """The number of the next gate, and the items that are fresh for it, with their digests.

        Raises:
            DataError: if they are too few for a decision.
        """
        records = self.records()
        # What guards is asked at every gate, so it is never fresh.
        used = {question for record in records for question in (*record.questions, *record.guards)}
        used |= set(_guards(gate))
        known = {question_digest(item): item for item in items}
        found = [(question, item) for question, item in known.items() if question not in used]
        number = 1 + sum(
            _name(record.alias) == _name(alias) or not known.keys().isdisjoint(record.questions)
            for record in records
        )
        least = gate.least(number)
        if gate.size is not None and gate.size < least:
            raise DataError(
                f"the gate's size is {gate.size}, which can show nothing at gate {number} of {alias}",
                expected=f"at least {least}",
            )
        need = max(gate.size or 1, least)
        if len(found) < need:
            raise DataError(
                f"{len(found)} of {len(items)} test items are fresh, the others were used at earlier gates "
                "or are in a regression set",
                expected=f"at least {need} for gate {number} of {alias}",
                remedy="ask for more test items, such as tasks(test=...) with a larger number",
            )
        return number, found

    def open(
        self,
        gate: Gate,
        items: Sequence[Item],
        *,
        alias: str,
        candidate: str,
        incumbent: str | None,
        asked: Mapping[str, Any] | None = None,
    ) -> tuple[GateRecord, tuple[Item, ...]]:
        """Chooses fresh items and records that they are used, before anybody sees an answer to them.

        A gate of the same two adapters that is there already is gone on with, on its own items.

        Args:
            gate: The settings.
            items: Held-out items to choose from, in order.
            alias: What is to be promoted to.
            candidate: SHA-256 of the candidate.
            incumbent: SHA-256 of the incumbent, or None for the base model.
            asked: Who is asked, and by what the answers are judged, as JSON values by what they are called.

        Raises:
            DataError: if too few items are fresh, or those of the gate that is gone on with are not there.
            ResumeError: if that gate is another one, as in `same`.
        """
        with locked(self.folder):
            older = self.find(alias, candidate, incumbent)
            if older is not None:
                return older, self.same(older, gate, items, asked=asked)
            number, fresh = self.fresh(gate, items, alias=alias)
            chosen = fresh[: gate.size]
            record = GateRecord(
                alias=alias,
                number=number,
                candidate=candidate,
                incumbent=incumbent,
                questions=tuple(sorted(question for question, _ in chosen)),
                settings=gate.to_json(),
                opened=datetime.now(UTC).isoformat(timespec="seconds"),
                guards=_guards(gate),
                asked=dict(asked or {}),
                key=key_digest(item for _, item in chosen),
            )
            self._write((*self.records(), record))
        return record, tuple(item for _, item in chosen)

    def same(
        self,
        record: GateRecord,
        gate: Gate,
        items: Sequence[Item],
        *,
        asked: Mapping[str, Any] | None = None,
    ) -> tuple[Item, ...]:
        """The items of a gate that is there, if it is the one that is meant; arguments as for `open`.

        Raises:
            DataError: if its items are not there.
            ResumeError: if it was opened with other settings, for another prompt, or with other answers: a
                candidate is not tried again at a kinder gate.
        """
        for then, now in ((record.settings, gate.to_json()), (record.asked, asked or {})):
            _require_same(record, then, json.loads(json.dumps(now)))
        found = _found(items, record)
        if record.key and record.key != key_digest(found):
            raise _unlike(record, "other gold answers")
        return found

    def close(self, record: GateRecord, verdict: GateVerdict) -> GateRecord:
        """Records the verdict of a gate."""
        closed = record.replace(verdict=verdict.to_json())
        with locked(self.folder):
            self._write(
                [
                    closed if (each.alias, each.number) == (record.alias, record.number) else each
                    for each in self.records()
                ]
            )
        return closed

    def _write(self, records: Sequence[GateRecord]) -> None:
        gates = json.loads(json.dumps([record.to_json() for record in records]))
        write_json(self.folder / LEDGER, {"format": _FORMAT, "gates": gates, "sha256": digest(gates)})


def question_digest(item: Item) -> str:
    """What an item is known by: its question, however it is spaced and whatever its id."""
    return digest("question", normalise(item.public.question))


def _guards(gate: Gate) -> tuple[str, ...]:
    kept = gate.regression.test if gate.regression is not None else ()
    return tuple(sorted({question_digest(item) for item in kept}))


def _name(alias: str) -> str:
    return alias.partition("@")[0]


def _require_same(record: GateRecord, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # Gates of before that was recorded say nothing of who was asked.
    for name in now if then else ():
        if now[name] != then.get(name):
            raise _unlike(record, f"another {name}: {short(then.get(name))}, now {short(now[name])}")


def _unlike(record: GateRecord, what: str) -> ResumeError:
    return ResumeError(
        f"gate {record.number} of {record.alias} was opened for this candidate with {what}",
        expected="the same as then, because its verdict stands",
        remedy="train another candidate, which gets a gate of its own",
    )


def _found(items: Sequence[Item], record: GateRecord) -> tuple[Item, ...]:
    there = {question_digest(item): item for item in items}
    missing = [question for question in record.questions if question not in there]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(record.questions)} items of gate {record.number} of {record.alias} "
            "are not in the task",
            expected="the task that the gate was opened with",
        )
    wanted = set(record.questions)
    return tuple(item for question, item in there.items() if question in wanted)
