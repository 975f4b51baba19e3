"""The main job on a model that guesses: every file is there, and it resumes."""

from __future__ import annotations

import json
from pathlib import Path

from docendo.registry import get_recipe


def test_it_measures_teaches_trains_and_resumes(guessing_model_dir: Path, tmp_path: Path) -> None:
    recipe = get_recipe("teach-and-distill")
    config = recipe.configure({"student": str(guessing_model_dir), "examples": 4}, scale="tiny")
    summary = recipe.function(config, folder=tmp_path / "run", resume=False, quiet=True)
    assert {"before", "after", "difference", "interval", "verdict"} <= set(summary)
    assert summary["before"]["n"] == config.test
    assert summary["interval"][0] <= summary["difference"] <= summary["interval"][1]
    for name in ("config.json", "summary.json", "items.jsonl", "docendo.db", "report.html"):
        assert (tmp_path / "run" / name).is_file(), name
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    again = recipe.function(config, folder=tmp_path / "run", resume=True, quiet=True)
    assert [again[key] for key in ("difference", "verdict")] == [
        summary[key] for key in ("difference", "verdict")
    ]
