"""Several methods at an equal budget, with seeds and a control."""

import json
import math
import random

import pytest

from docendo.agents import ScriptedEngine, Student
from docendo.cli import main
from docendo.errors import ConfigError, DataError, ResumeError
from docendo.evals import (
    Comparison,
    EvalRecord,
    EvalResult,
    ExactScorer,
    Meter,
    Outcome,
    evaluate,
    make_item,
    mcnemar,
    tango,
)
from docendo.records import Usage

ITEMS = [make_item(f"What is {n} + 1?", n + 1, task="sums", split="test") for n in range(120)]


def arm(share, tokens=100, salt=""):
    """A method that is right on that share of the items, drawn anew with each seed."""

    def run(seed):
        rng = random.Random(f"{share} {salt} {seed}")
        records = tuple(
            EvalRecord(
                item=item.id,
                question=item.public.question,
                correct=rng.random() < share,
                usage=Usage(prompt_tokens=tokens),
            )
            for item in ITEMS
        )
        return EvalResult(name="arm", task="sums", scorer="exact", records=records)

    return run


def compared(arms, **options):
    return Comparison(arms=arms, **options).run(quiet=True)


def verdicts(outcome):
    return {pair.name: pair.verdict for pair in outcome.pairs}


def test_a_better_a_worse_and_an_equal_method_are_told_apart():
    outcome = compared({"plain": arm(0.4), "up": arm(0.7), "down": arm(0.1), "same": arm(0.4, salt="x")})
    assert verdicts(outcome) == {"up": "better", "down": "worse", "same": "no effect shown"}
    assert outcome.baseline == "plain"
    assert [len(each.seeds) for each in outcome.arms] == [5, 5, 5, 5]
    assert all(pair.adjusted >= pair.p_value for pair in outcome.pairs)
    shown = str(outcome)
    assert "plain (baseline)" in shown
    assert "12,000 tokens a seed" in shown


def test_less_can_be_better():
    assert verdicts(compared({"plain": arm(0.4), "up": arm(0.7)}, direction="less")) == {"up": "worse"}


def test_a_gain_that_the_control_has_as_well_is_no_effect():
    arms = {"plain": arm(0.3), "method": arm(0.6), "shuffled": arm(0.6, salt="x")}
    outcome = compared(arms, control="shuffled")
    assert verdicts(outcome)["method"] == "no effect shown"
    assert "not the control 'shuffled'" in outcome.pairs[0].reason
    assert "shuffled (control)" in str(outcome)
    outcome = compared({**arms, "shuffled": arm(0.3, salt="x")}, control="shuffled")
    assert verdicts(outcome) == {"method": "better", "shuffled": "no effect shown"}
    assert "also beats the control" in outcome.pairs[0].reason


def test_better_than_the_control_is_adjusted_for_the_number_of_methods():
    def right_on(places):
        records = (
            EvalRecord(item=item.id, question=item.public.question, correct=place in places)
            for place, item in enumerate(ITEMS)
        )
        found = EvalResult(name="arm", task="sums", scorer="exact", records=tuple(records))
        return lambda seed: found

    # Nine items up and one down of the control, which the other methods do not differ from: p = 0.021.
    arms = {"plain": right_on(()), "shuffled": right_on(range(60)), "method": right_on(range(1, 69))}
    rules = {"control": "shuffled", "seeds": (0,), "unit": "calls"}
    assert mcnemar(9, 1) == pytest.approx(22 / 1024)
    assert verdicts(compared(arms, **rules))["method"] == "better"
    others = {f"other {n}": right_on(range(60)) for n in range(3)}
    outcome = compared({**arms, **others}, **rules)
    assert set(verdicts(outcome).values()) == {"better", "no effect shown"}
    assert [name for name, verdict in verdicts(outcome).items() if verdict == "better"] == ["shuffled"]
    assert "not the control 'shuffled' (120 pairs, p = 0.021, adjusted 0.086)" in outcome.pairs[1].reason


@pytest.mark.parametrize(
    ("tokens", "verdict"), [(102, "better"), (103, "budgets differ"), (90, "budgets differ")]
)
def test_unlike_budgets_get_no_verdict(tokens, verdict):
    outcome = compared({"plain": arm(0.4), "up": arm(0.8, tokens)})
    assert verdicts(outcome) == {"up": verdict}
    if verdict != "better":
        assert "at most 2 % are allowed" in outcome.pairs[0].reason


def test_a_stated_budget_binds_the_baseline_as_well():
    arms = {"plain": arm(0.4), "up": arm(0.8)}
    assert verdicts(compared(arms, budget=12_000.0)) == {"up": "better"}
    outcome = compared(arms, budget=20_000.0)
    assert verdicts(outcome) == {"up": "budgets differ"}


def test_what_an_arm_does_before_its_evaluation_is_counted_at_the_engine():
    engine = ScriptedEngine(lambda request: "Answer: 1")
    student = Student(engine)

    def cheap(seed):
        return evaluate(student, ITEMS[:20], scorer=ExactScorer(), quiet=True)

    def dear(seed):
        for item in ITEMS[20:30]:
            student.reply(item.public)
        return cheap(seed)

    outcome = compared({"cheap": cheap, "dear": dear}, engines=[engine], unit="calls")
    assert [each.spent for each in outcome.arms] == [(20.0,) * 5, (30.0,) * 5]
    assert verdicts(outcome) == {"dear": "budgets differ"}


def test_a_meter_counts_only_while_it_is_open():
    engine = ScriptedEngine(lambda request: "one two")
    student = Student(engine)
    with Meter(engine, engine) as meter:
        student.reply(ITEMS[0].public)
    student.reply(ITEMS[0].public)
    assert (meter.spent["calls"], meter.spent["generated tokens"]) == (1.0, 2.0)
    with pytest.raises(ConfigError, match="a meter has no engine"):
        Meter()


def test_an_interrupted_comparison_goes_on(tmp_path):
    calls = []

    def noting(name, method, stop=None):
        def run(seed):
            calls.append((name, seed))
            if len(calls) == stop:
                raise KeyboardInterrupt
            return method(seed)

        return run

    def arms(stop):
        return {"plain": noting("plain", arm(0.4), stop), "up": noting("up", arm(0.7), stop)}

    with pytest.raises(KeyboardInterrupt):
        Comparison(arms=arms(4), seeds=(0, 1, 2)).run(folder=tmp_path, quiet=True)
    outcome = Comparison(arms=arms(None), seeds=(0, 1, 2)).run(folder=tmp_path, quiet=True)
    assert calls == [("plain", 0), ("up", 0), ("plain", 1), ("up", 1), ("up", 1), ("plain", 2), ("up", 2)]
    assert outcome == Outcome.from_json(json.loads((tmp_path / "outcome.json").read_text()))
    assert outcome == compared({"plain": arm(0.4), "up": arm(0.7)}, seeds=(0, 1, 2))
    again = Comparison(arms=arms(None), seeds=(0, 1, 2, 3)).run(folder=tmp_path, quiet=True)
    assert (len(calls), len(again.seeds)) == (9, 4)
    with pytest.raises(ResumeError, match="a comparison of other arms"):
        Comparison(arms={"a": arm(0.1), "b": arm(0.2)}).run(folder=tmp_path, quiet=True)


def test_failed_items_are_left_out_of_both_arms():
    def broken(seed):
        result = arm(0.7)(seed)
        records = (result.records[0].replace(correct=None, failure="model: none"), *result.records[1:])
        return result.replace(records=records)

    outcome = compared({"plain": arm(0.4), "up": broken})
    assert outcome.pairs[0].n == 5 * 119
    assert [each.failed for each in outcome.arms] == [0, 5]


