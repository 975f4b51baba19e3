"""`docendo distill`: train a LoRA adapter from verified traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from docendo.errors import ConfigError, DataError


def command(
    model: Annotated[str, typer.Option(help="Base model: catalogue name, local folder or hub id.")],
    data: Annotated[
        Path,
        typer.Option(
            help="A run folder, a data set's folder, a traces .jsonl file, or a .jsonl file of prompt and "
            "completion."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the new adapter.")],
    task: Annotated[
        str | None,
        typer.Option(help="Task of the traces, as in `docendo eval`; not needed for prompt and completion."),
    ] = None,
    train: Annotated[int, typer.Option(help="Number of training items.")] = 400,
    test: Annotated[int, typer.Option(help="Number of held-out items, which must not be learnt from.")] = 200,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the task, such as max_terms=3; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the items.")] = 0,
    reward: Annotated[str, typer.Option(help="Reward that decides what is learnt.")] = "verified",
    threshold: Annotated[float, typer.Option(help="Least reward.")] = 1.0,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps; -1 counts by --epochs.")] = -1,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 16,
    rank: Annotated[int, typer.Option(help="LoRA rank; alpha is twice the rank.")] = 16,
    parent: Annotated[Path | None, typer.Option(help="Adapter to continue from.")] = None,
    train_seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    resume: Annotated[
        bool, typer.Option(help="Go on from a checkpoint, or keep a finished adapter, made from the same.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the adapter's facts as JSON.")] = False,
) -> None:
    """Train a LoRA adapter from verified traces; writes a PEFT folder.

    Example: docendo distill --model smollm2-135m-instruct --data runs/demo
    --task reasoning_gym:chain_sum --set max_terms=3 --output adapters/demo
    """
    from docendo import distill

    if not data.exists():
        raise DataError(f"--data {data} does not exist", expected="a run folder or a .jsonl file")
    config = distill.TrainConfig(
        max_steps=max_steps,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        lora_r=rank,
        lora_alpha=2 * rank,
        seed=train_seed,
    )
    rows = _rows(data)
    if rows is None and task is None:
        raise ConfigError(
            "--task is not given",
            expected="the task of the traces",
            remedy="add --task reasoning_gym:NAME",
        )
    with _database(data) as database:
        if rows is None:
            made = _task(str(task), settings or [], train=train, test=test, seed=seed)
            rows = distill.sft_dataset(
                _traces(data, database),
                student=_student(),
                items=made.train,
                exclude=made.test,
                reward=reward,
                threshold=threshold,
                database=database,
            )
        adapter = distill.train(
            model, rows, output=output, config=config, parent=parent, resume=resume, database=database
        )
    if json_:
        facts = {
            "path": str(adapter.path),
            "name": adapter.name,
            "sha256": adapter.sha256,
            "base": adapter.base,
        }
        print(json.dumps({**facts, "metrics": dict(adapter.metrics)}, indent=2))
    else:
        metrics = adapter.metrics
        print(
            f"{adapter.name}: {metrics['steps']:g} steps in {metrics['seconds']:.0f} s, "
            f"loss {metrics['first_loss']:.3f} to {metrics['final_loss']:.3f}\nin {adapter.path}"
        )


def _task(spec: str, settings: list[str], *, train: int, test: int, seed: int) -> Any:
    from docendo import evals
    from docendo.cli._eval import parse_settings

    return evals.tasks(spec, train=train, test=test, seed=seed, **parse_settings(settings))


def _student() -> Any:
    """A student for the sake of its prompt; it is never asked anything."""
    from docendo.agents import ScriptedEngine, Student

    return Student(ScriptedEngine([]))


def _rows(path: Path) -> list[dict[str, Any]] | None:
    """Rows of prompt and completion, or None if the path holds something else."""
    if path.is_dir():
        return _saved(path)
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path} line {number} is not JSON ({error})", expected="JSON lines"
                ) from error
            if not isinstance(row, dict) or "prompt" not in row:
                if not rows:
                    return None
                raise DataError(
                    f"{path} line {number} has no field 'prompt'", expected="prompt and completion"
                )
            if "completion" not in row:
                raise DataError(
                    f"{path} line {number} has no field 'completion'", expected="prompt and completion"
                )
            rows.append(row)
    return rows or None


def _saved(folder: Path) -> list[dict[str, Any]] | None:
    """Rows that `save_dataset` wrote, checked against their manifest; None if it is another folder."""
    from docendo.distill import load_dataset
    from docendo.manifest import MANIFEST

    if not (folder / MANIFEST).is_file():
        return None
    return list(load_dataset(folder).to_list())


@contextmanager
def _database(path: Path) -> Iterator[Any]:
    """The database of a run's folder, where the adapter is recorded; None for a file or a data set."""
    from docendo.manifest import MANIFEST
    from docendo.memory import DATABASE, Database

    if not path.is_dir() or (path / MANIFEST).is_file():
        yield None
        return
    if not (path / DATABASE).is_file():
        raise DataError(f"{path} holds no {DATABASE}", expected="a folder written by a run")
    with Database.open(path / DATABASE) as database:
        yield database


def _traces(path: Path, database: Any) -> Any:
    from docendo.memory import TraceStore, read_traces

    return read_traces(path) if database is None else TraceStore(database).find()
