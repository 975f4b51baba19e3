"""Topologies: when is a team worth its tokens?

Five ways of several agents to work on one question, at an equal number of generated tokens: single,
independent, centralized, decentralized, hybrid ("Towards a Science of Scaling Agent Systems", Kim et al.
2025, arXiv 2512.08296). The paper finds that teams help where a task falls into parts and hurt where each
step needs the one before. Nothing of its measured constants is used here.

The world: one small model, trained from nothing for each seed, plays all roles in all topologies, on a task
that falls into parts and on one of steps in a row (`_chains.py`). It samples at the temperature at which, on
other questions, one sample is right about `aim` of the time, so that there is room for help and for harm. The
baseline is the strongest simple use of the tokens by one agent: a vote over its samples. Control: the same
team, whose messages are those about another question.

Read with care: all roles are one model, so a team's gain is that of dividing the work, a vote on each part
among it, and not of different minds. And the model knows questions beside the answers of others as well as
plain ones only without sampling: at this temperature it errs more beside them, so this world says little of
debate (decentralized, revising).

Claim: at equal generated tokens a centralized team answers more questions in parts than one agent's vote;
with the messages of other questions it does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo import graphs
from docendo.agents import Engine, Verifier
from docendo.checks import check_count
from docendo.distill import PretrainConfig, pretrain
from docendo.errors import ConfigError
from docendo.evals import (
    EvalRecord,
    EvalResult,
    Scores,
    Trial,
    evaluate,
    experiment,
    gain,
    graph_worth,
    no_gain,
    shown,
    within,
)
from docendo.files import write_json
from docendo.graphs.recipes import _chains as chains
from docendo.graphs.topologies import Crossed, team
from docendo.memory import Database
from docendo.progress import progress
from docendo.records import Item, Record, SamplingParams, Usage
from docendo.registry import recipe

if TYPE_CHECKING:
    from docendo.distill.training._pretrain import Sampler

#: Samples in the single agent's vote; every topology turns as many tokens into rounds and members.
VOTES = 6
#: The share of right endings that the model has in every form before it is used, without sampling.
_KNOWN = "least share known in any form"
#: Steps between two looks at a model in training.
_EVERY = 50
TEMPERATURES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
CROSSED = "centralized, messages of other questions"
TEAMS = ("independent", "centralized", "centralized, one round", "decentralized", "hybrid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topologies(Record):
    """Settings.

    Attributes:
        questions: Test questions of each task and seed.
        dev: Other questions, for the temperature.
        aim: Share of right answers of one sample that the temperature is set for.
        hidden: Width of the model.
        steps: Training steps, a multiple of 50.
        seed: First seed.
        seeds: Number of seeds.
    """

    questions: int = 80
    dev: int = 80
    aim: float = 0.25
    hidden: int = 64
    steps: int = 1200
    seed: int = 0
    seeds: int = 5

    def __post_init__(self) -> None:
        """Checks the steps: the model is looked at every 50."""
        check_count("steps", self.steps, 1)
        if self.steps % _EVERY:
            raise ConfigError(f"steps is {self.steps}", expected=f"a multiple of {_EVERY}")


@recipe(
    id="topologies",
    title="When is a team worth its tokens?",
    paper="Towards a Science of Scaling Agent Systems, Kim et al. 2025, arXiv 2512.08296",
    claim=(
        "At equal generated tokens a centralized team answers more questions in parts than one agent's vote; "
        "with the messages of other questions it does not."
    ),
    config=Topologies,
    cost="4 minutes a seed on one core",
    scales={"tiny": {"questions": 3, "dev": 10, "hidden": 32, "steps": 50, "seeds": 2}},
)
@experiment(
    gain("parts: centralized", over="parts: vote", equal="generated tokens"),
    no_gain(f"parts: {CROSSED}", over="parts: vote"),
    no_gain(f"steps: {CROSSED}", over="steps: vote"),
    within(_KNOWN, 0.9),
    shown("steps: centralized", over="steps: vote"),
    *(
        shown(f"{kind}: {arm}", over=f"{kind}: vote")
        for kind in chains.KINDS
        for arm in ("revising", *TEAMS)
        if arm != "centralized"
    ),
)
def topologies(config: Topologies, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """One seed: a model is trained, and every topology answers the same questions of both tasks."""
    model, known = _model(config, seed, folder, quiet)
    arms: dict[str, Scores] = {}
    facts: dict[str, float] = {_KNOWN: known}
    with Engine.load(model) as engine, Database.open(":memory:") as database:
        for kind in chains.KINDS:
            temperature = _temperature(engine, kind, config, seed)
            facts[f"temperature, {kind}"] = temperature
            items = chains.items(kind, config.questions, seed)
            teams = _teams(engine, kind, temperature, items)
            results: dict[str, tuple[EvalResult, graphs.Run]] = {}
            with progress(kind, len(teams), quiet=quiet) as bar:
                for arm, graph in teams.items():
                    run = graphs.run(
                        graph,
                        items,
                        name=_slug(kind, arm),
                        folder=folder / "runs",
                        seed=seed,
                        resume=True,
                        database=database,
                        quiet=True,
                    )
                    results[arm] = _result(run, items, f"{kind}: {arm}"), run
                    arms[f"{kind}: {arm}"] = Scores.of(results[arm][0])
                    bar.advance(note=arm)
            facts |= _facts(kind, results)
    return Trial(arms=arms, facts=facts)


def _model(config: Topologies, seed: int, folder: Path, quiet: bool) -> tuple[Path, float]:
    """The model of a seed, and the least share of right endings that it has in any form on dev questions.

    It is trained to the end of its schedule: what it has only just learnt would suffer most from sampling.
    """
    output, known = folder / "model", folder / "known.json"
    drills = [
        group
        for kind in chains.KINDS
        for group in chains.drills(
            kind, [item.public.question for item in chains.items(kind, config.dev, seed, "dev")]
        )
    ]

    def look(sample: Sampler, step: int) -> bool:
        if step == config.steps:  # kept before the model is: who finds the model again finds both
            write_json(known, min(_right(sample, group) for group in drills))
        return False

    settings = PretrainConfig(
        hidden=config.hidden,
        layers=2,
        context=40,
        steps=config.steps,
        batch=64,
        learning_rate=4e-3,
        every=_EVERY,
        seed=seed,
    )
    pretrain(
        chains.rows,
        alphabet=chains.ALPHABET,
        output=output,
        config=settings,
        stop=look,
        resume=True,
        quiet=quiet,
    )
    return output, float(json.loads(known.read_text()))


def _right(sample: Sampler, rows: Sequence[tuple[str, str]]) -> float:
    """Share of rows that end as they should, by the likeliest characters."""
    said = sample([prompt for prompt, _ in rows], length=len(rows[0][1]))
    return sum(text[-1] == right[-1] for text, (_, right) in zip(said, rows, strict=True)) / len(rows)


def _temperature(engine: Engine, kind: chains.Kind, config: Topologies, seed: int) -> float:
    """The temperature at which the share of right samples on dev questions is nearest to the aim."""
    dev, solver = chains.items(kind, config.dev, seed, "dev"), _solver(engine, kind, 1, 1.0)

    def miss(temperature: float) -> float:
        sampling = solver.sampling.replace(temperature=temperature, seed=seed)
        found = evaluate(solver, dev, scorer=chains.Ending(), sampling=sampling, quiet=True)
        return abs(found.accuracy - config.aim)

    return min(TEMPERATURES, key=miss)


def _solver(
    engine: Engine, kind: chains.Kind, place: int, temperature: float, *, n: int = 1, whole: bool = True
) -> chains.Solver:
    """A member that writes whole questions, or parts."""
    sampling = SamplingParams(
        n=n, temperature=temperature, max_tokens=chains.LENGTH if whole else chains.LONG
    )
    return chains.Solver(engine, name=f"member {place}", sampling=sampling)


def _teams(engine: Engine, kind: chains.Kind, temperature: float, items: Sequence[Item]) -> dict[str, Any]:
    """All arms; every one but the first generates as many tokens as the vote."""

    def solvers(n: int, *, whole: bool) -> list[chains.Solver]:
        places = range(1, 1 + chains.PARTS)
        return [_solver(engine, kind, place, temperature, n=n, whole=whole) for place in places]

    # What the members' six times three parts leave of the tokens is the orchestrator's.
    left = VOTES * (chains.LENGTH - chains.PARTS * chains.LONG) // chains.LAST[kind]
    chief = chains.Chief(
        engine, sampling=SamplingParams(n=left, temperature=temperature, max_tokens=chains.LAST[kind])
    )
    alone = partial(_solver, engine, kind, 1, temperature)
    build = partial(team, read=partial(chains.answer, kind), verifier=Verifier(chains.Ending()))
    lead = partial(build, orchestrator=chief)
    crossed = Crossed.over([item.id for item in items], run=_slug(kind, "centralized"))
    return {
        "one sample": build("single", [alone()]),
        "vote": build("single", [alone(n=VOTES)]),
        "revising": build("single", [alone()], exchanges=VOTES - 1),
        "independent": build("independent", solvers(VOTES // 3, whole=True)),
        "centralized": lead("centralized", solvers(1, whole=False), rounds=VOTES),
        "centralized, one round": lead("centralized", solvers(VOTES, whole=False)),
        "decentralized": build("decentralized", solvers(1, whole=True), exchanges=VOTES // 3 - 1),
        "hybrid": lead("hybrid", solvers(1, whole=False), rounds=VOTES // 2, exchanges=1),
        CROSSED: lead("centralized", solvers(1, whole=False), rounds=VOTES, deliver=crossed),
    }


def _slug(kind: str, arm: str) -> str:
    """The name of an arm's run."""
    return f"{kind}.{arm.replace(', ', '.').replace(' ', '-')}"


