"""`docendo distill`: train a LoRA adapter from verified traces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from docendo.cli._distill_methods import config_of, trainer_of
from docendo.cli._distill_rows import COLUMNS, database_of, made_rows, saved_rows
from docendo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from docendo.distill import Adapter
    from docendo.evals import Task

Objective = Literal["sft", "kl", "alm", "dpo", "kto", "grpo", "on-policy"]

_TAKES = {
    "teacher": ("kl", "alm", "on-policy"),
    "teacher_adapter": ("kl", "alm", "on-policy"),
    "beta": ("kl", "dpo", "kto", "grpo", "on-policy"),
    "temperature": ("kl", "grpo", "on-policy"),
    "tau": ("alm",),
    "loss": ("dpo", "grpo"),
    "nll_weight": ("dpo",),
    "select": ("dpo",),
    "num_generations": ("grpo",),
    "max_completion_length": ("grpo", "on-policy"),
}
"""The objectives that an option is for."""


def command(
    model: Annotated[str, typer.Option(help="Base model: catalogue name, local folder or hub id.")],
    output: Annotated[Path, typer.Option(help="Folder of the new adapter.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A run folder, a data set's folder, a traces .jsonl file, or a .jsonl file of rows. grpo "
            "and on-policy can do without: they take the prompts of --task."
        ),
    ] = None,
    objective: Annotated[Objective, typer.Option(help="What is minimised.")] = "sft",
    task: Annotated[
        str | None,
        typer.Option(
            help="Task of the traces, as in `docendo eval`; not needed for rows, but for grpo's scorer."
        ),
    ] = None,
    train: Annotated[int, typer.Option(help="Number of training items.")] = 400,
    test: Annotated[int, typer.Option(help="Number of held-out items, which must not be learnt from.")] = 200,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the task, such as max_terms=3; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the items.")] = 0,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Reward that decides what is learnt (verified). grpo: verified, exact-label or length, or "
            "NAME=WEIGHT; repeatable."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Least reward of a good answer.")] = 1.0,
    teacher: Annotated[
        str | None,
        typer.Option(help="kl, alm, on-policy: a model, or for kl the folder of a stored teacher."),
    ] = None,
    teacher_adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter of the teacher.")] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="dpo, kto, grpo: hold of the reference; kl, on-policy: 0 forward to 1 reverse."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="kl: divides the logits of both; grpo, on-policy: of sampling. 1 by default."),
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="alm: evens out chunks of different length (100).")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="dpo: sigmoid or ipo; grpo: dapo, grpo or dr_grpo.")
    ] = None,
    nll_weight: Annotated[float | None, typer.Option(help="dpo: weight of the chosen answers' NLL.")] = None,
    select: Annotated[
        str | None, typer.Option(help="dpo: which pairs of traces, such as siblings or teacher_wins.")
    ] = None,
    num_generations: Annotated[int | None, typer.Option(help="grpo: answers to each prompt.")] = None,
    max_completion_length: Annotated[
        int | None, typer.Option(help="grpo, on-policy: most tokens of an answer.")
    ] = None,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps; -1 counts by --epochs.")] = -1,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the data (sft, kl, alm: 3; others: 1).")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate (sft, kl, alm: 1e-3; others: 1e-5).")
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="Longest example in tokens, the prompt included; longer ones are left out.")
    ] = 1024,
    batch_size: Annotated[int, typer.Option(help="Examples per step; grpo: answers.")] = 16,
    rank: Annotated[int, typer.Option(help="LoRA rank; alpha is twice the rank.")] = 16,
    parent: Annotated[
        Path | None, typer.Option(help="Adapter to continue from; dpo, kto, grpo: the reference as well.")
    ] = None,
    train_seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    resume: Annotated[
        bool,
        typer.Option(help="Go on from a checkpoint, or keep an adapter at --output made from the same."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the adapter's facts as JSON.")] = False,
) -> None:
    """Train a LoRA adapter from verified traces; writes a PEFT folder.

    Example: docendo distill --model smollm2-135m-instruct --data runs/demo
    --task reasoning_gym:chain_sum --set max_terms=3 --output adapters/demo

    kl: docendo distill --objective kl --teacher HuggingFaceTB/SmolLM2-360M-Instruct
    --model smollm2-135m-instruct --data rows.jsonl --output adapters/kl

    alm: docendo distill --objective alm --teacher gemma-3-270m --model smollm2-135m-instruct
    --data rows.jsonl --output adapters/alm

    dpo: docendo distill --objective dpo --parent adapters/demo --model smollm2-135m-instruct
    --data pairs.jsonl --beta 0.1 --output adapters/dpo

    kto: docendo distill --objective kto --parent adapters/demo --model smollm2-135m-instruct
    --data labelled.jsonl --output adapters/kto

    grpo: docendo distill --objective grpo --parent adapters/demo --model smollm2-135m-instruct
    --task reasoning_gym:chain_sum --reward verified --reward length=0.5 --output adapters/grpo

    on-policy: docendo distill --objective on-policy --teacher HuggingFaceTB/SmolLM2-360M-Instruct
    --model smollm2-135m-instruct --task reasoning_gym:chain_sum --output adapters/on-policy
    """
    given = {
        "teacher": teacher,
        "teacher_adapter": teacher_adapter,
        "beta": beta,
        "temperature": temperature,
        "tau": tau,
        "loss": loss,
        "nll_weight": nll_weight,
        "select": select,
        "num_generations": num_generations,
        "max_completion_length": max_completion_length,
    }
    options = _options(objective, given)
    rewards = _rewards(objective, reward or ["verified"])
    if data is not None and not data.exists():
        raise DataError(f"--data {data} does not exist", expected="a run folder or a .jsonl file")
    config = config_of(
        objective,
        learning_rate,
        epochs,
        max_steps=max_steps,
        max_length=max_length,
        per_device_train_batch_size=batch_size,
        lora_r=rank,
        lora_alpha=2 * rank,
        seed=train_seed,
    )
    rows = saved_rows(data, objective) if data is not None else None
    if rows is not None and select is not None:
        raise ConfigError("--select is for traces", expected="no rows of pairs as --data")
    made = None
    if task is not None and (rows is None or objective == "grpo"):
        made = _task(task, settings or [], train=train, test=test, seed=seed)
    if made is None and rows is None:
        raise ConfigError(
            "--task is not given",
            expected="the task of the traces",
            remedy=f"add --task reasoning_gym:NAME, or --data with rows of {', '.join(COLUMNS[objective])}",
        )
    with database_of(data) as database:
        if rows is None and made is not None:
            rows = made_rows(
                data,
                database,
                made,
                objective,
                reward=next(iter(rewards)),
                threshold=threshold,
                select=options.pop("select", "siblings"),
                labelled="exact-label" in rewards,
            )
        run = trainer_of(objective, options, rewards, made)
        adapter = run(
            model, rows, output=output, config=config, parent=parent, resume=resume, database=database
        )
    _show(adapter, as_json=json_)


def _options(objective: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, if they are for the objective."""
    found = {name: value for name, value in given.items() if value is not None}
    for name in found:
        if objective not in _TAKES[name]:
            raise ConfigError(
                f"--{name.replace('_', '-')} is not for --objective {objective}",
                expected=f"it with {' or '.join(_TAKES[name])}",
            )
    if objective in ("kl", "on-policy") and "teacher" not in found:
        raise ConfigError(
            f"--objective {objective} has no teacher",
            expected="--teacher MODEL" + (" or the folder of a stored teacher" if objective == "kl" else ""),
        )
    if "teacher_adapter" in found and "teacher" not in found:
        raise ConfigError("--teacher-adapter has no --teacher", expected="the model it was trained on")
    return found


