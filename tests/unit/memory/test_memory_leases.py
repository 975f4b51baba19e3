"""One process to a run: who holds it, how its death is noticed, and what a process that lost it may do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docendo.errors import IntegrityError, ResumeError
from docendo.memory import Database, RunStore, launched, verify
from docendo.memory.runs import _leases
from docendo.memory.runs._leases import Holder, Lease, this_process

HOLD = """
import sys, time
from docendo.memory import RunStore
runs = RunStore.open(sys.argv[1])
with runs.running("demo", {"seed": 0}, resume=True):
    runs.finish_item("demo", sys.argv[2], {"status": "done"})
    print("held", flush=True)
    time.sleep(60)
"""


def hold(url: str, item: str, folder: Path) -> subprocess.Popen[str]:
    """A process that works on the run until it is killed."""
    command = [sys.executable, "-c", HOLD, url, item]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


@pytest.fixture
def runs(database_url: str) -> Iterator[RunStore]:
    with RunStore.open(database_url) as opened:
        yield opened


def test_a_second_process_is_refused_until_the_first_is_dead(
    database_url: str, runs: RunStore, tmp_path: Path
) -> None:
    child = hold(database_url, "first", tmp_path)
    try:
        row = runs.get("demo")
        assert (row.status, row.items) == ("running", 1)
        assert f"process {child.pid} on " in row.holder
        with pytest.raises(
            ResumeError, match=rf"'demo' is running in process {child.pid} on .*, for \d+ s; wait"
        ):
            runs.start("demo", {"seed": 0}, resume=True)
        with pytest.raises(ResumeError, match=r"exists already \(running, 1 items finished\)"):
            runs.start("demo", {"seed": 0}, resume=False)
        with pytest.raises(ResumeError, match="is running in"):
            runs.claim("demo")
    finally:
        end(child)
    row = runs.get("demo")
    assert (row.status, row.holder) == ("stopped", "")
    with runs.running("demo", {"seed": 0}, resume=True) as row:
        assert (row.status, row.items) == ("running", 1)
        runs.finish_item("demo", "second", {"status": "done"})
    assert (runs.get("demo").status, runs.get("demo").items) == ("finished", 2)


def test_a_zombie_holds_nothing(database_url: str, runs: RunStore, tmp_path: Path) -> None:
    child = hold(database_url, "first", tmp_path)
    child.kill()
    deadline = time.monotonic() + 30
    while runs.get("demo").status == "running" and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel takes a moment; nobody has waited for the child yet
    assert runs.get("demo").status == "stopped"
    end(child)


def test_two_threads_of_one_process_are_two_claims(database_url: str, runs: RunStore) -> None:
    with (
        RunStore.open(database_url) as other,
        other.running("demo", {}, resume=False),
        pytest.raises(ResumeError, match=f"is running in process {os.getpid()} on"),
    ):
        runs.start("demo", {}, resume=True)
    assert runs.start("demo", {}, resume=True).status == "running"


def elsewhere(runs: RunStore, *, silent_for: float) -> Lease:
    """Has the run held by a process of another machine that was last heard of so long ago."""
    runs.start("demo", {"seed": 0}, resume=False)
    with runs.database.transaction() as connection:
        lease = _leases.take(connection, "demo", runs.database.now() - silent_for)
        there = lease.replace(holder=Holder(machine="another", host="far", pid=1, started="1"))
        connection.execute(_leases._schema.leases.update().values(**_leases._sealed(there)))
    runs._held.clear()
    return there


def test_a_process_elsewhere_holds_as_long_as_it_is_heard_of(runs: RunStore) -> None:
    elsewhere(runs, silent_for=_leases.EXPIRES_SECONDS / 2)
    assert runs.get("demo").holder == "process 1 on far"
    with pytest.raises(ResumeError, match="is running in process 1 on far"):
        runs.start("demo", {"seed": 0}, resume=True)


def test_a_process_elsewhere_that_is_silent_loses_the_run(database_url: str, runs: RunStore) -> None:
    lease = elsewhere(runs, silent_for=_leases.EXPIRES_SECONDS + 1)
    assert runs.get("demo").status == "stopped"
    # The silent one was only asleep: it still believes that the run is its own.
    with RunStore.open(database_url) as asleep:
        asleep._held["demo"] = lease
        runs.start("demo", {"seed": 0}, resume=True)
        for write in (
            lambda: asleep.finish_item("demo", "late", {}),
            lambda: asleep.end("demo", "failed"),
        ):
            with pytest.raises(ResumeError, match=f"taken over by process {os.getpid()} on .*; leave it"):
                write()
        runs.end("demo", "finished")
        with pytest.raises(ResumeError, match="taken over by another process"):
            asleep.finish_item("demo", "late", {})
    assert runs.finished("demo") == {}
    assert runs.get("demo").status == "finished"


def test_a_held_run_is_renewed(runs: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_leases, "BEAT_SECONDS", 0.01)

    def beat() -> float:
        with runs.database.reading() as connection:
            lease = _leases.read(connection, "demo")
        assert lease is not None
        return lease.beat - lease.taken

    with runs.running("demo", {}, resume=False):
        deadline = time.monotonic() + 30
        while beat() <= 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert beat() > 0
    with runs.database.reading() as connection:
        assert _leases.read(connection, "demo") is None


def test_seconds_of_all_parts_are_counted(database_url: str, runs: RunStore, tmp_path: Path) -> None:
    with runs.running("demo", {"seed": 0}, resume=False):
        time.sleep(0.05)
    first = runs.get("demo").seconds
    assert 0.05 <= first < 30
    with runs.running("demo", {"seed": 0}, resume=True):
        time.sleep(0.05)
        assert runs.get("demo").seconds >= first + 0.05
    second = runs.get("demo").seconds
    assert second >= first + 0.05
    assert runs.get("demo").seconds == second  # nobody works on it any more


def test_where_a_run_came_from_is_kept(runs: RunStore) -> None:
    with launched("demo", {"launch": {"what": "r"}}):
        runs.start("other", {}, resume=False)
        row = runs.start("demo", {}, resume=False, origin={"folder": "f"})
    assert row.origin == {"launch": {"what": "r"}, "folder": "f"}
    assert runs.get("other").origin == {}
    assert runs.start("demo", {}, resume=True, origin={"folder": "g"}).origin == row.origin


def test_a_damaged_lease_is_an_error_and_named(runs: RunStore) -> None:
    runs.start("demo", {}, resume=False)
    assert all(report.ok for report in verify(runs.database))
    with runs.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_leases SET token = 'x'")
    with pytest.raises(IntegrityError, match="lease of run 'demo' does not match"):
        runs.get("demo")
    assert [str(d) for r in verify(runs.database) for d in r.damage] == [
        "lease (demo): content does not match its hash"
    ]


def test_a_later_process_with_the_same_id_is_another_one() -> None:
    with Database.open(":memory:") as database, database.transaction() as connection:
        lease = _leases.take(connection, "demo", 0.0)
    assert lease.live(1e9)  # this process lives, however long it was silent
    _leases.give_up(lease)
    assert not lease.live(0.0)  # it has ended its claim, even if it could not write so
    assert not lease.replace(holder=this_process().replace(started="1")).live(0.0)
    assert not lease.replace(holder=this_process().replace(pid=2**22 + 1)).live(0.0)


def test_the_database_is_shared_by_runs_of_other_names(tmp_path: Path) -> None:
    with Database.open(tmp_path / "shared.db") as database:
        first, second = RunStore(database), RunStore(database)
        with first.running("a", {}, resume=False), second.running("b", {}, resume=False):
            assert [row.status for row in first.list()] == ["running", "running"]
