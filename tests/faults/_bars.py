"""What the bars of reliability share: counting, the JSON line, kills and limits in processes of their own.

How to add a bar. It is one file, `tests/faults/test_<bar>_<what>.py`, and needs no entry anywhere else. The
first line of its docstring is its title, for example `R3: Two killed writers share one database.`, as the
page shows it. Its tests take the fixture `bar`, one for the whole file:

    from fault_bars import in_child          # tests/faults/conftest.py makes this file importable

    pytestmark = pytest.mark.slow            # unless it takes well under a second

    def test_killed_writers(bar, tmp_path):
        problems, kills = hammer(tmp_path, kills=bar.size(50, short=8))     # full and short form
        bar.part("SQLite", cases=10_000, failed=problems, reached={"kills": kills})

    def test_the_bar_catches_writers_without_keys(bar, tmp_path):
        problems, kills = hammer(tmp_path, kills=4, keys=False)
        bar.broken("no idempotency key", cases=400, failed=problems, reached={"kills": kills})

    def test_anchor(bar, tmp_path):          # another library on the same test; what it does is no failure
        bar.anchor("bare LangGraph", cases=200, failed=lost, note="acknowledged turns that were lost")

What is killed again and again is forked by a server (`fault_forks`), which also names the points to die at.

`part` records first and then fails the test if anything failed, if a point was reached zero times or if there
were fewer cases than `needed`. A limit that is a number ("at most 2 points") is `bar.limit`. `broken` fails
the test if the broken variant went unnoticed. Failures are strings that say which case it was.

The short form runs wherever pytest does, and takes 20 s at most; `make faults BAR=R3` runs the long form
(DOCENDO_FAULTS=full), keeps the JSON line in tests/faults/results and renews docs/reliability.md from it.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

FULL = os.environ.get("DOCENDO_FAULTS") == "full"

#: How many failures are kept word for word.
_SHOWN = 5
_PLACE = re.compile(r"/\S*?/pytest-of-[^/]+/pytest-\d+/[^/]+/")
_NAME = re.compile(r"test_(r\d+)_\w+\.py")


class Missed(AssertionError):
    """A bar was measured and missed: a result, unlike an error that kept it from being measured."""


def bar_name(path: Path) -> str | None:
    """The bar that a file measures, such as R3, or None."""
    match = _NAME.fullmatch(path.name)
    return match[1].upper() if match else None


def title(text: str) -> str:
    """The title of a bar: the first line of its docstring, without its name."""
    return text.strip().splitlines()[0].partition(": ")[2].rstrip(" .")


class Bar:
    """What the tests of one file find out."""

    def __init__(self, name: str, *, full: bool = FULL) -> None:
        self.name = name
        self.full = full
        self.parts: dict[str, dict[str, Any]] = {}
        self.variants: dict[str, dict[str, Any]] = {}
        self.anchors: dict[str, dict[str, Any]] = {}
        self.skipped: list[str] = []
        self.errors: list[str] = []

    def size(self, full: int, *, short: int) -> int:
        """An amount of work: `full` in the long form."""
        return full if self.full else short

    def part(
        self,
        name: str,
        *,
        cases: int,
        failed: Sequence[str],
        needed: int = 1,
        reached: Mapping[str, int] | None = None,
        known: str = "",
        **detail: Any,
    ) -> None:
        """Records how many of `cases` failed, and fails the test if any did.

        Args:
            name: What was tested.
            cases: How many cases were tried.
            failed: A line for each case that failed.
            needed: How many cases the bar asks for, in the form that runs.
            reached: How often each kind of kill or damage took effect: what never happened proves nothing.
            known: Why cases are known to fail: the bar is missed and the page says so, but the test passes,
                until nothing fails any more.
            detail: Whatever else is worth recording; `outcomes` (a count by name) is shown on the page.
        """
        if known:
            detail["known"] = known
        self.parts[name] = {**_counts(cases, failed, reached), "needed": needed, **detail}
        if known and not failed:
            raise Missed(f"{self.name}, {name}: nothing fails any more: take `known` away")
        if failed and not known:
            raise Missed(f"{self.name}, {name}: {len(failed)} of {cases} failed: {list(failed[:_SHOWN])}")
        if not _enough(self.parts[name]):
            raise Missed(f"{self.name}, {name}: {cases} cases, {needed} needed; reached {reached}")

    def limit(self, name: str, value: float, *, at_most: float, **detail: Any) -> None:
        """Records a number that may not exceed a limit, and fails the test if it does."""
        over = [f"{value:g} is above {at_most:g}"] if value > at_most else []
        self.part(name, cases=1, failed=over, value=value, at_most=at_most, **detail)

    def broken(
        self,
        name: str,
        *,
        cases: int,
        failed: Sequence[str],
        reached: Mapping[str, int] | None = None,
        **detail: Any,
    ) -> None:
        """Records that a deliberately broken variant was caught, and fails the test if it was not."""
        self.variants[name] = {**_counts(cases, failed, reached), **detail}
        if not _caught(self.variants[name]):
            raise Missed(f"{self.name} does not notice {name}: {cases} cases, reached {reached}")

    def anchor(
        self,
        name: str,
        *,
        cases: int,
        failed: Sequence[str] | int,
        note: str,
        reached: Mapping[str, int] | None = None,
        **detail: Any,
    ) -> None:
        """Records what another library does on the same test; `note` says what counts as failed."""
        lines = [""] * failed if isinstance(failed, int) else failed
        self.anchors[name] = {**_counts(cases, lines, reached), "note": note, **detail}

    @property
    def failing(self) -> int:
        """How many cases failed in all."""
        return sum(part["failed"] for part in self.parts.values())

    @property
    def passed(self) -> bool:
        """Whether nothing failed, enough was tried, and the broken variants were caught."""
        return (
            bool(self.parts)
            and not self.errors
            and not self.failing
            and all(map(_enough, self.parts.values()))
            and bool(self.variants)
            and all(map(_caught, self.variants.values()))
        )

    def line(self) -> dict[str, Any]:
        """The JSON line: the value is the number of failing cases, the target 0."""
        return {
            "bar": self.name,
            "value": self.failing,
            "target": 0,
            "pass": self.passed,
            "detail": {
                "form": "full" if self.full else "short",
                "cases": sum(part["cases"] for part in self.parts.values()),
                "parts": self.parts,
                "broken": self.variants,
                "anchors": self.anchors,
                "skipped": self.skipped,
                "errors": self.errors,
            },
        }


def _counts(cases: int, failed: Sequence[str], reached: Mapping[str, int] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"cases": cases, "failed": len(failed), "reached": dict(reached or {})}
    # Results are published: no path of the machine that they come from.
    examples = [_PLACE.sub("", line)[:300] for line in failed[:_SHOWN] if line]
    return {**facts, "examples": examples} if examples else facts


def _enough(part: Mapping[str, Any]) -> bool:
    return part["cases"] >= part["needed"] and all(part["reached"].values())


def _caught(variant: Mapping[str, Any]) -> bool:
    return variant["failed"] > 0 and all(variant["reached"].values())


def plain_rows(path: Path) -> dict[str, list[Any]]:
    """All rows of a SQLite file by table, as plain SQLite returns them: without any digest."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as plain:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        names = [row[0] for row in plain.execute(f"{query} ORDER BY name")]
        return {name: plain.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}


def forked(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; returns its id. It exits with 1, and says why, if `work` raises."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(status)


def in_child(work: Callable[[], object]) -> None:
    """Runs `work` in a process of its own; an exception there is an AssertionError here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as handle:
        message = handle.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise AssertionError(message or f"the process ended with {status}")


def kill(child: int) -> bool:
    """Kills a process and waits for it; returns whether it was still running."""
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
