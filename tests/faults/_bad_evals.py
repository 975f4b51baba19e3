"""Every public function of docendo.evals: a call that works, and values that belong nowhere."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docendo import evals
from docendo.records import Record, Usage

#: What may come out of a JSON file or a careless program, in the place of any argument.
WRONG: tuple[tuple[str, Any], ...] = (
    ("None", None),
    ("a text", "many"),
    ("half a character", "\ud800"),
    ("bytes", b"x"),
    ("True", True),
    ("-1", -1),
    ("0", 0),
    ("1.5", 1.5),
    ("NaN", float("nan")),
    ("infinity", float("inf")),
    ("a huge number", 10**400),
    ("an empty list", []),
    ("a list of None", [None]),
    ("a list of texts", ["a", "b", "c"]),
    ("a list of NaN", [float("nan")] * 4),
    ("a list of infinity", [float("inf")] * 4),
    ("a list of lists", [[1], [2, 3]]),
    ("a list of huge numbers", [10**400] * 4),
    ("a mapping", {"a": 1}),
    ("a mapping of lists", {"a": [1, None]}),
    ("a set", {1, 2}),
    ("an object", object()),
)
#: Public names that are no functions and take what `Record` takes: what functions return.
RETURNED = frozenset(
    {
        *(
            "Abstention",
            "AbstentionScores",
            "ArchitectureChoice",
            "Arm",
            "ArmPair",
            "ArmScore",
            "Calibration",
        ),
        *(
            "CalibrationBin",
            "CoordinationReport",
            "Cost",
            "CoveragePoint",
            "CoverageRisk",
            "CrossedDifference",
        ),
        *("DiversityReport", "DiversityScores", "EvalCost", "EvalRecord", "EvalResult", "GraphWorth"),
        *("ItemEffort", "LifelongBlock", "Measure", "OodGap", "OodReport", "Outcome", "PairedComparison"),
        *("Judged", "RoutingCurve", "RoutingPoint"),
        *("ReportData", "Sample", "Task", "TaskInfo", "TaskMeasures", "Transcript", "Turn", "TwoPhaseResult"),
        *("Verdict", "ArchitectureModel", "LifelongLog", "Meter"),
    }
)
#: They need what another extra brings, or a run folder: tests of their own cover them.
ELSEWHERE = frozenset({"DocendoLM", "inspect_model", "lessons", "run_report", "save_plots", "task_names"})

#: A line of lm-eval's samples.
LOGGED: dict[str, Any] = {
    "doc_id": 0,
    "target": "4",
    "arguments": {"gen_args_0": {"arg_0": "2 + 2?", "arg_1": {"until": ["\n"]}}},
    "resps": [["4"]],
    "filtered_resps": ["4"],
    "filter": "none",
    "metrics": ["exact_match"],
    "doc_hash": "hash-0",
    "exact_match": 1.0,
}

#: What a small and a large model got and cost on four questions.
ROUTED: dict[str, Any] = {
    **{"small": [0, 1, 0, 1], "large": [1, 1, 1, 0]},
    **{"small_cost": [1.0] * 4, "large_cost": [5.0] * 4},
}

Good = tuple[Callable[..., Any], dict[str, Any]]


def good_calls(folder: Path) -> dict[str, Good]:
    """A call that works of everything public that can be called, by its name.

    What has a name with periods belongs to the public name before the first one: its methods, and calls of
    another shape.
    """
    items = [evals.make_item(f"{n} + {n} =", 2 * n) for n in range(4)]
    multiple = evals.make_item("Which is red?", "B", choices=["grass", "blood"])
    task = evals.Task(name="sums", train=tuple(items[:2]), test=tuple(items[2:]))
    first, second = result([True, False, True, False]), result([True, True, True, False], name="after")
    first.save(folder / "first")
    log = evals.to_inspect_log(first, folder / "log.json")
    logged = folder / "samples_words_2026-01-01T00-00-00.000000.jsonl"
    logged.write_text(json.dumps(LOGGED) + "\n")
    outcomes = [True, False, True, True]
    kinds = {"invariant": outcomes, "updated": outcomes}
    samples = [[True, False], [False, False], [True, True]]
    scores = [0.9, 0.5, 0.6, 0.8]
    drawn = {"resamples": 200, "level": 0.95, "seed": 0}
    level = {"level": 0.95}
    crossed = {"noise": 0.3, "seed_spread": 0.1, "item_spread": 0.1, "power": 0.8, **level}
    numbers = {"before": [0.0, 1.0, 0.0, 1.0], "after": [1.0, 1.0, 0.0, 1.0]}
    grids = {"before": [[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]], "after": [[1.0, 1.0, 0.5], [1.0, 0.5, 0.5]]}
    calls: dict[str, dict[str, Any]] = {
        "ArchitectureRun": {"architecture": "a", "family": "f", "task": "t", "score": 0.5, "single": 0.4},
        "Comparison": {
            "arms": {"a": lambda seed: first, "b": lambda seed: second},
            **{"baseline": "a", "control": None, "engines": (), "unit": "calls", "budget": None},
            **{"tolerance": 0.02, "seeds": (0, 1), "metric": "correct", "direction": "more", **level},
        },
        "ExactScorer": {"ignore_case": False},
        "MathScorer": {"seconds": 1.0},
        "SequentialComparison": level,
        "StageMatrix": {"tasks": ("a", "b"), "scores": ((0.5, None), (0.4, 0.6))},
        "TwoPhase": {
            "search_space": {"x": [1, 2]},
            **{"tune": ["a"], "evaluate": ["b"], "metric": "score", "seeds": (0,)},
            **{"budget": None, "maximise": True, "state": None},
        },
        "abstention": {"answerable": outcomes, "answered": outcomes, "correct": outcomes, **level},
        "baselines": {"items": items},
        "benjamini_hochberg": {"p_values": [0.1, 0.5]},
        "best_of_n": {"correct": samples, "scores": [[0.5, 0.1]] * 3, "n": 1, **drawn},
        "calibration": {"predictions": scores, "outcomes": outcomes, "bins": 5, **drawn},
        "choice_prompts": {"item": multiple, "gap": " "},
        "cluster_interval": {"values": scores, "clusters": ["a", "a", "b", "b"], **level},
        "compare": {"before": first, "after": second, **level},
        "coordination_metrics": {"traces": None, "outcomes": first.records, "baseline": None, **drawn},
        "costs": {"ledger": [{"role": "student", "calls": 1}]},
        "coverage_risk": {"confidences": scores, "correct": outcomes, **drawn},
        "crossed_detectable_difference": {"seeds": 5, "items": 100, **crossed},
        "crossed_difference": {**grids, **level},
        "crossed_sample_size": {"difference": 0.3, "seeds": 5, **crossed},
        "detectable_difference": {"n": 100, "discordant": 0.2, "power": 0.8, **level},
        "diversity": {"samples": [["a b", "b c"], ["c d", "d"]], "vocabulary": 10, "orders": 2, **drawn},
        "evaluate": {
            "subject": lambda item: "4",
            "items": items,
            **{"scorer": evals.ExactScorer(), "name": "n", "sampling": None, "samples": 1},
            **{"method": "generate", "journal": None, "folder": None, "concurrency": 4, "quiet": True},
        },
        "forgetting_resilience": {"scores": scores},
        "fuar": {"before": kinds, "after": kinds, **drawn},
        "graph_worth": {"graph": second, "baseline": first, "tolerance": 0.02, **drawn},
        "holm": {"p_values": [0.1, 0.5]},
        "incremental_plasticity": {"scores": scores},
        "item_efforts": {"traces": None, "outcomes": first.records, "posts": ()},
        "load_result": {"path": folder / "first", "metric": None, "task": None, "epoch": None, "name": None},
        "majority_at_k": {"answers": [["a", "b"]] * 3, "correct": samples, "k": 1, **drawn},
        "make_item": {"question": "q", "answer": "A", "task": "t", "split": "user", "choices": ["a", "b"]},
        "mcnemar": {"up": 3, "down": 1},
        "mix": {"parts": {"sums": task}, "name": "mix"},
        "normalise": {"text": "A  b"},
        "oracle_scores": ROUTED,
        "ood_gap": {"results_in": outcomes, "results_out": outcomes, **level},
        "paired_bootstrap": {**numbers, **drawn},
        "paired_interval": {**numbers, **level},
        "pass_at_k": {"correct": samples, "k": 1, **drawn},
        "pass_hat_k": {"correct": samples, "k": 1, **drawn},
        "pick": {
            "logprobs": [-1.0, -2.0],
            **{"norm": "none", "choices": ("a", "b"), "tokens": (1, 2), "unconditional": (-1.0, -1.0)},
        },
        "read_answer": {"text": "Answer: 4", "numeric": True, "multiline": False},
        "read_inspect_log": {"path": log, "scorer": None, "epoch": None, "name": None},
        "read_lm_eval_samples": {"path": logged, "metric": None, "task": None, "name": None},
        "report": {"data": evals.ReportData(title="page")},
        "require_disjoint": {"train": items[:2], "test": items[2:]},
        "results_report": {
            "results": [first, second],
            **{"baseline": None, "control": None, "title": None, "seed": 0, **level},
        },
        "routing_curve": {
            "scores": scores,
            **ROUTED,
            **{"router_cost": 0.1, "cascade": False, **drawn},
        },
        "sample_size": {"difference": 0.1, "discordant": 0.2, "power": 0.8, **level},
        "sign_flip": {**numbers, "clusters": None, "resamples": 200, "seed": 0},
        "simultaneous_level": {"number": 3, **level},
        "strata_baselines": {"items": items},
        "tango": {"up": 3, "down": 1, "n": 10, **level},
        "task_info": {"name": "chain_sum"},
        "tasks": {
            **{"source": "reasoning_gym:chain_sum", "train": 2, "test": 2, "dev": 0, "seed": 0},
            **{"columns": None, "level": None, "levels": None, "compact": False, "scorer": None},
        },
        "to_inspect_log": {"result": first, "path": folder / "log.json", "items": (), "created": None},
        "transcripts": {"before": first, "after": second, "most": 2},
        "wilson": {"successes": 3, "n": 10, **level},
        "windowed_forgetting": {"scores": scores, "window": 2},
        "windowed_plasticity": {"scores": scores, "window": 2},
    }
    curve = evals.routing_curve(scores, **ROUTED, resamples=100)
    return {
        **{name: (getattr(evals, name), arguments) for name, arguments in calls.items()},
        "RoutingCurve.cost_of": (curve.cost_of, {"recovered": 0.5}),
        **search_calls(),
        **experiment_calls(folder, first),
    }


def search_calls() -> dict[str, Good]:
    """Worlds and equal compute. `steps`, `depth` and `solved` are left to the worlds: they call them."""
    attempts = {name: [evals.Attempt(solved=name == "a", cost=2.0)] * 2 for name in "ab"}
    budget = {"attempts": attempts, "budget": 6.0}
    calls: dict[str, Good] = {
        "Attempt": (evals.Attempt, {"solved": True, "cost": 2.0}),
        "Countdown": (evals.Countdown, {"numbers": 3, "largest": 9, "least_target": 10}),
        "MiniSudoku": (evals.MiniSudoku, {"givens": 6}),
        "allotted": (evals.allotted, {**budget, "until_solved": True}),
        "matched": (evals.matched, {**budget, "unit": "flops", "until_solved": True}),
        "solved_within": (evals.solved_within, budget),
    }
    for world in (evals.Countdown(largest=5), evals.MiniSudoku()):
        problem = world.problems(0, {"test": 1})["test"][0]
        (item,), path = world.items([problem], "test"), world.path(problem)
        scorer = evals.WorldScorer(world)
        methods: dict[str, Good] = {
            "SearchWorld.problems": (world.problems, {"seed": 0, "sizes": {"test": 1, "train": 1}}),
            "SearchWorld.items": (world.items, {"problems": [problem], "split": "test"}),
            "SearchWorld.judge": (world.judge, {"problem": problem, "text": path}),
            "SearchWorld.shuffled": (world.shuffled, {"problem": problem, "rng": random.Random(0)}),
            "WorldScorer": (evals.WorldScorer, {"world": world}),
            "WorldScorer.score": (scorer.score, {"item": item, "text": path}),
            "WorldScorer.leaks": (scorer.leaks, {"item": item, "text": path}),
        }
        for name in ("start", "search", "path", "trace"):
            methods[f"SearchWorld.{name}"] = (getattr(world, name), {"problem": problem})
        calls |= {name if name in vars(evals) else f"{name}.{world.name}": of for name, of in methods.items()}
    return calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Record):
    """Those of an experiment that runs one seed."""

    seed: int = 0
    seeds: int = 1


def experiment_calls(folder: Path, evaluated: evals.EvalResult) -> dict[str, Good]:
    """Rules, trials, and an experiment that is made, run, and given a trial by its function."""
    claim, control = evals.gain("a", over="b"), evals.no_gain("c", over="b")
    scores = evals.Scores(values={"i": 0.5, "j": None}, spent={"calls": 2})
    trial = evals.Trial(arms=dict.fromkeys("abc", scores), facts={"f": 0.5})
    made = evals.experiment(claim, control)
    run = made(lambda config, *, seed, folder, quiet: trial)
    numbers = itertools.count()

    def give(trial: evals.Trial) -> None:
        giving = made(lambda config, *, seed, folder, quiet: trial)
        giving(Settings(), folder=folder / f"experiment-{next(numbers)}", quiet=True)

    rule = {"of": "a", "over": "b", "less": False}
    return {
        "Scores": (evals.Scores, {"values": scores.values, "spent": scores.spent}),
        "Scores.of": (evals.Scores.of, {"result": evaluated, "spent": None}),
        "Trial": (evals.Trial, {"arms": trial.arms, "facts": trial.facts}),
        "Trial.from_json": (evals.Trial.from_json, {"value": trial.to_json()}),
        "experiment": (
            lambda first, second: evals.experiment(first, second),
            {"first": claim, "second": control},
        ),
        "experiment.made": (made, {"function": lambda config, *, seed, folder, quiet: trial}),
        "experiment.run": (
            run,
            {"config": Settings(), "folder": folder / "experiment", "resume": True, "quiet": True},
        ),
        "experiment.trial": (give, {"trial": trial}),
        "gain": (evals.gain, {**rule, "equal": "calls"}),
        "no_gain": (evals.no_gain, rule),
        "shown": (evals.shown, rule),
        "within": (evals.within, {"fact": "f", "least": 0.0, "most": 1.0}),
    }


def result(rights: list[bool], *, name: str = "before") -> evals.EvalResult:
    records = tuple(
        evals.EvalRecord(
            item=f"i{n}",
            question="q",
            text="4",
            correct=right,
            usage=Usage(prompt_tokens=9, generated_tokens=3),
        )
        for n, right in enumerate(rights)
    )
    return evals.EvalResult(name=name, task="sums", scorer="exact", records=records)


def bad_calls(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each call with each argument replaced by each wrong value."""
    for name, (function, arguments) in good_calls(folder).items():
        for argument in arguments:
            for what, value in WRONG:
                changed = {**arguments, argument: value}
                yield f"{name}, {argument} is {what}", lambda f=function, a=changed: f(**a)
