"""The record of gates: which held-out items were used, for whom, and how many chances an alias has had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from docendo.distill.adapters._index import locked
from docendo.distill.rounds._gate import Gate, GateVerdict
from docendo.errors import DataError, IntegrityError, ResumeError
from docendo.evals import normalise
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
        number: How many gates there have been for the alias, this one included.
        candidate: SHA-256 of the candidate.
        incumbent: SHA-256 of the incumbent, or None for the base model.
        questions: Digests of the questions that were used, sorted.
        settings: The gate's settings.
        opened: When, in UTC.
        guards: Digests of the questions of its regression set, sorted.
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
    verdict: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a record stored by `to_json`."""
        lists = {name: tuple(value.get(name, ())) for name in ("questions", "guards")}
        return cls(**{**value, **lists})


class GateLedger:
    """All gates of a registry, in one file beside its index. Several processes may use it.

    A held-out item serves at one gate: once a decision was made on it, it is no longer fresh.

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
        """The number of the alias's next gate, and the items that are fresh for it, with their digests.

        Raises:
            DataError: if they are too few for a decision.
        """
        # What guards is asked at every gate, so it is never fresh.
        used = {question for record in self.records() for question in (*record.questions, *record.guards)}
        used |= set(_guards(gate))
        known = {question_digest(item): item for item in items}
        found = [(question, item) for question, item in known.items() if question not in used]
        number = len(self.records(alias)) + 1
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
    ) -> tuple[GateRecord, tuple[Item, ...]]:
        """Chooses fresh items and records that they are used, before anybody sees an answer to them.

        A gate of the same two adapters that is there already is gone on with, on its own items.

        Args:
            gate: The settings.
            items: Held-out items to choose from, in order.
            alias: What is to be promoted to.
            candidate: SHA-256 of the candidate.
            incumbent: SHA-256 of the incumbent, or None for the base model.

        Raises:
            DataError: if too few items are fresh, or those of the gate that is gone on with are not there.
            ResumeError: if that gate has other settings: a candidate is not tried again at a kinder one.
        """
        with locked(self.folder):
            older = self.find(alias, candidate, incumbent)
            if older is not None:
                _require_same(gate, older)
                return older, _found(items, older)
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
            )
            self._write((*self.records(), record))
        return record, tuple(item for _, item in chosen)

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


def _require_same(gate: Gate, record: GateRecord) -> None:
    now = json.loads(json.dumps(gate.to_json()))
    unlike = [name for name in now if now[name] != record.settings.get(name)]
    if unlike:
        raise ResumeError(
            f"gate {record.number} of {record.alias} was opened for this candidate with another {unlike[0]} "
            f"({record.settings.get(unlike[0])!r} then, {now[unlike[0]]!r} now)",
            expected="the same settings, because its verdict stands",
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
