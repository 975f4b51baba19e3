"""Computing the parts of a report: strata, confidence, what several samples give."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docendo.errors import DataError
from docendo.evals.metrics._calibration import calibration
from docendo.evals.metrics._coverage import coverage_risk
from docendo.evals.metrics._measures import Measure
from docendo.evals.metrics._passk import majority_at_k, pass_at_k
from docendo.evals.reports._parts import Confidence, Curve, StratumScore
from docendo.evals.reports._subjects import Subject, difference_of, mean_of

if TYPE_CHECKING:
    from docendo.evals.reports._subjects import Floats

_BINS = 10
#: Resamples of the calibration error and of k samples, which take long on many answers; and of the risk,
#: whose interval is not shown.
_RESAMPLES, _FEWEST = 400, 100
_CURVE_POINTS = 100
#: A vote of more samples takes minutes to count exactly.
_MOST_VOTES = 64
_NO_STRATUM = "(none)"


def strata_of(
    subjects: Sequence[Subject], pairs: Mapping[str, str], *, level: float
) -> tuple[StratumScore, ...]:
    """Scores every subject in every stratum; empty if there is only one.

    Strata come in the order of their smallest difference to the baseline, the worst first; without
    differences in the order of their smallest accuracy. Equal ones are sorted by name.

    Args:
        subjects: What is scored.
        pairs: What each subject is compared with, by name.
        level: Confidence level.
    """
    places = {item: name for subject in subjects for item, name in subject.strata().items()}
    parts: dict[str, list[str]] = defaultdict(list)
    for item in sorted(places):
        parts[places[item]].append(item)
    if len(parts) < 2:
        return ()
    found = []
    for stratum, items in sorted(parts.items()):
        tables = {subject.name: subject.table(items) for subject in subjects}
        rows = [
            _stratum(stratum or _NO_STRATUM, name, table, pairs.get(name), tables, level)
            for name, table in tables.items()
            if not _empty(table)
        ]
        found += [rows] if rows else []
    return tuple(row for rows in sorted(found, key=_worst) for row in rows)


def _stratum(
    stratum: str, name: str, table: Floats, against: str | None, tables: Mapping[str, Floats], level: float
) -> StratumScore:
    measured = mean_of(table, level=level)
    paired = None if against is None else difference_of(tables[against], table, level=level)
    return StratumScore(
        stratum=stratum,
        name=name,
        n=measured.n,
        accuracy=measured.value,
        interval=measured.interval,
        against=against if paired else None,
        difference=paired.difference if paired else None,
        difference_interval=paired.interval if paired else None,
        level=level,
    )


def _empty(table: Floats) -> bool:
    return bool((table != table).all())  # NaN is not equal to itself


def _worst(rows: Sequence[StratumScore]) -> tuple[float, float, str]:
    differences = [row.difference for row in rows if row.difference is not None]
    return min(differences, default=0.0), min(row.accuracy for row in rows), rows[0].stratum


def confidence_of(subject: Subject, *, level: float, seed: int) -> Confidence | None:
    """Measures the calibration of a subject's first answers; None if none has a confidence.

    With several seeds the same items occur several times, so that there is no honest interval by answers.
    """
    known = [
        (record.confidence, record.correct)
        for record in subject.records()
        if record.correct is not None and record.confidence is not None
    ]
    if not known:
        return None
    sure, right = [each[0] for each in known], [each[1] for each in known]
    settings: dict[str, Any] = {"level": level, "resamples": _RESAMPLES, "seed": seed}
    found = calibration(sure, right, bins=_BINS, **settings)
    risks = coverage_risk(sure, right, **{**settings, "resamples": _FEWEST})
    covered = [point.coverage for point in risks.points]
    picked = {bisect_left(covered, step / _CURVE_POINTS - 1e-12) for step in range(1, _CURVE_POINTS + 1)}
    return Confidence(
        name=subject.name,
        n=found.n,
        accuracy=found.accuracy.value or 0.0,
        confidence=found.confidence.value or 0.0,
        ece=found.ece.value or 0.0,
        ece_if_calibrated=found.ece_if_calibrated,
        brier=found.brier.value or 0.0,
        aurc=risks.aurc.value or 0.0,
        bins=tuple(
            (each.confidence, each.accuracy, *each.interval, each.n)
            for each in found.bins
            if each.confidence is not None and each.accuracy is not None
        ),
        curve=tuple((risks.points[n].coverage, risks.points[n].risk) for n in sorted(picked)),
        ece_interval=found.ece.interval if len(subject.results) == 1 else None,
    )


def sample_curves(subject: Subject, *, level: float, seed: int) -> tuple[tuple[Curve, ...], str]:
    """What k samples give, up to the smallest number that an item has; and what could not be said.

    Returns:
        Curves of "pass@k" and "majority@k", none if an item has one sample only; and a sentence, or "".
    """
    answered = [record for record in subject.records() if record.correct is not None]
    most = min((len(record.samples) for record in answered), default=0)
    if most < 2:
        return (), ""
    steps = _steps(most)
    right = [[sample.correct is True for sample in record.samples] for record in answered]
    settings: dict[str, Any] = {"level": level, "resamples": _RESAMPLES, "seed": seed}
    passed = [pass_at_k(right, k, **settings) for k in steps]
    single = len(subject.results) == 1
    curves = [_curve(subject.name, "pass@k", steps, passed, single)]
    votes = [k for k in steps if k <= _MOST_VOTES]
    try:
        said = [[sample.parsed for sample in record.samples] for record in answered]
        voted = [majority_at_k(said, right, k, **settings) for k in votes]
    except DataError as error:
        return tuple(curves), f"{subject.name} has no vote of its samples: {error}"
    curves.append(_curve(subject.name, "majority@k", votes, voted, single))
    return tuple(curves), ""


def _curve(name: str, kind: str, steps: Sequence[int], found: Sequence[Measure], single: bool) -> Curve:
    intervals = tuple(measure.interval for measure in found if measure.interval is not None)
    return Curve(
        name=name,
        kind=kind,
        labels=tuple(map(str, steps)),
        values=tuple(measure.value or 0.0 for measure in found),
        intervals=intervals if single and len(intervals) == len(found) else (),
    )


def _steps(most: int) -> list[int]:
    """Powers of two, and the last.

    Example:
        >>> _steps(3), _steps(16)
        ([1, 2, 3], [1, 2, 4, 8, 16])
    """
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]
