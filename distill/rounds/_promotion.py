"""From a candidate to a decision: fresh items, both sides asked, the verdict recorded, the swap made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from docendo.checks import check_kind, entries
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.adapters._names import full_alias, require_name
from docendo.distill.adapters._reading import serve_adapter
from docendo.distill.adapters._registry import AdapterRegistry
from docendo.distill.datasets._guard import Guard
from docendo.distill.rounds._gate import Gate, GateVerdict
from docendo.distill.rounds._ledger import GateLedger, GateRecord
from docendo.errors import AdapterError, DataError, SilentNoOp
from docendo.evals import EvalResult, Task, evaluate
from docendo.evals.items._identity import scorer_identity
from docendo.files import require_writable, write_json
from docendo.hashing import digest
from docendo.memory import DATABASE, Database, Journal, RunStore
from docendo.progress import say
from docendo.records import Item

if TYPE_CHECKING:
    from docendo.agents import Agent, EngineProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnResult:
    """What became of a candidate.

    Attributes:
        verdict: What the gate decided, and why.
        adapter: The candidate.
        alias: The alias that it was to be promoted to.
        served: Name in the engine under which it is served, or None if the incumbent was kept.
        folder: Where everything is kept.
    """

    verdict: GateVerdict
    adapter: Adapter
    alias: str
    served: str | None
    folder: Path

    @property
    def promoted(self) -> bool:
        """Whether the candidate has taken the incumbent's place."""
        return self.verdict.promotes

    def summary(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "promoted": self.promoted,
            **self.verdict.to_json(),
            "alias": self.alias,
            "served": self.served,
            "adapter_path": str(self.adapter.path),
            "folder": str(self.folder),
        }

    def __str__(self) -> str:
        what = f"promoted to {self.alias}" if self.promoted else f"{self.alias} is kept as it was"
        return f"{what}: {self.verdict.reason}"


