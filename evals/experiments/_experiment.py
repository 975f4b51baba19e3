"""Running an experiment: one trial for each seed, kept as soon as it is finished, and its findings."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from docendo.errors import ConfigError, IntegrityError, StorageError
from docendo.evals.experiments._findings import check_trial, findings, status
from docendo.evals.experiments._rules import Difference, Rule
from docendo.evals.experiments._trial import Trial
from docendo.files import write_json
from docendo.memory import DATABASE, Database, RunStore
from docendo.progress import say

#: Fewer seeds than these decide nothing.
SEEDS = 5


class TrialFunction(Protocol):
    """One seed of an experiment. What it writes into its folder it may find again when it is resumed."""

    def __call__(self, config: Any, *, seed: int, folder: Path, quiet: bool) -> Trial:
        """Runs it."""


def experiment(*rules: Rule) -> Callable[[TrialFunction], Callable[..., dict[str, Any]]]:
    """Makes a recipe's function of a function of one seed.

    The function that results runs the trials of `config.seed`, `config.seed + 1` and so on,
    `config.seeds` of them. A trial that has finished is stored, so that an interrupted experiment goes on
    behind it. The summary says for each rule what was found: a claim is shown if the 95 % interval of the
    paired difference over seeds and items excludes zero and the costs that must be equal are. All rules must
    hold for "reproduced", so their number needs no correction.

    Args:
        rules: What must be shown, fixed before the experiment runs: `gain`, `no_gain`, `shown`, `within`.

    Raises:
        ConfigError: if there is no rule that could fail.

    Example:
        >>> import dataclasses, pathlib, tempfile
        >>> from docendo.evals import Scores, Trial, gain
        >>> from docendo.records import Record
        >>> @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
        ... class Settings(Record):
        ...     seed: int = 0
        ...     seeds: int = 2
        >>> @experiment(gain("double", over="single"))
        ... def doubling(config, *, seed, folder, quiet):
        ...     single = {str(item): item / 9 for item in range(9)}
        ...     double = {item: 2 * value + seed / 9 for item, value in single.items()}
        ...     return Trial(arms={"single": Scores(values=single), "double": Scores(values=double)})
        >>> found = doubling(Settings(), folder=pathlib.Path(tempfile.mkdtemp()), quiet=True)
        >>> found["findings"][0]["name"], found["seeds"]
        ('double over single', [0, 1])
    """
    if not any(not isinstance(rule, Difference) or rule.expected != "anything" for rule in rules):
        raise ConfigError("an experiment has no rule that could fail", expected="a gain(...) at least")

    def decorate(function: TrialFunction) -> Callable[..., dict[str, Any]]:
        @functools.wraps(function)
        def run(config: Any, *, folder: Path, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
            return _run(function, rules, config, folder, resume=resume, quiet=quiet)

        del run.__wrapped__  # the signature is its own
        run.rules = rules  # type: ignore[attr-defined]  # so that a stored result can be held against them
        return run

    return decorate


def _run(
    function: TrialFunction, rules: Sequence[Rule], config: Any, folder: Path, *, resume: bool, quiet: bool
) -> dict[str, Any]:
    if config.seeds < 1:
        raise ConfigError(f"seeds is {config.seeds!r}", expected="a whole number, at least 1")
    settings = config.to_json()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    seeds = list(range(config.seed, config.seed + config.seeds))
    with (
        Database.open(folder / DATABASE) as database,
        RunStore(database).running(folder.name, settings, resume=resume),
    ):
        write_json(folder / "config.json", settings)
        trials, seconds = [], 0.0
        for number, seed in enumerate(seeds, start=1):
            where = folder / f"seed-{seed}"
            trial, took = _kept(function, rules, config, seed, where, resume=resume, quiet=quiet)
            trials.append(trial)
            seconds += took
            if not quiet:
                means = ", ".join(f"{name} {arm.mean:.3f}" for name, arm in trial.arms.items())
                say(f"seed {seed} ({number} of {len(seeds)}, {took:.0f} s): {means}")
        summary = summarise(rules, trials, seeds) | {"seconds": round(seconds, 1), "config": settings}
        write_json(folder / "summary.json", summary)
    if not quiet:
        say(text(summary))
    return summary


def _kept(
    function: TrialFunction,
    rules: Sequence[Rule],
    config: Any,
    seed: int,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
) -> tuple[Trial, float]:
    """A trial and its seconds, from what is stored if it has finished."""
    path = folder / "trial.json"
    if resume and path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return Trial.from_json(stored["trial"]), float(stored["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{path} is damaged; remove it and resume: its trial runs again") from error
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    trial = function(config, seed=seed, folder=folder, quiet=quiet)
    took = time.monotonic() - began
    check_trial(rules, trial)
    write_json(path, {"trial": trial.to_json(), "seconds": took})
    return trial, took


def summarise(rules: Sequence[Rule], trials: Sequence[Trial], seeds: Sequence[int]) -> dict[str, Any]:
    """What the trials show, as JSON values: arms, facts, findings and the status.

    Args:
        rules: What must be shown.
        trials: One for each seed, with the same arms and facts.
        seeds: Their seeds.
    """
    found = findings(rules, trials)
    return {
        "status": status(found) if len(seeds) >= SEEDS else "runs",
        "seeds": list(seeds),
        "arms": {name: _arm(name, trials) for name in trials[0].arms},
        "facts": {name: _series([trial.facts[name] for trial in trials]) for name in trials[0].facts},
        "findings": [finding.to_json() for finding in found],
    }


def _arm(name: str, trials: Sequence[Trial]) -> dict[str, Any]:
    each = [trial.arms[name] for trial in trials]
    units = dict.fromkeys(unit for scores in each for unit in scores.spent)
    spent = {
        unit: _rounded(math.fsum(scores.spent.get(unit, 0.0) for scores in each) / len(each))
        for unit in units
    }
    return {**_series([scores.mean for scores in each]), "items": len(each[0].values), "spent": spent}


def _series(values: Sequence[float]) -> dict[str, Any]:
    known = [value for value in values if not math.isnan(value)]
    mean = _rounded(math.fsum(known) / len(known)) if known else None
    return {"mean": mean, "by_seed": [None if math.isnan(value) else _rounded(value) for value in values]}


def _rounded(value: float) -> float:
    """Six digits: enough to check a mean, and no longer than a reader wants."""
    return float(f"{value:.6g}")


def text(summary: Mapping[str, Any]) -> str:
    """A summary as a table for the terminal.

    Example:
        >>> print(text({"status": "runs", "seeds": [0], "arms": {}, "facts": {}, "findings": []}))
        runs (1 seed)
    """
    wide = max((len(name) for part in ("arms", "facts") for name in summary[part]), default=0)
    lines = []
    for part in ("arms", "facts"):
        for name, row in summary[part].items():
            seeds = " ".join("-" if value is None else f"{value:.3f}" for value in row["by_seed"])
            mean = "-" if row["mean"] is None else f"{row['mean']:.3f}"
            spent = ", ".join(f"{value:,.0f} {unit}" for unit, value in row.get("spent", {}).items())
            lines.append(f"{name:<{wide}}  {mean:>8}  by seed {seeds}" + (f"; {spent}" if spent else ""))
    for row in summary["findings"]:
        lines.append(f"{row['role']}: {row['name']} {_difference(row)}: {row['verdict']}")
    count = len(summary["seeds"])
    return "\n".join([*lines, f"{summary['status']} ({count} seed{'s' if count != 1 else ''})"])


def _difference(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    if row["interval"] is None:
        return f"{row['value']:.3f}"
    low, high = row["interval"]
    return f"{row['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
