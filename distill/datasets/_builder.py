"""What all builders share: traces are filtered and grouped, groups make drafts of rows, drafts become rows.

Whatever is seen is accounted for: it goes into a row, or is counted under one reason why it does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docendo.checks import is_count
from docendo.distill.datasets._candidates import Candidate, Draft, Prompter, place
from docendo.distill.datasets._guard import Guard
from docendo.distill.datasets._lineage import data_digest, origins, record_dataset
from docendo.distill.datasets._manifest import DatasetManifest, attach
from docendo.distill.datasets._messages import messages_of
from docendo.errors import ConfigError, DataError
from docendo.hashing import digest
from docendo.progress import say
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

#: Why a trace is not learnt from, whatever its reward.
_DISTRUST = ("quarantined", "not promoted")


class Builder:
    """One data set in the making: the guard, the filter and the account."""

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        items: Iterable[Item],
        exclude: Iterable[Item],
        student: Prompter | None = None,
        max_per_item: int | None = None,
        unit: str = "traces",
        database: Database | None = None,
        quiet: bool = False,
    ) -> None:
        if max_per_item is not None and not (is_count(max_per_item) and max_per_item >= 1):
            raise ConfigError(f"max_per_item is {max_per_item}", expected="at least 1")
        self.name, self.unit = name, unit
        self.settings = {**settings, "max_per_item": max_per_item, "student": student is not None}
        self.guard = Guard(items, exclude)
        self.seen = 0
        self.left_out: Counter[str] = Counter()
        self._student, self._most = student, max_per_item
        self._database, self._quiet = database, quiet
        self._open: dict[str, str] = {}

    def candidates(
        self,
        traces: Iterable[Trace],
        *,
        against: Callable[[Trace], str | None],
        reward: str | None = None,
        ordered: bool = False,
    ) -> list[Candidate]:
        """Filters traces; every one of them is guarded and counted.

        Args:
            traces: The traces.
            against: Why a trace is left out, or None; asked of those that nothing else speaks against.
            reward: The reward that becomes a candidate's value.
            ordered: Whether the order of the traces means something; else it is put aside.
        """
        found: list[Candidate] = []
        for trace in traces:
            self.seen += 1
            self.guard.check_trace(trace)
            reason = self._against(trace) or against(trace)
            if reason is not None:
                self.left_out[reason] += 1
                continue
            prompt = self._prompt(trace)
            self._open[trace.id] = "not used"
            value = trace.rewards[reward] if reward is not None else 0.0
            found.append(
                Candidate(trace=trace, prompt=prompt, answer=trace.completion.strip(), value=float(value))
            )
        return found if ordered else sorted(found, key=place)

    def knows(self, source: str) -> bool:
        """Whether something was taken before."""
        return source in self._open

    def take(self, source: str) -> None:
        """Counts something that is no trace, and may go into a row."""
        self.seen += 1
        self._open[source] = "not used"

    def refuse(self, reason: str) -> None:
        """Counts something that is no trace and does not go into a row."""
        self.seen += 1
        self.left_out[reason] += 1

    def promoted(self, candidate: Candidate) -> bool:
        """Whether a candidate may be learnt as good; says why if not."""
        if not candidate.promoted:
            self.because(candidate.trace.id, "not promoted")
        return candidate.promoted

    def because(self, source: str, reason: str) -> None:
        """Says why something goes into no row, should it be so."""
        self._open[source] = reason

    def dataset(
        self, groups: Iterable[Sequence[Draft]], *, unused: str, expected: str, remedy: str
    ) -> Dataset:
        """Makes the data set of the drafts of all groups.

        Of equal drafts the first is kept. Where an item has more than `max_per_item`, its groups take turns.

        Args:
            groups: Drafts, best first in each group.
            unused: Why something goes into no row if nothing else is known.
            expected: What would have made a row.
            remedy: What to do.

        Raises:
            DataError: if there is no row.
            LeakError: if a row holds a test question.
        """
        rows, used = self._rows(groups)
        for source, reason in self._open.items():
            if source not in used:
                self.left_out[unused if reason == "not used" else reason] += 1
        distrusted = ", ".join(f"{self.left_out[name]} {name}" for name in _DISTRUST if self.left_out[name])
        if distrusted and not self._quiet:
            say(f"Of {self.seen} {self.unit} left out: {distrusted}.")
        if not rows:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
            raise DataError(
                f"none of {self.seen} {self.unit} can be learnt from ({counts or f'no {self.unit} given'})",
                expected=expected,
                remedy=remedy,
            )
        made_of = origins(rows)
        manifest = DatasetManifest(
            builder=self.name,
            settings=self.settings,
            seen=self.seen,
            kept=len(used),
            left_out=dict(sorted(self.left_out.items())),
            rows=len(rows),
            digest=data_digest(rows),
            traces=tuple(made_of["traces"]),
            posts=tuple(made_of["posts"]),
        )
        made = attach(rows, manifest)
        if self._database is not None:
            record_dataset(self._database, rows)
        return made

    def _rows(self, groups: Iterable[Sequence[Draft]]) -> tuple[list[dict[str, Any]], set[str]]:
        turns = [
            (rank, number, draft) for number, group in enumerate(groups) for rank, draft in enumerate(group)
        ]
        order = {item: place for place, item in enumerate(self.guard.items)}
        turns.sort(key=lambda turn: (order.get(turn[2].item, len(order)), turn[0], turn[1]))
        rows: list[dict[str, Any]] = []
        used: set[str] = set()
        seen: set[str] = set()
        counts: Counter[tuple[str, str]] = Counter()
        for _, _, draft in turns:
            key = digest(draft.item, [[name, draft.fields[name]] for name in sorted(draft.fields)])
            limited = draft.item, draft.bucket
            if key in seen or (self._most is not None and counts[limited] >= self._most):
                reason = "repeated" if key in seen else f"over {self._most} per item"
                for source in draft.sources:
                    self._open[source] = reason
                continue
            seen.add(key)
            counts[limited] += 1
            used.update(draft.sources)
            self.guard.check_row(draft.fields, f"a row of {self.unit} {', '.join(draft.sources)}")
            rows.append({**draft.fields, "item": draft.item, **draft.origin})
        return rows, used

    def _against(self, trace: Trace) -> str | None:
        if trace.split != "train":
            return f"of split {trace.split}"
        if trace.item not in self.guard.items:
            return "of other items"
        if trace.trust == "quarantined":
            return "quarantined"
        return "given twice" if self.knows(trace.id) else None

    def prompt_for(self, item: Item, where: str) -> list[dict[str, Any]]:
        """What the student is asked about an item, guarded."""
        if self._student is None:
            raise ConfigError(f"{where} needs a student", expected="student=")
        prompt = messages_of(self._student.messages(item.public))
        self.guard.check_texts((message["content"] for message in prompt), where)
        return prompt

    def _prompt(self, trace: Trace) -> list[dict[str, Any]]:
        if self._student is None:
            return messages_of(trace.messages)
        return self.prompt_for(self.guard.items[trace.item], f"trace {trace.id!r}")
