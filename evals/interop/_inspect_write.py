"""An evaluation as a log of inspect_ai, for its viewer and its tools."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docendo.checks import check_kind, given_path
from docendo.errors import ConfigError, DataError, MissingExtra, StorageError
from docendo.evals.harness._records import EvalRecord
from docendo.evals.harness._records import Sample as OneAnswer
from docendo.evals.harness._results import EvalResult
from docendo.evals.items._given import given_items
from docendo.evals.items._tasks import reference
from docendo.hashing import digest
from docendo.records import Item, Usage

#: Forms that inspect_ai writes.
SUFFIXES = (".eval", ".json")


def to_inspect_log(
    result: EvalResult,
    path: str | Path,
    *,
    items: Iterable[Item] = (),
    created: datetime | None = None,
) -> Path:
    """Writes an evaluation as a log of inspect_ai, atomically.

    Each record becomes a sample with its id, question, answer and score ("C" or "I"; the answer read out of
    the text beside it), and its further samples become epochs. A failed item becomes a sample with an error
    and no score. Token counts stand on the first epoch, so that sums stay right. What inspect_ai has no
    place for (fingerprint, adapter, failure counts) is in the log's metadata. `read_inspect_log` gives the
    result back, but for costs in FLOPs, stored turns and choices' likelihoods.

    Args:
        result: The evaluation.
        path: A file that ends in `.eval` (inspect_ai's own, compressed) or `.json`.
        items: The items, if the log is to hold their reference answers and choices. Then it holds gold: keep
            it away from who learns.
        created: When the log says it was made; now by default.

    Returns:
        The path.

    Raises:
        MissingExtra: if inspect_ai is not installed.
        ConfigError: if the file's name has another ending.
        DataError: if an item of the result is not among the items given.
        StorageError: if the file cannot be written.

    Example:
        >>> from docendo.evals import EvalRecord, EvalResult
        >>> record = EvalRecord(item="a", question="2 + 2?", text="4", parsed="4", correct=True, value=1.0)
        >>> result = EvalResult(name="before", task="sums", scorer="exact", records=(record,))
        >>> from docendo.evals.interop._inspect_read import read_inspect_log
        >>> folder = Path(tempfile.mkdtemp())
        >>> read_inspect_log(to_inspect_log(result, folder / "before.eval")).accuracy
        1.0
    """
    try:
        from inspect_ai.log import write_eval_log
    except ModuleNotFoundError as error:
        raise MissingExtra("inspect_ai", "inspect") from error
    check_kind("result", result, EvalResult, "an EvalResult, as evaluate returns")
    check_kind("created", created, (datetime, type(None)), "a datetime")
    path = given_path("path", path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"the log is to be {path.name!r}", expected=f"a name in {' or '.join(SUFFIXES)}")
    known = {item.id: item for item in given_items(items)}
    if known and (missing := [record.item for record in result.records if record.item not in known]):
        raise DataError(f"item {missing[0]} of {result.name!r} is not among the items given")
    log = _log(result, known, (created or datetime.now(UTC)).astimezone(UTC).isoformat())
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        os.close(descriptor)
        write_eval_log(log, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return path


def _log(result: EvalResult, items: Mapping[str, Item], created: str) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats
    from inspect_ai.model import GenerateConfig

    model = f"docendo/{result.model[:12] or 'unknown'}"
    epochs = max((1 + len(record.more) for record in result.records), default=1)
    samples = [
        sample
        for record in result.records
        for sample in _samples(result, record, items.get(record.item), model)
    ]
    facts = {key: value for key, value in result.summary().items() if key != "interval"}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=created,
            eval_id=digest(facts)[:22],
            task=result.task or result.name or "evaluation",
            dataset=EvalDataset(
                name=result.task or None,
                samples=len(result.records),
                sample_ids=[record.item for record in result.records],
            ),
            model=model,
            model_generate_config=GenerateConfig(**_settings(result.sampling)),
            config=EvalConfig(epochs=epochs),
            metadata={"docendo": facts},
        ),
        results=_results(result, epochs),
        stats=EvalStats(started_at=created, completed_at=created, model_usage={model: _usage(result.usage)}),
        samples=samples,
    )


def _results(result: EvalResult, epochs: int) -> Any:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    low, high = result.interval
    figures = {"accuracy": result.accuracy, "interval_low": low, "interval_high": high} if result.n else {}
    return EvalResults(
        total_samples=len(result.records) * epochs,
        completed_samples=sum(len(record.samples) for record in result.records),
        scores=[
            EvalScore(
                name=result.scorer,
                scorer=result.scorer,
                scored_samples=result.n,
                unscored_samples=result.failed,
                metrics={name: EvalMetric(name=name, value=value) for name, value in figures.items()},
            )
        ],
    )


def _samples(result: EvalResult, record: EvalRecord, item: Item | None, model: str) -> list[Any]:
    """The samples of a record: one for each answer, or one with an error."""
    answers = record.samples or (OneAnswer(text=record.text),)
    return [
        _sample(result, record, item, model, epoch, answer) for epoch, answer in enumerate(answers, start=1)
    ]


def _sample(
    result: EvalResult, record: EvalRecord, item: Item | None, model: str, epoch: int, answer: OneAnswer
) -> Any:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser
    from inspect_ai.scorer import Score

    key = digest("sample", result.name, record.item, epoch)[:22]
    usage, seconds = (record.usage, record.seconds) if epoch == 1 else (Usage(), 0.0)
    score = Score(
        value="C" if answer.correct else "I",
        answer=answer.parsed,
        metadata={
            "value": answer.value,
            "score_failure": answer.score_failure,
            "confidence": answer.confidence,
        },
    )
    failed = record.failure is not None
    said = ChatMessageAssistant(id=f"{key}-a", content=answer.text, model=model, source="generate")
    return EvalSample(
        id=record.item,
        epoch=epoch,
        uuid=key,
        input=record.question,
        choices=list(item.public.choices) if item and item.public.choices else None,
        target=(reference(item) or "") if item else "",
        messages=[ChatMessageUser(id=f"{key}-q", content=record.question, source="input"), said],
        output=_output(model, said, usage, seconds, failed=failed),
        scores=None if failed else {result.scorer: score},
        metadata={"stratum": record.stratum} if record.stratum else {},
        model_usage={model: _usage(usage)},
        total_time=seconds,
        error=EvalError(message=record.failure, traceback="", traceback_ansi="") if failed else None,
    )


def _output(model: str, said: Any, usage: Usage, seconds: float, *, failed: bool) -> Any:
    from inspect_ai.model import ChatCompletionChoice, ModelOutput

    choices = [] if failed else [ChatCompletionChoice(message=said, stop_reason="stop")]
    return ModelOutput(model=model, choices=choices, usage=_usage(usage), time=seconds)


def _usage(usage: Usage) -> Any:
    from docendo.evals.interop._inspect_messages import to_usage

    return to_usage(usage)


#: Settings that both sides have, by docendo's name.
SETTINGS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop_seqs",
}


def _settings(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {
        theirs: sampling[ours] for ours, theirs in SETTINGS.items() if sampling.get(ours) not in (None, [])
    }
