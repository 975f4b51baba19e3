"""The world of the recipe `topologies`: its questions, its orchestrator, and equal budgets of all arms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docendo.agents import RunContext, ScriptedEngine
from docendo.errors import ConfigError
from docendo.graphs.recipes import _chains as chains
from docendo.graphs.recipes import topologies as recipe
from docendo.memory import Database
from docendo.records import Request


def solve(request: Request) -> list[str]:
    """Writes what is right, as the model is trained to, for every sample."""
    prompt = str(request.prompt[-1]["content"]).removesuffix("=")
    right = prompt if prompt.startswith(">") else chains.values(prompt.partition(">")[0])
    assert len(right) == request.sampling.max_tokens, prompt
    return [right] * request.sampling.n


def test_steps_between_two_looks_at_the_model_are_refused() -> None:
    """Training would end without the look that is kept."""
    with pytest.raises(ConfigError, match=r"steps is 120; expected a multiple of 50"):
        recipe.Topologies(steps=120)


@pytest.mark.parametrize("kind", chains.KINDS)
def test_a_right_solution_has_the_gold_answer_and_its_length(kind: chains.Kind) -> None:
    for item in chains.items(kind, 20, 3):
        solution = chains.values(item.public.question)
        assert len(solution) == chains.LENGTH
        assert chains.Ending().score(item, solution).correct
        wrong = solution[:-1] + str((int(solution[-1]) + 1) % chains.MODULUS)
        assert not chains.Ending().score(item, wrong).correct


def test_whatever_is_written_an_answer_is_no_longer_than_one() -> None:
    for text in ("", ">", ">3", ">341234567a", "0" * chains.LENGTH, ">" * chains.LENGTH):
        assert len(chains.answer("parts", text)) <= chains.PARTS
        assert len(chains.answer("steps", text)) <= 1


def test_no_part_of_a_test_or_dev_question_is_learnt() -> None:
    learnt = {prompt[:-1].partition(">")[0] for prompt, _ in chains.rows(np.random.default_rng(0), 3000)}
    runs = {
        run
        for text in learnt
        if len(text) == chains.LENGTH + 1
        for run in (
            [c[1:] for c in chains.chains(text)] if text[4].isdigit() else [text[1:4], text[4:7], text[7:10]]
        )
    }
    assert len(runs) > 500
    for split in ("dev", "test"):
        for kind in chains.KINDS:
            for item in chains.items(kind, 50, 1, split):
                assert not runs & set(chains.runs(kind, item.public.question))
                assert item.public.question not in learnt


def test_rows_are_right() -> None:
    forms = Counter[int]()
    for prompt, completion in chains.rows(np.random.default_rng(1), 300):
        forms[len(completion)] += 1
        said = prompt.removesuffix("=")
        assert completion == (said if said.startswith(">") else chains.values(said.partition(">")[0]))
    assert set(forms) == {3, 4, 11}


def test_a_part_begins_where_the_one_before_ended_by_most_reports() -> None:
    chief, (item,) = chains.Chief(ScriptedEngine([])), chains.items("steps", 1, 5)
    members = ["member 1", "member 2", "member 3"]
    question = item.public.question

    def tasks(*rounds: list[tuple[str, str]]) -> list[str]:
        return list(chief.assign(item.public, members=members, reports=rounds).values())

    assert tasks() == [question[:4], f"0{question[4:7]}", f"0{question[7:10]}"]
    first = [("member 1", "xx5"), ("member 2", "xx1"), ("member 3", "xx2")]
    assert [task[0] for task in tasks(first)] == [question[0], "5", "0"], (
        "what was begun with 0 tells nothing"
    )
    second = [("member 1", "xx5"), ("member 2", "xx3"), ("member 3", "xx2")]
    assert [task[0] for task in tasks(first, second)] == [question[0], "5", "3"]
    third = [("member 1", "xx6"), ("member 2", "xx3"), ("member 3", "xx4")]
    assert [task[0] for task in tasks(first, second, third)] == [question[0], "5", "3"]


@pytest.mark.parametrize("kind", chains.KINDS)
def test_every_arm_writes_as_much_and_is_right_where_its_model_is(kind: chains.Kind) -> None:
    engine, items = ScriptedEngine(solve), chains.items(kind, 3, 7)
    solved: dict[str, bool] = {}
    with Database.open(":memory:") as database:
        teams: dict[str, Any] = recipe._teams(engine, kind, 1.0, items)  # type: ignore[arg-type]
        for arm, graph in teams.items():
            context = RunContext(items, database, run=recipe._slug(kind, arm))
            states = [graph.invoke({"item": item.id}, context=context) for item in items]
            solved[arm] = all(state["solved"] for state in states)
            for item in items:
                written = sum(len(t.completion) for t in context.traces.find(run=context.run, item=item.id))
                expected = chains.LENGTH * (1 if arm == "one sample" else recipe.VOTES)
                assert written == expected, arm
    wrong = {recipe.CROSSED} | ({"centralized, one round"} if kind == "steps" else set())
    assert {arm for arm, right in solved.items() if not right} == wrong


def test_a_model_is_never_there_without_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the next process would train the model a second time."""
    config = recipe.Topologies(dev=4, hidden=16, steps=50)
    with monkeypatch.context() as patched:
        patched.setattr(recipe, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe._model(config, 0, tmp_path, True)
    assert not (tmp_path / "model").exists()
    model, known = recipe._model(config, 0, tmp_path, True)
    made = (model / "model.safetensors").stat().st_mtime_ns
    assert recipe._model(config, 0, tmp_path, True) == (model, known)
    assert (model / "model.safetensors").stat().st_mtime_ns == made


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt
