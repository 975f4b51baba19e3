"""Diversity of samples: how much what a model says varies, for one input and from input to input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from docendo.checks import check_count
from docendo.errors import DataError
from docendo.evals.metrics._basics import finite, mean, rows, same_length
from docendo.evals.metrics._measures import Measure
from docendo.evals.metrics._similarity import (
    Tokens,
    character_vectors,
    distinct,
    expectation_adjusted,
    self_bleu,
    spread_of_mappings,
    spread_of_rows,
)
from docendo.evals.statistics._checks import check_resampling
from docendo.records import Record

# No text is that long.
_MOST_ORDERS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityScores(Record):
    """Diversity of texts. Higher is more diverse, but of `self_bleu`.

    Attributes:
        distinct: Share of different n-grams, for n = 1, 2, ... (Li et al. 2016, arXiv 1510.03055); falls
            with the length of the texts.
        ead: Expectation-adjusted distinct n-grams for the same n (Liu et al. 2022, arXiv 2202.13587):
            different n-grams over those expected of as many random draws from the vocabulary.
        ead_mean: Mean of `ead` over the orders for which there are n-grams.
        self_bleu: Mean BLEU-4 of each text against the others, 0 to 1 (Zhu et al. 2018, arXiv 1802.01886);
            1 if all are equal.
        embedding: 1 less the mean cosine of all pairs of texts.
    """

    distinct: tuple[Measure, ...]
    ead: tuple[Measure, ...]
    ead_mean: Measure
    self_bleu: Measure
    embedding: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityReport(Record):
    """Diversity of several samples for each of several inputs.

    Attributes:
        per_input: Measured on the samples of each input and averaged over inputs, with bootstrap
            intervals over inputs; None if there is one sample for each.
        across: Measured on the first sample of every input, pooled, without intervals; None if there is
            one input.
        distinct_answers: Different final answers of an input, or None where they were not given.
        answer_entropy: Entropy of the answers of an input, in nats, as observed: at most the logarithm of
            the number of samples. None where they were not given.
        token_entropy: Mean entropy of the samples' next-token distributions, or None.
        inputs: Number of inputs.
        samples: Number of samples of each.
        vocabulary: Number of different tokens that `ead` assumes.
        level: Confidence level of all intervals.
    """

    per_input: DiversityScores | None
    across: DiversityScores | None
    distinct_answers: Measure | None
    answer_entropy: Measure | None
    token_entropy: Measure | None
    inputs: int
    samples: int
    vocabulary: int
    level: float


def diversity(
    samples: Sequence[Sequence[str]],
    *,
    vocabulary: int,
    tokenize: Callable[[str], Tokens] = str.split,
    orders: int = 5,
    embed: Callable[[Sequence[str]], Any] | None = None,
    embeddings: Sequence[Sequence[Sequence[float]]] | None = None,
    answers: Sequence[Sequence[str | None]] | None = None,
    token_entropies: Sequence[Sequence[float]] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> DiversityReport:
    """Measures how diverse samples are (the measures of Kirk et al. 2023, arXiv 2310.06452, and more).

    All of them depend on the number of samples, on the temperature and on the limit of tokens: compare
    reports only where these, the vocabulary and the tokenizer are equal.

    Args:
        samples: For each input its samples, as many for every input.
        vocabulary: Number of different tokens there are, for `ead`; that of the tokenizer. It is used for
            n-grams of all lengths, so those of n > 1 may exceed 1.
        tokenize: Splits a text, by default at white space; a tokenizer's `tokenize` goes with its
            vocabulary.
        orders: Longest n-grams of `distinct` and `ead`; 5 as in Kirk et al.
        embed: Makes one vector for each text, such as `EngineEmbedder(engine).embed`. Without vectors,
            texts are compared by TF-IDF of 2 to 4 characters. Its idf comes from the texts given here, so
            it is not quite the same from report to report.
        embeddings: The vectors themselves, in the shape of `samples`.
        answers: The final answer of each sample; None (no answer) counts as an answer of its own.
        token_entropies: The mean entropy of each sample's next-token distributions, in the unit that the
            report shall have.
        level: Confidence level of the intervals.
        resamples: Resamples of the bootstrap over inputs, at least 100.
        seed: Seed of the bootstrap.

    Raises:
        DataError: if there is no sample, or the numbers of samples differ.
        ConfigError: if the vocabulary has fewer than two tokens.

    Example:
        >>> report = diversity([["a b c", "a b c"], ["a b c", "d e f"]], vocabulary=1000)
        >>> report.per_input.self_bleu.value, report.across.self_bleu.value
        (0.5, 1.0)
        >>> print(f"{report.per_input.embedding.value:.2f}")
        0.50
    """
    check_resampling(resamples, seed, level)
    check_count("vocabulary", vocabulary, 2)
    check_count("orders", orders, 1, _MOST_ORDERS)
    texts = _table("samples", samples, None)
    for number, row in enumerate(texts):
        if not all(isinstance(text, str) for text in row):
            raise DataError(f"samples[{number}] holds something else than text", expected="texts")
    inputs, each = len(texts), len(texts[0])
    settings: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    tokens = [[tuple(tokenize(text)) for text in row] for row in texts]
    spreads, pooled_spread = _spreads(texts, embed, embeddings)
    shape = (inputs, each)
    counted = None if answers is None else [Counter(row) for row in _table("answers", answers, shape)]
    entropies = (
        None
        if token_entropies is None
        else [
            math.fsum(finite("token_entropies", row)) / each
            for row in _table("token_entropies", token_entropies, shape)
        ]
    )
    return DiversityReport(
        per_input=_scores(tokens, spreads, vocabulary, orders, settings) if each > 1 else None,
        across=_scores(
            [[row[0] for row in tokens]], [pooled_spread], vocabulary, orders, settings, pooled=True
        )
        if inputs > 1
        else None,
        distinct_answers=None if counted is None else mean([float(len(row)) for row in counted], **settings),
        answer_entropy=None if counted is None else mean([_entropy(row) for row in counted], **settings),
        token_entropy=None if entropies is None else mean(entropies, **settings),
        inputs=inputs,
        samples=each,
        vocabulary=vocabulary,
        level=level,
    )


def _table(name: str, values: Any, shape: tuple[int, int] | None) -> list[list[Any]]:
    """A list of lists of the same length, of this shape if one is given."""
    table = [rows(f"{name}[{number}]", row) for number, row in enumerate(rows(name, values))]
    same_length(**{name: table})
    inputs, samples = shape or (len(table), len(table[0]))
    wrong = [len(row) for row in table if len(row) != samples]
    if wrong or len(table) != inputs or not samples:
        raise DataError(
            f"{name} has {len(table)} inputs, one of {wrong[0] if wrong else samples} samples",
            expected=f"{inputs} inputs of {max(samples, 1)} samples each",
        )
    return table


def _spreads(texts: list[list[str]], embed: Any, embeddings: Any) -> tuple[list[float], float]:
    """The embedding diversity of each input, and that of the first samples; 0 of a single text."""
    flat, each = [text for row in texts for text in row], len(texts[0])
    if embed is None and embeddings is None:
        vectors: Any = character_vectors(flat)
        spread: Callable[[Any], float] = spread_of_mappings
    else:
        given = embed(flat) if embed is not None else _flat(embeddings, (len(texts), each))
        vectors, spread = _unit_rows(given, len(flat)), spread_of_rows
    by_input = [
        spread(vectors[start : start + each]) if each > 1 else 0.0 for start in range(0, len(flat), each)
    ]
    return by_input, spread(vectors[::each]) if len(texts) > 1 else 0.0


def _flat(embeddings: Any, shape: tuple[int, int]) -> list[Any]:
    return [vector for row in _table("embeddings", embeddings, shape) for vector in row]


def _unit_rows(given: Any, texts: int) -> Any:
    import numpy as np

    try:
        vectors = np.asarray(given, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the vectors cannot be read ({error})", expected="as many numbers for each text"
        ) from None
    if vectors.ndim != 2 or len(vectors) != texts:
        raise DataError(
            f"the vectors have the shape {vectors.shape}", expected=f"{texts} rows, one for each text"
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise DataError("a vector is zero or not finite", expected="vectors with a direction")
    return vectors / norms


def _scores(
    groups: list[list[tuple[Any, ...]]],
    spreads: list[float],
    vocabulary: int,
    orders: int,
    settings: dict[str, Any],
    *,
    pooled: bool = False,
) -> DiversityScores:
    """The scores of each group of texts, averaged over groups with intervals; or those of the one pool."""
    counts = [[distinct(group, n) for group in groups] for n in range(1, orders + 1)]
    ratios = [[found / total for found, total in row if total] for row in counts]
    adjusted = [
        [expectation_adjusted(found, total, vocabulary) if total else None for found, total in row]
        for row in counts
    ]
    means = [
        math.fsum(defined) / len(defined)
        for column in zip(*adjusted, strict=True)
        if (defined := [value for value in column if value is not None])
    ]

    def averaged(values: list[float]) -> Measure:
        if values and pooled:
            return Measure(value=values[0], reason="pooled texts have no interval", level=settings["level"])
        return mean(values, reason="no text is long enough", **settings)

    return DiversityScores(
        distinct=tuple(averaged(row) for row in ratios),
        ead=tuple(averaged([value for value in row if value is not None]) for row in adjusted),
        ead_mean=averaged(means),
        self_bleu=averaged([self_bleu(group) for group in groups]),
        embedding=averaged(spreads),
    )


def _entropy(counts: Counter[Any]) -> float:
    total = counts.total()
    return -math.fsum(count / total * math.log(count / total) for count in counts.values()) + 0.0
