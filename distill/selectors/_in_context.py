"""What a student prefers to learn from: how well it answers probes after one demonstration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from docendo.checks import is_count
from docendo.distill.selectors._asking import Asked, JournalLike, Said, Voice, ask
from docendo.distill.selectors._rows import Prompt, Row, as_rows, prompt, turns
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError
from docendo.records import Message, Origin, Request, Result, SamplingParams, ScoreResult


class _Probe(NamedTuple):
    row: Row
    prompt: Prompt
    gold: str


class InContextPreference(Selector):
    """Keeps demonstrations after which the student answers other questions best.

    The preference score of ARTE (Liu and others 2024, arXiv 2406.19227): each row is shown to the student
    as one worked example before every probe, a labelled question that is not to be learnt from. Here the
    score is the mean over probes of the log-probability of the right answer by teacher forcing, which costs
    no generation; with `correct=` it is the paper's, the share of probes that the student answers rightly.
    The requests of a demonstration follow one another, so that the engine computes what they share once.

    A probe with the demonstration's own prompt is left out for it, since its answer stands there. The right
    answers of probes are used, as the method says; those of rows are not known here.

    Args:
        student: An engine that can score, or an agent, which also names an adapter.
        probes: Rows with `prompt` and `completion`, the right answer. The paper takes 40 of about 100 by
            their discrimination: `discriminative_items`.
        correct: Says whether a text that the student wrote answers a probe; then it generates greedily.
        max_tokens: Most tokens of such an answer.
        journal: As in `DifferenceSampling`.
        quiet: Show no progress.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> def knows(asked):  # answers well after a demonstration that shows the steps
        ...     return -0.5 if "carry" in str(asked.prompt) else -2.0
        >>> rows = [{"prompt": "7 + 5?", "completion": said} for said in ("12", "7 + 5: carry 1, so 12")]
        >>> probes = [{"prompt": "8 + 6?", "completion": "14"}]
        >>> student = ScriptedEngine([], scores=knows)
        >>> InContextPreference(student, probes, quiet=True).select(rows, k=1).indices
        (1,)
    """

    def __init__(
        self,
        student: Any,
        probes: Iterable[Row],
        *,
        correct: Callable[[Row, str], bool] | None = None,
        max_tokens: int = 64,
        journal: JournalLike | None = None,
        quiet: bool = False,
    ) -> None:
        if not (is_count(max_tokens) and max_tokens >= 1):
            raise ConfigError(f"max_tokens is {max_tokens!r}", expected="at least 1")
        self.student, self.correct, self.max_tokens = Voice.of(student, "student"), correct, int(max_tokens)
        self.journal, self.quiet = journal, quiet
        self.probes = [_probe(row, index) for index, row in enumerate(as_rows(probes))]

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """The mean over probes for each row."""
        found = as_rows(rows)
        requests: list[Asked | None] = []
        reasons = []
        for index, row in enumerate(found):
            asked, reason = self._requests(row, index)
            requests += asked
            reasons.append(reason)
        size = len(self.probes)
        answers = ask(
            self.student,
            requests,
            title="demonstrations before probes",
            about=lambda place: f"row {place // size} before probe {place % size}",
            journal=self.journal,
            quiet=self.quiet,
        )
        means: list[float | None] = []
        for index in range(len(found)):
            here = slice(index * size, (index + 1) * size)
            refused = next(filter(None, answers.refused[here]), "")
            reasons[index] = reasons[index] or (f"refused by the student: {refused}" if refused else "")
            means.append(None if reasons[index] else self._mean(answers.said[here]))
        name = "logprob" if self.correct is None else "accuracy"
        return self._table(
            found,
            name,
            {name: means},
            reasons=reasons,
            usage=answers.usage,
            student=list(self.student.weights),
            probes=size,
        )

    def _requests(self, row: Row, index: int) -> tuple[list[Asked | None], str]:
        """One request for each probe, None for those that are left out; and why there is none at all."""
        nothing: list[Asked | None] = [None] * len(self.probes)
        learnt = turns(row, index)
        if not learnt:
            return nothing, "no text to show"
        shown, own = learnt[-1], prompt(row, index)
        asked = [
            None
            if probe.prompt == own
            else self._request(_one_shot(shown.prompt, shown.text, probe.prompt), probe)
            for probe in self.probes
        ]
        return asked, "" if any(asked) else "it asks what every probe asks"

    def _request(self, before: Prompt, probe: _Probe) -> Asked:
        if self.correct is None:
            return self.student.scoring(before, probe.gold, role="student")
        return Request(
            prompt=before,
            sampling=SamplingParams(max_tokens=self.max_tokens),
            adapter=self.student.adapter,
            origin=Origin(role="student", node="select"),
        )

    def _mean(self, said: Sequence[Said | None]) -> float:
        values = [
            self._value(answer, probe)
            for answer, probe in zip(said, self.probes, strict=True)
            if answer is not None
        ]
        return math.fsum(values) / len(values)

    def _value(self, answer: Said, probe: _Probe) -> float:
        if isinstance(answer, ScoreResult):
            return math.fsum(answer.logprobs)
        if self.correct is None or not isinstance(answer, Result):
            raise ConfigError("the engine returned no scores", expected="a ScoreResult")
        return float(bool(self.correct(probe.row, answer.text)))


def _probe(row: Row, index: int) -> _Probe:
    found = turns(row, index)
    if len(found) != 1:
        raise DataError(f"probe {index} has {len(found)} answers", expected="a prompt and one completion")
    return _Probe(row, found[0].prompt, found[0].text)


def _one_shot(shown: Prompt, said: str, asked: Prompt) -> Prompt:
    """The demonstration as earlier turns, then the probe; its system message counts once."""
    if isinstance(shown, str) and isinstance(asked, str):
        return f"{shown} {said.strip()}\n\n{asked}"
    if isinstance(shown, str) or isinstance(asked, str):
        raise DataError(
            "rows and probes are of unlike kinds", expected="texts in both, or chat messages in both"
        )
    answer: Message = {"role": "assistant", "content": said}
    system = shown[0]["role"] == "system"
    rest = asked[1:] if system and asked[0]["role"] == "system" else asked
    return (*shown, answer, *rest)
