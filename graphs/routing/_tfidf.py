"""TF-IDF vectors of texts: features that need no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from docendo.checks import check_count, is_count
from docendo.errors import ConfigError, DataError
from docendo.hashing import digest

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

_WORD = re.compile(r"\w+|[^\w\s]")


class TfIdf:
    """Weighted counts of words or characters, scaled to length 1.

    Weights are those of scikit-learn's `TfidfVectorizer` with `sublinear_tf`: 1 + ln(count), times
    1 + ln((1 + texts) / (1 + texts with the term)). It is an `Embedder`, so routers take it, or any other.

    Args:
        unit: "word" (words and single signs, in lower case) or "character" (as they are).
        ngrams: Shortest and longest run of units that is a term.
        most: How many terms are kept: those that most texts have.

    Example:
        >>> features = TfIdf().fit(["add 2 and 3", "multiply 2 by 3"])
        >>> features.embed(["add 9"]).round(2).tolist()[0][features.terms.index("add")]
        1.0
    """

    def __init__(
        self,
        *,
        unit: Literal["word", "character"] = "word",
        ngrams: tuple[int, int] = (1, 2),
        most: int = 2048,
    ) -> None:
        if unit not in ("word", "character"):
            raise ConfigError(f"unit is {unit!r}", expected="word or character")
        if not (len(ngrams) == 2 and all(map(is_count, ngrams)) and 1 <= ngrams[0] <= ngrams[1]):
            raise ConfigError(f"ngrams is {ngrams!r}", expected="two whole numbers in their order")
        check_count("most", most, 1)
        self.unit, self.ngrams, self.most = unit, tuple(ngrams), most
        self.terms: list[str] = []
        #: Changes whenever it learns other terms or weights.
        self.fingerprint = ""

    def fit(self, texts: Iterable[str]) -> Self:
        """Learns terms and weights from texts; what was learnt before is forgotten.

        Raises:
            DataError: if no text has a term.
        """
        among = [set(self._terms(text)) for text in texts]
        having = Counter(term for terms in among for term in terms)
        # Ties by the term itself, so that the same texts give the same features in any order.
        kept = sorted(having.items(), key=lambda entry: (-entry[1], entry[0]))[: self.most]
        if not kept:
            raise DataError("the texts have no term", expected="a text that is not empty")
        self.terms = [term for term, _ in kept]
        self._index = {term: number for number, term in enumerate(self.terms)}
        self._weights = [1 + math.log((1 + len(among)) / (1 + count)) for _, count in kept]
        settings = (self.unit, self.ngrams, self.terms, self._weights)
        self.fingerprint = digest("tf-idf", *settings)[:16]
        return self

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row of length 1 for each text, of shape (texts, terms); zeros where no term is known.

        Raises:
            ConfigError: if it has learnt no terms.
        """
        import numpy as np

        if not self.terms:
            raise ConfigError("the features have learnt no terms", remedy="call fit first")
        rows = np.zeros((len(texts), len(self.terms)))
        for row, text in zip(rows, texts, strict=True):
            for term, count in Counter(self._terms(text)).items():
                number = self._index.get(term)
                if number is not None:
                    row[number] = (1 + math.log(count)) * self._weights[number]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)

    def _terms(self, text: str) -> Iterator[str]:
        units = list(text) if self.unit == "character" else _WORD.findall(text.lower())
        joined = "" if self.unit == "character" else " "
        for size in range(self.ngrams[0], self.ngrams[1] + 1):
            for start in range(len(units) - size + 1):
                yield joined.join(units[start : start + size])
