"""`docendo compare`: two evaluations, item by item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    before: Annotated[Path, typer.Argument(help="Result folder of the first evaluation.")],
    after: Annotated[Path, typer.Argument(help="Result folder of the second evaluation.")],
    level: Annotated[float, typer.Option(help="Confidence level of intervals and test.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
) -> None:
    """Compare two evaluations of the same items: difference, interval, exact test, verdict.

    The exit code is 0 whatever the verdict: "no effect shown" is a result and not an error.

    Example: docendo compare runs/before runs/after
    """
    from docendo.evals import Arm, EvalResult, ReportData, compare, transcripts
    from docendo.evals import report as render
    from docendo.files import write_text
    from docendo.progress import say

    first, second = EvalResult.load(before), EvalResult.load(after)
    comparison = compare(first, second, seed=seed, resamples=resamples, level=level)
    if report is not None:
        data = ReportData(
            title=f"{comparison.before_name} and {comparison.after_name}",
            task=second.task,
            arms=(Arm.of(first), Arm.of(second)),
            comparison=comparison,
            majority=second.majority,
            chance=second.chance,
            transcripts=transcripts(first, second),
            config={"before": first.summary(), "after": second.summary()},
            seed=seed,
        )
        write_text(report, render(data))
        say(f"report: {report}")
    print(json.dumps(comparison.to_json(), indent=2) if json_ else comparison)
