"""How alike two short texts are: cosine of their words, rare words counting more, or of given vectors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from docendo.errors import DataError

#: Makes one vector per text.
Embed: TypeAlias = "Callable[[Sequence[str]], Sequence[Sequence[float]]]"

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    Example:
        >>> words("Carry the 1!")
        ['carry', 'the', '1']
    """
    return _WORD.findall(text.lower())


def similarities(query: str, texts: Sequence[str], *, embed: Embed | None = None) -> list[float]:
    """Returns for each text its cosine with the query: between 0 and 1 for words.

    Without `embed` a word weighs its count times the logarithm of how rare it is among the texts.

    Example:
        >>> scores = similarities("borrow a ten", ["when to borrow", "how to carry"])
        >>> scores[0] > scores[1] == 0.0
        True
    """
    if not texts:
        return []
    if embed is not None:
        first, *rest = embed([query, *texts])
        if len(rest) != len(texts):
            raise DataError(
                f"embed returned {len(rest) + 1} vectors for {len(texts) + 1} texts", expected="one per text"
            )
        return [_cosine(_numbered(first), _numbered(vector)) for vector in rest]
    bags = [Counter(words(text)) for text in texts]
    frequency = Counter(word for bag in bags for word in bag)
    rarity = {word: math.log(1 + len(texts) / count) for word, count in frequency.items()}
    weighed = [{word: count * rarity[word] for word, count in bag.items()} for bag in bags]
    # A word that no text has says nothing about which text is nearer.
    wanted = {word: count * rarity[word] for word, count in Counter(words(query)).items() if word in rarity}
    return [_cosine(wanted, bag) for bag in weighed]


def _numbered(vector: Sequence[float]) -> dict[str, float]:
    return {str(place): value for place, value in enumerate(vector)}


def _cosine(a: dict[str, float], b: dict[str, float]) -> float:
    dot = math.fsum(value * b.get(key, 0.0) for key, value in a.items())
    size = math.sqrt(math.fsum(v * v for v in a.values()) * math.fsum(v * v for v in b.values()))
    return dot / size if size else 0.0
