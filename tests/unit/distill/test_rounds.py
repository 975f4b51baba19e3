"""The loop over plain functions: each arrow once, whatever is killed where; then expert iteration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from docendo.distill import Round, Rounds, RoundsReport
from docendo.errors import ConfigError, DataError, IntegrityError, ResumeError
from docendo.evals import wilson

ARROWS = ("exam", "feedback", "build", "fit", "evaluate")


class Counted:
    """Five arrows whose results depend on all before them, and a place to be killed at."""

    def __init__(self, *, kill: tuple[int, str] | None = None) -> None:
        self.calls: Counter[tuple[int, str]] = Counter()
        self.kill = kill

    def rounds(self, **config: Any) -> Rounds:
        return Rounds(*(self.arrow(name) for name in ARROWS), config=config)

    def arrow(self, name: str) -> Any:
        def run(round: Round) -> dict[str, Any]:
            self.calls[round.number, name] += 1
            if self.kill == (round.number, name):
                self.kill = None
                raise KeyboardInterrupt
            before = round.latest("fit")
            skill = before["skill"] if before else 1
            if name == "evaluate":
                return {"correct": skill, "n": 20, "tokens": 7}
            seen = sum(len(results) for results in round.history) + len(round.results)
            return {"skill": skill + 2, "seen": seen, "seed": round.seed % 1000, "tokens": 10}

        return run


def test_rounds_follow_each_other_and_are_reported(tmp_path: Path) -> None:
    counted = Counted()
    report = counted.rounds().run(tmp_path / "r", rounds=2, seed=5, quiet=True)
    assert [row.correct for row in report.rows] == [1, 3, 5]
    assert [row.interval for row in report.rows] == [wilson(n, 20) for n in (1, 3, 5)]
    assert report.tokens == 3 * 7 + 2 * 4 * 10
    assert report.last.accuracy == 0.25
    assert report.stopped == "All 2 rounds are done."
    assert set(counted.calls.values()) == {1}
    assert "25.0 %" in str(report)
    stored = json.loads((tmp_path / "r" / "report.json").read_text())
    assert RoundsReport.from_json(stored) == report
    exam = json.loads((tmp_path / "r" / "round-2" / "exam.json").read_text())
    # Round 0 has one result, round 1 has five.
    assert exam["result"]["seen"] == 6


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ARROWS)
def test_killed_at_any_arrow_it_goes_on_without_repeating_one(tmp_path: Path, number: int, name: str) -> None:
    whole = Counted().rounds().run(tmp_path / "whole", rounds=2, quiet=True)
    counted = Counted(kill=(number, name))
    with pytest.raises(KeyboardInterrupt):
        counted.rounds().run(tmp_path / "cut", rounds=2, quiet=True)
    report = counted.rounds().run(tmp_path / "cut", rounds=2, resume=True, quiet=True)
    assert report.digest == whole.digest
    assert [row.correct for row in report.rows] == [row.correct for row in whole.rows]
    assert {place for place, calls in counted.calls.items() if calls > 1} == {(number, name)}


PROGRAM = """
    import os, signal, sys
    from pathlib import Path
    from docendo.distill import Rounds
    folder, place = Path(sys.argv[1]), sys.argv[2]

    def arrow(name):
        def run(round):
            here = f"{round.number}-{name}"
            with open(folder.parent / "calls.txt", "a") as calls:
                print(here, file=calls)
            if here == place:
                os.kill(os.getpid(), signal.SIGKILL)
            return {"correct": round.number, "n": 9, "seed": round.seed % 97}
        return run

    names = ("exam", "feedback", "build", "fit", "evaluate")
    rounds = Rounds(*(arrow(name) for name in names))
    print(rounds.run(folder, rounds=1, resume=True, quiet=True).digest)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_outright_leaves_what_can_be_gone_on_with(tmp_path: Path) -> None:
    def run(place: str, folder: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / folder / "r"), place]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)

    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    assert run("1-fit", "cut").returncode == -signal.SIGKILL
    resumed, whole = run("", "cut"), run("", "whole")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout
    calls = Counter((tmp_path / "cut" / "calls.txt").read_text().split())
    assert {place for place, n in calls.items() if n > 1} == {"1-fit"}


