"""The gate's decision by counts, its error over many gates, and the record of used items."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from docendo.distill import Gate, GateLedger, GateVerdict
from docendo.errors import ConfigError, DataError, IntegrityError, ResumeError, SilentNoOp
from docendo.evals import EvalRecord, EvalResult, ExactScorer, Task, make_item
from docendo.evals.items._identity import scorer_identity

TASK = Task(name="kept", test=(make_item("?", 1),))


def result(rights: list[bool | None], adapter: str | None = None, *, texts: str = "") -> EvalResult:
    records = tuple(
        EvalRecord(
            item=str(n),
            question=f"q{n}",
            text=texts or f"{adapter} says {right}",
            correct=right,
            failure=None if right is not None else "model: NaN",
        )
        for n, right in enumerate(rights)
    )
    return EvalResult(name=adapter or "base", task="t", scorer="exact", records=records, adapter=adapter)


def pair(up: int, down: int, n: int) -> tuple[EvalResult, EvalResult]:
    """Incumbent and candidate with these flips; the rest is right in both."""
    before = [False] * up + [True] * (n - up)
    after = [True] * up + [False] * down + [True] * (n - up - down)
    return result(before), result(after, "c" * 64)


def test_a_clear_win_is_promoted_with_its_grounds() -> None:
    verdict = Gate().judge(*pair(12, 1, 60))
    assert verdict.promotes
    assert verdict.alpha == 0.025
    p_value = 2 * stats.binom.cdf(1, 13, 0.5)
    assert verdict.comparison["p_value"] == pytest.approx(p_value)
    assert f"McNemar p = {p_value:.2g}" in verdict.reason
    assert "+18.3 points on 60 fresh items (97.5 % interval" in verdict.reason
    assert verdict.adapter == "c" * 64
    assert GateVerdict.from_json(json.loads(json.dumps(verdict.to_json()))).to_json() == verdict.to_json()


def test_a_null_says_what_was_seen_and_what_could_have_been() -> None:
    verdict = Gate().judge(*pair(5, 3, 60))
    assert verdict.verdict == "no effect shown"
    assert not verdict.promotes
    assert "No effect shown: +3.3 points on 60 fresh items" in verdict.reason
    detectable = 100 * verdict.comparison["detectable"]
    assert f"show a difference of {detectable:.1f} points or more" in verdict.reason


def test_a_loss_is_worse() -> None:
    assert Gate().judge(*pair(1, 14, 60)).verdict == "worse"


def test_a_win_that_would_do_at_the_first_gate_does_not_do_at_the_fifth() -> None:
    sides = pair(9, 1, 60)
    assert Gate().judge(*sides).verdict == "better"  # p = 0.021
    assert Gate().judge(*sides, gate=5).verdict == "no effect shown"  # level 0.0017
    assert Gate(spend=False).judge(*sides, gate=5).verdict == "better"


def test_all_levels_together_come_to_alpha() -> None:
    gate = Gate(alpha=0.05)
    assert math.fsum(gate.level(k) for k in range(1, 10_001)) == pytest.approx(0.05, rel=1e-3)
    assert math.fsum(gate.level(k) for k in range(1, 10_001)) < 0.05


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("flips", [12, 25])
def test_without_an_effect_it_promotes_no_more_often_than_half_its_level(number: int, flips: int) -> None:
    """Exactly, over all ways in which fair coins can fall, not by simulation."""
    gate = Gate()
    wrongly = math.fsum(
        float(stats.binom.pmf(up, flips, 0.5))
        for up in range(flips + 1)
        if gate.judge(*pair(up, flips - up, 60), gate=number).promotes
    )
    assert wrongly <= gate.level(number) / 2
    if number == 1:
        assert wrongly > 0, "the gate can be passed at all"


def test_a_win_with_a_loss_elsewhere_is_kept_out() -> None:
    gate = Gate(margin=0.05, regression=TASK)
    win = pair(15, 1, 60)
    assert gate.judge(*win, regression=pair(2, 2, 200)).promotes
    lost = gate.judge(*win, regression=pair(2, 12, 200))
    assert lost.verdict == "regression"
    assert "a loss of 5 points is not ruled out: -5.0 points on 200 items" in lost.reason
    # The same share of so few items rules nothing out.
    assert gate.judge(*win, regression=pair(0, 0, 20)).verdict == "regression"
    with pytest.raises(ConfigError, match="regression set"):
        gate.judge(*win)
    with pytest.raises(ConfigError, match="no regression set"):
        Gate().judge(*win, regression=pair(0, 0, 20))


def test_the_incumbents_own_weights_are_no_candidate() -> None:
    """The adapter is not applied: what answered is the base, or the incumbent itself."""
    before, after = pair(12, 1, 60)
    with pytest.raises(SilentNoOp, match="own weights"):
        Gate().judge(before, after.replace(adapter=None))
    with pytest.raises(SilentNoOp, match="own weights"):
        Gate().judge(before.replace(adapter="c" * 64), after)
    with pytest.raises(SilentNoOp, match="own weights"):
        Gate(regression=TASK).judge(before, after, regression=(before, before))


def test_the_same_answers_word_for_word_show_nothing() -> None:
    rights: list[bool | None] = [True, False] * 30
    verdict = Gate().judge(result(rights, texts="7"), result(rights, "c" * 64, texts="7"))
    assert verdict.verdict == "no effect shown"
    assert "word for word" in verdict.reason


def test_failing_is_wrong_for_the_candidate_and_no_evidence_against_the_incumbent() -> None:
    before = result([False] * 12 + [True] * 48)
    after = result([True] * 12 + [None] * 30 + [True] * 18, "c" * 64)
    assert Gate().judge(before, after).verdict == "worse"
    failing = result([None] * 12 + [True] * 48)
    verdict = Gate().judge(failing, result([True] * 60, "c" * 64))
    assert (verdict.verdict, verdict.comparison["n"]) == ("no effect shown", 48)


def test_too_few_pairs_are_refused_before_they_decide() -> None:
    assert Gate().least(1) == 7
    assert Gate().judge(*pair(7, 0, 7)).promotes, "the fewest that can be enough"
    with pytest.raises(DataError, match="at least 7"):
        Gate().judge(*pair(6, 0, 6))


@pytest.mark.parametrize(
    "bad", [{"alpha": 0}, {"alpha": math.nan}, {"margin": 0}, {"margin": 1}, {"size": 0}, {"spend": 1}]
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Gate(**bad)
    with pytest.raises(ConfigError, match="no test items"):
        Gate(regression=Task(name="empty"))
    with pytest.raises(ConfigError):
        Gate().level(0)


ITEMS = [make_item(f"What is {n} + {n}?", 2 * n) for n in range(30)]


def open_gate(ledger: GateLedger, candidate: str, **more: Any) -> Any:
    settings = {"gate": Gate(size=10), "items": ITEMS, "alias": "s@prod", "incumbent": None} | more
    return ledger.open(settings.pop("gate"), settings.pop("items"), candidate=candidate, **settings)


def test_every_gate_has_items_of_its_own_and_used_ones_are_refused(tmp_path: Path) -> None:
    ledger = GateLedger(tmp_path)
    seen: set[str] = set()
    for n in range(2):
        record, items = open_gate(GateLedger(tmp_path), f"c{n}")
        assert record.number == n + 1
        assert len(items) == 10
        assert not seen & {item.id for item in items}
        seen |= {item.id for item in items}
    # The same questions, spaced otherwise, under other ids, for another alias.
    again = [
        replace(item, public=item.public.replace(id=f"new-{n}", question=f" what IS  {n} + {n}? "))
        for n, item in enumerate(ITEMS)
    ]
    record, items = open_gate(ledger, "c2", items=again, alias="other@prod")
    assert record.number == 3
    assert [item.id for item in items] == [item.id for item in again[20:]]
    with pytest.raises(DataError, match="0 of 30 test items are fresh"):
        open_gate(ledger, "c3")
    assert len(ledger.records()) == 3


def test_a_killed_gate_is_gone_on_with_on_its_own_items(tmp_path: Path) -> None:
    record, items = open_gate(GateLedger(tmp_path), "c")
    again, same = open_gate(GateLedger(tmp_path), "c", items=list(reversed(ITEMS)))
    assert again == record
    assert {item.id for item in same} == {item.id for item in items}
    with pytest.raises(DataError, match="not in the task"):
        open_gate(GateLedger(tmp_path), "c", items=ITEMS[5:])
    # Against another incumbent it is another gate.
    assert open_gate(GateLedger(tmp_path), "c", incumbent="d")[0].number == 2


def test_a_killed_gate_does_not_go_on_for_another_prompt_scorer_or_answer(tmp_path: Path) -> None:
    asked = {"prompt of the student": "{question}", "scorer": scorer_identity(ExactScorer())}
    record, _ = open_gate(GateLedger(tmp_path), "c", asked=asked)
    for other in (
        {**asked, "prompt of the student": "Think. {question}"},
        {**asked, "scorer": scorer_identity(ExactScorer(ignore_case=True))},
    ):
        with pytest.raises(ResumeError, match=r"with another (prompt of the student|scorer)"):
            open_gate(GateLedger(tmp_path), "c", asked=other)
    wrong = [make_item(f"What is {n} + {n}?", 2 * n + 1) for n in range(30)]
    with pytest.raises(ResumeError, match="other gold answers"):
        open_gate(GateLedger(tmp_path), "c", asked=asked, items=wrong)
    assert open_gate(GateLedger(tmp_path), "c", asked=asked)[0] == record


def test_another_alias_is_no_new_beginning(tmp_path: Path) -> None:
    """All aliases of a name spend one alpha, and so do all that are judged by the same test items."""
    others = [make_item(f"What is {n} - {n}?", 0) for n in range(30)]
    numbers = [
        open_gate(GateLedger(tmp_path), f"c{n}", alias=alias, items=items)[0].number
        for n, (alias, items) in enumerate(
            [("s@prod", ITEMS), ("s@beta", ITEMS), ("t@prod", others), ("s@prod", others), ("u@prod", ITEMS)]
        )
    ]
    assert numbers == [1, 2, 1, 4, 3]


def test_a_candidate_is_not_tried_again_at_a_kinder_gate(tmp_path: Path) -> None:
    ledger = GateLedger(tmp_path)
    record, _ = open_gate(ledger, "c")
    ledger.close(record, Gate().judge(*pair(5, 3, 60)))
    found = ledger.find("s@prod", "c", None)
    assert found is not None
    assert found.verdict is not None
    assert found.verdict["verdict"] == "no effect shown"
    with pytest.raises(ResumeError, match="another alpha"):
        open_gate(ledger, "c", gate=Gate(size=10, alpha=0.5))


def test_two_incumbents_in_turn_give_no_second_try(tmp_path: Path) -> None:
    ledger = GateLedger(tmp_path)
    first, _ = open_gate(ledger, "c", incumbent="a")
    ledger.close(first, Gate().judge(*pair(5, 3, 60)))
    open_gate(ledger, "c", incumbent="b")
    again, _ = open_gate(ledger, "c", incumbent="a")
    assert again.number == 1
    assert again.verdict is not None
    assert len(ledger.records()) == 2


def test_a_gate_of_fewer_items_than_can_decide_uses_none_up(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="size is 5"):
        open_gate(GateLedger(tmp_path), "c", gate=Gate(size=5))
    assert GateLedger(tmp_path).records() == ()


def test_items_that_guard_are_not_fresh_at_this_gate_or_a_later_one(tmp_path: Path) -> None:
    guards = Task(name="kept", test=tuple(ITEMS[:10]))
    _, items = open_gate(GateLedger(tmp_path), "c", gate=Gate(size=10, regression=guards))
    assert list(items) == ITEMS[10:20]
    _, items = open_gate(GateLedger(tmp_path), "d")
    assert list(items) == ITEMS[20:]


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    ledger = GateLedger(tmp_path)
    open_gate(ledger, "c")
    file = tmp_path / "gates.json"
    file.write_text(file.read_text().replace('"alpha": 0.05', '"alpha": 0.5'))
    with pytest.raises(IntegrityError, match="damaged"):
        ledger.records()


def test_a_gate_that_nothing_could_pass_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 7"):
        open_gate(GateLedger(tmp_path), "c", gate=Gate(), items=ITEMS[:6])
    assert GateLedger(tmp_path).records() == ()
