"""The report of one or several evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from docendo.checks import entries
from docendo.errors import ConfigError, DataError
from docendo.evals.harness._results import EvalCost, EvalResult
from docendo.evals.reports._differences import differences_of
from docendo.evals.reports._parts import Curve
from docendo.evals.reports._report import Arm, ReportData, blame_of
from docendo.evals.reports._sections import confidence_of, sample_curves, strata_of
from docendo.evals.reports._sources import Source, named_apart, read_source
from docendo.evals.reports._subjects import Subject, mean_of
from docendo.evals.reports._transcripts import changes
from docendo.evals.statistics._checks import check_level, check_seed

#: Questions shown of each kind for one pair and over all pairs: a page should stay readable and small.
_MOST_QUESTIONS, _QUESTIONS = 4, 12
#: The level of the bars, as that of `EvalResult.interval`.
_LEVEL = 0.95


def results_report(
    results: EvalResult | str | Path | Iterable[EvalResult | str | Path],
    *,
    baseline: str | None = None,
    control: str | None = None,
    title: str | None = None,
    stages: bool = False,
    load: Callable[[Path], EvalResult] = EvalResult.load,
    level: float = 0.95,
    seed: int = 0,
) -> ReportData:
    """Gathers what evaluations show: accuracies, paired differences, costs, strata, calibration, changes.

    What the data do not allow is left out: calibration needs confidences, a table of strata needs several,
    pass@k several samples. Render it with `report`, draw it with `save_plots`.

    Args:
        results: Evaluations, or folders: of an evaluation (`EvalResult.save`), of a `Comparison`, of its
            arm or any other `seed-N` results, or of a run that measured before and after, such as that of
            `docendo quickstart`.
        baseline: Name of the result that the others are compared with. By default the first of the single
            results; a comparison has its own, and a run is compared with what was measured before it.
        control: Name of the result whose signal is shuffled, or None. Another single result is called better
            only if it beats the control as well. A comparison has its own.
        title: Heading; by default the names, or their number.
        stages: Whether the results are stages of one run, in this order: their accuracy is then drawn as a
            curve.
        load: How the file or folder of a single result is read, such as `load_result`.
        level: Confidence level of differences and tests, and of the intervals by stratum.
        seed: Seed of the bootstraps of calibration and of several samples.

    Returns:
        The data of the report. A comparison's differences and verdicts are those of its own outcome. Single
        results are compared by `compare`; a verdict of several pairs must also hold adjusted for their
        number (Holm 1979).

    Raises:
        DataError: if there is no result, or a folder does not hold one.
        ConfigError: if there is no result of the name of baseline or control, or a comparison has another.

    Example:
        >>> from docendo.evals import EvalRecord, EvalResult
        >>> def result(name, rights):
        ...     records = tuple(
        ...         EvalRecord(item=str(n), question=f"What is {n} + 1?", text=str(n + right), correct=right)
        ...         for n, right in enumerate(rights)
        ...     )
        ...     return EvalResult(name=name, task="demo", scorer="exact", records=records)
        >>> plain, taught = result("plain", [False] * 40), result("taught", [True] * 20 + [False] * 20)
        >>> data = results_report([plain, taught])
        >>> [(row.name, row.verdict) for row in data.differences], data.changes[0].up
        ([('taught', 'better')], 20)
    """
    check_level(level)
    check_seed(seed)
    given = [results] if isinstance(results, (str, Path, EvalResult)) else entries("results", results)
    sources = named_apart([read_source(each, load=load) for each in given])
    if not sources:
        raise DataError("there is nothing to report on", expected="at least one result")
    sources = _controlled(_against(sources, baseline), control)
    subjects = [subject for source in sources for subject in source.subjects]
    by_name = {subject.name: subject for subject in subjects}
    found = differences_of(sources, control=control, level=level)
    differences, compared = found.rows, found.compared
    pairs = {row.name: row.against for row in differences}
    most = max(1, min(_MOST_QUESTIONS, _QUESTIONS // max(1, len(pairs))))
    drawn = [sample_curves(subject, level=level, seed=seed) for subject in subjects]
    run = _only_run(sources)
    return ReportData(
        title=title or (Path(sources[0].place).resolve().name if run or _lone(sources) else _title(subjects)),
        task=run.task if run else _listed(dict.fromkeys(r.task for s in subjects for r in s.results)),
        created=run.created if run else "",
        arms=tuple(_arm(subject, set(pairs.values())) for subject in subjects),
        comparison=compared[0] if len(compared) == len(differences) == 1 else None,
        losses=run.losses if run else (),
        costs=run.costs if run else (),
        phases=run.phases if run else (),
        transcripts=tuple(each for each in run.transcripts if each.taught) if run else (),
        config={
            **({"run": run.config} if run else {}),
            "results": {subject.name: [r.summary() for r in subject.results] for subject in subjects},
        },
        versions=run.versions if run else {},
        seed=run.seed if run else None,
        notes=(*(run.notes if run else ()), *found.notes, *(note for _, note in drawn if note)),
        differences=differences,
        strata=strata_of(subjects, pairs, level=level),
        stages=(*_stages(subjects, stages), *(curve for source in sources for curve in source.stages)),
        confidences=tuple(
            each for s in subjects if (each := confidence_of(s, level=level, seed=seed)) is not None
        ),
        samples=tuple(curve for curves, _ in drawn for curve in curves),
        changes=tuple(changes(by_name[b], by_name[a], most=most) for a, b in pairs.items()),
    )


def _against(sources: Sequence[Source], baseline: str | None) -> list[Source]:
    """Says of each single result what it is compared with."""
    singles = [subject.name for source in sources for subject in source.subjects if source.outcome is None]
    names = [subject.name for source in sources for subject in source.subjects]
    if baseline is not None and baseline not in names:
        raise ConfigError(f"there is no result {baseline!r}", expected=f"one of {', '.join(names)}")
    found = []
    for source in sources:
        if source.outcome is not None:
            inside = [subject.name for subject in source.subjects]
            own = next(subject.name for subject in source.subjects if subject.against is None)
            if baseline in inside and baseline != own:
                raise ConfigError(
                    f"the comparison in {source.place} was judged against {own!r}",
                    remedy=f"run it again with baseline={baseline!r}",
                )
            found.append(source)
            continue
        # What a run measured before is compared with nothing of itself.
        wanted = baseline or (None if source.run else singles[0])
        found.append(replace(source, subjects=tuple(_beside(subject, wanted) for subject in source.subjects)))
    return found


def _beside(subject: Subject, wanted: str | None) -> Subject:
    other = wanted or subject.against
    return replace(subject, against=None if other == subject.name else other)


def _controlled(sources: Sequence[Source], control: str | None) -> list[Source]:
    """Says of a single result that it is the control."""
    names = [subject.name for source in sources for subject in source.subjects]
    if control is None:
        return list(sources)
    if control not in names:
        raise ConfigError(f"there is no result {control!r}", expected=f"one of {', '.join(names)}")
    found = []
    for source in sources:
        inside = next((subject for subject in source.subjects if subject.name == control), None)
        if source.outcome is not None and inside is not None and not inside.control:
            own = source.outcome.control
            raise ConfigError(
                f"the comparison in {source.place} was judged with "
                + (f"the control {own!r}" if own else "no control"),
                remedy=f"run it again with control={control!r}",
            )
        if any(subject.against == control for subject in source.subjects):
            raise ConfigError(f"{control!r} is the baseline and the control", expected="two results")
        marked = (replace(each, control=each.control or each.name == control) for each in source.subjects)
        found.append(replace(source, subjects=tuple(marked)))
    return found


def _arm(subject: Subject, baselines: set[str]) -> Arm:
    part = "baseline" if subject.name in baselines else "control" if subject.control else ""
    first = Arm.of(subject.results[0]).replace(name=subject.name, part=part)
    if not subject.every_sample:
        return first
    table = subject.table()
    measured = mean_of(table, level=_LEVEL)
    by_seed = [mean_of(row[None], level=_LEVEL) for row in table]
    answers = [sample.correct is True for record in subject.records() for sample in record.samples]
    spent = [cost for result in subject.results if (cost := Arm.of(result).cost) is not None]
    return first.replace(
        accuracy=measured.value,
        interval=measured.interval,
        n=len(answers),
        correct=sum(answers),
        failed=sum(result.failed for result in subject.results),
        blame=blame_of(subject.results),
        unscored=sum(record.score_failure is not None for record in subject.records()),
        items=sum(len(result.records) for result in subject.results),
        cost=reduce(_sum, spent) if spent else None,
        seeds=tuple(each.value for each in by_seed if each.n) if len(table) > 1 else (),
        spent=subject.spent,
        unit=subject.unit,
    )


def _sum(first: EvalCost, second: EvalCost) -> EvalCost:
    flops = None if first.flops is None or second.flops is None else first.flops + second.flops
    return EvalCost(
        correct=first.correct + second.correct,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        generated_tokens=first.generated_tokens + second.generated_tokens,
        seconds=first.seconds + second.seconds,
        flops=flops,
    )


def _stages(subjects: Sequence[Subject], wanted: bool) -> tuple[Curve, ...]:
    if not wanted:
        return ()
    results = [(subject.name, subject.results[0]) for subject in subjects if len(subject.results) == 1]
    if len(results) < 2:
        raise ConfigError(f"there are {len(results)} stages", expected="at least two single results")
    known = [(name, result) for name, result in results if result.n]
    return (
        Curve(
            name="accuracy",
            kind="accuracy",
            labels=tuple(name for name, _ in known),
            values=tuple(result.accuracy for _, result in known),
            intervals=tuple(result.interval for _, result in known),
        ),
    )


def _only_run(sources: Sequence[Source]) -> ReportData | None:
    """What the run's own report shows, if the report is of one run alone."""
    return sources[0].run if len(sources) == 1 else None


def _lone(sources: Sequence[Source]) -> bool:
    return len(sources) == 1 and sources[0].outcome is not None


def _title(subjects: Sequence[Subject]) -> str:
    names = [subject.name for subject in subjects]
    return " and ".join(names) if len(names) < 3 else f"{len(names)} results"


def _listed(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"
