"""Private notes of one agent, and how well they match what somebody asks for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from docendo.errors import DataError
from docendo.memory.board._search import K1, B, words
from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Record):
    """A note that was found.

    Attributes:
        index: Its place among the notes.
        text: What it says.
        score: BM25, comparable within one set of notes.
    """

    index: int
    text: str
    score: float


class Notes:
    """Texts that one agent keeps to itself, searched by their words (BM25).

    Example:
        >>> notes = Notes(["Terns fly 70,000 km a year.", "Swifts sleep on the wing."])
        >>> [note.text for note in notes.search("How far do terns fly?", most=1)]
        ['Terns fly 70,000 km a year.']
        >>> notes.coverage("terns fly") > notes.coverage("which bridges do terns cross") > 0
        True
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Keeps the texts in their order."""
        self.texts: Sequence[str] = tuple(texts)
        if not self.texts:
            raise DataError("the notes are empty", expected="at least one text")
        self._counts = [Counter(words(text)) for text in self.texts]
        self._lengths = [count.total() for count in self._counts]
        self._mean = sum(self._lengths) / len(self._lengths) or 1.0
        self._spread = Counter(word for count in self._counts for word in count)

    def _weight(self, word: str) -> float:
        """The rarer a word is here, the more it says; one that is not here says most."""
        share = self._spread[word]
        return math.log(1 + (len(self.texts) - share + 0.5) / (share + 0.5))

    def search(self, query: str, *, most: int = 3) -> list[Note]:
        """Returns the notes that have words of the query, best first; equal ones in their order."""
        wanted = dict.fromkeys(words(query))
        found = []
        for index, count in enumerate(self._counts):
            norm = K1 * (1 - B + B * self._lengths[index] / self._mean)
            score = sum(self._weight(word) * count[word] * (K1 + 1) / (count[word] + norm) for word in wanted)
            if score > 0:
                found.append(Note(index=index, text=self.texts[index], score=score))
        return sorted(found, key=lambda note: (-note.score, note.index))[:most]

    def coverage(self, query: str) -> float:
        """How much of the query the best note has: the share of its words' weight, 0 to 1.

        A word that is in no note weighs most, so a question about something else scores low.
        """
        weights = {word: self._weight(word) for word in words(query)}
        total = sum(weights.values())
        if not total:
            return 0.0
        return max(sum(w for word, w in weights.items() if word in count) for count in self._counts) / total
