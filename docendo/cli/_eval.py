"""`docendo eval`: measure a model on a task."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from docendo.cli._eval_parts import (
    MAX_TOKENS,
    engine_of,
    one_or_more,
    require_room,
    sampling_of,
    scorer_named,
    write_report,
)
from docendo.errors import (
    ConfigError,
    DataError,
    DocendoError,
    InfrastructureError,
    ModelFailure,
    ResumeError,
    TaskFailure,
    UserError,
)

if TYPE_CHECKING:
    from docendo.evals import EvalResult

#: Arguments of `tasks` that have options of their own in every command.
RESERVED = ("source", "train", "dev", "test", "seed", "columns", "scorer")
#: The same, in the commands that know a generator's levels.
RESERVED_LEVELS = (*RESERVED, "level", "levels", "compact")
_FAILURES: dict[str, type[DocendoError]] = {"model": ModelFailure, "task": TaskFailure}


def command(
    model: Annotated[
        str, typer.Option(help="Catalogue name, local folder, hub id, or KIND:ADDRESS#MODEL on a server.")
    ],
    task: Annotated[
        str,
        typer.Option(
            help="reasoning_gym:NAME, a .jsonl, .csv, .tsv or .parquet file, datasets:PATH[:split]."
        ),
    ],
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    determinism: Annotated[
        str | None, typer.Option(help="What a seed promises: none, seeded, or invariant (the same bits).")
    ] = None,
    test: Annotated[int, typer.Option(help="Number of held-out items.")] = 200,
    limit: Annotated[int | None, typer.Option(help="Ask only the first items of the test set.")] = None,
    level: Annotated[int | None, typer.Option(help="Level of difficulty of a generator, from 0.")] = None,
    levels: Annotated[
        list[str] | None, typer.Option(help="Level of one attribute, such as num_terms=2; repeatable.")
    ] = None,
    compact: Annotated[
        bool, typer.Option(help="Show a generator's questions in their shortest form.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the task, such as max_terms=3; repeatable.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Column of the question, in a file.")] = None,
    answer: Annotated[str | None, typer.Option(help="Column of the answer, in a file.")] = None,
    answer_index: Annotated[
        str | None, typer.Option(help="Column of the answer's place among the choices, from 0.")
    ] = None,
    choices: Annotated[
        list[str] | None, typer.Option(help="Column of the choices, or repeated: a column for each.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Column of the choices' labels, or a column for each.")
    ] = None,
    stratum: Annotated[str | None, typer.Option(help="Column of the stratum, in a file.")] = None,
    scorer: Annotated[str, typer.Option(help="exact, exact-ignore-case, or math.")] = "exact",
    method: Annotated[
        str, typer.Option(help="generate, or of choices: likelihood, likelihood-per-byte.")
    ] = "generate",
    samples: Annotated[int, typer.Option(help="Answers to draw for each item (with a temperature).")] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer.", show_default=str(MAX_TOKENS))
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 decodes greedily.", show_default="0")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the items and of sampling.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the run; its folder is runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name that was stopped.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure a model on held-out items of a task; writes runs/NAME.

    Exits with 1 if every item failed, so that there is no accuracy.

    Example: docendo eval --model smollm2-135m-instruct --task reasoning_gym:chain_sum --set max_terms=3
    """
    from docendo import evals
    from docendo.agents import Student
    from docendo.evals.harness._subjects import Manner, asker_of

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", expected="1 or more")
    sampling = sampling_of(method, max_tokens=max_tokens, temperature=temperature, seed=seed)
    columns = {
        "question": question,
        "answer": answer,
        "answer_index": answer_index,
        "choices": one_or_more(choices),
        "labels": one_or_more(labels),
        "stratum": stratum,
    }
    made = evals.tasks(
        task,
        test=test,
        seed=seed,
        columns={key: column for key, column in columns.items() if column is not None} or None,
        scorer=scorer_named(scorer),
        **parse_settings(settings or [], reserved=RESERVED_LEVELS),
        **level_arguments(level, levels, compact=compact),
    )
    items = made.test[:limit]
    if not items:
        raise DataError("the test set is empty", expected="at least one item", remedy="use --test 200")
    name = name or f"eval-{made.name}" + (f"-{adapter.name}" if adapter else "")
    config = {
        "command": "eval",
        "model": model,
        "adapter": str(adapter) if adapter else None,
        "task": dict(made.config),
        "task_fingerprint": made.fingerprint,
        "limit": limit,
        "sampling": sampling.to_json() if sampling else None,
        **({"determinism": determinism} if determinism else {}),
        **({"scorer": scorer} if scorer != "exact" else {}),
        **({"method": method} if method != "generate" else {}),
        **({"samples": samples} if samples != 1 else {}),
    }
    folder = run_folder(name)
    _check(folder, config, resume=resume)
    with closing(engine_of(model, determinism)) as engine:
        require_room(engine, sampling)
        student = Student(engine)
        if adapter is not None:
            engine.load_adapter("evaluated", adapter)
            student = student.with_adapter("evaluated")
        asker_of(
            student, items, Manner(name=name, sampling=sampling, samples=samples, method=cast(Any, method))
        )
        # Written only now: what cannot be asked leaves nothing behind.
        with _opened(folder, config, resume=resume):
            result = evals.evaluate(
                student,
                items,
                scorer=made.scorer,
                sampling=sampling,
                samples=samples,
                method=cast(Any, method),
                name=name,
                folder=folder,
            )
    write_report(folder, result, task=task, config=config, seed=seed)
    print(
        json.dumps({**result.summary(), "folder": str(folder)}, indent=2)
        if json_
        else f"{result}\nin {folder}"
    )
    _require_answers(result)


