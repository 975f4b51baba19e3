"""Answers that are equal as mathematics: fractions, roots, sets, intervals, polynomials; LaTeX or plain."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import accumulate
from typing import IO, Any, cast

from docendo.checks import is_number
from docendo.errors import ConfigError, InfrastructureError, MissingExtra, TaskFailure
from docendo.evals.items._math_read import words
from docendo.evals.items._numbers import number
from docendo.evals.items._scorer import ExactScorer, has_label, read_answer
from docendo.records import Item
from docendo.scoring import Score, Scorer

_BOXED = "\\boxed{"
#: A longer answer is no answer, nor is one with more brackets inside each other.
_LONGEST, _DEEPEST = 2000, 40
#: Most seconds that one comparison may be given.
_MOST_SECONDS = 3600
#: How a process ends by what it does itself, and not because somebody kills it.
_CRASHES = frozenset({-signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGSEGV})
_WORD = re.compile(r"\s[A-Za-z]{2,}|[A-Za-z]{2,}\s")


class MathScorer(Scorer):
    r"""Right is what is equal to the gold answer as mathematics (read by math-verify, the extra `math`).

    The answer is the last `\boxed{...}`, else what `ExactScorer` takes. Two plain numbers are compared
    exactly, so 1005 is not 1000. Otherwise both are read as LaTeX or plain expressions and compared without
    any tolerance: 1/2 is 0.5 and `(x+1)^2` is `x^2+2x+1`, but no number of digits is 1/3, 5 cm is not 5, and
    A is not a. `1, 2` is `2, 1`, a pair `(1, 2)` is neither. Words are compared as words, without regard to
    case, and multiple choice as `ExactScorer` does it. What cannot be read, or takes longer than `seconds`,
    is wrong; the latter is counted as a failure of scoring.

    Args:
        seconds: Longest time for one answer, at most an hour.

    Raises:
        MissingExtra: if math-verify is not installed.

    Example:
        >>> from docendo.evals import make_item
        >>> item = make_item("What is 2/4 in lowest terms?", r"\frac{1}{2}")
        >>> scorer = MathScorer()
        >>> scorer.score(item, r"So it is \boxed{0.5}.").correct, scorer.score(item, "Answer: 2").correct
        (True, False)
    """

    name = "math"

    def __init__(self, *, seconds: float = 5.0) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtra("math-verify", "math")
        if not (is_number(seconds) and 0 < seconds <= _MOST_SECONDS):
            raise ConfigError(f"seconds is {seconds!r}", expected=f"more than 0, at most {_MOST_SECONDS}")
        self.seconds = seconds
        self._exact = ExactScorer()

    def score(self, item: Item, text: str) -> Score:
        """Scores the final answer in `text`; never raises on what a model wrote.

        Raises:
            ConfigError: if the item has no reference answer.
            TaskFailure: if the reference answer cannot be read.
            InfrastructureError: if the process that compares cannot be started, or is killed twice.
        """
        gold = self._exact.answer(item)
        if gold is None:
            raise ConfigError(f"item {item.id} has no reference answer", expected="one that can be compared")
        first = None if item.public.choices else number(gold)
        parsed = _final(text, numeric=first is not None)
        if parsed is None:
            return Score(correct=False, value=0.0)
        unfit = "long" if len(parsed) > _LONGEST else "nested" if _depth(parsed) > _DEEPEST else None
        if unfit:
            return Score(
                correct=False, value=0.0, parsed=parsed[:_LONGEST], failure=f"the answer is too {unfit}"
            )
        if item.public.choices:
            return self._exact.score(item, f"Answer: {words(parsed)}")
        second = number(parsed)
        if " ".join(gold.split()) == " ".join(parsed.split()):
            return Score(correct=True, value=1.0, parsed=parsed)
        if first is not None and second is not None:
            return Score(correct=first == second, value=float(first == second), parsed=parsed)
        said = _WORKER.ask(gold, parsed, self.seconds)
        if "reference" in said:
            raise TaskFailure(f"the answer to item {item.id} cannot be scored: {said['reference']}.")
        if "error" in said:
            return Score(correct=False, value=0.0, parsed=parsed, failure=str(said["error"]))
        return Score(correct=bool(said["same"]), value=float(said["same"]), parsed=parsed)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether `text` gives the gold answer away, as text or as its own final answer."""
        if self._exact.leaks(item, text):
            return True
        return _BOXED in text and self.score(item, text).correct


def _final(text: str, *, numeric: bool) -> str | None:
    start = text.rfind(_BOXED)
    if start < 0:
        found = read_answer(text)
        # Of a sentence its last number counts, as with `ExactScorer`.
        sentence = found is not None and not has_label(text) and "\\" not in found and _WORD.search(found)
        return read_answer(text, numeric=True) if numeric and sentence else found
    depth, begin = 1, start + len(_BOXED)
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end].strip() or None
    return text[begin:].strip() or None


def _depth(text: str) -> int:
    return max(accumulate((1 if sign in "([{" else -1) for sign in text if sign in "()[]{}"), default=0)


class _Worker:
    """The process that compares, started when it is first needed and again after it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, gold: str, answer: str, seconds: float) -> dict[str, Any]:
        """Whether the two are the `same`, or the `error` why that cannot be told, be it of the `reference`.

        A process that ends meanwhile may have been killed by anybody, so another one is asked once more.

        Raises:
            InfrastructureError: if the process cannot be started, or is killed again.
        """
        ended = 0
        with self._lock:
            for _ in range(2):
                try:
                    said, ended = self._try(gold, answer, seconds)
                except BaseException:
                    # An answer that is still to come would be taken for that of the next question.
                    self.stop()
                    raise
                if said is not None:
                    return said
        if ended in _CRASHES:
            return {"error": "comparing it crashes"}
        raise InfrastructureError(
            f"the process that compares mathematics was ended twice (code {ended}); is there enough memory?"
        )

    def _try(self, gold: str, answer: str, seconds: float) -> tuple[dict[str, Any] | None, int]:
        """What is said of the two; None and the exit code if the process ends before it says anything."""
        process = self._running()
        _, out = _pipes(process)
        _send(process, gold, answer)
        waiting = select.poll()
        waiting.register(out, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            self.stop()
            return {"error": f"comparing took longer than {seconds:g} s"}, 0
        line = out.readline()
        if line.endswith(b"\n"):
            return json.loads(line), 0
        ended = process.wait()
        self.stop()
        return None, ended

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            # Without buffers there are no locks of theirs that a fork could inherit.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}._math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            # Loading its libraries is not the answer's fault.
            _send(self._process, "1", "x")
            if b"same" not in _pipes(self._process)[1].readline():
                raise InfrastructureError(
                    f"the process that compares mathematics did not start; see `python -m "
                    f"{__package__}._math_worker`."
                )
        return self._process

    def stop(self) -> None:
        """Kills the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def forget(self) -> None:
        """Starts afresh in a fork: the process is its parent's, and who held the lock is not here."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            process.returncode = 0  # for `Popen`: nothing of ours that still runs


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    return cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)


def _send(process: subprocess.Popen[bytes], gold: str, answer: str) -> None:
    into, _ = _pipes(process)
    line = json.dumps([gold, answer]).encode() + b"\n"
    with suppress(BrokenPipeError):  # that it has ended shows when it is read from
        while line:
            line = line[into.write(line) :]


_WORKER = _Worker()
atexit.register(_WORKER.stop)
os.register_at_fork(after_in_child=_WORKER.forget)
