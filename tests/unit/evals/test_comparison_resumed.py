"""A comparison that was interrupted: what it had spent, and what it may be continued with."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from filelock import FileLock

from docendo.agents import ScriptedEngine, Student
from docendo.errors import ConfigError, DataError, ResumeError, StorageError
from docendo.evals import Comparison, EvalRecord, EvalResult, ExactScorer, Meter, Outcome, evaluate, make_item

ITEMS = [make_item(f"What is {n} + 1?", n + 1) for n in range(12)]
PREPARED = [make_item(f"Prepare {n}.", 1, split="train") for n in range(12)]


def world(folder, *, crash=None, items=ITEMS, name="scripted", arms=("one", "two"), resumes=True):
    """Arms that ask an engine; `two` spends the double on preparing. The crash comes at that request."""
    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == crash:
            raise KeyboardInterrupt
        return "Answer: 1"

    engine = ScriptedEngine(answer, name=name)
    student = Student(engine)

    def asks(name, which, seed):
        kept = folder / "work" / f"{name}-{seed}" if resumes else None
        return evaluate(student, which, scorer=ExactScorer(), folder=kept, concurrency=1, quiet=True)

    def one(seed):
        return asks("one", items, seed)

    def two(seed):
        asks("prepare", PREPARED, seed)
        return asks("two", items, seed)

    made = {name: {"one": one, "two": two}.get(name, one) for name in arms}
    return lambda **options: Comparison(
        **{"arms": made, "engines": [engine], "unit": "calls", "seeds": (0,), **options}
    ).run(folder=folder / "study", quiet=True)


def spent(outcome):
    return {arm.name: arm.spent for arm in outcome.arms}


@pytest.mark.parametrize("crash", [3, 14, 25, 36])
def test_what_was_spent_before_a_crash_counts(tmp_path, crash):
    with pytest.raises(KeyboardInterrupt):
        world(tmp_path, crash=crash)()
    outcome = world(tmp_path)()
    # The engine does not count the request of the crash, which ended without a result.
    broken, before = ("one", crash - 1) if crash <= 12 else ("two", crash - 13)
    assert spent(outcome) == {"one": (12.0,), "two": (24.0,)}
    (pair,) = outcome.pairs
    assert pair.verdict == "budgets differ"
    (score,) = (arm for arm in outcome.arms if arm.name == broken)
    assert score.before == (before,)
    assert "before an interruption" in str(outcome)
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_an_arm_that_began_anew_is_told_what_to_do(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        world(tmp_path, crash=18, arms=("one", "again"), resumes=False)()
    outcome = world(tmp_path, arms=("one", "again"), resumes=False)()
    assert spent(outcome)["again"][0] >= 12 + 5
    (pair,) = outcome.pairs
    assert pair.verdict == "budgets differ"
    assert "Before an interruption 'again' had spent 5: if it began anew then, remove" in pair.reason


def test_several_crashes_add_up_and_a_finished_run_keeps_no_log(tmp_path):
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            world(tmp_path, crash=3, resumes=False)()
    log = tmp_path / "study" / "one" / "seed-0" / "spending.jsonl"
    assert log.read_text().count("\n") == 1
    assert json.loads(log.read_text())["calls"] >= 6
    outcome = world(tmp_path, resumes=False)()
    assert spent(outcome)["one"][0] >= 6 + 12
    assert not log.exists()
    assert world(tmp_path, crash=1)() == outcome


def test_an_undisturbed_comparison_has_no_trace_of_interruptions(tmp_path):
    outcome = world(tmp_path)()
    assert spent(outcome) == {"one": (12.0,), "two": (24.0,)}
    assert [arm.before for arm in outcome.arms] == [(), ()]
    assert "interruption" not in str(outcome)


KILLED = """
    import os, pathlib, signal, sys
    sys.path.insert(0, {tests!r})
    from docendo.agents import ScriptedEngine, Student
    from docendo.evals import Comparison, ExactScorer, Meter, evaluate, make_item

    folder, after = pathlib.Path({folder!r}), {after}
    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return "Answer: 1"

    engine = ScriptedEngine(answer)
    student = Student(engine)
    items = [make_item(f"What is {{n}} + 1?", n + 1) for n in range(12)]

    def one(seed):
        return evaluate(
            student, items, scorer=ExactScorer(), folder=folder / "work", concurrency=1, quiet=True
        )

    Comparison(arms={{"one": one, "two": one}}, engines=[engine], unit="calls", seeds=(0,)).run(
        folder=folder / "study", quiet=True
    )
