"""`docendo report`: one page of one or several evaluations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[
        list[str],
        typer.Argument(
            help="Folders of docendo eval, quickstart or a comparison; logs of lm-eval or inspect_ai."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File of the page.")] = Path("report.html"),
    plots: Annotated[
        Path | None, typer.Option(help="Folder for the charts as PNG files (needs the extra `plots`).")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Name of the result that others are compared with; else the first.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            help="Name of the result whose signal is shuffled: what is better must beat it as well."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="The results are stages of one run, in this order.")
    ] = False,
    level: Annotated[float, typer.Option(help="Confidence level of intervals and tests.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the bootstraps.")] = 0,
) -> None:
    """Show evaluations on one page: accuracies, differences, costs, strata, calibration, changes.

    Example: docendo report runs/before runs/after --out report.html --plots plots
    """
    from docendo.evals import load_result, report, results_report, save_plots
    from docendo.evals.reports._page import shown
    from docendo.files import write_text
    from docendo.progress import say

    data = results_report(
        results,
        baseline=baseline,
        control=control,
        title=title,
        stages=stages,
        load=load_result,
        level=level,
        seed=seed,
    )
    if not data.created:
        data = data.replace(created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    files = save_plots(data, plots) if plots is not None else ()
    write_text(out, report(data))
    # Names and errors may hold what a terminal would act on.
    for row in data.differences:
        print(shown(f"{row.name} against {row.against}: {row.verdict}"))
    for note in data.notes:
        say(shown(note))
    if plots is not None:
        say(f"plots: {len(files)} in {plots}")
    print(f"report: {out}")
