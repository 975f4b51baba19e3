"""Which answers a report shows: rules that do not flatter."""

from __future__ import annotations

from dataclasses import dataclass

from docendo.checks import check_count, check_kind
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult
from docendo.evals.reports._parts import Changes, Transcript
from docendo.evals.reports._subjects import Subject


def transcripts(before: EvalResult, after: EvalResult, *, most: int = 5) -> tuple[Transcript, ...]:
    """Picks held-out questions to show, by a rule that does not flatter.

    In turn: the first that became right, that stayed wrong, that became wrong, that stayed right;
    then the second of each, until there are `most`.

    Raises:
        ConfigError: if one of the two is no evaluation, or `most` is no count.
    """
    for name, given in (("before", before), ("after", after)):
        check_kind(name, given, EvalResult, "an EvalResult, as evaluate returns")
    check_count("most", most, 0)
    first = {record.item: record for record in before.records if record.correct is not None}
    kinds: dict[tuple[bool | None, bool | None], list[tuple[EvalRecord, EvalRecord]]] = {
        (False, True): [],
        (False, False): [],
        (True, False): [],
        (True, True): [],
    }
    for record in after.records:
        earlier = first.get(record.item)
        if earlier is not None and record.correct is not None:
            kinds[(earlier.correct, record.correct)].append((earlier, record))
    depth = max((len(pairs) for pairs in kinds.values()), default=0)
    picked = [pairs[i] for i in range(min(depth, most)) for pairs in kinds.values() if i < len(pairs)]
    return tuple(
        Transcript(
            question=b.question,
            before=b.text,
            before_correct=b.correct,
            after=a.text,
            after_correct=a.correct,
        )
        for b, a in picked[:most]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """All answers to one item, of both."""

    item: str
    before: tuple[EvalRecord, ...]
    after: tuple[EvalRecord, ...]
    change: float

    @property
    def value(self) -> float:
        """The change of the scorer's own number, in which partial credit shows."""
        return _value(self.after) - _value(self.before)


def changes(before: Subject, after: Subject, *, most: int = 3) -> Changes:
    """Counts the items that are answered better and worse, and shows the largest changes of both kinds.

    An item is answered better if its share of right answers is higher. The falls and the rises that are
    shown are the largest; equal ones are taken by the scorer's own number, and then by item id, so that
    neither the order of the items nor their looks decide. As many rises are shown as falls.

    Args:
        before: What it is compared with.
        after: The result.
        most: Most falls, and most rises, to show.
    """
    old, new, shares = before.by_item(), after.by_item(), before.scores()
    pairs = [
        _Pair(item=item, before=old[item], after=new[item], change=score - shares[item])
        for item, score in after.scores().items()
        if item in shares
    ]
    falls = sorted((p for p in pairs if p.change < 0), key=lambda p: (p.change, p.value, p.item))
    rises = sorted((p for p in pairs if p.change > 0), key=lambda p: (-p.change, -p.value, p.item))
    right = sum(pair.change == 0 and shares[pair.item] > 0.5 for pair in pairs)
    shown = min(most, max(len(falls), 1))
    return Changes(
        name=after.name,
        against=before.name,
        up=len(rises),
        down=len(falls),
        right=right,
        wrong=len(pairs) - len(rises) - len(falls) - right,
        left_out=len({record.item for record in (*before.records(), *after.records())}) - len(pairs),
        losses=tuple(_shown(pair) for pair in falls[:most]),
        gains=tuple(_shown(pair) for pair in rises[:shown]),
    )


def _value(records: tuple[EvalRecord, ...]) -> float:
    samples = [sample for record in records for sample in record.samples]
    return sum(sample.value for sample in samples) / len(samples)


def _shown(pair: _Pair) -> Transcript:
    """Shows the first answer of each, and how many of all their answers are right."""
    b, a = pair.before[0], pair.after[0]
    return Transcript(
        question=b.question,
        before=b.text,
        before_correct=b.correct,
        after=a.text,
        after_correct=a.correct,
        before_rights=_rights(pair.before),
        after_rights=_rights(pair.after),
    )


def _rights(records: tuple[EvalRecord, ...]) -> tuple[int, int] | None:
    answers = [sample.correct is True for record in records for sample in record.samples]
    return (sum(answers), len(answers)) if len(answers) > 1 else None