def level_arguments(level: int | None, levels: Sequence[str] | None, *, compact: bool) -> dict[str, Any]:
    """What `--level`, `--levels` and `--compact` are as arguments of `tasks`.

    Example:
        >>> level_arguments(1, ["num_terms=2"], compact=False)
        {'level': 1, 'levels': {'num_terms': 2}, 'compact': False}
    """
    single = parse_settings(levels or [], reserved=(), option="--levels")
    return {"level": level, "levels": single or None, "compact": compact}


def run_folder(name: str) -> Path:
    """The folder of a run; its name may not lead elsewhere.

    Raises:
        ConfigError: if the name is none.
    """
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise ConfigError(f"--name is {name!r}", expected="letters, digits, '.', '_' and '-'")
    return Path("runs") / name


def parse_settings(
    pairs: Sequence[str], *, reserved: Sequence[str] = RESERVED, option: str = "--set"
) -> dict[str, Any]:
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
            raise ConfigError(f"{option} is {pair!r}", expected="name=value, such as max_terms=3")
        if key in parsed or key in reserved:
            raise ConfigError(
                f"{option} {key} is given twice or has an option of its own", remedy="give it once"
            )
        try:
            parsed[key] = json.loads(text)
        except ValueError:  # no JSON, or a number of too many digits
            parsed[key] = text
    return parsed


@contextmanager
def _opened(folder: Path, config: dict[str, Any], *, resume: bool) -> Iterator[None]:
    """The run folder with its configuration, which a resumed one has already.

    What only the first questions show to be a wrong configuration leaves no new folder behind.
    """
    from docendo.files import write_json

    new = _check(folder, config, resume=resume)
    if new:
        write_json(folder / "config.json", config)
    try:
        yield
    except UserError:
        if new:
            shutil.rmtree(folder)
            with suppress(OSError):  # other runs are there
                folder.parent.rmdir()
        raise


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


def _require_answers(result: EvalResult) -> None:
    """Refuses a result without a single answer, of which the first reason is told."""
    reasons = [record.failure for record in result.records]
    if result.n or not reasons[0]:
        return
    blamed, _, reason = reasons[0].partition(": ")
    kind = _FAILURES.get(blamed, InfrastructureError)
    raise kind(f"all {len(reasons)} items failed, the first because of {reason}")
