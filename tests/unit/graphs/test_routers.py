"""Routers: what they learn, against references, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from docendo.errors import ConfigError, DataError
from docendo.graphs.routing import (
    FactorisationRouter,
    FittedRouter,
    HeadRouter,
    LengthRouter,
    LogisticRouter,
    RandomRouter,
    RoutingExample,
    SimilarityRouter,
    TfIdf,
)

#: Additions are easy for the small model, products are not; two in ten are the other way round.
EXAMPLES = [
    RoutingExample(question=f"{word} {n} and {n + 3}", small=(word == "add") ^ (n % 5 == 0), large=1)
    for n in range(40)
    for word in ("add", "multiply")
]
ROUTERS = {
    "similarity": lambda: SimilarityRouter(neighbours=10),
    "weighted": lambda: SimilarityRouter(neighbours=None),
    "logistic": LogisticRouter,
    "factorisation": FactorisationRouter,
    "head": lambda: HeadRouter(TfIdf(), gamma=0.1),
}
each = pytest.mark.parametrize("make", ROUTERS.values(), ids=ROUTERS)


@each
def test_it_tells_the_questions_that_need_the_large_model(make: Any) -> None:
    router = make().fit(EXAMPLES)
    easy = router.scores([f"add {n} and {n}" for n in range(50, 60)])
    hard = router.scores([f"multiply {n} and {n}" for n in range(50, 60)])
    assert max(easy) < min(hard)
    assert all(0 <= score <= 1 for score in (*easy, *hard))
    assert router.score("add 50 and 50") == pytest.approx(easy[0])
    assert router.flops > 0


@each
def test_shuffled_outcomes_teach_nothing(make: Any) -> None:
    questions = [[f"{word} {n} and {n + 3}" for n in range(40, 60)] for word in ("add", "multiply")]

    def apart(examples: list[RoutingExample]) -> float:
        router = make().fit(examples)
        easy, hard = (np.mean(router.scores(part)) for part in questions)
        return float(hard - easy)

    found = []
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(len(EXAMPLES))
        mixed = [one.replace(small=EXAMPLES[other].small) for one, other in zip(EXAMPLES, order, strict=True)]
        found.append(apart(mixed))
    assert abs(np.mean(found)) < apart(EXAMPLES) / 3


@each
def test_it_is_described_by_what_it_has_learnt(make: Any) -> None:
    first, again = make().fit(EXAMPLES), make().fit(EXAMPLES)
    other = make().fit(EXAMPLES[:60])
    assert first.describe() == again.describe() != other.describe()
    assert first.scores(["add 3"]) == again.scores(["add 3"])


@pytest.mark.parametrize("make", [*ROUTERS.values(), LengthRouter], ids=[*ROUTERS, "length"])
def test_it_has_to_learn_first(make: Any) -> None:
    with pytest.raises(ConfigError, match="has learnt nothing"):
        make().score("add 1")
    with pytest.raises(DataError, match="no examples"):
        make().fit([])
    with pytest.raises(DataError, match=r"examples\[0\] is 'add'"):
        make().fit(["add"])


@each
def test_there_must_be_something_to_tell_apart(make: Any) -> None:
    never = [
        RoutingExample(question="add 1", small=1, large=1),
        RoutingExample(question="2", small=0, large=0),
    ]
    with pytest.raises(DataError, match="better on none of 2 examples"):
        make().fit(never)


def test_the_vectors_are_those_of_scikit_learn() -> None:
    texts = [example.question for example in EXAMPLES] + ["Add, add: 7!"]
    theirs = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]").fit(texts)
    mine = TfIdf().fit(texts)
    columns = [theirs.vocabulary_[term] for term in mine.terms]
    assert len(columns) == len(theirs.vocabulary_)
    asked = [*texts[:5], "multiply add 7 unknown", ""]
    assert mine.embed(asked) == pytest.approx(theirs.transform(asked).toarray()[:, columns])


def test_features_are_the_same_in_any_order_and_limited() -> None:
    texts = [example.question for example in EXAMPLES]
    first, again = TfIdf(most=5).fit(texts), TfIdf(most=5).fit(texts[::-1])
    assert first.terms == again.terms
    assert first.fingerprint == again.fingerprint
    assert len(first.terms) == 5
    assert first.fingerprint != TfIdf(most=6).fit(texts).fingerprint
    assert TfIdf(unit="character", ngrams=(2, 2)).fit(["abc"]).terms == ["ab", "bc"]


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    router = LogisticRouter(penalty=0.5).fit(EXAMPLES)
    questions = [example.question for example in EXAMPLES]
    lengths = np.array([len(question) for question in questions], dtype=float)
    table = np.column_stack([router.features.embed(questions), (lengths - lengths.mean()) / lengths.std()])
    reference = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000)
    reference.fit(table, [example.needed for example in EXAMPLES])
    assert router.scores(questions) == pytest.approx(reference.predict_proba(table)[:, 1], abs=1e-4)


def test_similar_questions_weigh_as_in_routellm() -> None:
    examples = [
        RoutingExample(question=text, small=small, large=1)
        for text, small in (("a b", 0), ("a c", 1), ("d e", 1))
    ]
    router = SimilarityRouter(neighbours=None, features=TfIdf(ngrams=(1, 1))).fit(examples)
    vectors = router.features.embed(["a b", "a c", "d e"])
    alike = vectors @ router.features.embed(["a b"])[0]
    weights = 10 * 10 ** (alike / alike.max())
    assert router.score("a b") == pytest.approx(weights[0] / weights.sum())


def test_the_factors_gradient_is_that_of_the_loss() -> None:
    # Values that no model of rank 1 can reach leave the optimum where the gradient is zero, or not at all.
    router = FactorisationRouter(factors=1, penalty=1e-3).fit(EXAMPLES)
    table = router.features.embed([example.question for example in EXAMPLES])
    values = np.array([[example.small, example.large] for example in EXAMPLES])

    def loss(maps: Any, models: Any, bias: Any) -> float:
        logits = table @ maps @ models.T + bias
        fit = np.logaddexp(0, logits).sum() - (values * logits).sum()
        return float(fit + 5e-4 * ((maps**2).sum() + (models**2).sum()))

    best = loss(router._maps, router._models, router._bias)
    generator = np.random.default_rng(0)
    for _ in range(20):
        nearby = [
            part + 1e-2 * generator.normal(size=part.shape)
            for part in (router._maps, router._models, router._bias)
        ]
        assert loss(*nearby) >= best - 1e-6


def test_the_controls_look_at_no_answer() -> None:
    assert LengthRouter().fit(EXAMPLES).score("a" * 100) == 1.0
    drawn = RandomRouter(3).scores([str(n) for n in range(2000)])
    assert np.quantile(drawn, [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.03)
    assert drawn != RandomRouter(4).scores([str(n) for n in range(2000)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SimilarityRouter(neighbours=0), "neighbours is 0"),
        (lambda: LogisticRouter(penalty=0), "penalty is 0"),
        (lambda: FactorisationRouter(factors=0), "factors is 0"),
        (lambda: FactorisationRouter(penalty=-1), "penalty is -1"),
        (lambda: HeadRouter(TfIdf(), gamma=0), "gamma is 0"),
        (lambda: TfIdf(unit="token"), "unit is 'token'"),  # type: ignore[arg-type]
        (lambda: TfIdf(ngrams=(2, 1)), r"ngrams is \(2, 1\)"),
        (lambda: TfIdf().embed(["a"]), "learnt no terms"),
    ],
)
def test_bad_settings_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"small": 2}, "small"), ({"large": float("nan")}, "large"), ({"question": 3}, "a question is 3")],
)
def test_an_example_has_text_and_values(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        RoutingExample(**{"question": "a", "small": 0, "large": 1, **settings})


def test_every_router_has_the_one_protocol() -> None:
    for make in ROUTERS.values():
        assert isinstance(make(), FittedRouter)
