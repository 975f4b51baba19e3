"""Lessons drawn from errors, recalled by their words, and kept free of the questions they must not repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from docendo.errors import LeakError
from docendo.memory.board._blackboard import Blackboard
from docendo.memory.memories._fulltext import FullTextMemory
from docendo.records import JSON

#: Words in a row that a lesson may not share with a held-out question. Shorter questions count as a whole.
SHARED_WORDS = 8
# Signs of arithmetic count as words: 17 + 5 is not 17 - 5.
_WORD = re.compile(r"\w+|[-+*/=<>^%×÷−]")


class KnowledgeBase(FullTextMemory):
    """General knowledge that a teacher wrote down after a student's errors (NesyCD, Liao et al. 2024).

    A lesson is meant to be general. One that quotes a held-out question could carry its answer to a student
    that is asked it, so it is refused: here when it is written, whoever wrote it.

    Example:
        >>> from docendo.memory import Blackboard
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> base = KnowledgeBase(board, held_out=["What is 17 + 5?"])
        >>> teacher = Author(agent="teacher", role="teacher")
        >>> _ = base.write("Add the ones first and carry.", author=teacher, key="carry")
        >>> base.write("What is 17 + 5? It is 22.", author=teacher, key="leak")
        Traceback (most recent call last):
        ...
        docendo.errors.LeakError: the lesson 'What is 17 + 5? It is 22.' repeats a held-out question ...
        >>> board.close()
    """

    default_kind = "lesson"

    def __init__(
        self,
        board: Blackboard,
        *,
        channel: str = "main",
        held_out: Iterable[str] = (),
        span: int = SHARED_WORDS,
    ) -> None:
        """Prepares the guard.

        Args:
            board: The blackboard.
            channel: The channel of the lessons.
            held_out: Questions that no lesson may repeat.
            span: How many of their words in a row are a repetition.
        """
        super().__init__(board, channel=channel)
        self._span = span
        self._shingles: dict[tuple[str, ...], str] = {}
        for question in held_out:
            for shingle in _shingles(question, span):
                self._shingles.setdefault(shingle, question)
        self._lengths = sorted({len(shingle) for shingle in self._shingles})

    def _checked(self, body: Mapping[str, JSON]) -> Mapping[str, JSON]:
        body = super()._checked(body)
        for text in _texts(body):
            words = _words(text)
            for length in self._lengths:
                for start in range(len(words) - length + 1):
                    question = self._shingles.get(words[start : start + length])
                    if question is not None:
                        raise LeakError(
                            f"the lesson {text[:40]!r} repeats a held-out question ({question[:60]!r})",
                            expected=f"fewer than {min(length, self._span)} of its words in a row",
                            remedy="let the teacher write what holds for other questions as well",
                        )
        return body


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _shingles(question: str, span: int) -> Iterable[tuple[str, ...]]:
    words = _words(question)
    if len(words) <= span:
        return [words] if words else []
    return [words[start : start + span] for start in range(len(words) - span + 1)]


def _texts(value: JSON) -> Iterable[str]:
    """All texts in a body: an answer may be told in any of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts(entry)
