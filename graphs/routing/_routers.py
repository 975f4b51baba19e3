"""Routers that learn from outcomes: by similar questions, and by models of the question's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from docendo.agents import AnalyticHead
from docendo.checks import check_count, is_number
from docendo.errors import ConfigError
from docendo.graphs.routing._router import FittedRouter, RoutingExample, needed
from docendo.graphs.routing._tfidf import TfIdf
from docendo.memory import Embedder

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


class _FeatureRouter(FittedRouter):
    """A router on features of the question: TF-IDF, or whatever an embedder makes of it."""

    def __init__(self, features: Embedder | None) -> None:
        super().__init__()
        self.features: Embedder = TfIdf() if features is None else features

    def _fit_features(self, rows: Sequence[RoutingExample]) -> Array:
        questions = [row.question for row in rows]
        if isinstance(self.features, TfIdf):
            self.features.fit(questions)
        return self._vectors(questions)

    def _vectors(self, questions: Sequence[str]) -> Array:
        import numpy as np

        return np.asarray(self.features.embed(list(questions)), dtype=float)

    def _facts(self) -> dict[str, Any]:
        return {"features": self.features.fingerprint} if self._learnt else {}


class SimilarityRouter(_FeatureRouter):
    """Asks how often similar questions needed the large model.

    With `neighbours` it is the mean over the nearest by cosine. Without, all examples count, by the weights
    10 ** (1 + similarity / largest similarity) of RouteLLM's similarity-weighted ranking (Ong et al. 2024,
    arXiv 2406.18665; the weights are those of its code). RouteLLM fits a Bradley-Terry model with them, which
    for two models is the weighted mean.

    Args:
        neighbours: How many examples count; 20 keeps a mean's standard error near 0.1. None for all.
        features: Makes vectors of questions: `TfIdf()` by default, `EngineEmbedder`, `SentenceEmbedder`.

    Example:
        >>> rows = [RoutingExample(question="add 1", small=1, large=1),
        ...         RoutingExample(question="multiply 1", small=0, large=1)]
        >>> SimilarityRouter(neighbours=1).fit(rows).scores(["add 7", "multiply 7"])
        [0.0, 1.0]
    """

    def __init__(self, *, neighbours: int | None = 20, features: Embedder | None = None) -> None:
        super().__init__(features)
        if neighbours is not None:
            check_count("neighbours", neighbours, 1)
        self.neighbours = neighbours

    def _learn(self, rows: Sequence[RoutingExample]) -> None:
        import numpy as np

        self._needed = np.array(needed(rows), dtype=float)
        self._known = _unit(self._fit_features(rows))
        self.flops = 2.0 * self._known.size

    def _scores(self, questions: Sequence[str]) -> Iterable[float]:
        import numpy as np

        alike = _unit(self._vectors(questions)) @ self._known.T
        if self.neighbours is None:
            largest = np.maximum(alike.max(1, keepdims=True), 1e-9)
            weights = 10 ** (1 + np.clip(alike / largest, -1, 1))
            return (weights @ self._needed / weights.sum(1)).tolist()
        # Stable, so that of equally similar ones the first examples count.
        nearest = np.argsort(-alike, axis=1, kind="stable")[:, : self.neighbours]
        return self._needed[nearest].mean(1).tolist()

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "neighbours": self.neighbours}


class LogisticRouter(_FeatureRouter):
    """Logistic regression on the features and the length of a question, with an L2 penalty.

    Args:
        penalty: Weight of the squared coefficients, as 1 / C of scikit-learn's `LogisticRegression`, whose
            default 1 it is; the constant is not penalised.
        features: Makes vectors of questions: `TfIdf()` by default.

    Example:
        >>> rows = [RoutingExample(question=f"{word} {n}", small=word == "add", large=1)
        ...         for n in range(20) for word in ("add", "multiply")]
        >>> low, high = LogisticRouter().fit(rows).scores(["add 55", "multiply 55"])
        >>> low < 0.3 < 0.7 < high
        True
    """

    def __init__(self, *, penalty: float = 1.0, features: Embedder | None = None) -> None:
        super().__init__(features)
        if not (is_number(penalty) and penalty > 0):
            raise ConfigError(f"penalty is {penalty!r}", expected="more than 0")
        self.penalty = float(penalty)

    def _learn(self, rows: Sequence[RoutingExample]) -> None:
        import numpy as np

        wanted = np.array(needed(rows), dtype=float)
        lengths = np.array([len(row.question) for row in rows], dtype=float)
        self._mean, self._spread = float(lengths.mean()), float(lengths.std()) or 1.0
        table = self._with_length(self._fit_features(rows), lengths)
        self._weights = _logistic(table, wanted, self.penalty)
        self.flops = 2.0 * len(self._weights)

    def _scores(self, questions: Sequence[str]) -> Iterable[float]:
        import numpy as np

        lengths = np.array([len(question) for question in questions], dtype=float)
        table = self._with_length(self._vectors(questions), lengths)
        return _sigmoid(table @ self._weights[:-1] + self._weights[-1]).tolist()

    def _with_length(self, table: Array, lengths: Array) -> Array:
        import numpy as np

        return np.column_stack([table, (lengths - self._mean) / self._spread])

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "penalty": self.penalty}


class FactorisationRouter(_FeatureRouter):
    """Matrix factorisation: how right each model is on a question, from latent factors of both.

    The score of model m on question q is w' (v_m * (W q)) + b_m, in the form of RouteLLM's router (Ong et
    al. 2024, arXiv 2406.18665). RouteLLM learns it from preferences between many models; with two, that
    leaves one linear model. Here each model's own values are learnt, and the large one is needed where it is
    right and the small one is not, as if these were independent given the question.

    Args:
        factors: Number of latent factors. RouteLLM uses 128 for 64 models and embeddings of 1536 numbers;
            8 are plenty for two models.
        penalty: Weight of the squared parameters.
        features: Makes vectors of questions: `TfIdf()` by default.
        seed: Seed of the first parameters.

    Example:
        >>> rows = [RoutingExample(question=f"{word} {n}", small=word == "add", large=1)
        ...         for n in range(20) for word in ("add", "multiply")]
        >>> low, high = FactorisationRouter().fit(rows).scores(["add 55", "multiply 55"])
        >>> low < 0.3 < 0.7 < high
        True
    """

    def __init__(
        self, *, factors: int = 8, penalty: float = 0.1, features: Embedder | None = None, seed: int = 0
    ) -> None:
        super().__init__(features)
        check_count("factors", factors, 1)
        if not (is_number(penalty) and penalty > 0):
            raise ConfigError(f"penalty is {penalty!r}", expected="more than 0")
        self.factors, self.penalty, self.seed = factors, float(penalty), seed

    def _learn(self, rows: Sequence[RoutingExample]) -> None:
        import numpy as np
        from scipy.optimize import minimize

        needed(rows)
        table = self._fit_features(rows)
        values = np.array([[row.small, row.large] for row in rows])
        width = table.shape[1]
        start = np.random.default_rng(self.seed).normal(0, 0.1, self.factors * (width + 2) + 2)

        def loss(parameters: Array) -> tuple[float, Array]:
            maps, models, bias = self._split(parameters, width)
            latent = table @ maps
            logits = latent @ models.T + bias
            rest = _sigmoid(logits) - values
            total = np.logaddexp(0, logits).sum() - (values * logits).sum()
            gradient = np.concatenate(
                [(table.T @ (rest @ models)).ravel(), (rest.T @ latent).ravel(), [0, 0]]
            )
            gradient += self.penalty * parameters
            gradient[-2:] = rest.sum(0)
            return float(total + self.penalty / 2 * (parameters[:-2] ** 2).sum()), gradient

        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        self._maps, self._models, self._bias = self._split(found.x, width)
        self.flops = 2.0 * self._maps.size + 4.0 * self.factors

    def _split(self, parameters: Array, width: int) -> tuple[Array, Array, Array]:
        """W (w is part of it), v and b; shapes (features, factors), (2, factors) and (2,)."""
        size = width * self.factors
        maps = parameters[:size].reshape(width, self.factors)
        return maps, parameters[size:-2].reshape(2, self.factors), parameters[-2:]

    def _scores(self, questions: Sequence[str]) -> Iterable[float]:
        right = _sigmoid(self._vectors(questions) @ self._maps @ self._models.T + self._bias)
        return (right[:, 1] * (1 - right[:, 0])).tolist()

    def _facts(self) -> dict[str, Any]:
        return {
            **super()._facts(),
            "factors": self.factors,
            "penalty": self.penalty,
            "seed": self.seed,
        }


class HeadRouter(_FeatureRouter):
    """An `AnalyticHead` on a model's hidden states, such as those of the small model that runs anyway.

    With `EngineEmbedder(engine, origin=Origin(role="router"))` the prefill of each question is booked in the
    engine's ledger under that role.

    Args:
        features: Makes vectors of questions, such as `EngineEmbedder(engine)`.
        **settings: Of the head, such as `gamma` and `expansion`.

    Example:
        >>> router = HeadRouter(EngineEmbedder(small_engine), gamma=1.0)  # doctest: +SKIP
        >>> router.fit(examples).score("7 * 8 * 9")  # doctest: +SKIP
        0.83
    """

    def __init__(self, features: Embedder, **settings: Any) -> None:
        super().__init__(features)
        self.settings = settings
        AnalyticHead(1, **settings)  # a bad setting fails here

    def _learn(self, rows: Sequence[RoutingExample]) -> None:
        wanted, table = needed(rows), self._fit_features(rows)
        self._head = AnalyticHead(table.shape[1], **self.settings).partial_fit(table, wanted)
        self.flops = (
            2.0 * (self._head.expansion or table.shape[1]) + 2.0 * table.shape[1] * self._head.expansion
        )

    def _scores(self, questions: Sequence[str]) -> Iterable[float]:
        found = self._head.scores(self._vectors(questions))
        return found[:, self._head.classes.index(True)].tolist()

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), **self.settings}


def _unit(table: Array) -> Array:
    import numpy as np

    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    return np.asarray(table / np.where(lengths > 0, lengths, 1))


def _sigmoid(logits: Array) -> Array:
    from scipy.special import expit

    return expit(logits)


def _logistic(table: Array, wanted: Array, penalty: float) -> Array:
    """Coefficients, and the constant last; the minimum is unique."""
    import numpy as np
    from scipy.optimize import minimize

    def loss(weights: Array) -> tuple[float, Array]:
        logits = table @ weights[:-1] + weights[-1]
        rest = _sigmoid(logits) - wanted
        total = np.logaddexp(0, logits).sum() - wanted @ logits + penalty / 2 * (weights[:-1] ** 2).sum()
        return float(total), np.append(table.T @ rest + penalty * weights[:-1], rest.sum())

    return minimize(loss, np.zeros(table.shape[1] + 1), jac=True, method="L-BFGS-B").x
