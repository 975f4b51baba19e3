"""FUAR: facts forgotten for each fact gained, in continual knowledge learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from docendo.checks import check_kind, short
from docendo.errors import DataError
from docendo.evals.metrics._measures import Measure, measured, resampled_means
from docendo.evals.statistics._checks import check_resampling
from docendo.hashing import derive_seed

if TYPE_CHECKING:
    from docendo.evals.metrics._measures import Numbers

#: A mean score, or the scores of single probes.
Scores: TypeAlias = "float | Sequence[float]"

_KINDS = ("invariant", "updated", "new")


def fuar(
    before: Mapping[str, Scores],
    after: Mapping[str, Scores],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Measure:
    """Returns FUAR, the ratio of forgotten to (updated + acquired) knowledge; lower is better.

    It is max(0, fall on "invariant") / (max(0, rise on "updated") + max(0, rise on "new")), of Jang et al.
    (2022, arXiv 2110.03215) for one step of learning: 0 forgets nothing, 1 forgets as much as it gains.

    Args:
        before: Scores of the model before it learns, by kind of knowledge: "invariant" (it must stay),
            "updated" (it has changed) and "new", of which one of the two last may be missing. Either the
            mean score of a set, or the scores of its probes, one for each in the same order before and
            after; if all are given so, the result has an interval.
        after: The same afterwards; "updated" probes count as right with the new answer.
        resamples: Number of bootstrap resamples.
        level: Confidence level.
        seed: Seed of the bootstrap.

    Returns:
        The measure; without a value, and the reason "no gain", if nothing was gained.

    Raises:
        DataError: if kinds are missing, unknown or differ, a score is not finite, or probes do not pair.

    Example:
        >>> before = {"invariant": 0.8, "updated": 0.1, "new": 0.0}
        >>> print(fuar(before, {"invariant": 0.7, "updated": 0.4, "new": 0.2}).value)
        0.2
        >>> print(fuar(before, {"invariant": 0.7, "updated": 0.1, "new": 0.0}))
        none: no gain
    """
    import numpy as np

    check_resampling(resamples, seed, level)
    kinds = _checked(before, after)
    pairs = {kind: (_probes(before[kind], kind), _probes(after[kind], kind)) for kind in kinds}
    for kind, (old, new) in pairs.items():
        if old.shape != new.shape:
            raise DataError(
                f"{kind!r} has the shape {old.shape} before and {new.shape} after",
                expected="a mean score, or the same probes, before and after",
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        # Scores have ten safe digits; what is left of rounding is no gain.
        value = _ratio({kind: np.round(new.mean() - old.mean(), 10) for kind, (old, new) in pairs.items()})
        if any(old.ndim == 0 for old, _ in pairs.values()):
            return _without_interval(float(value), level)
        drawn = {
            kind: np.round(_change(old, new, resamples, derive_seed("fuar", seed, kind)), 10)
            for kind, (old, new) in pairs.items()
        }
        return measured(float(value), _ratio(drawn), level=level, reason="no gain")


def _without_interval(value: float, level: float) -> Measure:
    found = measured(value, None, level=level, reason="no gain")
    return found if found.value is None else found.replace(reason="there are no scores of single probes")


def _checked(before: Mapping[str, Scores], after: Mapping[str, Scores]) -> list[str]:
    for name, scores in (("before", before), ("after", after)):
        check_kind(name, scores, Mapping, "scores by kind of knowledge")
    kinds = [kind for kind in _KINDS if kind in before]
    known = set(before) == set(after) == set(kinds)
    if not known or "invariant" not in kinds or len(kinds) < 2:
        raise DataError(
            f"the kinds are {', '.join(map(str, before))} before and {', '.join(map(str, after))} after",
            expected="invariant and updated or new, the same before and after",
        )
    return kinds


def _probes(scores: Any, kind: str) -> Numbers:
    import numpy as np

    try:
        found = np.asarray(scores, dtype=float)
    except (TypeError, ValueError, OverflowError):
        found = np.array([np.nan])
    if found.ndim > 1 or not found.size or not np.isfinite(found).all() or isinstance(scores, str):
        raise DataError(
            f"the scores of {kind!r} are {short(scores)}", expected="a finite number, or some of them"
        )
    return found


def _change(old: Numbers, new: Numbers, resamples: int, seed: int) -> Numbers:
    return resampled_means((new - old)[:, None], resamples=resamples, seed=seed)[:, 0]


def _ratio(change: Mapping[str, Any]) -> Any:
    import numpy as np

    gained = sum(np.maximum(0.0, change[kind]) for kind in _KINDS[1:] if kind in change)
    return np.where(np.asarray(gained) > 0, np.maximum(0.0, -change["invariant"]) / gained, np.nan)