def test_a_finished_run_can_be_resumed_with_more_rounds_and_ends_like_a_longer_one(tmp_path: Path) -> None:
    counted = Counted()
    counted.rounds().run(tmp_path / "r", rounds=1, quiet=True)
    report = counted.rounds().run(tmp_path / "r", rounds=3, resume=True, quiet=True)
    assert set(counted.calls.values()) == {1}
    assert report.digest == Counted().rounds().run(tmp_path / "long", rounds=3, quiet=True).digest


def test_what_follows_from_a_changed_result_is_made_anew(tmp_path: Path) -> None:
    counted = Counted()
    counted.rounds().run(tmp_path / "r", rounds=1, quiet=True)
    (tmp_path / "r" / "round-1" / "build.json").unlink()
    counted.rounds().run(tmp_path / "r", rounds=1, resume=True, quiet=True)
    assert {place for place, calls in counted.calls.items() if calls > 1} == {(1, "build")}, (
        "it came out alike"
    )
    (tmp_path / "r" / "round-1" / "build.json").unlink()
    other = Counted()
    made = other.arrow("build")
    rounds = other.rounds()
    rounds.arrows["build"] = lambda round: {**made(round), "note": "otherwise"}
    rounds.run(tmp_path / "r", rounds=1, resume=True, quiet=True)
    assert set(other.calls) == {(1, "build"), (1, "fit"), (1, "evaluate")}


def test_a_budget_ends_the_rounds(tmp_path: Path) -> None:
    report = Counted().rounds().run(tmp_path / "r", rounds=9, tokens=60, quiet=True)
    assert [row.round for row in report.rows] == [0, 1, 2]
    assert report.stopped == "The budget of 60 tokens is spent after round 2."
    assert (report.budget, report.seed) == (60, 0)


def test_damage_other_settings_and_a_second_start_are_refused(tmp_path: Path) -> None:
    Counted().rounds(rate=1).run(tmp_path / "r", rounds=1, quiet=True)
    with pytest.raises(ResumeError):
        Counted().rounds(rate=1).run(tmp_path / "r", rounds=1, quiet=True)
    with pytest.raises(ResumeError, match="rate"):
        Counted().rounds(rate=2).run(tmp_path / "r", rounds=1, resume=True, quiet=True)
    file = tmp_path / "r" / "round-1" / "fit.json"
    file.write_text(file.read_text().replace('"skill": 3', '"skill": 9'))
    with pytest.raises(IntegrityError, match=r"fit\.json"):
        Counted().rounds(rate=1).run(tmp_path / "r", rounds=1, resume=True, quiet=True)


@pytest.mark.parametrize("bad", [None, 3, {"x": float("nan")}, {"x": object()}])
def test_an_arrow_that_returns_no_json_is_named(tmp_path: Path, bad: Any) -> None:
    rounds = Rounds(lambda _: bad, None, None, None, lambda _: {"correct": 0, "n": 1})
    with pytest.raises(DataError, match="exam of round 1"):
        rounds.run(tmp_path / "r", quiet=True)


@pytest.mark.parametrize("bad", [{}, {"correct": 3, "n": 2}, {"correct": 1, "n": 2, "tokens": -1}])
def test_an_evaluation_needs_its_counts(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="whole number"):
        Rounds(None, None, None, None, lambda _: bad).run(tmp_path / "r", quiet=True)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluate"):
        Rounds(None, None, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exam"):
        Rounds("exam", None, None, None, lambda _: {})  # type: ignore[arg-type]
    for options in ({"rounds": 0}, {"seed": "1"}, {"tokens": 0}):
        with pytest.raises(ConfigError):
            Counted().rounds().run(tmp_path / "r", quiet=True, **options)  # type: ignore[arg-type]
