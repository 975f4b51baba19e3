"""The world of the recipe `volunteer-board`, and its volunteers in this process and in others."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from docendo import graphs
from docendo.agents import NoteKeeper, ScriptedEngine
from docendo.graphs.recipes import volunteer_board as board
from docendo.graphs.recipes._lake import KINDS, lake
from docendo.memory import Database

MADE = lake(7, dev=8, test=4)


def test_both_sheets_of_a_question_are_needed_and_lie_in_different_partitions():
    where = {sheet: keeper for keeper, sheets in enumerate(MADE.partitions) for sheet in sheets}
    for question in MADE.test:
        first, second = question.sheets
        assert where[first] != where[second]
        assert question.name in MADE.sheets[first]
        assert question.name in MADE.sheets[second]
        assert question.answer in MADE.sheets[second]
        assert question.name not in question.text


def test_half_of_the_descriptions_are_wrong_and_dev_questions_are_others():
    assert sum(a != b for a, b in zip(MADE.right, MADE.stale, strict=True)) == len(KINDS) // 2
    assert not {q.text for q in MADE.dev} & {q.text for q in MADE.test}
    assert lake(7, dev=8, test=4) == MADE != lake(8, dev=8, test=4)


def read(request):
    """A reader that finds what the sheets say."""
    *facts, begun = request.prompt[-1]["content"].splitlines()
    said = [fact.removeprefix(f"- {begun} ") for fact in facts if fact.startswith(f"- {begun} ")]
    return said[0] if said else "nobody"


def answered(folder: Path, name: str, processes: int):
    """What all questions got by the volunteers of some processes."""
    folder.mkdir()
    config = board.VolunteerBoard(questions=4, dev=8, processes=processes)
    with Database.open(folder / "board.db") as database:
        helpers = [] if processes else board.keepers(MADE, config.sheets)
        with board._working(config, 7, folder / "board.db", processes) as options:
            graph = graphs.blackboard(
                board.Reader(ScriptedEngine(read)), helpers, places=1, max_rounds=3, **options
            )
            return board._answer(graph, database, MADE, name, 7)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_volunteers_in_two_processes_deliver_what_they_deliver_in_one(tmp_path):
    match, f1, sheets = answered(tmp_path / "here", "run", 0)
    assert sum(match.values.values()) > 0
    assert answered(tmp_path / "elsewhere", "run", 2) == (match, f1, sheets)


#: Dies with a process of volunteers that shares its output.
KILLED = """
import os, signal, sys
from pathlib import Path
from docendo.graphs.recipes import volunteer_board as board
from docendo.memory import Blackboard

Blackboard.open(sys.argv[1]).close()
with board._working(board.VolunteerBoard(questions=4, dev=8, processes=1), 7, Path(sys.argv[1]), 1):
    print("working", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_volunteers_in_another_process_end_when_the_one_that_started_them_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "board.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=200)  # until the last process that shares it has ended
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert said == b"working\n"
    assert process.returncode == -signal.SIGKILL


def test_an_archive_of_all_sheets_leads_to_the_answer():
    engine = ScriptedEngine(read)
    with Database.open(":memory:") as database:
        graph = graphs.blackboard(
            board.Reader(engine), [NoteKeeper("archive", MADE.sheets, threshold=0.0, most=20)], max_rounds=3
        )
        match, f1, _ = board._answer(graph, database, MADE, "run", 7)
    assert match.mean == 1.0
    assert f1.mean < 0.2, "twenty sheets are delivered for two"
