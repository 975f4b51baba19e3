"""The one check that every builder passes: no test item, by id or by question, in any text that is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from docendo.distill.datasets._messages import texts
from docendo.errors import LeakError
from docendo.evals import normalise
from docendo.records import Item, PublicItem, Trace


class Guard:
    """Knows the training items by id, and the test items by id and by normalised question.

    Attributes:
        items: The training items by id, in their order.
    """

    def __init__(self, items: Iterable[Item], exclude: Iterable[Item]) -> None:
        """Takes both lists.

        Raises:
            LeakError: if a training item has the id or the question of an excluded one.
        """
        self._ids: set[str] = set()
        # By their first word, so that a text is walked through once, however many questions there are.
        self._questions: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        self._clean: set[str] = set()
        for item in exclude:
            self._ids.add(item.id)
            words = tuple(_words(item.public.question))
            if words:
                self._questions.setdefault(words[0], []).append((words, item.id))
        self.items: dict[str, Item] = {}
        for item in items:
            self._check_item(item.public)
            self.items.setdefault(item.id, item)

    def _check_item(self, item: PublicItem) -> None:
        if item.id in self._ids or self._find(item.question) is not None:
            raise LeakError(
                f"training item {item.id!r} has the same id or question as an excluded item",
                expected="disjoint items and exclude",
                remedy="take both from one docendo.evals.tasks call",
            )

    def check_trace(self, trace: Trace) -> None:
        """Raises a `LeakError` if a trace was made on a test item, or holds the question of one."""
        self.check_id(trace.item, f"trace {trace.id!r}")
        self.check_texts(
            [*(message["content"] for message in trace.messages), trace.completion], f"trace {trace.id!r}"
        )

    def check_id(self, item: str, where: str) -> None:
        """Raises a `LeakError` if an id is that of a test item; `where` says what was made on it."""
        if item in self._ids:
            raise LeakError(
                f"{where} was made on the excluded item {item!r}",
                expected="traces of training items",
                remedy="run the graph on task.train",
            )

    def check_texts(self, given: Iterable[str], where: str) -> None:
        """Raises a `LeakError` if a text holds the question of a test item; `where` says what holds it."""
        for text in given:
            found = self._find(text)
            if found is not None:
                raise LeakError(
                    f"{where} holds the question of the excluded item {found!r}",
                    expected="prompts and worked examples from training items",
                    remedy="take examples from task.examples",
                )

    def check_row(self, row: Mapping[str, Any], where: str) -> None:
        """Raises a `LeakError` if a row comes from a test item, or any text in it holds a test question."""
        if isinstance(item := row.get("item"), str):
            self.check_id(item, where)
        self.check_texts(texts(row), where)

    def _find(self, text: str) -> str | None:
        """The held-out item whose question stands anywhere in the text, as whole words."""
        if not self._questions or text in self._clean:
            return None
        words = _words(text)
        for at, word in enumerate(words):
            for question, item in self._questions.get(word, ()):
                if tuple(words[at : at + len(question)]) == question:
                    return item
        self._clean.add(text)
        return None


def _words(text: str) -> list[str]:
    return normalise(text).split()
