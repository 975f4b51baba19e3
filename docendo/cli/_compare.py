"""`docendo compare`: two evaluations item by item, or several methods over several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from docendo.errors import ConfigError

if TYPE_CHECKING:
    from docendo.evals import EvalResult


def command(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Result folders, logs of lm-eval or inspect_ai, folders of seed-N results, or one folder of "
            "a comparison. The first is the baseline."
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Name of the baseline (the end of its path); else the first.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="Name of the arm whose signal is shuffled (the end of its path).")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="No verdict where what was spent differs by more than 2 %, counted in: tokens, generated "
            "tokens, calls, flops, seconds."
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="correct, value, or confidence.")] = None,
    direction: Annotated[str | None, typer.Option(help="Whether more or less of it is better.")] = None,
    level: Annotated[
        float | None, typer.Option(help="Confidence level of intervals and test; else 0.95.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
) -> None:
    """Compare evaluations of the same items: difference, interval, test, verdict.

    The exit code is 0 whatever the verdict: "no effect shown" is a result and not an error.

    Example: docendo compare runs/before runs/after
    """
    from docendo.evals import Outcome, PairedComparison, compare, load_result
    from docendo.evals.comparison._folders import load_arms
    from docendo.evals.comparison._rules import Rules
    from docendo.evals.comparison._verdicts import judge_arms

    arms = load_arms(results, load=load_result)
    if report is not None and arms.seeds:
        raise ConfigError("--report is for single results", remedy="use docendo report FOLDER")
    plain = not any((baseline, control, budget, metric, direction))
    found: PairedComparison | Outcome
    if len(arms.results) == 2 and not arms.seeds and plain:
        before, after = (each[0] for each in arms.results.values())
        found = compare(before, after, level=0.95 if level is None else level)
    else:
        # A comparison's folder is judged as it was, unless something else is asked for.
        was = arms.rules
        rules = Rules(
            baseline=baseline or was.get("baseline") or next(iter(arms.results)),
            control=control or was.get("control"),
            unit=cast(Any, budget or was.get("unit", "tokens")),
            budget=None if budget else was.get("budget"),
            tolerance=was.get("tolerance", 0.02),
            equal_budgets=budget is not None or was.get("equal_budgets", False),
            metric=cast(Any, metric or was.get("metric", "correct")),
            direction=cast(Any, direction or was.get("direction", "more")),
            level=was.get("level", 0.95) if level is None else level,
            seeds=arms.seeds,
        )
        found = judge_arms(arms.results, rules, spent=arms.spent)
    if report is not None:
        named = [runs[0].replace(name=name) for name, runs in arms.results.items()]
        _write_report(report, named, baseline=baseline, control=control, level=found.level)
    print(json.dumps(found.to_json(), indent=2) if json_ else found)


def _write_report(
    path: Path, results: list[EvalResult], *, baseline: str | None, control: str | None, level: float
) -> None:
    from docendo.evals import report, results_report
    from docendo.files import write_text
    from docendo.progress import say

    write_text(path, report(results_report(results, baseline=baseline, control=control, level=level)))
    say(f"report: {path}")
