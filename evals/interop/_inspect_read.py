"""Logs of inspect_ai as evaluations, so that they can be compared item by item."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docendo.checks import given_path
from docendo.errors import ConfigError, DataError, DocendoError, MissingExtra
from docendo.evals.harness._records import EvalRecord, Sample
from docendo.evals.harness._results import EvalResult
from docendo.evals.interop._inspect_write import SETTINGS
from docendo.records import Usage

_BLAME = ("model: ", "task: ", "infrastructure: ")
#: What inspect_ai's scorers say instead of a number.
_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
#: A packed log is refused if it unpacks to more bytes than this and to more than so many times its own size:
#: no log does, and the memory would be gone before anything else is wrong.
_MOST_BYTES, _MOST_RATIO = 1 << 30, 200
# Anything short of 1 is partial credit; the rest is room for rounding.
_FULL = 1 - 1e-6


def read_inspect_log(
    path: str | Path, *, scorer: str | None = None, epoch: int | None = None, name: str | None = None
) -> EvalResult:
    """Reads a log of inspect_ai as an evaluation.

    An item's id is its sample's id; a number, which is a place in a dataset, gets the task's name before it.
    Several epochs become the samples of one item, and the accuracy is that of the first, as in `evaluate`.
    A score counts as right if it is "C", True or 1: partial credit never does. An item of which an epoch has
    an error, or no score, has failed and is neither right nor wrong.

    Nothing of a log is executed, but reading one of gigabytes takes as much memory.

    Args:
        path: A local `.eval` or `.json` file.
        scorer: Which scorer's scores count; needed if there are several.
        epoch: Only this epoch, from 1.
        name: Name of the result; by default that of the evaluation if docendo wrote it, else the model's.

    Raises:
        MissingExtra: if inspect_ai is not installed.
        DataError: if the file is no log, the evaluation has not succeeded, or it has no samples.
        ConfigError: if the scorer or epoch has to be chosen, or there is none such.

    Example:
        >>> import tempfile
        >>> from docendo.evals import EvalRecord, EvalResult, to_inspect_log
        >>> records = [EvalRecord(item=str(n), question="?", text="4", correct=n < 3) for n in range(4)]
        >>> result = EvalResult(name="before", task="sums", scorer="exact", records=tuple(records))
        >>> path = to_inspect_log(result, tempfile.mkdtemp() + "/before.eval")
        >>> print(read_inspect_log(path))
        before: 75.0 % (3/4, 95 % interval 30.1 % to 95.4 %)
    """
    path = given_path("path", path)
    log = _read(path)
    samples = _chosen(log, path, epoch)
    scorer = _scorer(samples, scorer, path)
    groups: dict[str, list[Any]] = {}
    for sample in sorted(samples, key=lambda one: one.epoch):
        groups.setdefault(_id(sample, log.eval.task), []).append(sample)
    facts = _facts(log)
    majority, chance = _baselines([group[0] for group in groups.values()])
    return EvalResult(
        name=name if name is not None else str(facts.get("name", log.eval.model)),
        task=str(facts.get("task", log.eval.task)),
        scorer=scorer,
        records=tuple(_record(item, group, scorer, log.eval.task) for item, group in groups.items()),
        majority=_number(facts.get("majority"), majority),
        chance=_number(facts.get("chance"), chance),
        model=str(facts.get("model", log.eval.model)),
        adapter=facts["adapter"] if isinstance(facts.get("adapter"), str) else None,
        sampling=_sampling(log, facts),
        seconds=_number(facts.get("seconds"), 0.0),
    )


def _facts(log: Any) -> Mapping[str, Any]:
    """What docendo has left in a log that it wrote."""
    facts = (log.eval.metadata or {}).get("docendo")
    return facts if isinstance(facts, Mapping) else {}


def _read(path: Path) -> Any:
    """The whole log, if it is one of an evaluation that has succeeded."""
    try:
        from inspect_ai.log import read_eval_log
    except ModuleNotFoundError as error:
        raise MissingExtra("inspect_ai", "inspect") from error
    if not path.is_file():
        raise DataError(f"there is no file {path}", expected="a log that inspect_ai wrote")
    _check_size(path)
    try:
        log = read_eval_log(str(path.resolve()), resolve_attachments="core")
    except DocendoError:
        raise
    except Exception as error:  # whatever zip, JSON and pydantic find wrong with it
        lines = str(error).strip().splitlines() or [""]
        raise DataError(
            f"{path} cannot be read as a log of inspect_ai ({type(error).__name__}: {lines[0][:200]})",
            expected="a whole .eval or .json log",
        ) from error
    if log.status != "success":
        raise DataError(
            f"the evaluation of {path} has the status {log.status!r}",
            expected="success",
            remedy="finish it with `inspect eval-retry`",
        )
    return log


def _check_size(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # no packed log, or a damaged one, which reading says
    if size > max(_MOST_BYTES, _MOST_RATIO * path.stat().st_size):
        raise DataError(f"{path} would unpack to {size >> 20} MiB", expected="a log as inspect_ai packs it")


def _chosen(log: Any, path: str | Path, epoch: int | None) -> list[Any]:
    samples = list(log.samples or ())
    if not samples:
        raise DataError(f"{path} holds no samples", remedy="evaluate with --log-samples")
    twice = [key for key, count in Counter((_id(s, ""), s.epoch) for s in samples).items() if count > 1]
    if twice:
        raise DataError(f"{path} holds sample {twice[0][0]!r} of epoch {twice[0][1]} more than once")
    if epoch is None:
        return samples
    found = [sample for sample in samples if sample.epoch == epoch]
    if not found:
        epochs = sorted({sample.epoch for sample in samples})
        raise ConfigError(f"epoch is {epoch}", expected=f"one of {', '.join(map(str, epochs))}")
    return found


def _scorer(samples: Sequence[Any], scorer: str | None, path: str | Path) -> str:
    names = sorted({name for sample in samples for name in sample.scores or {}})
    if not names:
        raise DataError(f"{path} holds no scores", remedy="score it with `inspect score`")
    if scorer is None and len(names) == 1:
        return str(names[0])
    if scorer is None or scorer not in names:
        seen = "several scorers" if scorer is None else f"no scorer {scorer!r}"
        raise ConfigError(f"{path} has {seen}", expected=f"scorer= one of {', '.join(names)}")
    return scorer


def _id(sample: Any, task: str) -> str:
    return f"{task}:{sample.id}" if isinstance(sample.id, int) else str(sample.id)


def _record(item: str, group: Sequence[Any], scorer: str, task: str) -> EvalRecord:
    first = group[0]
    record = EvalRecord(
        item=item,
        question=_question(first),
        text=first.output.completion,
        stratum=str(first.metadata.get("stratum", task)),
        usage=sum((_usage(sample) for sample in group), Usage()),
        seconds=sum(sample.working_time or sample.total_time or 0.0 for sample in group),
    )
    failure = next((why for sample in group if (why := _failure(sample, scorer)) is not None), None)
    if failure is not None:
        return record.replace(failure=failure)
    answers = [_answer(sample, scorer, item) for sample in group]
    return record.replace(
        parsed=answers[0].parsed,
        correct=answers[0].correct,
        value=answers[0].value,
        score_failure=answers[0].score_failure,
        confidence=answers[0].confidence,
        more=tuple(answers[1:]),
    )


def _failure(sample: Any, scorer: str) -> str | None:
    """Why a sample has no verdict; None if it has one."""
    if sample.error is not None:
        message = " ".join(sample.error.message.split()) or "an error without a message"
        return message if message.startswith(_BLAME) else f"infrastructure: {message}"
    score = (sample.scores or {}).get(scorer)
    if score is None:
        return f"task: {scorer} gave no score"
    if isinstance(score.value, float) and math.isnan(score.value):
        return f"task: {scorer} could not score it" + (f" ({score.reason})" if score.reason else "")
    return None


def _answer(sample: Any, scorer: str, item: str) -> Sample:
    score = sample.scores[scorer]
    grade = _grade(score.value, scorer, item)
    own = score.metadata or {}
    return Sample(
        text=sample.output.completion,
        parsed=score.answer,
        correct=grade >= _FULL,
        value=_number(own.get("value"), grade),
        score_failure=own["score_failure"] if isinstance(own.get("score_failure"), str) else None,
        confidence=_number(own.get("confidence"), None),
    )


def _grade(value: Any, scorer: str, item: str) -> float:
    """A score as a number in [0, 1].

    Raises:
        DataError: if it is none: a rating, or several values.
    """
    grade = _GRADES.get(value) if isinstance(value, str) else value
    if isinstance(grade, (bool, int, float)) and 0 <= grade <= 1:
        return float(grade)
    raise DataError(
        f"{scorer} gave item {item} the score {value!r}"[:200],
        expected="C, I, P, N, or a number from 0 to 1",
        remedy="choose another with scorer=",
    )


def _number(value: Any, otherwise: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else otherwise


def _question(sample: Any) -> str:
    if isinstance(sample.input, str):
        return sample.input
    asked = [message.text for message in sample.input if message.role == "user"]
    return asked[-1] if asked else ""


def _usage(sample: Any) -> Usage:
    """Tokens of all models that a sample used, graders included."""
    found = Usage()
    for one in sample.model_usage.values():
        cached = one.input_tokens_cache_read or 0
        found += Usage(
            prompt_tokens=one.input_tokens + cached + (one.input_tokens_cache_write or 0),
            cached_tokens=cached,
            generated_tokens=one.output_tokens,
        )
    return found


def _baselines(samples: Sequence[Any]) -> tuple[float | None, float | None]:
    """Accuracy of the most frequent target, and of guessing among the choices, where these are known."""
    targets = [sample.target for sample in samples if isinstance(sample.target, str) and sample.target]
    choices = [len(sample.choices) for sample in samples if sample.choices]
    majority = Counter(targets).most_common(1)[0][1] / len(samples) if len(targets) == len(samples) else None
    chance = sum(1 / count for count in choices) / len(samples) if len(choices) == len(samples) else None
    return majority, chance


def _sampling(log: Any, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(kept := facts.get("sampling"), Mapping):
        return kept
    settings = log.plan.config.merge(log.eval.model_generate_config).model_dump(exclude_none=True)
    return {ours: settings[theirs] for ours, theirs in SETTINGS.items() if theirs in settings}
