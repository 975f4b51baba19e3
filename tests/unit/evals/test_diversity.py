"""Diversity against its definitions, sacrebleu and scikit-learn, and on random text of known diversity."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import BLEU
from sklearn.feature_extraction.text import TfidfVectorizer

from docendo.errors import ConfigError, DataError
from docendo.evals import diversity

words = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
texts = st.lists(words, min_size=2, max_size=5)


def of(samples, **settings):
    """The scores of the samples of one input."""
    return diversity(
        [samples], vocabulary=settings.pop("vocabulary", 100), resamples=100, **settings
    ).per_input


def value(measure):
    assert measure.value is not None, measure.reason
    return measure.value


def mean_cosine(vectors):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.mean([units[i] @ units[j] for i, j in combinations(range(len(units)), 2)])


def random_text(rng, length, vocabulary=200):
    return " ".join(map(str, rng.integers(0, vocabulary, length)))


# --- n-grams ---------------------------------------------------------------------------------------


def test_distinct_and_ead_worked_out_by_hand():
    found = of(["a b a", "a b"], vocabulary=10)
    # a b a a b: 2 of 5 words; a b, b a, a b: 2 of 3 pairs; a b a: the only triple.
    assert [value(one) for one in found.distinct[:3]] == pytest.approx([2 / 5, 2 / 3, 1])
    expected = [2 / (10 * (1 - 0.9**5)), 2 / (10 * (1 - 0.9**3)), 1 / (10 * (1 - 0.9**1))]
    assert [value(one) for one in found.ead[:3]] == pytest.approx(expected)
    assert value(found.ead_mean) == pytest.approx(np.mean(expected))
    assert found.ead[3].value is None
    assert "long enough" in found.ead[3].reason


def test_ead_depends_less_on_length_than_distinct():
    rng = np.random.default_rng(0)
    by_length = {n: of([random_text(rng, n) for _ in range(4)], vocabulary=200) for n in (20, 80, 320)}
    short, long = by_length[20], by_length[320]
    assert value(long.distinct[0]) < 0.3 * value(short.distinct[0])
    assert value(long.ead[0]) == pytest.approx(value(short.ead[0]), rel=0.15)
    assert value(long.ead[0]) == pytest.approx(1, abs=0.1)  # drawn from the vocabulary at random


def test_orders_and_the_tokenizer_can_be_chosen():
    found = of(["ab", "ba"], tokenize=list, orders=2)
    assert [value(one) for one in found.distinct] == [0.5, 1]


# --- self-BLEU -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(texts)
def test_self_bleu_is_sacrebleus(samples):
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = [
        bleu.sentence_score(text, samples[:i] + samples[i + 1 :]).score / 100
        for i, text in enumerate(samples)
    ]
    assert value(of(samples).self_bleu) == pytest.approx(np.mean(scores), abs=1e-9)


def test_empty_texts_are_like_each_other_alone():
    assert value(of(["", ""]).self_bleu) == 1
    assert value(of(["", "a b"]).self_bleu) == 0
    assert value(of(["", ""]).embedding) == 0


# --- vectors ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(texts)
def test_without_a_model_vectors_are_sklearns_tf_idf(samples):
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), lowercase=False, preprocessor=str)
    vectors = vectorizer.fit_transform([f"\x02{text}\x03" for text in samples]).toarray()
    assert value(of(samples).embedding) == pytest.approx(1 - mean_cosine(vectors), abs=1e-9)


def test_vectors_may_be_given_or_made():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 4, 8))
    samples = [[f"{i} {j}" for j in range(4)] for i in range(3)]
    table = {f"{i} {j}": vectors[i, j] for i in range(3) for j in range(4)}
    given_ = diversity(samples, vocabulary=9, embeddings=vectors)
    made = diversity(samples, vocabulary=9, embed=lambda flat: [table[text] for text in flat])
    assert given_ == made
    assert value(given_.per_input.embedding) == pytest.approx(
        1 - np.mean([mean_cosine(one) for one in vectors])
    )
    assert value(given_.across.embedding) == pytest.approx(1 - mean_cosine(vectors[:, 0]))


def test_opposite_vectors_are_the_most_diverse():
    assert value(of(["a", "b"], embeddings=[[[1.0, 0.0], [-1.0, 0.0]]]).embedding) == 2
    assert value(of(["a", "b"], embeddings=[[[1.0, 0.0], [0.0, 3.0]]]).embedding) == 1


# --- the report ------------------------------------------------------------------------------------


def test_identical_texts_have_the_least_diversity():
    rng = np.random.default_rng(1)
    varied = [random_text(rng, 12) for _ in range(6)]
    same, different = of([varied[0]] * 6), of(varied)
    assert (value(same.self_bleu), value(same.embedding)) == pytest.approx((1, 0), abs=1e-12)
    for least, more in zip(same.distinct + same.ead, different.distinct + different.ead, strict=True):
        assert value(least) < value(more)
    assert value(different.self_bleu) < 0.2
    assert value(different.embedding) > 0.5
    # No text can have fewer different words than one.
    assert value(of(["a a a a a a"] * 6).distinct[0]) == 1 / 36


def test_per_input_and_across_inputs_are_told_apart():
    repeats = diversity([["a b c d"] * 3, ["e f g h"] * 3], vocabulary=50)  # each input has one answer
    alike = diversity([["a b c d", "e f g h"]] * 2, vocabulary=50)  # every input has the same answers
    assert value(repeats.per_input.self_bleu) == 1
    assert value(repeats.across.self_bleu) == 0
    assert value(alike.per_input.self_bleu) == 0
    assert value(alike.across.self_bleu) == 1
    assert repeats.across.self_bleu.interval is None
    assert "pooled" in repeats.across.self_bleu.reason


def test_one_sample_or_one_input_leaves_a_part_out():
    assert diversity([["a"], ["b"]], vocabulary=9).per_input is None
    report = diversity([["a", "b"]], vocabulary=9)
    assert report.across is None
    assert "one item" in report.per_input.self_bleu.reason
    assert (report.inputs, report.samples, report.vocabulary) == (1, 2, 9)


def test_order_does_not_matter():
    rng = np.random.default_rng(2)
    samples = [[random_text(rng, 6, 8) for _ in range(4)] for _ in range(5)]
    answers = [[text[0] for text in row] for row in samples]

    def numbers(report):
        return json.loads(json.dumps(report.to_json(), allow_nan=False))

    def same(first, second):
        if isinstance(first, dict):
            return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
        if isinstance(first, list):
            return len(first) == len(second) and all(map(same, first, second))
        return first == pytest.approx(second, abs=1e-9)

    one = numbers(diversity(samples, vocabulary=8, answers=answers))
    inputs = numbers(diversity(samples[::-1], vocabulary=8, answers=answers[::-1]))
    within = numbers(
        diversity([row[::-1] for row in samples], vocabulary=8, answers=[row[::-1] for row in answers])
    )
    assert same(one, inputs)
    for part in ("per_input", "distinct_answers", "answer_entropy"):
        assert same(one[part], within[part])
    # Across inputs the first samples count.
    assert not same(one["across"], within["across"])


def test_answers_and_entropies():
    report = diversity(
        [["a", "b", "c", "d"]] * 2,
        vocabulary=9,
        answers=[["7", "7", "8", None], ["7", "7", "7", "7"]],
        token_entropies=[[0.5, 0.5, 1.0, 1.0], [0.25] * 4],
    )
    assert value(report.distinct_answers) == 2
    assert value(report.answer_entropy) == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(4)) / 2)
    assert value(report.token_entropy) == 0.5
    assert diversity([["a", "b"]], vocabulary=9).answer_entropy is None
    assert report.distinct_answers.interval == (1, 3)


def test_the_interval_is_over_inputs():
    rng = np.random.default_rng(4)
    samples = [[random_text(rng, 5, vocabulary) for _ in range(3)] for vocabulary in range(2, 42)]
    found = diversity(samples, vocabulary=42).per_input.embedding
    each = [value(diversity([row], vocabulary=42).per_input.distinct[0]) for row in samples]
    distinct = diversity(samples, vocabulary=42).per_input.distinct[0]
    error = np.std(each) / math.sqrt(40)
    assert value(distinct) == pytest.approx(np.mean(each))
    assert distinct.interval == pytest.approx(
        (np.mean(each) - 1.96 * error, np.mean(each) + 1.96 * error), abs=0.3 * error
    )
    assert found.interval[0] < found.value < found.interval[1]


@pytest.mark.parametrize(
    ("samples", "more", "message"),
    [
        ([], {}, "at least one"),
        ([[]], {}, "samples"),
        ([["a", "b"], ["a"]], {}, "2 samples each"),
        (["ab"], {}, "sequence"),
        ([["a", 7]], {}, "expected texts"),
        ([["a", "b"]], {"answers": [["1"]]}, "answers"),
        ([["a", "b"]], {"answers": []}, "answers"),
        ([["a", "b"]], {"token_entropies": [[1.0, float("nan")]]}, "finite"),
        ([["a", "b"]], {"embeddings": [[[1.0, 0.0]]]}, "embeddings"),
        ([["a", "b"]], {"embeddings": [[[1.0, 0.0], [0.0, 0.0]]]}, "zero"),
        ([["a", "b"]], {"embed": lambda flat: [[1.0]]}, "2 rows"),
        ([["a", "b"]], {"embed": lambda flat: [["x"], ["y"]]}, "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_refused(samples, more, message):
    with pytest.raises(DataError, match=message):
        diversity(samples, vocabulary=9, **more)


@pytest.mark.parametrize("wrong", [{"vocabulary": 1}, {"vocabulary": 9, "orders": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError):
        diversity([["a", "b"]], **wrong)
