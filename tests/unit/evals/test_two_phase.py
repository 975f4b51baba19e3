"""The two-phase protocol refuses what would flatter, repeats nothing after a crash, and is deterministic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError, IntegrityError, ResumeError
from docendo.evals import Task, TwoPhase, TwoPhaseResult, make_item, tasks
from docendo.evals.metrics import _two_phase_state

SPACE = {"rate": [0.1, 0.3, 0.5], "depth": [1, 2]}
TUNE, JUDGE = ["gcd", "spell_backward"], ["lcm", "products"]
# Which rate suits which family best.
BEST = {"gcd": 0.3, "spell_backward": 0.3, "lcm": 0.5, "products": 0.1}


def score(config, family, seed):
    return 1 - abs(config["rate"] - BEST[family]) - 0.01 * config["depth"] + 0.001 * seed


class Counted:
    """Counts the runs, and fails where it is told to."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def __call__(self, config, family, seed):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append((config["rate"], config["depth"], family, seed))
        return score(config, family, seed)


def protocol(state=None, **changes):
    settings = {"tune": TUNE, "evaluate": JUDGE, "metric": "accuracy", "seeds": [0, 1], "state": state}
    return TwoPhase(SPACE, **{**settings, **changes})


def whole(state, run):
    one = protocol(state)
    one.tune(run, quiet=True)
    one.evaluate(run, quiet=True)
    return one.conventional(run, quiet=True)


def test_the_best_mean_of_phase_one_is_judged_on_other_families():
    run, one = Counted(), protocol()
    assert one.tune(run, quiet=True) == {"rate": 0.3, "depth": 1}
    assert len(run.calls) == 6 * 2 * 2
    assert {call[2] for call in run.calls} == set(TUNE)
    found = one.evaluate(run, quiet=True)
    assert sorted(run.calls[24:]) == [(0.3, 1, family, seed) for family in JUDGE for seed in (0, 1)]
    assert found.scores == {
        "lcm": pytest.approx((0.79, 0.791)),
        "products": pytest.approx((0.79, 0.791)),
    }
    assert found.score == pytest.approx(0.7905)
    assert found.tuned == pytest.approx(0.9905)
    assert (found.conventional, found.optimism) == (None, None)


def test_phase_two_is_reported_again_and_not_run_again():
    run, one = Counted(), protocol()
    one.tune(run, quiet=True)
    first = one.evaluate(run, quiet=True)
    calls = len(run.calls)
    assert one.evaluate(run, quiet=True) == first
    assert one.tune(run, quiet=True) == first.config
    assert len(run.calls) == calls


def test_the_optimism_gap_is_that_of_choosing_on_the_evaluation_families():
    found = whole(None, Counted())
    configs = [{"rate": rate, "depth": depth} for rate in SPACE["rate"] for depth in SPACE["depth"]]
    means = [sum(score(c, f, s) for f in JUDGE for s in (0, 1)) / 4 for c in configs]
    assert found.conventional == pytest.approx(max(means))
    assert found.optimism == pytest.approx(max(means) - found.score)
    assert found.runs == {"phase 1": 24, "phase 2": 4, "conventional": 20}
    text = str(found)
    assert (
        'two-phase accuracy   0.790  settings {"depth": 1, "rate": 0.3}, chosen on gcd, spell_backward'
        in text
    )
    assert "optimism gap         0.000" in text
    assert TwoPhaseResult.from_json(json.loads(json.dumps(found.to_json()))) == found


@settings(max_examples=30)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=2)
)
def test_the_conventional_score_never_looks_worse(table):
    for maximise in (True, False):
        one = TwoPhase(
            [{"name": name} for name in table], tune=["x"], evaluate=["y"], seeds=[0, 1], maximise=maximise
        )

        def run(config, family, seed):
            return table[config["name"]][2 * (family == "y") + seed]

        one.tune(run, quiet=True)
        one.evaluate(run, quiet=True)
        found = one.conventional(run, quiet=True)
        assert found.optimism >= 0
        best = (max if maximise else min)(sum(values[:2]) for values in table.values())
        assert found.tuned * 2 == pytest.approx(best)


# What is refused


def test_phase_two_refuses_other_settings_than_the_frozen_ones():
    run, one = Counted(), protocol()
    with pytest.raises(ConfigError, match="phase 1 has not ended"):
        one.evaluate(run, quiet=True)
    one.tune(run, quiet=True)
    calls = len(run.calls)
    for config in ({"rate": 0.5, "depth": 1}, {"rate": 0.3}, {"rate": 0.3, "depth": 1, "more": 1}):
        with pytest.raises(ConfigError, match="those that phase 1 froze"):
            one.evaluate(run, config, quiet=True)
    assert len(run.calls) == calls
    assert one.evaluate(run, {"depth": 1, "rate": 0.3}, quiet=True).config == {"rate": 0.3, "depth": 1}


