"""How alike the agents' outputs on one item are: cosine of n-grams or embeddings, and shared words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, TypeAlias

from docendo.errors import DataError
from docendo.evals.items._scorer import normalise, read_answer

#: Gives each text a vector: an array or list of rows, in the order of the texts.
Embedder: TypeAlias = Callable[[Sequence[str]], Any]

_SIZE = 3
# Begins a text that has no answer line of its own; see `_stated`.
_UNLABELLED = "\x00"


def redundancies(groups: Sequence[Sequence[str]], embedder: Embedder | None = None) -> list[float | None]:
    """Returns the mean pairwise cosine of the texts of each group; None for fewer than two texts.

    Without an embedder a text is the TF-IDF vector of its character trigrams, in lower case and with runs of
    white space as one space; a shorter text counts as one n-gram of its length. The inverse document
    frequencies (smoothed, ln((1 + N) / (1 + n)) + 1) are those of all given texts.

    Args:
        groups: For each item the texts of its agents; none is empty.
        embedder: Gives vectors instead, for example `SentenceEmbedder(...).embed`.

    Raises:
        DataError: if the embedder returns another number of rows, or something that is not finite.

    Example:
        >>> redundancies([["two and two", "two and two"], ["abc", "xyz"], ["alone"]])
        [1.0, 0.0, None]
    """
    texts = [text for group in groups for text in group]
    cosine = _ngram_cosine(texts) if embedder is None else _embedded_cosine(texts, embedder)
    found: list[float | None] = []
    start = 0
    for group in groups:
        pairs = list(combinations(range(start, start + len(group)), 2))
        found.append(math.fsum(cosine(a, b) for a, b in pairs) / len(pairs) if pairs else None)
        start += len(group)
    return found


def _ngram_cosine(texts: Sequence[str]) -> Callable[[int, int], float]:
    counts = [_ngrams(text) for text in texts]
    documents = Counter(gram for count in counts for gram in count)
    total = 1 + len(texts)
    vectors = []
    for count in counts:
        vector = {gram: n * (math.log(total / (1 + documents[gram])) + 1) for gram, n in count.items()}
        length = math.sqrt(math.fsum(value * value for value in vector.values()))
        vectors.append({gram: value / length for gram, value in vector.items()})

    def cosine(a: int, b: int) -> float:
        if counts[a] == counts[b]:
            return 1.0
        first, second = vectors[a], vectors[b]
        return min(1.0, math.fsum(value * second[gram] for gram, value in first.items() if gram in second))

    return cosine


def _ngrams(text: str) -> Counter[str]:
    text = re.sub(r"\s\s+", " ", text.lower())
    return Counter(text[at : at + _SIZE] for at in range(max(1, len(text) - _SIZE + 1)))


def _embedded_cosine(texts: Sequence[str], embedder: Embedder) -> Callable[[int, int], float]:
    import numpy as np

    vectors = np.asarray(embedder(texts) if texts else np.zeros((0, 1)), dtype=float)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise DataError(
            f"the embedder returned the shape {vectors.shape} for {len(texts)} texts",
            expected="one vector a text",
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise DataError("the embedder returned a vector that is zero or not finite")
    vectors = vectors / lengths[:, None]
    return lambda a, b: float(np.clip(vectors[a] @ vectors[b], -1.0, 1.0))


def word_overlap(texts: Sequence[str]) -> tuple[float, float, float] | None:
    r"""Returns the shares of words that are unique, shared and contradictory; they add up to 1.

    The different words (letters and digits, case ignored) of all texts of one item are counted once each.
    A word is contradictory if the texts state different answers (`Answer: ...`) and it belongs to some of
    these answers and not to all; else shared if it stands in two texts or more; else unique.

    Args:
        texts: One text per agent.

    Returns:
        The three shares; None if there are fewer than two texts, or no word in them.

    Example:
        >>> word_overlap(["add them\nAnswer: 4", "add both\nAnswer: 5"])
        (0.3333333333333333, 0.3333333333333333, 0.3333333333333333)
    """
    words = [_words(text) for text in texts]
    everything = set().union(*words)
    if len(texts) < 2 or not everything:
        return None
    stated = [answer for answer in map(_stated, texts) if answer is not None]
    disputed: set[str] = set()
    if len(set(stated)) > 1:
        answers = [_words(answer) for answer in stated]
        disputed = set().union(*answers) - answers[0].intersection(*answers)
    holders = Counter(word for text in words for word in text)
    shared = sum(holders[word] > 1 for word in everything - disputed)
    total = len(everything)
    return (
        (total - len(disputed) - shared) / total,
        shared / total,
        len(disputed) / total,
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _stated(text: str) -> str | None:
    """The answer that a text states on an answer line; None without one."""
    # Of a text without an answer line, `read_answer` returns all, the mark included.
    answer = read_answer(f"{_UNLABELLED}\n{text}")
    return None if answer is None or answer.startswith(_UNLABELLED) else normalise(answer)
