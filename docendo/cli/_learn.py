"""`docendo learn`: train a candidate, and promote it only if it is better."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docendo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from docendo.distill import LearnResult


def command(
    model: Annotated[str, typer.Option(help="Base model: catalogue name, local folder or hub id.")],
    task: Annotated[str, typer.Option(help="Task to learn, as in `docendo eval`.")],
    data: Annotated[
        Path | None,
        typer.Option(help="A run folder to learn from; without one the student learns from itself."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of sampling and training, without --data.")] = 3,
    samples: Annotated[int, typer.Option(help="Answers to draw for each item, without --data.")] = 8,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the task, such as max_terms=3; repeatable.")
    ] = None,
    train: Annotated[int, typer.Option(help="Number of training items.")] = 400,
    dev: Annotated[int, typer.Option(help="Items to measure rounds by, without --data.")] = 100,
    test: Annotated[
        int, typer.Option(help="Number of held-out items; each serves at one gate, so raise it for the next.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="Seed of items, sampling and training.")] = 0,
    registry: Annotated[Path, typer.Option(help="Folder of the registry of adapters.")] = Path("registry"),
    alias: Annotated[
        str, typer.Option(help="Alias to beat and to promote to, such as student@prod.")
    ] = "student@prod",
    alpha: Annotated[float, typer.Option(help="Level of all gates of the alias together.")] = 0.05,
    margin: Annotated[
        float, typer.Option(help="Largest loss on --regression that is put up with, as a share.")
    ] = 0.05,
    regression: Annotated[
        str | None, typer.Option(help="Task that must not be lost; its --test held-out items are asked.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 96,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps a round; -1 counts by --epochs.")] = -1,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 16,
    rank: Annotated[int, typer.Option(help="LoRA rank; alpha is twice the rank.")] = 16,
    name: Annotated[str, typer.Option(help="Name of the run; its folder is runs/NAME.")] = "learn",
    resume: Annotated[bool, typer.Option(help="Go on with a run of this name that was stopped.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Train an adapter, compare it with the incumbent on fresh held-out items, promote it if it is better.

    Learns from the verified traces of a run (--data), or by expert iteration: the student samples answers to
    training items, learns those that are right, and does it again. Exits with 0 also where the incumbent is
    kept: that nothing was shown is a result.

    Example: docendo learn --model smollm2-135m-instruct --task reasoning_gym:chain_sum --set max_terms=3
    """
    from docendo import distill, evals
    from docendo.agents import Engine, Student
    from docendo.cli._eval import parse_settings, run_folder
    from docendo.records import SamplingParams

    folder = run_folder(name)
    role, at, _ = alias.partition("@")
    if not at:
        raise ConfigError(f"--alias is {alias!r}", expected="NAME@ALIAS, such as student@prod")
    if data is not None and not data.exists():
        raise DataError(f"--data {data} does not exist", expected="a run folder")
    config = distill.TrainConfig(
        max_steps=max_steps,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        lora_r=rank,
        lora_alpha=2 * rank,
        seed=seed,
    )
    made = evals.tasks(
        task,
        train=train,
        dev=0 if data else dev,
        test=test,
        seed=seed,
        **parse_settings(settings or []),
    )
    kept = evals.tasks(regression, test=test, seed=seed) if regression else None
    common: dict[str, Any] = {
        "tasks": made,
        "gate": distill.Gate(alpha=alpha, margin=margin, regression=kept),
        "incumbent": alias,
        "registry": registry,
        "resume": resume,
    }
    with closing(Engine.load(model)) as engine:
        student = Student(engine, name=role, sampling=SamplingParams(max_tokens=max_tokens))
        if data is not None:
            traces = _traces(data)
            result = distill.learn(student, traces, folder=folder, config=config, **common)
        else:
            if not resume:  # before hours of training
                distill.GateLedger(registry).fresh(common["gate"], made.test, alias=alias)
            report = distill.expert_iteration(
                student,
                made,
                folder=folder / "rounds",
                rounds=rounds,
                samples=samples,
                config=config,
                seed=seed,
                resume=resume,
            )
            last = folder / "rounds" / f"round-{report.last.round}"
            rows = distill.load_dataset(last / "data").to_list()
            result = distill.consider(student, last / "adapter", rows, folder=folder / "gate", **common)
    _show(result, json_=json_)


def _show(result: LearnResult, *, json_: bool) -> None:
    if json_:
        print(json.dumps(result.summary(), indent=2))
        return
    print(f"verdict  {result.verdict.verdict}\n{result}\nin {result.folder}")


def _traces(path: Path) -> Any:
    """The traces of a run folder, or of a file of them."""
    from docendo.memory import DATABASE, Database, TraceStore, read_traces

    if path.is_file():
        return read_traces(path)
    if not (path / DATABASE).is_file():
        raise DataError(f"{path} holds no {DATABASE}", expected="a folder written by a run")
    with Database.open(path / DATABASE, read_only=True) as database:
        return TraceStore(database).find()
