"""A program that runs agents and saves adapters where there is too little room, and reports what it saw.

    python _small_disk.py '{"folder": "...", "jobs": [{"what": "run", "way": "tmpfs", "points": 5}]}'

`what` is "run", "save" or "unsafe save"; `way` is "tmpfs" (a small file system in a mount namespace of this
process), "limit" (a limit on file sizes) or "read-only" (the same file system, not writable). It is a
program of its own because a mount namespace needs a process without threads. It prints one JSON object per
job: the points that were reached and what went wrong at each.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18
ROOM = 64 << 20
UNLIMITED = resource.RLIM_INFINITY

Problems = list[str]


# --- room -----------------------------------------------------------------------------------------


class NoNamespace(Exception):
    """No file system can be mounted here."""


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise NoNamespace(f"{name}: {os.strerror(ctypes.get_errno())}")


def own_mounts() -> None:
    """Gives this process mounts of its own, with a user namespace where it is not root."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWNS | (CLONE_NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


class Tmpfs:
    """A small file system; a ballast file leaves as much room in it as is wanted."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "tmpfs"
        self.place.mkdir()
        own_mounts()
        _call("mount", b"tmpfs", bytes(self.place), b"tmpfs", 0, f"size={ROOM}".encode())
        self.ballast = self.place / "ballast"

    def used(self) -> int:
        facts = os.statvfs(self.place)
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize

    def leave(self, room: int) -> None:
        self.ballast.write_bytes(b"x" * (ROOM - self.used() - room))

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def writable(self, yes: bool) -> None:
        flags = MS_REMOUNT | (0 if yes else MS_RDONLY)
        _call("mount", b"tmpfs", bytes(self.place), b"tmpfs", flags, f"size={ROOM}".encode())


class Limit:
    """A limit on the size of every file."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "limit"
        self.place.mkdir()

    def used(self) -> int:
        return max((f.stat().st_size for f in self.place.rglob("*") if f.is_file()), default=0)

    def leave(self, room: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, UNLIMITED))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