def test_nothing_is_seen_of_the_evaluation_families_before_phase_two():
    run, one = Counted(), protocol()
    with pytest.raises(ConfigError, match="phase 1 has not ended"):
        one.conventional(run, quiet=True)
    one.tune(run, quiet=True)
    with pytest.raises(ConfigError, match="phase 2 has not ended"):
        one.conventional(run, quiet=True)
    assert {call[2] for call in run.calls} == set(TUNE)


@pytest.mark.parametrize(
    ("tune", "evaluate"),
    [
        (["gcd"], ["gcd"]),
        (["reasoning_gym:gcd"], ["gcd"]),
        (["GCD"], [" gcd "]),
        (["datasets:gsm8k:train"], ["datasets:gsm8k:test"]),
        (["jsonl:a/b.jsonl"], ["a/b.jsonl"]),
    ],
)
def test_one_source_under_two_names_is_refused(tune, evaluate):
    with pytest.raises(ConfigError, match="one source"):
        TwoPhase(SPACE, tune=["other", *tune], evaluate=evaluate)


def test_the_same_generator_with_another_seed_is_refused():
    first, second = (tasks("reasoning_gym:chain_sum", train=4, test=4, seed=seed) for seed in (0, 1))
    with pytest.raises(ConfigError, match="another seed of a generator is not another one"):
        TwoPhase(SPACE, tune=[first], evaluate=[second])


def made(name, *questions):
    return Task(name=name, test=tuple(make_item(question, 1, task=name) for question in questions))


def test_tasks_that_share_a_question_are_refused():
    first = made("first", "What is  2 + 2?", "What is 1?")
    with pytest.raises(ConfigError, match="shares 1 questions with 'first', such as 'what is 2"):
        TwoPhase(SPACE, tune=[first], evaluate=[made("second", "what is 2 + 2?")])
    TwoPhase(SPACE, tune=[first], evaluate=[made("second", "What is 3?")])


def test_tasks_are_handed_to_the_run_as_they_are():
    first, second = made("first", "What is 1?"), made("second", "What is 2?")
    seen = []

    def run(config, family, seed):
        seen.append(family)
        return config["rate"]

    one = TwoPhase({"rate": [1, 2]}, tune=[first], evaluate=[second], seeds=[0])
    one.tune(run, quiet=True)
    one.evaluate(run, quiet=True)
    assert seen == [first, first, second]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": []}, "tune is"),
        ({"evaluate": "lcm"}, "evaluate is 'lcm'"),
        ({"tune": ["gcd", "gcd"]}, "a family twice"),
        ({"tune": [3]}, "a family is 3"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [0.5]}, "seeds"),
        ({"budget": 7}, "at least 8"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        protocol(**changes)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"rate": []}, "the values of 'rate'"),
        ({"rate": "0.1"}, "the values of 'rate'"),
        ({"rate": [0.1]}, "two or more"),
        ([{"rate": 1}, {"rate": 1}], "1 of them different"),
        ([{"rate": {1}}, {"rate": 2}], "cannot be stored"),
    ],
)
def test_the_search_space_is_checked(space, message):
    with pytest.raises(ConfigError, match=message):
        TwoPhase(space, tune=TUNE, evaluate=JUDGE)


@pytest.mark.parametrize("bad", [float("nan"), None, "0.5", True])
def test_a_score_that_is_no_number_is_refused_and_not_kept(bad):
    one = protocol()
    with pytest.raises(DataError, match="accuracy on 'gcd' with seed 0"):
        one.tune(lambda *_: bad, quiet=True)
    run = Counted()
    one.tune(run, quiet=True)
    assert len(run.calls) == 24


# What a budget and order change


def test_a_budget_tries_fewer_settings_and_always_the_same():
    run = Counted()
    one = protocol(budget=13)
    one.tune(run, quiet=True)
    assert len(run.calls) == 12
    again = TwoPhase(
        {"depth": [2, 1], "rate": [0.5, 0.1, 0.3]}, tune=TUNE[::-1], evaluate=JUDGE, seeds=[1, 0], budget=13
    )
    assert again.configs == one.configs
    assert len(one.configs) == 3


def test_order_decides_nothing_and_ties_go_one_way():
    def even(config, family, seed):
        return 0.1 * (seed + 1)

    winners = [
        TwoPhase(space, tune=tune, evaluate=JUDGE, seeds=seeds).tune(even, quiet=True)
        for space, tune, seeds in (
            (SPACE, TUNE, [0, 1, 2]),
            ({name: values[::-1] for name, values in reversed(SPACE.items())}, TUNE[::-1], [2, 0, 1]),
        )
    ]
    assert winners[0] == winners[1]


