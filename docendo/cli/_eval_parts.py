"""What the options of `docendo eval` stand for, and the page that it writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from docendo.errors import ConfigError

if TYPE_CHECKING:
    from docendo.agents import EngineProtocol
    from docendo.evals import EvalResult
    from docendo.records import SamplingParams
    from docendo.scoring import Scorer

MAX_TOKENS = 128


def sampling_of(
    method: str, *, max_tokens: int | None, temperature: float | None, seed: int
) -> SamplingParams | None:
    """How answers are drawn; None where choices are scored.

    Raises:
        ConfigError: if a value cannot be used, or is given where no answer is written.
    """
    from docendo.records import SamplingParams

    if method == "generate":
        return SamplingParams(
            max_tokens=MAX_TOKENS if max_tokens is None else max_tokens,
            temperature=temperature or 0.0,
            seed=seed if temperature else None,
        )
    for option, value in (("--max-tokens", max_tokens), ("--temperature", temperature)):
        if value is not None:
            raise ConfigError(
                f"{option} was given with --method {method}, which writes no answer", remedy="leave it out"
            )
    return None


def engine_of(model: str, determinism: str | None) -> EngineProtocol:
    """Loads a model, or connects to one on a server.

    Raises:
        ConfigError: if the determinism is unknown, or to be had of a server.
    """
    from docendo.agents import Engine, open_engine

    if determinism is None:
        return open_engine(model)
    if "://" in model:
        raise ConfigError(
            f"--determinism was given for {model!r}, where the server decides", remedy="leave it out"
        )
    return Engine.load(model, determinism=cast(Any, determinism))


def require_room(engine: EngineProtocol, sampling: SamplingParams | None) -> None:
    """Refuses answers that are longer than the model can hold, whatever is asked.

    Raises:
        ConfigError: naming the most.
    """
    longest = engine.capabilities.max_length
    if sampling is not None and longest is not None and sampling.max_tokens >= longest:
        raise ConfigError(
            f"--max-tokens is {sampling.max_tokens}",
            expected=f"less than {longest}, which the model can hold together with the question",
        )


def one_or_more(columns: list[str] | None) -> str | list[str] | None:
    """One column by its name, or several."""
    return columns[0] if columns and len(columns) == 1 else columns or None


def scorer_named(name: str) -> Scorer:
    """The scorer of a name.

    Raises:
        ConfigError: if there is none of it.
    """
    from docendo.evals import ExactScorer, MathScorer

    if name == "math":
        return MathScorer()
    if name not in ("exact", "exact-ignore-case"):
        raise ConfigError(f"--scorer is {name!r}", expected="exact, exact-ignore-case, or math")
    return ExactScorer(ignore_case=name == "exact-ignore-case")


def write_report(folder: Path, result: EvalResult, *, task: str, config: dict[str, Any], seed: int) -> None:
    """Writes the page of a result into its folder."""
    from docendo import evals
    from docendo.evals.experiments import versions
    from docendo.files import write_text

    data = evals.ReportData(
        title=result.name,
        task=task,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        arms=(evals.Arm.of(result),),
        majority=result.majority,
        chance=result.chance,
        transcripts=tuple(
            evals.Transcript(question=record.question, after=record.text, after_correct=record.correct)
            for record in result.records[:5]
            if record.correct is not None
        ),
        config=config,
        versions=versions(),
        seed=seed,
    )
    write_text(folder / "report.html", evals.report(data))
