"""Difference sampling: rows that a teacher finds much easier than a reference does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from docendo.checks import is_number
from docendo.distill.selectors._asking import Asked, JournalLike, Said, Voice, ask
from docendo.distill.selectors._rows import Row, Turn, as_rows, turns
from docendo.distill.selectors._selector import Selector
from docendo.distill.selectors._table import ScoreTable
from docendo.errors import ConfigError, DataError
from docendo.records import Origin, Request, Result, SamplingParams, ScoreResult, Usage

On = Literal["response", "text"]
Unit = Literal["auto", "token", "byte"]


class _Sum(NamedTuple):
    """Negative log-likelihood in nats, of so many tokens."""

    nll: float
    tokens: int


class DifferenceSampling(Selector):
    """Keeps rows that the teacher finds much likelier than a small reference model does.

    Difference sampling of MiniPLM (Gu and others 2024, arXiv 2410.17215). The score is the reference's
    mean negative log-likelihood less the teacher's, in nats per token: what both find easy (trivial text)
    and what both find hard (noise) scores about 0, what only the larger model has understood scores high.
    For fine-tuning, the reference is the student before training, or with an adapter trained on a small
    random share. Small domains may lose all their rows: pass `quota=` and `group=`.

    Models with unlike tokenizers see unlike numbers of tokens, so that their means cannot be compared;
    then the sums are divided by the bytes of the text. The token that ends a turn is not counted.

    Args:
        teacher: An engine that can score, or an agent, which also names an adapter.
        reference: Likewise. It may be the same engine with another adapter.
        ratio: Share of the rows that is kept, 0.5 as in the paper.
        on: "response" scores the completion after the prompt; "text" scores all of a plain text, as in
            pre-training (but for its first token, which nothing precedes): prompt and completion, which
            are both texts and either of which may be missing.
        unit: What a sum is divided by: "token", "byte", or "auto", which takes tokens if both models
            count the same number of them in every row.
        journal: A `docendo.memory.Journal`: answers are kept as they come, and an interrupted call goes on.
        quiet: Show no progress.

    Raises:
        ConfigError: if teacher and reference are the same weights.
        CapabilityError: if an engine cannot score.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> easy = {"noise": -3.0, "trivial": -0.1, "lesson": -0.5}
        >>> hard = {"noise": -3.0, "trivial": -0.1, "lesson": -2.0}
        >>> teacher = ScriptedEngine([], name="large", scores=lambda asked: easy[asked.completion])
        >>> reference = ScriptedEngine([], name="small", scores=lambda asked: hard[asked.completion])
        >>> rows = [{"prompt": "?", "completion": said} for said in ("noise", "lesson", "trivial")]
        >>> chosen = DifferenceSampling(teacher, reference, quiet=True).select(rows)
        >>> chosen.indices, chosen.scores
        ((1,), (1.5,))
    """

    def __init__(
        self,
        teacher: Any,
        reference: Any,
        *,
        ratio: float = 0.5,
        on: On = "response",
        unit: Unit = "auto",
        journal: JournalLike | None = None,
        quiet: bool = False,
    ) -> None:
        for name, value, allowed in (("on", on, get_args(On)), ("unit", unit, get_args(Unit))):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}", expected=f"one of {', '.join(allowed)}")
        if not (is_number(ratio) and 0 < ratio <= 1):
            raise ConfigError(f"ratio is {ratio!r}", expected="more than 0 and at most 1")
        self.teacher, self.reference = Voice.of(teacher, "teacher"), Voice.of(reference, "reference")
        if self.teacher.weights == self.reference.weights:
            raise ConfigError(
                "teacher and reference are the same weights, so that every difference is 0",
                expected="a smaller or less trained reference",
            )
        self.ratio, self.on, self.unit = float(ratio), on, unit
        self.journal, self.quiet = journal, quiet

    @property
    def default(self) -> Mapping[str, Any]:
        """The ratio."""
        return {"ratio": self.ratio}

    def score(self, rows: Iterable[Row]) -> ScoreTable:
        """The difference, and the mean negative log-likelihood under either model."""
        found = as_rows(rows)
        parts = [_parts(row, index, self.on) for index, row in enumerate(found)]
        teacher, why, spent = self._sums(self.teacher, "teacher", parts)
        reference, too, also = self._sums(self.reference, "reference", parts)
        reasons = [one or other for one, other in zip(why, too, strict=True)]
        scored = [index for index, reason in enumerate(reasons) if not reason]
        unit = self.unit
        if unit == "auto":
            same = all(teacher[index].tokens == reference[index].tokens for index in scored)
            unit = "token" if same else "byte"
        means: dict[str, list[float | None]] = {}
        for name, sums in (("teacher", teacher), ("reference", reference)):
            means[name] = [None] * len(found)
            for index in scored:
                size = sums[index].tokens if unit == "token" else _bytes(parts[index])
                means[name][index] = sums[index].nll / size
        return self._table(
            found,
            "difference",
            {
                "difference": [
                    None if low is None or high is None else high - low
                    for low, high in zip(means["teacher"], means["reference"], strict=True)
                ],
                "teacher_nll": means["teacher"],
                "reference_nll": means["reference"],
            },
            reasons=reasons,
            usage=spent + also,
            teacher=list(self.teacher.weights),
            reference=list(self.reference.weights),
            on=self.on,
            unit=unit,
        )

    def _sums(
        self, voice: Voice, role: str, parts: Sequence[Sequence[Turn]]
    ) -> tuple[list[_Sum], list[str], Usage]:
        """The sum over each row's parts, why there is none, and what it cost."""
        owners = [index for index, row in enumerate(parts) for _ in row]
        asked: list[Asked | None] = [
            _request(voice, part, self.on, role=role) for row in parts for part in row
        ]
        answers = ask(
            voice,
            asked,
            title=f"scoring by the {role}",
            about=lambda place: f"row {owners[place]}",
            journal=self.journal,
            quiet=self.quiet,
        )
        logprobs: list[list[float]] = [[] for _ in parts]
        reasons = ["" if row else "no text to score" for row in parts]
        for index, said, refused in zip(owners, answers.said, answers.refused, strict=True):
            reasons[index] = reasons[index] or (f"refused by the {role}: {refused}" if refused else "")
            logprobs[index] += _logprobs(said)
        for index, found in enumerate(logprobs):
            if not found and not reasons[index]:
                reasons[index] = "a single token, which nothing precedes"
        return [_Sum(-math.fsum(found), len(found)) for found in logprobs], reasons, answers.usage


def _parts(row: Row, index: int, on: On) -> list[Turn]:
    if on == "response":
        return turns(row, index)
    given = [row.get(name) or "" for name in ("prompt", "completion")]
    if not all(isinstance(text, str) for text in given):
        raise DataError(f"row {index} has chat messages", expected="plain texts, as on='text' was asked for")
    return [Turn("", "".join(given))] if any(given) else []


def _bytes(parts: Sequence[Turn]) -> int:
    return sum(len(part.text.encode("utf-8", "surrogatepass")) for part in parts)


def _request(voice: Voice, part: Turn, on: On, *, role: str) -> Asked:
    if on == "response":
        return voice.scoring(part.prompt, part.text, role=role)
    return Request(
        prompt=part.text,
        sampling=SamplingParams(max_tokens=1, prompt_logprobs=True),
        adapter=voice.adapter,
        origin=Origin(role=role, node="select"),
    )


def _logprobs(said: Said | None) -> list[float]:
    if isinstance(said, ScoreResult):
        return list(said.logprobs)
    if isinstance(said, Result):
        return [value for value in said.prompt_logprobs if value is not None]
    return []