class Promoter:
    """One candidate's way to the gate. The arguments are those of `learn`."""

    def __init__(
        self,
        *,
        student: Agent,
        tasks: Task,
        gate: Gate,
        alias: str | None,
        registry: AdapterRegistry | str | Path | None,
        engine: EngineProtocol | None,
        folder: str | Path,
    ) -> None:
        kept = AdapterRegistry, str, Path, NoneType
        check_kind("tasks", tasks, Task, "a task, as docendo.evals.tasks returns it")
        check_kind("gate", gate, Gate, "a docendo.distill.Gate")
        check_kind("registry", registry, kept, "an AdapterRegistry, its folder, or None")
        if not tasks.test:
            raise DataError("the task has no test items", remedy="make it with tasks(test=200)")
        self.student, self.tasks, self.gate = student, tasks, gate
        self.alias = full_alias(alias or "prod", student.name)
        self.name = require_name(self.alias.partition("@")[0])
        self.registry = AdapterRegistry(registry) if isinstance(registry, (str, Path)) else registry
        self.engine = engine or student.engine
        self.folder = Path(folder).resolve()
        self.ledger = GateLedger(self.registry.folder if self.registry is not None else self.folder)

    @property
    def held_out(self) -> list[Item]:
        """Everything that must not be learnt."""
        kept = self.gate.regression.test if self.gate.regression is not None else ()
        return [*self.tasks.dev, *self.tasks.test, *kept]

    def require_clean(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Refuses rows that hold a held-out question anywhere.

        Raises:
            DataError: if one is no mapping.
            LeakError: naming row and item.
        """
        guard = Guard((), self.held_out)
        for number, row in enumerate(entries("rows", rows, Mapping, "mappings with a prompt")):
            guard.check_row(row, f"row {number}")

    @property
    def asked(self) -> dict[str, Any]:
        """Who is asked at the gate, and by what the answers are judged: with another it is another gate."""
        student = self.student.describe()
        # Its weights are a side of the gate; where its model is and what it is called changes nothing.
        facts = {key: student[key] for key in student if key not in ("adapter", "model", "name")}
        asked = {f"{key} of the student": value for key, value in facts.items()}
        asked["scorer"] = scorer_identity(self.tasks.scorer)
        if self.gate.regression is not None:
            asked["scorer of the regression set"] = scorer_identity(self.gate.regression.scorer)
        return asked

    @contextmanager
    def running(self, *, resume: bool, more: Mapping[str, Any]) -> Iterator[Database]:
        """The folder's run, claimed, with its database."""
        require_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "command": "learn",
            "student": self.student.describe(),
            "task": self.tasks.fingerprint,
            "alias": self.alias,
            "gate": self.gate.to_json(),
            **more,
        }
        # What the student is served with changes when the candidate is promoted.
        config["student"].pop("adapter")
        with (
            Database.open(self.folder / DATABASE) as database,
            RunStore(database).running(self.folder.name, config, resume=resume),
        ):
            yield database

    def decide(self, adapter: Adapter, database: Database, *, quiet: bool) -> LearnResult:
        """Puts the candidate before the gate; a gate that decided on it before is believed."""
        for engine in (self.student.engine, self.engine):
            if engine.fingerprint:
                adapter.require_base(engine.fingerprint)
        if self.registry is not None:
            adapter = self.registry.add(adapter, self.name)
        incumbent = self._incumbent()
        verdict = self._decided(adapter.sha256, incumbent)
        if verdict is None and incumbent == adapter.sha256:
            raise SilentNoOp(
                f"The candidate {adapter.sha256[:12]} is what {self.alias} serves already; "
                "train on other data, or with other settings."
            )
        if verdict is None:
            verdict = self._at_the_gate(adapter, incumbent, database, quiet=quiet)
        served = self._promote(adapter, verdict, incumbent) if verdict.promotes else None
        result = LearnResult(
            verdict=verdict, adapter=adapter, alias=self.alias, served=served, folder=self.folder
        )
        write_json(self.folder / "verdict.json", result.summary())
        if not quiet:
            say(str(result))
        return result

    def _incumbent(self) -> str | None:
        """SHA-256 of what is served now; None is the base model."""
        if self.registry is not None and self.registry.history(self.alias):
            return self.registry.resolve(self.alias)
        return self.student.engine.adapter_hash(self.student.adapter)

    def _decided(self, candidate: str, incumbent: str | None) -> GateVerdict | None:
        """What an earlier gate decided on the two, or how the candidate became the incumbent."""
        if incumbent == candidate:
            own = [one for one in self.ledger.records(self.alias) if one.candidate == candidate]
            record = next((one for one in reversed(own) if one.verdict and _said(one).promotes), None)
        else:
            record = self.ledger.find(self.alias, candidate, incumbent)
        if record is None or not record.verdict:
            return None
        self.ledger.same(record, self.gate, self.tasks.test, asked=self.asked)
        if incumbent == candidate:
            return _said(record)
        moves = self.registry.history(self.alias) if self.registry is not None else ()
        if any(one.sha256 == candidate and (one.verdict or {}).get("gate") == record.number for one in moves):
            raise AdapterError(
                f"{candidate[:12]} was promoted to {self.alias} at gate {record.number} and taken back"
                + (f": {moves[-1].reason}" if moves[-1].reason else ""),
                remedy="promote it by hand with force and a reason, or train another",
            )
        return _said(record)

    def _at_the_gate(
        self, adapter: Adapter, incumbent: str | None, database: Database, *, quiet: bool
    ) -> GateVerdict:
        record, items = self.ledger.open(
            self.gate,
            self.tasks.test,
            alias=self.alias,
            candidate=adapter.sha256,
            incumbent=incumbent,
            asked=self.asked,
        )
        if not quiet:
            say(
                f"gate {record.number} of {self.alias}: {len(items)} fresh items, level "
                f"{self.gate.level(record.number):.2g}"
            )
        engine = self.student.engine
        # Names of its own: others may learn in the same engine at the same time.
        own = digest("gate", str(self.folder))[:8]
        old, new = f"{self.name}-incumbent-{own}", f"{self.name}-candidate-{own}"
        try:
            serve_adapter(engine, adapter, new)
            sides = [self.student, self.student.with_adapter(new)]
            if self.registry is not None and self.registry.history(self.alias):
                self.registry.serve(engine, self.alias, as_=old)
                sides[0] = self.student.with_adapter(old)
            results = self._ask(sides, items, self.tasks, database, f"gate {record.number}", quiet=quiet)
            guarded = None
            if (kept := self.gate.regression) is not None:
                guarded = self._ask(sides, kept.test, kept, database, "regression", quiet=quiet)
        finally:
            for name in (old, new):
                if name in engine.adapters():
                    engine.drop_adapter(name)
        for result in (results, *([guarded] if guarded else [])):
            if result[1].adapter != adapter.sha256:
                raise SilentNoOp(
                    f"The candidate was answered by {(result[1].adapter or 'the base model')[:14]}, "
                    f"not by {adapter.sha256[:12]}, which was trained; load it again."
                )
            if result[0].adapter != incumbent:
                raise self._moved(result[0].adapter)
        verdict = self.gate.judge(*results, gate=record.number, regression=guarded)
        self.ledger.close(record, verdict)
        return verdict

    def _ask(
        self,
        sides: Sequence[Agent],
        items: Sequence[Item],
        task: Task,
        database: Database,
        what: str,
        *,
        quiet: bool,
    ) -> tuple[EvalResult, EvalResult]:
        """Incumbent and candidate on the same items, greedily unless the student samples."""
        results = []
        for side, who in zip(sides, ("incumbent", "candidate"), strict=True):
            name = f"{what}, {who}"
            result = evaluate(
                side, items, scorer=task.scorer, name=name, journal=Journal(database), quiet=quiet
            )
            result.save(self.folder / name.replace(", ", "-").replace(" ", "-"))
            results.append(result)
        return results[0], results[1]

    def _promote(self, adapter: Adapter, verdict: GateVerdict, incumbent: str | None) -> str:
        """Moves the alias and swaps the adapter in; returns its name in the engine."""
        name = self.student.adapter or self.name
        if self.registry is None:
            serve_adapter(self.engine, adapter, name)
            return name
        now = self._incumbent()
        if now not in (incumbent, adapter.sha256):
            raise self._moved(now)
        if now != adapter.sha256 or not self.registry.history(self.alias):
            self.registry.promote(adapter.sha256, self.alias, verdict=verdict.to_json())
        self.registry.serve(self.engine, self.alias, as_=name)
        return name

    def _moved(self, now: str | None) -> AdapterError:
        return AdapterError(
            f"{self.alias} moved to {(now or 'the base model')[:14]} while the candidate was compared",
            remedy="learn again, against what it points to now",
        )


def _said(record: GateRecord) -> GateVerdict:
    return GateVerdict.from_json(record.verdict or {})
