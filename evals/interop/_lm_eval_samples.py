"""What lm-eval logs of its samples (`--log_samples`) as evaluations, so that they can be compared."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docendo.checks import given_path, short
from docendo.errors import ConfigError, DataError
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._results import EvalResult

_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
_FULL = 1 - 1e-6


def read_lm_eval_samples(
    path: str | Path, *, metric: str | None = None, task: str | None = None, name: str | None = None
) -> EvalResult:
    r"""Reads samples that lm-eval has logged as an evaluation.

    An item's id is lm-eval's digest of its document, so that two runs over one data set pair whatever their
    order and limits; equal documents are told apart by their number of occurrence.

    Args:
        path: A `samples_TASK_DATE.jsonl` file, the `results_DATE.json` beside it, or the output folder.
        metric: Which metric counts, such as "acc_norm"; needed if there are several. Of a task with several
            filters it is named as in lm-eval's results, such as "exact_match,strict-match".
        task: Which task's samples, if a folder holds several.
        name: Name of the result; by default the model's.

    Returns:
        The evaluation. A metric's value of 1 counts as right, less never does. Of multiple choice, the text
        is the likeliest choice (for each character or byte, if the metric is `acc_norm` or `acc_bytes`), and
        the choices' log-likelihoods and the confidence are kept.

    Raises:
        DataError: if there are no such samples, or they are damaged.
        ConfigError: if the metric or the task has to be chosen, or there is none such.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> rows = [{"doc_id": n, "metrics": ["exact_match"], "exact_match": n % 2} for n in range(4)]
        >>> text = "\n".join(json.dumps(row) for row in rows)
        >>> path = folder / "samples_sums_2026-01-02T03-04-05.678901.jsonl"
        >>> _ = path.write_text(text)
        >>> print(read_lm_eval_samples(folder, name="before"))
        before: 50.0 % (2/4, 95 % interval 15.0 % to 85.0 %)
    """
    file = _file(given_path("path", path), task)
    rows = _rows(file)
    metric, rows = _measured(rows, metric, file)
    facts = _facts(file)
    task = task or _named(file)
    count: Counter[str] = Counter()
    records = []
    for row in sorted(rows, key=lambda one: _doc_id(one, file)):
        digest = str(row.get("doc_hash") or f"{task}:{row['doc_id']}")
        count[digest] += 1
        records.append(
            _record(row, digest if count[digest] == 1 else f"{digest}:{count[digest]}", metric, task)
        )
    majority, chance = _baselines(rows)
    config = facts.get("config")
    config = config if isinstance(config, Mapping) else {}
    named = facts.get("model_name")
    return EvalResult(
        name=name if name is not None else str(named or file.parent.name),
        task=task,
        scorer=metric,
        records=tuple(records),
        majority=majority,
        chance=chance,
        model=str(config.get("model_fingerprint") or named or ""),
        adapter=_text_or_none(config.get("adapter_sha256")),
        sampling=config["gen_kwargs"] if isinstance(config.get("gen_kwargs"), Mapping) else {},
        seconds=_seconds(facts),
    )


def samples_files(path: Path) -> list[Path]:
    """Sample files of lm-eval: the file itself, or those of a folder or the folders in it."""
    if path.is_file():
        return [path]
    return sorted([*path.glob("samples_*.jsonl"), *path.glob("*/samples_*.jsonl")])


def _file(path: Path, task: str | None) -> Path:
    """The one file that is meant."""
    if path.suffix == ".json" and path.name.startswith("results_"):
        date = path.stem.removeprefix("results_")
        found = sorted(path.parent.glob(f"samples_*_{date}.jsonl"))
    else:
        found = samples_files(path)
    if task is not None and path.suffix != ".jsonl":
        found = [file for file in found if _named(file) == task]
    if not found:
        raise DataError(
            f"{path} holds no samples" + (f" of the task {task!r}" if task else "") + " of lm-eval",
            expected="samples_TASK_DATE.jsonl",
            remedy="evaluate with --log_samples --output_path FOLDER",
        )
    tasks = sorted({_named(file) for file in found})
    if len(tasks) > 1:
        raise ConfigError(f"{path} holds several tasks", expected=f"task= one of {', '.join(tasks)}")
    if len(found) > 1:
        raise DataError(
            f"{path} holds {len(found)} runs of {tasks[0]}", remedy=f"name one, such as {found[-1]}"
        )
    return found[0]


def _named(file: Path) -> str:
    match = _SAMPLES.fullmatch(file.name)
    return match["task"] if match else file.stem.removeprefix("samples_")


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error})", expected="JSON lines in UTF-8") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of {file} is not JSON ({error})"[:300]) from error
        if not isinstance(row, dict) or "doc_id" not in row:
            raise DataError(f"line {number} of {file} has no doc_id", expected="a sample as lm-eval logs it")
        rows.append(row)
    if not rows:
        raise DataError(f"{file} holds no samples")
    return rows


def _measured(rows: list[dict[str, Any]], metric: str | None, file: Path) -> tuple[str, list[dict[str, Any]]]:
    """The chosen metric as lm-eval names it, and the rows that it is of."""
    filters = list(dict.fromkeys(str(row.get("filter", "none")) for row in rows))
    offered: dict[str, tuple[str, str]] = {}
    for row in rows:
        kept = str(row.get("filter", "none"))
        for key in row.get("metrics") or ():
            offered[f"{key},{kept}" if len(filters) > 1 else str(key)] = str(key), kept
    # Where all rows have one filter, it may be named as well.
    named = offered | {f"{key},{kept}": (key, kept) for key, kept in offered.values()}
    if not offered:
        raise DataError(f"{file} says of no metric", expected="samples as lm-eval 0.4.9 or later logs them")
    if metric is None and len(offered) == 1:
        metric = next(iter(offered))
    if not isinstance(metric, str) or metric not in named:
        seen = "several metrics" if metric is None else f"no metric {short(metric)}"
        raise ConfigError(f"{file} has {seen}", expected=f"metric= one of {', '.join(offered)}")
    key, kept = named[metric]
    # Under one name whether the filter was named or not, so that both can be compared.
    label = key if kept == "none" else f"{key},{kept}"
    return label, [{**row, "metric": row.get(key)} for row in rows if str(row.get("filter", "none")) == kept]


def _doc_id(row: Mapping[str, Any], file: Path) -> int:
    if isinstance(row["doc_id"], bool) or not isinstance(row["doc_id"], int):
        raise DataError(f"a sample of {file} has the doc_id {row['doc_id']!r}"[:200], expected="a number")
    return int(row["doc_id"])


def _record(row: Mapping[str, Any], item: str, metric: str, task: str) -> EvalRecord:
    value = row["metric"]
    asked = _arguments(row)
    text, choices, confidence = _answer(row, asked, metric)
    record = EvalRecord(
        item=item, question=asked[0][0] if asked else "", text=text, stratum=task, choices=choices
    )
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return record.replace(failure=f"task: {metric} has no value")
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise DataError(
            f"{metric} of document {row['doc_id']} is {value!r}"[:200],
            expected="a number from 0 to 1 for each document",
            remedy="choose another with metric=",
        )
    return record.replace(
        parsed=text or None,
        correct=value >= _FULL,
        value=float(value),
        confidence=confidence,
    )


def _arguments(row: Mapping[str, Any]) -> list[list[str]]:
    """Context and continuation, or context and settings, of each request of a document."""
    given = row.get("arguments")
    if isinstance(given, Mapping):  # as it is logged: {"gen_args_0": {"arg_0": ..., "arg_1": ...}}
        given = [list(one.values()) if isinstance(one, Mapping) else one for one in given.values()]
    if not isinstance(given, Sequence) or isinstance(given, str):
        return []
    return [[str(part) for part in one] for one in given if isinstance(one, Sequence) and one]


def _answer(
    row: Mapping[str, Any], asked: Sequence[Sequence[str]], metric: str
) -> tuple[str, tuple[float, ...], float | None]:
    """What was answered, and of multiple choice the choices' log-likelihoods and the answer's share."""
    answers = row.get("filtered_resps")
    if not isinstance(answers, list) or not answers:
        return "", (), None
    scores = [score for one in answers if (score := _loglikelihood(one)) is not None]
    if len(scores) != len(answers) or len(scores) != len(asked):
        return str(answers[0]), (), None
    continuations = [one[1].strip() if len(one) > 1 else "" for one in asked]
    half = len(asked) // 2
    if half and all(not one[0] for one in asked[half:]) and continuations[:half] == continuations[half:]:
        scores, continuations = scores[:half], continuations[:half]  # the rest is for mutual information
    if len(scores) == 1:
        return continuations[0], (), None
    judged = [score / _size(text, metric) for score, text in zip(scores, continuations, strict=True)]
    best = max(judged)
    share = 1 / math.fsum(math.exp(score - best) for score in judged)
    return continuations[judged.index(best)], tuple(scores), share


def _size(text: str, metric: str) -> int:
    """What a choice's log-likelihood is divided by."""
    if metric.startswith("acc_norm"):
        return max(1, len(text))
    return max(1, len(text.encode())) if metric.startswith("acc_bytes") else 1


