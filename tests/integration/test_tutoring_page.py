"""What docs/tutoring.md shows runs as it stands, on a model that guesses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the repository, not only the tests")
def test_the_page_runs(
    guessing_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tutoring.md").read_text(), flags=re.DOTALL)
    assert "smollm2-135m-instruct" in block
    exec(compile(block.replace("smollm2-135m-instruct", str(guessing_model_dir)), "tutoring.md", "exec"), {})
    said = capsys.readouterr().out
    assert "'taught': ['addition'" in said
    assert "'score': " in said
