"""Figures: an SVG file that needs nothing else, and the page of recipes that shows it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docendo import registry
from docendo.cli import main
from docendo.errors import DataError
from docendo.evals.experiments import figures, page
from docendo.evals.reports._figure import curve_figure
from docendo.evals.reports._parts import Curve
from docendo.records import Record


def curve(name: str, *values: float, labels: tuple[str, ...] = ("0 %", "100 %")) -> Curve:
    spans = tuple((value - 0.1, value + 0.1) for value in values)
    return Curve(name=name, kind="accuracy", labels=labels, values=values, intervals=spans)


def test_a_figure_is_whole_and_told_apart_without_colours() -> None:
    svg = curve_figure([curve("vote", 0.5, 0.4), curve("<M1>", 0.5, 0.9)], title="By dose", x_label="dose")
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = [element.text for element in root.iter() if element.text]
    assert {"By dose", "vote", "<M1>", "dose", "0 %", "100 %"} <= set(words)
    paths = [element.get("d") for element in root.iter("{http://www.w3.org/2000/svg}path")]
    assert len(paths) == 4 + 2
    assert len({re.sub(r"-?[\d.]+", "", str(path)) for path in paths}) == 2, "a shape of its own for each"
    assert "var(" not in svg, "not every viewer knows the page's variables"
    for mark in root.iter("{http://www.w3.org/2000/svg}line"):
        assert all(-8 <= float(mark.get(key, "0")) <= 308 for key in ("x1", "x2"))


def test_curves_that_cannot_be_drawn_together_are_refused() -> None:
    with pytest.raises(DataError, match="0 curves"):
        curve_figure([], title="t", x_label="x")
    with pytest.raises(DataError, match="9 curves"):
        curve_figure([curve(str(n), 0.5, 0.5) for n in range(9)], title="t", x_label="x")
    with pytest.raises(DataError, match="other points"):
        curve_figure([curve("a", 0.5, 0.5), curve("b", 0.5, labels=("0 %",))], title="t", x_label="x")


def test_the_page_shows_figures_and_the_command_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "results_folder", lambda: tmp_path)
    drawn = registry.Recipe(
        id="drawn",
        title="Drawn",
        room="evals",
        paper="-",
        claim="It is drawn.",
        cost="-",
        config=Record,
        function=lambda *_, **__: {},
        figure=_draw,
    )
    assert figures([drawn]) == {}, "nothing is drawn of a recipe without a result"
    (tmp_path / "drawn.laptop.json").write_text(
        '{"status": "runs", "id": "drawn", "scale": "laptop", "seed": 0, "machine": "m", "date": "d", '
        '"commit": "c"}'
    )
    assert figures([drawn]) == {"drawn.svg": "<svg>drawn</svg>"}
    assert "![Drawn](figures/drawn.svg)" in page([drawn])
    monkeypatch.setattr(registry, "recipes", lambda: (drawn,))
    assert main(["recipes", "page", "--output", str(tmp_path / "docs" / "recipes.md")]) == 0
    assert (tmp_path / "docs" / "figures" / "drawn.svg").read_text() == "<svg>drawn</svg>"


def _draw(result: Mapping[str, Any]) -> str:
    return f"<svg>{result['id']}</svg>"
