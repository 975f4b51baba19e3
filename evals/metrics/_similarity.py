"""How alike texts are: shared n-grams, self-BLEU, and cosines of vectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Tokens: TypeAlias = Sequence[Hashable]

_BLEU_ORDER = 4
# Lengths of the character n-grams that texts are compared by without a model.
_CHARACTERS = (2, 3, 4)
# Marks of a text's ends: the shortest text has n-grams, too.
_START, _END = "\x02", "\x03"


def ngrams(tokens: Tokens, n: int) -> Iterable[tuple[Hashable, ...]]:
    """All runs of n tokens."""
    return (tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def distinct(texts: Sequence[Tokens], n: int) -> tuple[int, int]:
    """The numbers of different and of all n-grams of the texts."""
    found: Counter[tuple[Hashable, ...]] = Counter()
    for tokens in texts:
        found.update(ngrams(tokens, n))
    return len(found), found.total()


def expectation_adjusted(different: int, total: int, vocabulary: int) -> float:
    """Different n-grams over the number expected if each were drawn from the vocabulary at random."""
    expected = -vocabulary * math.expm1(total * math.log1p(-1 / vocabulary))
    return different / expected


def self_bleu(texts: Sequence[Tokens]) -> float:
    """The mean BLEU-4 of each text against all the others; at least two texts.

    Orders for which a text is too short are left out, and an order without a match counts half of the one
    before (NIST's smoothing): the setting that sacrebleu uses for sentences. An empty text scores 1 if
    another one is empty, else 0.
    """
    matches = [_matches(texts, n) for n in range(1, _BLEU_ORDER + 1)]
    lengths = [len(tokens) for tokens in texts]
    scores = []
    for number, length in enumerate(lengths):
        others = lengths[:number] + lengths[number + 1 :]
        if length == 0:
            scores.append(float(0 in others))
            continue
        closest = min(others, key=lambda other: (abs(other - length), other))
        brevity = min(1.0, math.exp(1 - closest / length))
        scores.append(brevity * _precision([found[number] for found in matches], length))
    return math.fsum(scores) / len(scores)


def _matches(texts: Sequence[Tokens], n: int) -> list[int]:
    """For each text how many of its n-grams the others have, each as often as one of them has it."""
    counts = [Counter(ngrams(tokens, n)) for tokens in texts]
    # The most any text has of an n-gram, who has it, and the most that any other has.
    most: dict[tuple[Hashable, ...], tuple[int, int, int]] = {}
    for number, found in enumerate(counts):
        for gram, count in found.items():
            first, owner, second = most.get(gram, (0, -1, 0))
            if count > first:
                most[gram] = (count, number, first)
            elif count > second:
                most[gram] = (first, owner, count)
    return [
        sum(min(count, most[gram][2 if most[gram][1] == number else 0]) for gram, count in found.items())
        for number, found in enumerate(counts)
    ]


def _precision(matches: Sequence[int], length: int) -> float:
    if not any(matches):
        return 0.0
    logs, half = [], 1.0
    for n, match in enumerate(matches[:length], start=1):
        total = length - n + 1
        half = half if match else half / 2
        logs.append(math.log(match / total if match else half / total))
    return math.exp(math.fsum(logs) / len(logs))


def character_vectors(texts: Sequence[str]) -> list[Mapping[str, float]]:
    """TF-IDF vectors of length 1 over n-grams of 2 to 4 characters, the idf smoothed, from these texts."""
    counts = []
    for text in texts:
        marked = f"{_START}{text}{_END}"
        counts.append(
            Counter(marked[start : start + n] for n in _CHARACTERS for start in range(len(marked) - n + 1))
        )
    documents: Counter[str] = Counter()
    for found in counts:
        documents.update(found.keys())
    idf = {gram: 1 + math.log((1 + len(texts)) / (1 + count)) for gram, count in documents.items()}
    vectors: list[Mapping[str, float]] = []
    for found in counts:
        weights = {gram: count * idf[gram] for gram, count in found.items()}
        norm = math.sqrt(math.fsum(weight * weight for weight in weights.values()))
        vectors.append({gram: weight / norm for gram, weight in weights.items()})
    return vectors


def spread_of_mappings(vectors: Sequence[Mapping[str, float]]) -> float:
    """1 less the mean cosine over pairs of vectors of length 1; at least two."""
    total: dict[str, float] = {}
    for vector in vectors:
        for gram, weight in vector.items():
            total[gram] = total.get(gram, 0.0) + weight
    return _spread(math.fsum(weight * weight for weight in total.values()), len(vectors))


def spread_of_rows(vectors: Any) -> float:
    """The same for the rows of an array."""
    total = vectors.sum(0)
    return _spread(float(total @ total), len(vectors))


def _spread(squared: float, n: int) -> float:
    # The square of the sum is the n squares and twice the cosine of every pair.
    return min(2.0, max(0.0, 1 - (squared - n) / (n * (n - 1))))