"""


def test_a_killed_process_leaves_exactly_what_its_results_had_cost(tmp_path):
    code = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), folder=str(tmp_path), after=8)
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == -signal.SIGKILL, found.stderr
    log = tmp_path / "study" / "one" / "seed-0" / "spending.jsonl"
    # Seven results were given out; the eighth request was never answered.
    assert sum(json.loads(line)["calls"] for line in log.read_text().splitlines()) == 7
    engine = ScriptedEngine("Answer: 1")
    with Meter(engine, log=log) as meter:
        Student(engine).reply(ITEMS[0].public)
    assert (meter.before["calls"], meter.spent["calls"]) == (7, 8)


def test_a_line_that_a_crash_cut_off_is_left_out_and_a_damaged_log_is_refused(tmp_path):
    engine = ScriptedEngine(lambda request: "Answer: 4")
    log = tmp_path / "log.jsonl"

    def ask(times):
        with Meter(engine, log=log) as meter:
            for n in range(times):
                Student(engine).reply(ITEMS[n].public)
        return meter.spent["calls"]

    assert ask(3) == 3
    with log.open("a") as file:
        file.write('{"tokens": 3, "gen')
    assert ask(1) == 4
    assert log.read_text().count("\n") == 1
    log.write_text("not json\n")
    with pytest.raises(ResumeError, match=r"cannot read .*log\.jsonl.*; expected what a meter wrote; remove"):
        ask(1)
    log.unlink()
    log.mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*log\.jsonl"):
        ask(1)


def test_other_items_are_refused_on_resuming(tmp_path):
    world(tmp_path, arms=("one", "same"))()
    others = [make_item(f"What is {n} + 2?", n + 2) for n in range(12)]
    again = world(tmp_path / "other", items=others, arms=("one", "same"))
    (tmp_path / "other").mkdir()
    (tmp_path / "study").rename(tmp_path / "other" / "study")
    with pytest.raises(
        ResumeError,
        match=r"'one' with seed 1 was evaluated on other items \(12\) than 'one' with seed 0 \(12\); "
        "expected the same ids and questions in all runs of a comparison; use the same task and settings, or "
        "another folder",
    ):
        again(seeds=(0, 1))
    assert not (tmp_path / "other" / "study" / "one" / "seed-1" / "spent.json").exists()


def test_the_same_items_with_another_text_are_other_items(tmp_path):
    def arm(text):
        def run(seed):
            record = EvalRecord(item="1", question=text, correct=True)
            return EvalResult(name="", task="", scorer="exact", records=(record,))

        return run

    with pytest.raises(DataError, match=r"'b' with seed 0 was evaluated on other items \(1\) than 'a'"):
        Comparison(arms={"a": arm("old"), "b": arm("new")}, seeds=(0,)).run(quiet=True)
    study = {"folder": tmp_path, "quiet": True}
    Comparison(arms={"a": arm("old"), "b": arm("old")}, seeds=(0,)).run(**study)
    with pytest.raises(ResumeError, match="was evaluated on other items"):
        Comparison(arms={"a": arm("new"), "b": arm("new")}, seeds=(0, 1)).run(**study)


def test_other_engines_are_refused_before_anything_runs(tmp_path):
    world(tmp_path)()
    settings = (tmp_path / "study" / "comparison.json").read_bytes()
    with pytest.raises(
        ResumeError, match=r"was run with the engines .*, and now they are .*; use the old engi"
    ):
        world(tmp_path, name="another", crash=1)(seeds=(0, 1))
    with pytest.raises(ResumeError, match="and now they are none"):
        world(tmp_path, crash=1)(engines=[], unit="tokens")
    assert (tmp_path / "study" / "comparison.json").read_bytes() == settings


def test_another_model_of_an_arm_is_refused_unless_its_seeds_have_several(tmp_path):
    def arm(model):
        def run(seed):
            records = tuple(EvalRecord(item=str(n), question="q", correct=n < 3) for n in range(6))
            name = model if isinstance(model, str) else model[seed]
            return EvalResult(name="", task="", scorer="exact", records=records, model=name)

        return run

    def compared(model, seeds, folder):
        arms = {"a": arm(model), "b": arm(model)}
        return Comparison(arms=arms, unit="calls", seeds=seeds).run(folder=tmp_path / folder, quiet=True)

    compared("old", (0, 1), "one")
    with pytest.raises(ResumeError, match="'a' with seed 2 has the model new, and its stored runs have old"):
        compared("new", (0, 1, 2), "one")
    assert len(compared("old", (0, 1, 2), "one").seeds) == 3
    compared(["x", "y"], (0, 1), "several")
    assert len(compared(["x", "y", "z"], (0, 1, 2), "several").seeds) == 3


def test_a_run_that_was_stored_before_such_facts_were_is_accepted(tmp_path):
    world(tmp_path)()
    for path in tmp_path.glob("study/*/seed-0/spent.json"):
        stored = json.loads(path.read_text())
        path.write_text(
            json.dumps({unit: stored[unit] for unit in stored if unit not in ("items", "engines")})
        )
    assert spent(world(tmp_path, crash=1)()) == {"one": (12.0,), "two": (24.0,)}


def test_only_one_process_runs_in_a_folder(tmp_path):
    (tmp_path / "study").mkdir()
    with (
        FileLock(tmp_path / "study" / "comparison.lock"),
        pytest.raises(StorageError, match="another process runs the comparison in"),
    ):
        world(tmp_path, crash=1)()
    assert spent(world(tmp_path)())["one"] == (12.0,)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"arms": 3}', "\udcff"])
@pytest.mark.parametrize("file", ["comparison.json", "one/seed-0/spent.json"])
def test_unreadable_files_are_one_line(tmp_path, file, text):
    world(tmp_path)()
    (tmp_path / "study" / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ResumeError, match=r"cannot read .*\.json"):
        world(tmp_path, crash=1)()


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "study").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        world(tmp_path)()


@pytest.mark.parametrize(
    ("returned", "kind", "line"),
    [
        (None, ConfigError, "'one' with seed 0 returned None; expected an EvalResult"),
        (0.5, ConfigError, "'one' with seed 0 returned a float"),
        (
            EvalResult(name="", task="", scorer="", records=()),
            DataError,
            "'one' with seed 0 returned an evaluation of no item",
        ),
    ],
)
def test_an_arm_that_returns_nothing_of_use_ends_at_once(returned, kind, line):
    calls = []

    def arm(seed):
        calls.append(seed)
        return returned

    with pytest.raises(kind, match=line):
        Comparison(arms={"one": arm, "two": arm}).run(quiet=True)
    assert calls == [0]