def _loglikelihood(answer: Any) -> float | None:
    """The log-likelihood of an answer `[log-likelihood, greedy]`, which is logged as text."""
    if not isinstance(answer, list) or len(answer) != 2 or str(answer[1]) not in ("True", "False"):
        return None
    try:
        value = float(answer[0])
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _baselines(rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    targets = [json.dumps(row.get("target"), sort_keys=True) for row in rows]
    counts = [len(choices) for row in rows if (choices := _answer(row, _arguments(row), "")[1])]
    majority = Counter(targets).most_common(1)[0][1] / len(rows) if "null" not in targets else None
    chance = sum(1 / count for count in counts) / len(rows) if len(counts) == len(rows) else None
    return majority, chance


def _facts(file: Path) -> dict[str, Any]:
    """What the results beside the samples say of the model; nothing if they are not there."""
    match = _SAMPLES.fullmatch(file.name)
    beside = file.parent / f"results_{match['date']}.json" if match else None
    if beside is None or not beside.is_file():
        return {}
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{beside} is damaged ({error})"[:300], remedy="remove it to do without") from error
    return facts if isinstance(facts, dict) else {}


def _seconds(facts: Mapping[str, Any]) -> float:
    try:
        seconds = float(facts.get("total_evaluation_time_seconds") or 0.0)
    except (TypeError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
