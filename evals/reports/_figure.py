"""A chart of a report as a figure of its own: one SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from docendo.errors import DataError
from docendo.evals.reports._charts import MOST_SERIES, curve_chart
from docendo.evals.reports._drawing import COLOURS, shape
from docendo.evals.reports._page import environment
from docendo.evals.reports._parts import Curve


def curve_figure(curves: Sequence[Curve], *, title: str, x_label: str) -> str:
    """Draws shares at points in order, with their intervals, as an SVG file's text.

    Args:
        curves: One line each, at most eight, all with the same labels.
        title: What is shown.
        x_label: What the points are.

    Raises:
        DataError: if there is no curve, there are too many, or their labels differ.

    Example:
        >>> from docendo.evals.reports._parts import Curve
        >>> rising = Curve(name="M1", kind="accuracy", labels=("0 %", "100 %"), values=(0.4, 0.9))
        >>> svg = curve_figure([rising], title="Gain by dose", x_label="dose")
        >>> svg.startswith("<svg"), "Gain by dose" in svg
        (True, True)
    """
    if not 1 <= len(curves) <= MOST_SERIES:
        raise DataError(f"a figure has {len(curves)} curves", expected=f"1 to {MOST_SERIES}")
    if len({curve.labels for curve in curves}) != 1:
        raise DataError("the curves of a figure have other points", expected="the same labels for all")
    tones = {curve.name: place for place, curve in enumerate(curves)}
    chart = curve_chart(curves, tones, title=title, x_label=x_label)
    svg: str = environment().get_template("figure.svg.j2").render(c=chart, colours=COLOURS, shape=shape)
    return svg.strip() + "\n"