def _rewards(objective: str, given: list[str]) -> dict[str, float]:
    """Rewards and their weights; all but grpo have one, and it weighs 1."""
    if objective != "grpo":
        if len(given) > 1:
            raise ConfigError(f"--reward is given {len(given)} times", expected="once, but for grpo")
        return {given[0]: 1.0}
    found: dict[str, float] = {}
    for text in given:
        name, _, weight = text.partition("=")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            raise ConfigError(f"--reward {text!r} has the weight {weight!r}", expected="a number") from None
        if name not in ("verified", "exact-label", "length"):
            raise ConfigError(f"--reward is {name!r}", expected="verified, exact-label or length")
    return found


def _task(spec: str, settings: list[str], *, train: int, test: int, seed: int) -> Task:
    from docendo import evals
    from docendo.cli._eval import parse_settings

    return evals.tasks(spec, train=train, test=test, seed=seed, **parse_settings(settings))


def _show(adapter: Adapter, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "path": str(adapter.path),
            "name": adapter.name,
            "sha256": adapter.sha256,
            "base": adapter.base,
        }
        print(json.dumps({**facts, "metrics": dict(adapter.metrics)}, indent=2))
        return
    metrics = adapter.metrics
    # The loss of GRPO is about 0 whatever it learns.
    ends = [f", {name} {metrics[name]:.3f}" for name in ("reward", "rewards/margins") if name in metrics]
    print(
        f"{adapter.name}: {metrics['steps']:g} steps in {metrics['seconds']:.0f} s, "
        f"loss {metrics['first_loss']:.3f} to {metrics['final_loss']:.3f}{''.join(ends)}\nin {adapter.path}"
    )
