"""Answers that are equal as mathematics: fractions, roots, sets, intervals, polynomials; LaTeX or plain."""

from __future__ import annotations

import atexit
import importlib.util
import json
import select
import subprocess
import sys
import threading
from typing import IO, cast

from docendo.checks import is_number
from docendo.errors import ConfigError, MissingExtra
from docendo.evals.items._numbers import number
from docendo.evals.items._scorer import ExactScorer, read_answer
from docendo.records import Item
from docendo.scoring import Score, Scorer

_BOXED = "\\boxed{"
#: A longer answer is no answer.
_LONGEST = 2000


class MathScorer(Scorer):
    r"""Right is what is equal to the gold answer as mathematics (math-verify, the extra `math`).

    The answer is the last `\boxed{...}`, else what `ExactScorer` takes. Two plain numbers are compared
    exactly, so 1005 is not 1000. Otherwise both are read as LaTeX or plain expressions and compared
    symbolically, without tolerance: 1/2 is 0.5 and `(x+1)^2` is `x^2+2x+1`, but 0.333333 is not 1/3. What
    cannot be read, or takes longer than `seconds`, is wrong, and is counted as a failure of scoring.

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
        """Scores the final answer in `text`; never raises on what a model wrote."""
        gold, parsed = self._exact.answer(item), _final(text)
        if gold is None:
            raise ConfigError(f"item {item.id} has no reference answer", expected="one that can be compared")
        if parsed is None:
            return Score(correct=False, value=0.0)
        if len(parsed) > _LONGEST:
            return Score(correct=False, value=0.0, parsed=parsed[:_LONGEST], failure="the answer is too long")
        first, second = number(gold), number(parsed)
        if " ".join(gold.split()) == " ".join(parsed.split()):
            return Score(correct=True, value=1.0, parsed=parsed)
        if first is not None and second is not None:
            return Score(correct=first == second, value=float(first == second), parsed=parsed)
        said = _worker().ask(gold, parsed, self.seconds)
        if isinstance(said, str):
            return Score(correct=False, value=0.0, parsed=parsed, failure=said)
        return Score(correct=said, value=float(said), parsed=parsed)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether `text` gives the gold answer away, as text or as its own final answer."""
        if self._exact.leaks(item, text):
            return True
        return _BOXED in text and self.score(item, text).correct


def _final(text: str) -> str | None:
    start = text.rfind(_BOXED)
    if start < 0:
        return read_answer(text)
    depth, begin = 1, start + len(_BOXED)
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end].strip() or None
    return text[begin:].strip() or None


class _Worker:
    """The process that compares, started when it is first needed and again after it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, gold: str, answer: str, seconds: float) -> bool | str:
        """Whether the two are the same, or why that could not be told."""
        with self._lock:
            process = self._running()
            answers = cast(IO[str], process.stdout)
            try:
                _say(process, gold, answer)
            except BrokenPipeError:
                self.stop()
                return "the process that compares has ended"
            if not select.select([answers], [], [], seconds)[0]:
                self.stop()
                return f"comparing took longer than {seconds:g} s"
            line = answers.readline()
            if not line:
                self.stop()
                return "the process that compares has ended"
        said = json.loads(line)
        return bool(said["same"]) if "same" in said else str(said["error"])

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}._math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            # Loading its libraries is not the answer's fault.
            _say(self._process, "1", "x")
            cast(IO[str], self._process.stdout).readline()
        return self._process

    def stop(self) -> None:
        """Kills the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _say(process: subprocess.Popen[str], gold: str, answer: str) -> None:
    pipe = cast(IO[str], process.stdin)
    pipe.write(json.dumps([gold, answer]) + "\n")
    pipe.flush()


_WORKER = _Worker()
atexit.register(_WORKER.stop)


def _worker() -> _Worker:
    return _WORKER