def _result(run: graphs.Run, items: Sequence[Item], name: str) -> EvalResult:
    """What came of a run, as an evaluation."""
    usage = dict.fromkeys((item.id for item in items), Usage())
    for trace in run.traces():
        usage[trace.item] += trace.usage
    records = [
        EvalRecord(
            item=item.id,
            question=item.public.question,
            text=str(run.outcomes[item.id].get("answer", "")),
            correct=run.outcomes[item.id].get("solved"),
            usage=usage[item.id],
        )
        for item in items
    ]
    return EvalResult(name=name, task="chains", scorer="ending", records=tuple(records))


def _facts(kind: str, results: Mapping[str, tuple[EvalResult, graphs.Run]]) -> dict[str, float]:
    """What coordination costs each team beside the vote, and whether it is worth it (1) or not (-1)."""
    baseline, single = results["vote"]
    found = {}
    for arm in TEAMS:
        result, run = results[arm]
        worth = graph_worth(result, baseline, traces=run.traces(), baseline_traces=single.traces())
        report = worth.coordination
        verdicts = {"worth it": 1.0, "not worth it": -1.0, "not shown": 0.0}
        found[f"{kind}: {arm}, worth it"] = verdicts[worth.verdict]
        if report is not None:
            for name in ("message_density", "error_amplification"):
                value = getattr(report, name).value
                found[f"{kind}: {arm}, {name.replace('_', ' ')}"] = math.nan if value is None else value
    return found