def test_a_run_cannot_change_the_settings():
    def greedy(config, family, seed):
        result = score(config, family, seed)
        config.clear()
        return result

    one = protocol()
    assert one.tune(greedy, quiet=True) == {"rate": 0.3, "depth": 1}


# Crashes


def small(state, run):
    """Four runs in phase 1, two in phase 2, two conventional ones."""
    one = TwoPhase(
        {"rate": [0.1, 0.3], "depth": [1]}, tune=["gcd"], evaluate=["lcm"], seeds=[0, 1], state=state
    )
    one.tune(run, quiet=True)
    one.evaluate(run, quiet=True)
    return one.conventional(run, quiet=True)


def test_what_has_finished_is_not_repeated_wherever_it_stops(tmp_path):
    expected = small(None, Counted())
    for stop in range(8):
        state = tmp_path / f"{stop}.json"
        before, after = Counted(fail_at=stop), Counted()
        with pytest.raises(KeyboardInterrupt):
            small(state, before)
        assert small(state, after) == expected
        both = before.calls + after.calls
        assert len(both) == len(set(both)) == 8


def test_stopping_just_before_something_is_kept_costs_that_run_alone(tmp_path, monkeypatch):
    expected = small(None, Counted())
    real = _two_phase_state.write_json
    for stop in range(9):  # eight runs and the frozen setting
        state, before, after, left = tmp_path / f"{stop}.json", Counted(), Counted(), [stop]

        def write(path, value, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path, value)

        monkeypatch.setattr(_two_phase_state, "write_json", write)
        with pytest.raises(KeyboardInterrupt):
            small(state, before)
        monkeypatch.setattr(_two_phase_state, "write_json", real)
        assert small(state, after) == expected
        frozen_was_lost = stop == 4
        assert len(before.calls) + len(after.calls) == 8 + (not frozen_was_lost)


def test_a_finished_protocol_runs_nothing_and_says_the_same(tmp_path):
    run = Counted()
    first = whole(tmp_path / "state.json", run)
    again = Counted()
    second = whole(tmp_path / "state.json", again)
    assert again.calls == []
    assert (second, second.seconds) == (first, first.seconds)


KILLED = """
import os, signal, sys
from docendo.evals import TwoPhase

state, log, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = 0

def run(config, family, seed):
    global count
    if count == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    with open(log, "a") as file:
        file.write(f"{config['rate']} {family} {seed}\\n")
    return config["rate"]

one = TwoPhase({"rate": [1, 2, 3]}, tune=["a"], evaluate=["b"], seeds=[0, 1], state=state)
one.tune(run, quiet=True)
print(one.evaluate(run, quiet=True).score)
"""


def test_a_killed_process_goes_on_where_it_was(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    log, codes, out = tmp_path / "log", [], ""
    # It dies in phase 1, then in phase 2, then ends.
    for stop in ("2", "5", "99"):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "state.json"), str(log), stop],
            capture_output=True,
            text=True,
            check=False,
        )
        codes.append(done.returncode)
        out = done.stdout
    assert codes == [-9, -9, 0]
    assert out == "3.0\n"
    calls = log.read_text().splitlines()
    assert len(calls) == len(set(calls)) == 3 * 2 + 2


def test_a_state_of_another_protocol_is_refused(tmp_path):
    state = tmp_path / "state.json"
    protocol(state).tune(Counted(), quiet=True)
    for changes in ({"seeds": [0, 2]}, {"evaluate": ["lcm"]}, {"metric": "loss"}, {"maximise": False}):
        with pytest.raises(ResumeError, match="other settings, families or seeds"):
            protocol(state, **changes)


def _drop(state: dict) -> None:
    state["runs"]["tune"].popitem()


def _improve(state: dict) -> None:
    worst = min(state["runs"]["tune"].values(), key=lambda run: run["score"])
    worst["score"] = 99.0


@pytest.mark.parametrize("change", [_drop, _improve])
def test_what_was_frozen_must_follow_from_phase_one(tmp_path, change):
    state = tmp_path / "state.json"
    protocol(state).tune(Counted(), quiet=True)
    stored = json.loads(state.read_text())
    change(stored)
    state.write_text(json.dumps(stored))
    with pytest.raises(IntegrityError, match="not the best of phase 1"):
        protocol(state)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    state = tmp_path / "state.json"
    state.write_text(text)
    with pytest.raises(IntegrityError, match="damaged"):
        protocol(state)
