"""Answers that are equal as mathematics: fractions, roots, sets, intervals, polynomials; LaTeX or plain."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import threading
from itertools import accumulate
from typing import IO, cast

from docendo.checks import is_number
from docendo.errors import ConfigError, InfrastructureError, MissingExtra
from docendo.evals.items._numbers import number
from docendo.evals.items._scorer import ExactScorer, has_label, read_answer
from docendo.records import Item
from docendo.scoring import Score, Scorer

_BOXED = "\\boxed{"
#: A longer answer is no answer, nor is one with more brackets inside each other.
_LONGEST, _DEEPEST = 2000, 40
_WORD = re.compile(r"\s[A-Za-z]{2,}|[A-Za-z]{2,}\s")


class MathScorer(Scorer):
    r"""Right is what is equal to the gold answer as mathematics (read by math-verify, the extra `math`).

    The answer is the last `\boxed{...}`, else what `ExactScorer` takes. Two plain numbers are compared
    exactly, so 1005 is not 1000. Otherwise both are read as LaTeX or plain expressions and compared without
    any tolerance: 1/2 is 0.5 and `(x+1)^2` is `x^2+2x+1`, but no number of digits is 1/3, and 5 cm is not 5.
    `1, 2` is `2, 1`, a pair `(1, 2)` is neither. Words are compared as words, without regard to case. What
    cannot be read, or takes longer than `seconds`, is wrong; the latter is counted as a failure of scoring.

    Args:
        seconds: Longest time for one answer.

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
        if not (is_number(seconds) and seconds > 0):
            raise ConfigError(f"seconds is {seconds!r}", expected="more than 0")
        self.seconds = seconds
        self._exact = ExactScorer()

    def score(self, item: Item, text: str) -> Score:
        """Scores the final answer in `text`; never raises on what a model wrote.

        Raises:
            ConfigError: if the item has no reference answer.
            InfrastructureError: if the process that compares cannot be started.
        """
        gold = self._exact.answer(item)
        if gold is None:
            raise ConfigError(f"item {item.id} has no reference answer", expected="one that can be compared")
        first = number(gold)
        parsed = _final(text, numeric=first is not None)
        if parsed is None:
            return Score(correct=False, value=0.0)
        unfit = "long" if len(parsed) > _LONGEST else "nested" if _depth(parsed) > _DEEPEST else None
        if unfit:
            return Score(
                correct=False, value=0.0, parsed=parsed[:_LONGEST], failure=f"the answer is too {unfit}"
            )
        second = number(parsed)
        if " ".join(gold.split()) == " ".join(parsed.split()):
            return Score(correct=True, value=1.0, parsed=parsed)
        if first is not None and second is not None:
            return Score(correct=first == second, value=float(first == second), parsed=parsed)
        said = _WORKER.ask(gold, parsed, self.seconds)
        if isinstance(said, str):
            return Score(correct=False, value=0.0, parsed=parsed, failure=said)
        return Score(correct=said, value=float(said), parsed=parsed)

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
    """The process that compares, started when it is first needed and again after it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, gold: str, answer: str, seconds: float) -> bool | str:
        """Whether the two are the same, or why that could not be told.

        Raises:
            InfrastructureError: if the process cannot be started.
        """
        with self._lock:
            try:
                line = self._line(gold, answer, seconds)
            except BaseException:
                # An answer that is still to come would be taken for that of the next question.
                self.stop()
                raise
            if line is None or not line:
                self.stop()
        if line is None:
            return f"comparing took longer than {seconds:g} s"
        if not line:
            return "the process that compares has ended"
        said = json.loads(line)
        return bool(said["same"]) if "same" in said else str(said["error"])

    def _line(self, gold: str, answer: str, seconds: float) -> str | None:
        """The line that comes back: empty if the process has ended, None if it takes too long."""
        into, out = self._running()
        try:
            _send(into, gold, answer)
        except BrokenPipeError:
            return ""
        waiting = select.poll()
        waiting.register(out, select.POLLIN)
        return out.readline() if waiting.poll(seconds * 1000) else None

    def _running(self) -> tuple[IO[str], IO[str]]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.stop()
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}._math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            # Loading its libraries is not the answer's fault.
            if not _greeted(*_pipes(self._process)):
                raise InfrastructureError(
                    f"the process that compares mathematics did not start; see `python -m "
                    f"{__package__}._math_worker`."
                )
        return _pipes(self._process)

    def stop(self) -> None:
        """Kills the process."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._owner != os.getpid():
            # This is a fork, and the process its parent's; being asked for marks it as not ours.
            process.poll()
            return
        process.kill()
        process.communicate()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    return cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)


def _greeted(into: IO[str], out: IO[str]) -> bool:
    try:
        _send(into, "1", "x")
    except BrokenPipeError:
        return False
    return bool(out.readline())


def _send(into: IO[str], gold: str, answer: str) -> None:
    into.write(json.dumps([gold, answer]) + "\n")
    into.flush()


_WORKER = _Worker()
atexit.register(_WORKER.stop)
