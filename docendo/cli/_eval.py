"""`docendo eval`: measure a model on a task."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from docendo.errors import ConfigError, DataError, ResumeError

#: Arguments of `tasks` that have options of their own.
RESERVED = ("source", "train", "dev", "test", "seed", "columns", "scorer")
_PACKAGES = ("docendo", "torch", "transformers", "peft", "reasoning-gym")


def command(
    model: Annotated[
        str, typer.Option(help="Catalogue name, local folder, hub id, or KIND:ADDRESS#MODEL on a server.")
    ],
    task: Annotated[str, typer.Option(help="reasoning_gym:NAME, a .jsonl file, or datasets:PATH[:split].")],
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    test: Annotated[int, typer.Option(help="Number of held-out items.")] = 200,
    limit: Annotated[int | None, typer.Option(help="Ask only the first items of the test set.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the task, such as max_terms=3; repeatable.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Column of the question, in a file.")] = None,
    answer: Annotated[str | None, typer.Option(help="Column of the answer, in a file.")] = None,
    choices: Annotated[str | None, typer.Option(help="Column of the choices, in a file.")] = None,
    method: Annotated[
        str, typer.Option(help="generate, or of choices: likelihood, likelihood-per-byte.")
    ] = "generate",
    samples: Annotated[int, typer.Option(help="Answers to draw for each item (with a temperature).")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 decodes greedily.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the items and of sampling.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the run; its folder is runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name that was stopped.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure a model on held-out items of a task; writes runs/NAME.

    Example: docendo eval --model smollm2-135m-instruct --task reasoning_gym:chain_sum --set max_terms=3
    """
    from docendo import evals
    from docendo.agents import Student, open_engine
    from docendo.evals.harness._subjects import Manner, asker_of
    from docendo.records import SamplingParams

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", expected="1 or more")
    named = (("question", question), ("answer", answer), ("choices", choices))
    columns = {key: column for key, column in named if column}
    made = evals.tasks(task, test=test, seed=seed, columns=columns or None, **parse_settings(settings or []))
    items = made.test[:limit]
    if not items:
        raise DataError("the test set is empty", expected="at least one item", remedy="use --test 200")
    sampling = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, seed=seed if temperature else None
    )
    name = name or f"eval-{made.name}" + (f"-{adapter.name}" if adapter else "")
    config = {
        "command": "eval",
        "model": model,
        "adapter": str(adapter) if adapter else None,
        "task": dict(made.config),
        "task_fingerprint": made.fingerprint,
        "limit": limit,
        "sampling": sampling.to_json(),
        **({"method": method} if method != "generate" else {}),
        **({"samples": samples} if samples != 1 else {}),
    }
    folder = run_folder(name)
    _check(folder, config, resume=resume)
    with closing(open_engine(model)) as engine:
        student = Student(engine)
        if adapter is not None:
            engine.load_adapter("evaluated", adapter)
            student = student.with_adapter("evaluated")
        drawn = sampling if method == "generate" else None
        asker_of(student, items, Manner(name=name, sampling=drawn, samples=samples, method=cast(Any, method)))
        # Written only now: what cannot be asked leaves nothing behind.
        _open(folder, config, resume=resume)
        result = evals.evaluate(
            student,
            items,
            scorer=made.scorer,
            sampling=drawn,
            samples=samples,
            method=cast(Any, method),
            name=name,
            folder=folder,
        )
    _write_report(folder, result, task=task, config=config, seed=seed)
    print(
        json.dumps({**result.summary(), "folder": str(folder)}, indent=2)
        if json_
        else f"{result}\nin {folder}"
    )


def run_folder(name: str) -> Path:
    """The folder of a run; its name may not lead elsewhere.

    Raises:
        ConfigError: if the name is none.
    """
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise ConfigError(f"--name is {name!r}", expected="letters, digits, '.', '_' and '-'")
    return Path("runs") / name


def parse_settings(pairs: Sequence[str], *, reserved: Sequence[str] = RESERVED) -> dict[str, Any]:
    r"""Reads `key=value` settings; a value is JSON where it can be, else text.

    Raises:
        ConfigError: if one has no `=`, no name, or a name occurs twice.

    Example:
        >>> parse_settings(["max_terms=3", 'operators=["+"]', "name=main"])
        {'max_terms': 3, 'operators': ['+'], 'name': 'main'}
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ConfigError(f"--set is {pair!r}", expected="name=value, such as max_terms=3")
        if key in parsed or key in reserved:
            raise ConfigError(
                f"--set {key} is given twice or has an option of its own", remedy="give it once"
            )
        try:
            parsed[key] = json.loads(text)
        except json.JSONDecodeError:
            parsed[key] = text
    return parsed


def _open(folder: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Makes the run folder with its configuration, or checks that a resumed one has the same."""
    from docendo.files import write_json

    if _check(folder, config, resume=resume):
        write_json(folder / "config.json", config)


def _check(folder: Path, config: dict[str, Any], *, resume: bool) -> bool:
    """Whether the run folder is a new one; refuses one of another evaluation."""
    path = folder / "config.json"
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ResumeError(f"{folder} exists and is no evaluation", remedy="choose another --name")
        return True
    if not resume:
        raise ResumeError(
            f"{folder} exists", remedy="add --resume to go on with it, or choose another --name"
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(f"cannot read {path} ({error})", remedy="choose another --name") from error
    wanted = json.loads(json.dumps(config))
    stored = stored if isinstance(stored, dict) else {}
    differing = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
    if differing:
        changes = ", ".join(f"{key}: {stored.get(key)!r} then, {wanted.get(key)!r} now" for key in differing)
        raise ResumeError(
            f"{folder} has another configuration ({changes})", remedy="use the same, or another --name"
        )
    return False


def _write_report(folder: Path, result: Any, *, task: str, config: dict[str, Any], seed: int) -> None:
    from docendo import evals
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
        versions=_versions(),
        seed=seed,
    )
    write_text(folder / "report.html", evals.report(data))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
