"""Choosing rows: rules, ties, quotas, reports, the shuffled control, and selectors that need no model."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from docendo.distill import Random, ScoreTable, Selection, Selector, ShortestCorrect, Shuffled, Verified
from docendo.distill.selectors._selection import choose
from docendo.errors import ConfigError, DataError
from docendo.records import Usage

Row = dict[str, Any]


def row(name: str, **columns: Any) -> Row:
    return {"prompt": "2 + 2?", "completion": name, **columns}


def table(scores: list[float | None], *, digests: list[str] | None = None, **columns: Any) -> ScoreTable:
    names = [f"row {at}" for at in range(len(scores))] if digests is None else digests
    return ScoreTable(
        selector="test",
        by="score",
        columns={"score": tuple(scores), **columns},
        digests=tuple(names),
        reasons=tuple("nobody knows" if score is None else "" for score in scores),
        usage=Usage(prompt_tokens=7),
    )


class Taste(Selector):
    """Scores a row by its column `taste`."""

    def score(self, rows: Any) -> ScoreTable:
        found = list(rows)
        return self._table(
            found,
            "taste",
            {"taste": [one["taste"] for one in found]},
            reasons=["" if one["taste"] is not None else "tasteless" for one in found],
        )


def test_k_takes_the_best_and_keeps_their_order() -> None:
    chosen = choose(table([0.1, 0.9, 0.5, 0.7]), k=2)
    assert (chosen.indices, chosen.scores) == ((1, 3), (0.9, 0.7))
    assert [(one.index, one.score, one.reason) for one in chosen.dropped] == [
        (0, 0.1, "not among the best 2"),
        (2, 0.5, "not among the best 2"),
    ]


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, 2), (0.74, 2), (0.75, 3), (1, 4), (0.01, 1)])
def test_a_ratio_is_of_the_rows_that_have_a_score(ratio: float, kept: int) -> None:
    assert len(choose(table([4.0, None, 3.0, 2.0, 1.0]), ratio=ratio)) == kept


def test_a_ratio_is_not_a_victim_of_rounding() -> None:
    assert 0.29 * 100 < 29
    assert len(choose(table([float(n) for n in range(100)]), ratio=0.29)) == 29


def test_a_threshold_counts_its_own_value_and_may_keep_nothing() -> None:
    assert choose(table([0.5, 0.49, None]), threshold=0.5).indices == (0,)
    none = choose(table([0.5, 0.49, None]), threshold=2)
    assert len(none) == 0
    assert none.reasons == {"score below 2": 2, "nobody knows": 1}


def test_more_than_there_is_are_all_that_have_a_score() -> None:
    assert choose(table([None, 1.0, 2.0]), k=10).indices == (1, 2)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"k": 1, "ratio": 0.5},
        {"k": 0},
        {"k": 1.5},
        {"k": True},
        {"ratio": 0},
        {"ratio": 1.1},
        {"ratio": float("nan")},
        {"threshold": float("nan")},
        {"threshold": "high"},
        {"k": 1, "quota": 1},
        {"k": 1, "quota": -1, "groups": ["a", "b"]},
        {"k": 1, "quota": 1, "groups": ["a", "b"]},
        {"k": 1, "quota": {"c": 1}, "groups": ["a", "b"]},
    ],
)
def test_rules_that_are_none_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        choose(table([1.0, 2.0]), **rule)


def test_ties_are_broken_by_digest_and_not_by_place() -> None:
    assert choose(table([1.0, 1.0, 1.0], digests=["c", "a", "b"]), k=2).indices == (1, 2)


def test_a_quota_guards_small_groups() -> None:
    groups = ["rare", "common", "common", "common", "rare"]
    scores = table([0.1, 0.9, 0.8, 0.7, 0.2])
    assert choose(scores, k=3).indices == (1, 2, 3)
    chosen = choose(scores, k=3, quota=1, groups=groups)
    assert chosen.indices == (1, 2, 4)
    assert chosen.groups == {"common": {"rows": 3, "kept": 2}, "rare": {"rows": 2, "kept": 1}}
    assert chosen.rule == {"k": 3, "quota": 1}
    assert choose(scores, threshold=0.85, quota={"rare": 2}, groups=groups).indices == (0, 1, 4)


def test_a_group_that_is_smaller_than_its_quota_gives_what_it_has() -> None:
    assert choose(table([3.0, 2.0, None]), k=2, quota=2, groups=["a", "a", "b"]).indices == (0, 1)


rows_of_groups = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 2.5])), st.sampled_from("abc")),
    min_size=1,
    max_size=12,
)


def _company(made: list[tuple[float | None, str]]) -> bool:
    """Whether there is something to shuffle within groups."""
    scored = Counter(kind for taste, kind in made if taste is not None)
    return len(scored) < 2 or max(scored.values()) > 1


@settings(deadline=None, max_examples=40)
@given(rows_of_groups, st.integers(1, 12), st.integers(0, 2), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    made: list[tuple[float | None, str]], k: int, quota: int, rng: random.Random
) -> None:
    rows = [row(str(n), taste=taste, kind=kind) for n, (taste, kind) in enumerate(made)]
    turned = rng.sample(rows, len(rows))
    k = max(k, quota * 3)
    assume(_company(made))
    for selector in (Taste(), Random(seed=3), Shuffled(Taste(), seed=1), Shuffled(Taste(), within="kind")):
        one = selector.select(rows, k=k, quota=quota, group="kind")
        two = selector.select(turned, k=k, quota=quota, group="kind")
        assert {rows[at]["completion"] for at in one.indices} == {
            turned[at]["completion"] for at in two.indices
        }


@settings(deadline=None, max_examples=40)
@given(rows_of_groups, st.integers(0, 5), st.integers(0, 2))
def test_a_shuffled_selector_keeps_as_many_rows_of_the_same_scores(
    made: list[tuple[float | None, str]], seed: int, quota: int
) -> None:
    rows = [row(str(n), taste=taste, kind=kind) for n, (taste, kind) in enumerate(made)]
    real, control = Taste(), Shuffled(Taste(), seed=seed)
    rule: dict[str, Any] = {"threshold": 0.75, "quota": quota, "group": "kind"}
    one, two = real.select(rows, **rule), control.select(rows, **rule)
    assert sorted(one.scores) == sorted(two.scores)
    if quota:
        assert one.groups == two.groups
    before = real.score(rows).scores
    kinds = [kind for _, kind in made]
    assume(_company(made))
    after = Shuffled(real, seed=seed, within="kind").score(rows).scores
    assert Counter(zip(kinds, before, strict=True)) == Counter(zip(kinds, after, strict=True))
    assert [one is None for one in control.score(rows).scores] == [taste is None for taste, _ in made]


def test_a_control_that_could_shuffle_nothing_is_refused() -> None:
    """One row an item: within items every row would keep its own score."""
    rows = [row(str(n), taste=float(n), kind=str(n)) for n in range(4)]
    with pytest.raises(ConfigError, match="nothing to shuffle"):
        Shuffled(Taste(), within="kind").select(rows, k=2)


def test_shuffling_moves_all_columns_of_a_row_together() -> None:
    scores = table([1.0, 2.0, 3.0, 4.0, None], double=(2.0, 4.0, 6.0, 8.0, None))
    moved = scores.shuffled(seed=0)
    assert moved.scores != scores.scores
    assert [one and 2 * one for one in moved.scores] == list(moved.columns["double"])
    assert moved.selector == "Shuffled(test)"


def test_weights_come_with_the_rows_that_are_taken() -> None:
    chosen = choose(table([1.0, 3.0, 2.0], weight=(0.1, 0.3, 0.2)), k=2)
    rows = [row(name, weight=1.0) for name in "abc"]
    assert [(one["completion"], one["weight"]) for one in chosen.take(rows)] == [("b", 0.3), ("c", 0.2)]
    assert rows[1]["weight"] == 1.0
    with pytest.raises(DataError, match="2 rows were given and 3 were scored"):
        chosen.take(rows[:2])


def test_rows_of_a_data_set_are_chosen_like_others() -> None:
    from datasets import Dataset

    rows = [row(name, rewards={"verified": right}, trace=name) for name, right in (("4", 1.0), ("5", 0.0))]
    data = Dataset.from_list(rows)
    chosen = Verified().select(data)
    assert chosen == Verified().select(rows)
    assert chosen.take(data)[0]["trace"] == "4"


def test_tables_and_selections_survive_json() -> None:
    scores = table([1.0, None, 0.5], weight=(0.1, None, 0.2))
    chosen = choose(scores, k=1, quota={"b": 1}, groups=["a", "a", "b"])
    assert ScoreTable.from_json(json.loads(json.dumps(scores.to_json()))) == scores
    assert Selection.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    for kind in (ScoreTable, Selection):
        with pytest.raises(DataError, match="cannot be read"):
            kind.from_json({})


def test_the_report_says_what_was_dropped() -> None:
    chosen = choose(table([1.0, None, 0.5]), k=1, groups=["a", "a", "b"])
    assert str(chosen).splitlines() == [
        "test: 1 of 3 rows by score (7 tokens)",
        "  dropped 1: nobody knows",
        "  dropped 1: not among the best 1",
        "  a: 1 of 2",
        "  b: 0 of 1",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"by": "taste"},
        {"digests": ("a",)},
        {"reasons": ("", "", "")},
        {"reasons": ("", "no", "")},
        {"columns": {"score": (1.0, float("nan"), None)}},
        {"columns": {"score": (1.0, 2.0, None), "other": (float("inf"), 1.0, None)}},
    ],
)
def test_tables_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    good = table([1.0, 2.0, None])
    with pytest.raises(DataError):
        good.replace(**change)


def test_rows_that_are_none_are_refused() -> None:
    for rows, message in (
        ([], "there are no rows"),
        (["text"], "row 0 is a str"),
        ([row("a", rewards={"verified": float("nan")})], "row 0 has the reward verified nan"),
        ([row("a", verified=1.0, vector={1, 2})], "row 0 has no JSON form"),
    ):
        with pytest.raises(DataError, match=message):
            Verified().select(rows)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="row 0 has no group"):
        Verified().select([row("a", verified=1.0)], group="kind")


def test_a_selector_without_a_rule_of_its_own_needs_one() -> None:
    with pytest.raises(ConfigError, match="neither k nor ratio nor threshold"):
        Random().select([row("a")])


def test_verified_reads_rewards_and_columns() -> None:
    rows = [row("a", rewards={"verified": 1.0}), row("b", verified=True), row("c", rewards={"other": 1.0})]
    chosen = Verified().select(rows)
    assert chosen.indices == (0, 1)
    assert chosen.reasons == {"without the reward verified": 1}


def test_the_shortest_correct_answer_of_each_item_is_kept() -> None:
    rows = [
        row("four, I think", item="a", verified=1.0),
        row("four", item="a", verified=1.0),
        row("4", item="a", verified=0.0),
        row("no idea", item="b", verified=0.0),
        row("seven", item="c", verified=1.0),
        row("üüü", item="c", verified=1.0),  # three letters, six bytes
    ]
    assert ShortestCorrect().select(rows).indices == (1, 4)
    assert ShortestCorrect(length=lambda one: len(one["completion"])).select(rows).indices == (1, 5)
    assert ShortestCorrect(per_item=2).select(rows).indices == (0, 1, 4, 5)
    assert ShortestCorrect().score(rows).scores == (0.5, 1.0, None, None, 1.0, 0.5)
    # The control picks among the correct answers of an item.
    for seed in range(5):
        kept = Shuffled(ShortestCorrect(), seed=seed, within="item").select(rows).indices
        assert len(kept) == 2
        assert kept[0] in (0, 1)
        assert kept[1] in (4, 5)


def test_answers_of_one_length_are_told_apart_by_their_text() -> None:
    rows = [row(name, item="a", verified=1.0) for name in ("four", "five", "nine")]
    kept = [rows[at]["completion"] for at in ShortestCorrect().select(rows).indices]
    turned = rows[::-1]
    assert kept == [turned[at]["completion"] for at in ShortestCorrect().select(turned).indices]


def test_an_answer_without_an_item_is_refused() -> None:
    with pytest.raises(DataError, match="row 0 has the item None"):
        ShortestCorrect().select([row("4", verified=1.0)])


def test_random_scores_depend_on_the_row_alone_and_look_uniform() -> None:
    rows = [row(str(n)) for n in range(2000)]
    scores = [one for one in Random(seed=1).score(rows).scores if one is not None]
    assert Random(seed=1).score(rows[7:8]).scores == (scores[7],)
    assert abs(sum(scores) / len(scores) - 0.5) < 0.03
    assert all(0 <= one < 1 for one in scores)
    assert Random(seed=2).select(rows, k=10).indices != Random(seed=1).select(rows, k=10).indices


def test_a_quality_classifier_reuses_a_verifier() -> None:
    import numpy as np

    from docendo.agents import AnalyticVerifier
    from docendo.distill import QualityClassifier

    class Letters:
        """Two features of a text: how often it says yes and no."""

        fingerprint = "letters"

        def embed(self, texts: Any) -> Any:
            return np.array([[t.count("yes"), t.count("no")] for t in texts], dtype=np.float32)

    verifier = AnalyticVerifier(Letters(), gamma=0.1)
    verifier.fit(["?"] * 4, ["yes", "yes yes", "no", "no no"], [True, True, False, False])
    rows = [row("no no no"), row("yes"), row(" ")]
    chosen = QualityClassifier(verifier).select(rows)
    assert chosen.indices == (1,)
    assert chosen.scores == (pytest.approx(verifier.confidence("2 + 2?", "yes")),)
    assert chosen.reasons == {"confidence below 0.5": 1, "no text to judge": 1}