def test_a_metric_of_one_s_own():
    def length(record):
        return float(len(record.question)) if record.correct else None

    outcome = compared({"plain": arm(0.9), "up": arm(0.9, salt="x")}, metric=length)
    assert outcome.metric == "length"
    assert verdicts(outcome) == {"up": "no effect shown"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"baseline": "none"}, "there is no arm 'none'; expected one of plain, up"),
        ({"control": "plain"}, "'plain' is the baseline and the control"),
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\); expected each seed once"),
        ({"seeds": ()}, "seeds is "),
        ({"unit": "euros"}, "unit is 'euros'"),
        ({"metric": "beauty"}, "metric is 'beauty'"),
        ({"direction": "up"}, "direction is 'up'"),
        ({"level": 95}, "level is 95"),
        ({"budget": 0}, "budget is 0"),
        ({"arms": {"one": arm(0.1)}}, "arms is "),
        ({"arms": {"../a": arm(0.1), "b": arm(0.2)}}, "an arm is named '../a'"),
        ({"arms": {"comparison.json": arm(0.1), "b": arm(0.2)}}, "an arm is named 'comparison.json'"),
        ({"arms": [arm(0.1), arm(0.2)]}, r"arms is \[.*; expected a mapping of names to functions of a seed"),
        ({"arms": {1: arm(0.1), 2: arm(0.2)}}, "arms is .*; expected a function of a seed for each name"),
        ({"arms": {"a": 1, "b": 2}}, "expected a function of a seed for each name"),
        ({"arms": {}}, "arms is {}; expected at least two"),
        ({"seeds": 5}, r"seeds is 5; expected several whole numbers, such as range\(5\)"),
        ({"seeds": "01"}, "seeds is '01'"),
        ({"seeds": (0.5,)}, "expected whole numbers"),
        ({"control": ["plain"]}, r"there is no arm \['plain'\]"),
        ({"engines": 3}, "engines is 3; expected a list of engines"),
        ({"engines": ["engine"]}, "expected a list of engines"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(options, line):
    with pytest.raises(ConfigError, match=line):
        Comparison(**{"arms": {"plain": arm(0.4), "up": arm(0.7)}, **options})


def test_arms_have_to_answer_the_same_items_and_return_results():
    def others(seed):
        result = arm(0.5)(seed)
        records = tuple(record.replace(item=f"x{record.item}") for record in result.records)
        return result.replace(records=records)

    with pytest.raises(
        DataError, match=r"'up' with seed 0 was evaluated on other items \(120\) than 'plain'"
    ):
        compared({"plain": arm(0.4), "up": others})
    with pytest.raises(ConfigError, match="'up' with seed 0 returned a float"):
        compared({"plain": arm(0.4), "up": lambda seed: 0.5})
    with pytest.raises(DataError, match="scored by different scorers"):
        compared({"plain": arm(0.4), "up": lambda seed: arm(0.5)(seed).replace(scorer="math")})


def known(rights, tokens=100, answered=range(120)):
    """A method that is right on just these items, with every seed."""

    def run(seed):
        records = tuple(
            EvalRecord(
                item=item.id,
                question=item.public.question,
                correct=n in rights if n in answered else None,
                failure=None if n in answered else "model: none",
                usage=Usage(prompt_tokens=tokens),
            )
            for n, item in enumerate(ITEMS)
        )
        return EvalResult(name="arm", task="sums", scorer="exact", records=records)

    return run


def test_seeds_that_give_the_same_answers_are_no_further_evidence():
    arms = {"plain": known(range(40)), "up": known(range(45))}
    (one,) = compared(arms, seeds=(0,)).pairs
    (several,) = compared(arms, seeds=range(20)).pairs
    assert (several.n, several.p_value, several.interval) == (one.n, one.p_value, one.interval)
    assert (one.n, one.p_value, one.interval) == (120, mcnemar(5, 0), tango(5, 0, 120))
    assert several.verdict == one.verdict == "no effect shown"
    assert several.reason == (
        "120 pairs do not show a difference (p = 0.062). All seeds gave the same answers, so that they count "
        "once."
    )
    assert "All seeds" not in one.reason
    (shown,) = compared({"plain": known(range(40)), "up": known(range(60))}).pairs
    assert (shown.n, shown.verdict) == (120, "better")
    assert shown.reason.endswith("All seeds gave the same answers, so that they count once.")


def test_seeds_that_differ_in_failures_alone_give_the_same_answers():
    def failing(seed):
        return known(range(60), answered=set(range(120)) - {seed})(seed)

    (pair,) = compared({"plain": known(range(40)), "up": failing}).pairs
    assert (pair.n, pair.p_value) == (120, mcnemar(20, 0))


def test_seeds_with_items_of_their_own_are_not_taken_for_the_same_answers(tmp_path, capsys):
    for name, share in (("plain", 0.3), ("up", 0.7)):
        for seed in range(4):
            found = arm(share)(seed)
            part = found.records[30 * seed : 30 * seed + 30]
            found.replace(records=part).save(tmp_path / name / f"seed-{seed}")
    assert main(["compare", str(tmp_path / "plain"), str(tmp_path / "up"), "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (pair["n"], "120 pairs over 4 seeds" in pair["reason"]) == (120, True)


def test_one_arm_that_varies_makes_the_seeds_count():
    (pair,) = compared({"plain": known(range(40)), "up": arm(0.8)}).pairs
    assert pair.n == 600
    assert "over 5 seeds" in pair.reason


def test_a_control_that_answered_none_of_the_same_items_is_a_verdict_and_no_error():
    arms = {
        "plain": known(range(5)),
        "up": known(range(120), answered=range(60, 120)),
        "shuffled": known(range(5), answered=range(60)),
    }
    outcome = compared(arms, control="shuffled")
    assert verdicts(outcome) == {"up": "no effect shown", "shuffled": "no effect shown"}
    assert outcome.pairs[0].reason == (
        "It beats the baseline, but cannot be held against the control 'shuffled': no item was answered by "
        "both."
    )


def test_the_control_s_claim_says_on_how_many_pairs_it_rests():
    arms = {
        "plain": arm(0.2),
        "up": known(range(120), answered=range(20, 120)),
        "shuffled": arm(0.2, salt="x"),
    }
    reason = compared(arms, control="shuffled").pairs[0].reason
    assert "It also beats the control (500 pairs over 5 seeds, p < 0.001)." in reason
    arms["shuffled"] = known(range(120), answered=range(30, 120))
    reason = compared(arms, control="shuffled").pairs[0].reason
    assert "but not the control 'shuffled' (90 pairs, p = 1.000): that its" in reason


def test_an_arm_that_answered_nothing_leaves_the_others_their_verdicts(tmp_path, capsys):
    arms = {"plain": arm(0.2), "up": arm(0.7), "broken": known((), answered=())}
    outcome = Comparison(arms=arms).run(folder=tmp_path / "study", quiet=True)
    assert verdicts(outcome) == {"up": "better", "broken": "no effect shown"}
    broken = outcome.pairs[1]
    assert broken.reason == "Nothing can be said: no item was answered by both."
    assert (broken.n, broken.p_value, math.isnan(broken.difference)) == (0, 1.0, True)
    assert "broken - plain  " in str(outcome)
    stored = json.loads((tmp_path / "study" / "outcome.json").read_text())
    assert stored["pairs"][1]["difference"] is None
    assert Outcome.from_json(stored).to_json() == stored
    assert main(["report", str(tmp_path / "study"), "--out", str(tmp_path / "page.html")]) == 0
    captured = capsys.readouterr()
    assert "up against plain: better" in captured.out
    assert "broken is not compared with plain: Nothing can be said" in captured.err


def test_one_item_with_several_seeds_says_nothing_rather_than_failing():
    def one(right):
        def run(seed):
            result = known(())(seed)
            correct = right if seed else not right
            return result.replace(records=(result.records[0].replace(correct=correct),))

        return run

    (pair,) = compared({"a": one(True), "b": one(False)}, seeds=(0, 1, 2)).pairs
    assert pair.verdict == "no effect shown"
    assert "there is 1 item" in pair.reason


@pytest.mark.parametrize("value", ["a", math.inf, math.nan, [1]])
def test_a_metric_that_gives_no_number_is_one_line(value):
    def strange(record):
        return value

    with pytest.raises(DataError, match=r"metric strange is .* for item .*; expected a finite number"):
        compared({"plain": arm(0.4), "up": arm(0.7)}, metric=strange)


def saved(folder, method, seed=0):
    return method(seed).replace(name=folder.name).save(folder)


def test_folders_of_several_methods_are_compared_on_the_command_line(tmp_path, capsys):
    paths = [
        str(saved(tmp_path / name, method))
        for name, method in (("a", arm(0.2)), ("b", arm(0.6)), ("c", arm(0.2, salt="x")))
    ]
    assert main(["compare", *paths]) == 0
    shown = capsys.readouterr().out
    assert "a (baseline)" in shown
    assert "b: " in shown
    assert main(["compare", *paths, "--json", "--control", "c"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [pair["verdict"] for pair in outcome["pairs"]] == ["better", "no effect shown"]
    page = tmp_path / "page.html"
    assert main(["compare", *paths, "--report", str(page)]) == 0
    assert "<html" in page.read_text()
    assert "beats the control" not in page.read_text()
    assert main(["compare", *paths, "--baseline", "c", "--control", "a", "--report", str(page)]) == 0
    assert "It also beats the control" in capsys.readouterr().out
    assert "It also beats the control" in page.read_text()


def test_a_comparison_s_folder_is_compared_again(tmp_path, capsys):
    first = Comparison(arms={"plain": arm(0.4), "up": arm(0.7)}).run(folder=tmp_path / "study", quiet=True)
    assert main(["compare", str(tmp_path / "study"), "--json", "--budget", "tokens"]) == 0
    again = Outcome.from_json(json.loads(capsys.readouterr().out))
    assert again.pairs[0].p_value == first.pairs[0].p_value
    assert main(["compare", *(str(tmp_path / "study" / name) for name in ("up", "plain"))]) == 0
    assert "up (baseline)" in capsys.readouterr().out


def test_a_run_that_was_interrupted_is_no_seed(tmp_path, capsys):
    arms = {"plain": arm(0.4), "up": arm(0.7)}
    Comparison(arms=arms, seeds=(0, 1)).run(folder=tmp_path / "study", quiet=True)
    for name in arms:
        log = tmp_path / "study" / name / "seed-2" / "spending.jsonl"
        log.parent.mkdir()
        log.write_text("")
    assert main(["compare", str(tmp_path / "study"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a"], "holds one result; expected two or more"),
        (["a", "a"], "a was given twice"),
        (["a", "b", "--control", "x"], "there is no arm 'x'"),
        (["a", "b", "--budget", "euros"], "unit is 'euros'"),
        (["a", "b", "--metric", "beauty"], "metric is 'beauty'"),
        (["a", "study"], "the same seeds for every arm"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        saved(tmp_path / name, arm(0.2))
    saved(tmp_path / "study" / "seed-3", arm(0.2))
    assert main(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.out == ""


def test_what_nobody_counted_is_no_equal_budget():
    outcome = compared({"plain": arm(0.4), "up": arm(0.8)}, unit="flops")
    assert verdicts(outcome) == {"up": "budgets differ"}
    assert "No flops were counted" in outcome.pairs[0].reason


def test_a_control_that_spent_less_proves_nothing():
    arms = {"plain": arm(0.4), "up": arm(0.8), "shuffled": arm(0.4, tokens=1, salt="x")}
    outcome = compared(arms, control="shuffled")
    assert verdicts(outcome)["up"] == "budgets differ"
    assert "Of the control 'shuffled'" in outcome.pairs[0].reason


def test_a_comparison_s_folder_is_judged_by_its_own_rules(tmp_path, capsys):
    arms = {"plain": arm(0.3), "hints": arm(0.7), "a shuffled": arm(0.7, salt="x")}
    study = Comparison(arms=arms, control="a shuffled", unit="calls").run(folder=tmp_path, quiet=True)
    assert main(["compare", str(tmp_path), "--json"]) == 0
    assert Outcome.from_json(json.loads(capsys.readouterr().out)) == study
    assert main(["compare", str(tmp_path), "--json", "--baseline", "hints"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "hints"


def test_a_comparison_s_folder_keeps_its_level(tmp_path, capsys):
    arms = {"plain": arm(0.4), "up": arm(0.7)}
    study = Comparison(arms=arms, unit="calls", level=0.99999).run(folder=tmp_path, quiet=True)
    assert main(["compare", str(tmp_path), "--json"]) == 0
    assert Outcome.from_json(json.loads(capsys.readouterr().out)) == study
    assert main(["compare", str(tmp_path), "--json", "--level", "0.9"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == 0.9


@pytest.mark.parametrize("name", ["seed-0", "x" * 61, "../up"])
def test_a_name_that_no_folder_of_an_arm_can_have_is_refused(name):
    with pytest.raises(ConfigError, match="an arm is named"):
        Comparison(arms={"plain": arm(0.4), name: arm(0.4)})


@pytest.mark.parametrize("folder", [5, "", "a\0b", ["a"]])
def test_a_folder_that_is_no_path_is_one_line(folder):
    with pytest.raises(ConfigError, match=r"folder is .*expected a path"):
        Comparison(arms={"plain": arm(0.4), "up": arm(0.4)}).run(folder=folder, quiet=True)


def test_a_function_is_not_taken_for_the_metric_of_its_name(tmp_path, capsys):
    def value(record):
        return float(len(record.question))

    arms = {"plain": arm(0.4), "up": arm(0.4, salt="x")}
    outcome = Comparison(arms=arms, unit="calls", metric=value).run(folder=tmp_path, quiet=True)
    assert outcome.metric == "value (a function)"
    assert main(["compare", str(tmp_path)]) == 2
    assert "metric is 'value (a function)'; expected one of correct" in capsys.readouterr().err