def tree(folder: Path) -> dict[str, str]:
    """All files with their sums, without SQLite's shared memory, which says nothing."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", ".lock"))
    }


# --- a run ----------------------------------------------------------------------------------------


class Tutoring:
    """A tutoring run with scripted answers of some kilobytes."""

    def __init__(self, items: int = 12) -> None:
        from docendo import evals

        self.task = evals.tasks("reasoning_gym:chain_sum", train=items, test=0, max_terms=3, max_digits=1)
        self.watch: Callable[[int], None] = lambda call: None
        self.calls = 0

    def run(self, place: Path) -> dict[str, Any]:
        """Starts the run or goes on with it; returns what an interruption must not change."""
        from docendo import ScriptedEngine, Student, Verifier, graphs
        from docendo.memory import verify

        def answer(request: Any) -> str:
            self.calls += 1
            self.watch(self.calls)
            wrong = sum(map(ord, str(request.prompt))) % 3
            return f"{'because ' * 700} Answer: {wrong}"

        graph = graphs.tutoring(
            student=Student(ScriptedEngine(answer)),
            tutor=None,
            teacher=None,
            verifier=Verifier(self.task.scorer),
            retries=2,
        )
        self.calls = 0
        with graphs.run(
            graph, self.task.train, name="run", folder=place, seed=1, concurrency=2, resume=True, quiet=True
        ) as run:
            for report in verify(run.board.database):
                report.raise_for_damage()
            return {
                "posts": run.board.digest(),
                "traces": len(run.traces()),
                "outcomes": run.outcomes,
                "items.jsonl": (run.folder / "items.jsonl").read_text(),
            }


def refused(work: Callable[[], object], path: Path, problems: Problems) -> bool:
    """Does what must fail for want of room; returns whether it did."""
    from docendo.errors import StorageError

    try:
        work()
    except StorageError as error:
        if str(path) not in str(error) or "\n" in str(error):
            problems.append(f"the error does not name {path}: {error}")
        return True
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
        return True
    return False


def resumed(work: Callable[[], object], expected: object, what: str, problems: Problems) -> None:
    """Does it again, with room."""
    try:
        if work() != expected:
            problems.append(f"{what} after space was freed is not that of an undisturbed one")
    except Exception as error:
        problems.append(f"with space again: {type(error).__name__}: {error}")


def run_points(disk: Any, points: int) -> Iterator[tuple[str, bool, Problems]]:
    """Runs with too little room, then goes on with enough."""
    tutoring, peak = Tutoring(), [0]
    before = disk.used()
    tutoring.watch = lambda call: peak.append(disk.used())
    expected = tutoring.run(disk.place)
    most, files = max(*peak, disk.used()) - before, set(tree(disk.place))
    tutoring.watch = lambda call: None
    for index in range(points):
        shutil.rmtree(disk.place / "run")
        room, problems = int(most * 0.95 * (index + 0.5) / points), list[str]()
        disk.leave(room)
        reached = refused(lambda: tutoring.run(disk.place), disk.place / "run", problems)
        disk.free()
        resumed(lambda: tutoring.run(disk.place), expected, "the run", problems)
        if set(tree(disk.place)) != files:
            problems.append(f"other files: {sorted(set(tree(disk.place)) ^ files)}")
        yield f"{room} bytes, call {tutoring.calls}", reached, problems


class Stop(Exception):
    """Ends a run between two of its calls."""


def read_only_run_points(disk: Any, points: int) -> Iterator[tuple[str, bool, Problems]]:
    """Interrupts a run, makes the file system read-only, tries to go on, and goes on when it is writable."""
    tutoring = Tutoring()
    expected = tutoring.run(disk.place)
    total = tutoring.calls
    for index in range(points):
        shutil.rmtree(disk.place / "run")
        stop, problems = int(total * index / points), list[str]()

        def watch(call: int, stop: int = stop) -> None:
            if call > stop:
                raise Stop

        if index:
            tutoring.watch = watch
            try:
                tutoring.run(disk.place)
                problems.append("the run was not interrupted")
            except Stop:
                pass
            tutoring.watch = lambda call: None
        before = tree(disk.place)
        disk.writable(False)
        reached = refused(lambda: tutoring.run(disk.place), disk.place / "run", problems)
        if tree(disk.place) != before:
            problems.append("something was written")
        disk.writable(True)
        resumed(lambda: tutoring.run(disk.place), expected, "the run", problems)
        yield f"after {stop} calls", reached, problems


# --- a save ---------------------------------------------------------------------------------------


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    """How not to save: straight into the folder that the older adapter is in."""
    from docendo.errors import StorageError

    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error


class Saves:
    """Two adapters of one size, made once."""

    def __init__(self, model: str, scratch: Path) -> None:
        from docendo.distill import TrainConfig

        self.model, self.scratch = model, scratch
        self.old, self.new = (
            TrainConfig(max_steps=1, learning_rate=rate, lora_r=8, dtype="float32") for rate in (1e-2, 2e-2)
        )
        self.older = self.save(self.old, scratch / "adapter")
        self.newer = self.save(self.new, scratch / "new" / "adapter")

    def save(self, config: Any, output: Path) -> str:
        """Trains for one step and saves; returns the digest of the weights."""
        from docendo.distill import train

        rows = [{"prompt": f"{n} + {n} =", "completion": str(2 * n)} for n in range(4)]
        return train(self.model, rows, output=output, config=config, quiet=True).sha256


def save_points(
    disk: Any, points: int, saves: Saves, *, read_only: bool = False
) -> Iterator[tuple[str, bool, Problems]]:
    """Replaces an adapter where there is no room for the new one, then where there is."""
    from docendo.distill import Adapter

    output, before = disk.place / "adapter", disk.used()
    shutil.copytree(saves.scratch / "adapter", output)
    most = disk.used() - before
    for index in range(points):
        room, problems = int(most * 0.95 * (index + 0.5) / points), list[str]()
        if read_only:
            disk.writable(False)
        else:
            disk.leave(room)
        reached = refused(lambda: saves.save(saves.new, output), output, problems)
        if read_only:
            disk.writable(True)
        else:
            disk.free()
        try:
            if Adapter.open(output).sha256 != saves.older:
                problems.append("the older adapter is not there any more")
        except Exception as error:
            problems.append(f"the older adapter: {type(error).__name__}: {error}")
        left = sorted(path.name for path in disk.place.iterdir())
        if left != ["adapter"]:
            problems.append(f"left behind: {left}")
        resumed(lambda: saves.save(saves.new, output), saves.newer, "the adapter", problems)
        for path in disk.place.iterdir():
            shutil.rmtree(path)
        shutil.copytree(saves.scratch / "adapter", output)
        yield f"{room} bytes", reached, problems


def measure(
    job: dict[str, Any], disk: Any, saves: Callable[[], Saves]
) -> Iterator[tuple[str, bool, Problems]]:
    """Goes through the points of a job."""
    what, points, read_only = job["what"], job["points"], job["way"] == "read-only"
    if what == "run":
        yield from (read_only_run_points if read_only else run_points)(disk, points)
        return
    made = saves()
    from docendo.distill.training import _job

    usual = _job.new_directory
    _job.new_directory = in_place if what == "unsafe save" else usual
    yield from save_points(disk, points, made, read_only=read_only)
    _job.new_directory = usual


def main(arguments: Sequence[str]) -> None:
    order = json.loads(arguments[0])
    folder, results = Path(order["folder"]), []
    unavailable, disks = "", {"limit": Limit(folder)}
    try:
        # Before any library has started a thread.
        disks["tmpfs"] = disks["read-only"] = Tmpfs(folder)
    except NoNamespace as error:
        unavailable = str(error)
    saves = functools.cache(lambda: Saves(order["model"], folder))
    for job in order["jobs"]:
        result: dict[str, Any] = {"points": 0, "reached": 0, "failed": []}
        if (disk := disks.get(job["way"])) is None:
            results.append({**result, "unavailable": unavailable})
            continue
        for where, reached, problems in measure(job, disk, saves):
            result["points"] += 1
            result["reached"] += reached
            result["failed"] += [f"{job['way']}, {where}: {problem}" for problem in problems]
        for path in disk.place.iterdir():
            shutil.rmtree(path)
        results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
