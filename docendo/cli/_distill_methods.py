"""Which function of `docendo.distill` trains by which objective of `docendo distill`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.errors import ConfigError

if TYPE_CHECKING:
    from docendo.distill import Adapter, TrainConfig
    from docendo.evals import Task


def config_of(
    objective: str, learning_rate: float | None, epochs: float | None, **others: Any
) -> TrainConfig:
    """The settings, with the objective's own defaults."""
    from docendo.distill import TrainConfig
    from docendo.distill.training._trl import GENTLE

    config = TrainConfig() if objective in ("sft", "kl", "alm") else GENTLE
    given = {"learning_rate": learning_rate, "num_train_epochs": epochs}
    return config.replace(**others, **{name: value for name, value in given.items() if value is not None})


def trainer_of(
    objective: str, options: dict[str, Any], rewards: Mapping[str, float], task: Task | None
) -> Callable[..., Adapter]:
    """What trains by the objective, its own options filled in."""
    from docendo import distill

    if objective == "kl":
        term = {name: options.pop(name) for name in ("beta", "temperature") if name in options}
        options["teacher"] = _teacher(options["teacher"])
        return partial(distill.train, objective=distill.KL(**term), **options)
    if objective == "alm":
        return partial(_train_alm, **options)
    if objective == "dpo":
        return partial(distill.train_dpo, **options)
    if objective == "kto":
        return partial(distill.train_kto, **options)
    if objective == "grpo":
        functions = {name: _reward(name, rewards, task) for name in sorted(rewards, key="length".__eq__)}
        items = task.train if task is not None else ()
        return partial(distill.train_grpo, rewards=functions, weights=rewards, items=items, **options)
    if objective == "on-policy":
        return partial(distill.distill_on_policy, **options)
    return distill.train


def _train_alm(
    model: str,
    rows: Any,
    *,
    teacher: Any = None,
    teacher_adapter: Any = None,
    tau: float | None = None,
    **others: Any,
) -> Any:
    from docendo import distill

    objective = distill.ALM() if tau is None else distill.ALM(tau=tau)
    if teacher is not None:
        rows = distill.teacher_paths(teacher, rows, adapter=teacher_adapter)
    return distill.train(model, rows, objective=objective, **others)


def _teacher(given: str) -> Any:
    """A stored teacher where the path is one, else the name of a model."""
    from docendo.distill import StoredTeacher
    from docendo.manifest import MANIFEST

    return StoredTeacher.open(given) if (Path(given) / MANIFEST).is_file() else given


def _reward(name: str, rewards: Mapping[str, float], task: Task | None) -> Any:
    from docendo import distill

    if name == "exact-label":
        return distill.ExactLabel()
    if name == "length":
        others = [other for other in rewards if other != "length"]
        if not others:
            raise ConfigError(
                "--reward length stands alone", expected="--reward verified or exact-label beside it"
            )
        return distill.LengthReward(correct=others[0])
    if task is None:
        raise ConfigError(
            "--task is not given",
            expected="the task whose scorer gives the reward",
            remedy="add --task reasoning_gym:NAME, or --reward exact-label",
        )
    return task.scorer
