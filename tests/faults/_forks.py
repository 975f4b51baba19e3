"""Work in processes that are killed: a program that has loaded everything forks one process after the other.

A fork starts in milliseconds, so that kills hit the work and not its imports. With one OpenMP thread torch
has started no thread before the fork, and no database is open then. The function `works` of a bar's file
loads what is needed and returns functions by name; its tests call `serving(__file__, ...)`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from typing import Any

Order = dict[str, Any]
#: Called by a work when it begins; `serve` counts the seconds until a kill from there.
Ready = Callable[[], None]


def serve(works: Mapping[str, Callable[[Order, Ready], object]]) -> None:
    """Forks a process for each line on stdin, a JSON object that names the work, and says how it ended."""
    print("up", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.dup2(2, 1)  # stdout is for the answers
            try:
                works[order["work"]](order, lambda end=write: os.write(end, b"r"))
                os._exit(0)
            except BaseException:
                os.write(2, traceback.format_exc().encode()[-4000:])
                os._exit(1)
        os.close(write)
        seconds = _watch(child, read, order.get("kill_after"))
        os.close(read)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "seconds": seconds}), flush=True)


def _watch(child: int, pipe: int, kill_after: float | None) -> float:
    """Kills the child so long after its work began, unless it has ended; returns how long it worked."""
    if not os.read(pipe, 1):
        return 0.0
    began = time.monotonic()
    if kill_after is not None and not select.select([pipe], [], [], kill_after)[0]:
        os.kill(child, signal.SIGKILL)
    os.read(pipe, 1)  # the end of the process
    return time.monotonic() - began


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, negative for a signal, and how long it worked."""

    status: int
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Server:
    """Has works done, each in a process of its own, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, work: str, *, fine: tuple[int, ...] = (0, -signal.SIGKILL), **order: Any) -> Ended:
        """Has one work done. A status that is not in `fine` is an error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"work": work, **order}) + "\n")
        self._process.stdin.flush()
        ended = Ended(**json.loads(self._process.stdout.readline()))
        assert ended.status in fine, f"{work} ended with {ended.status} by itself; see stderr"
        return ended


@contextmanager
def serving(program: str, *arguments: str) -> Iterator[Server]:
    """Starts a bar's file as the program, and ends it."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "up\n"
        yield Server(process)
        process.stdin.close()


class Points:
    """Named points of the work in this process, put around functions: each visit is noted, at one it dies.

    Nothing in the library knows of them: the process that is to be killed wraps the functions itself.
    """

    def __init__(self, log: Path, kill: tuple[str, int] | None = None) -> None:
        """`kill`: name and number of the visit that is the last."""
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._kill, self._visits, self._lock = kill, Counter[str](), Lock()

    def at(self, name: str) -> None:
        """A visit."""
        with self._lock:
            self._visits[name] += 1
            last = self._kill is not None and (name, self._visits[name]) == tuple(self._kill)
            os.write(self._log, f"{name}{' killed' if last else ''}\n".encode())
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(
        self, owner: Any, attribute: str, name: str, *, when: Callable[..., bool] | None = None
    ) -> None:
        """Puts "before NAME" and "after NAME" around a function of a class or module."""
        original = getattr(owner, attribute)

        @wraps(original)
        def visited(*args: Any, **options: Any) -> Any:
            counts = when is None or when(*args, **options)
            if counts:
                self.at(f"before {name}")
            result = original(*args, **options)
            if counts:
                self.at(f"after {name}")
            return result

        setattr(owner, attribute, visited)


def visits(log: Path) -> tuple[Counter[str], Counter[str]]:
    """How often each point was visited, and at which processes died."""
    lines = log.read_text().splitlines() if log.exists() else []
    died = Counter(line.removesuffix(" killed") for line in lines if line.endswith(" killed"))
    return Counter(line.removesuffix(" killed") for line in lines), died


def main() -> None:
    """`python _forks.py FILE ARGUMENTS`: serves what the function `works` of a bar's file returns."""
    __import__("conftest")  # makes the shared files importable
    file = Path(sys.argv[1])
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    serve(module.works(*sys.argv[2:]))


if __name__ == "__main__":
    main()
