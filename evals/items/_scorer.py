"""The strict scorer: one answer is read out of the text and compared exactly.

Its promise: partial credit never counts as right, a number is compared as a number without
tolerance, and no text whatever makes it raise.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from docendo.checks import short
from docendo.errors import ConfigError, DataError
from docendo.evals.items._given import checked_choices, require_text, written
from docendo.evals.items._leaks import leaks_number, leaks_text
from docendo.evals.items._numbers import number, numbers, show
from docendo.hashing import digest
from docendo.records import Gold, Item, PublicItem, Split
from docendo.scoring import Score, Scorer

# `Answer: 7`, `**Final answer:** 7`, `The answer is 7`; the label must open its line.
_LABEL = re.compile(
    r"^[ \t>*_#-]*(?:the[ \t]+)?(?:final[ \t]+)?answer"
    # Marks of bold text may surround the colon; a single `_` after it may belong to a grid.
    r"(?:[ \t*_]*[:=][ \t]*(?:\*\*|__)?[ \t]*|[ \t]+is[ \t]*:?[ \t]*(?:\*\*|__)?[ \t]*)",
    re.IGNORECASE | re.MULTILINE,
)
_WRAPPED = (("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'), ("“", "”"), ("$", "$"))
#: The names of choices.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Scores of task sources are in [0, 1], and anything short of 1 is partial credit: 0.9994 is what
# reasoning_gym's time_intervals gives for 51 seconds off. The rest is room for rounding.
_FULL = 1 - 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a sealed gold of this room holds.

    Attributes:
        text: The reference answer, or None for a task that can only verify.
        accepted: Other texts that are the same answer, such as the text of the right choice.
        judge: The task's own scorer for answers that are not unique; returns a number in [0, 1].
    """

    text: str | None
    accepted: tuple[str, ...] = ()
    judge: Callable[[str], float] | None = None


def normalise(text: str) -> str:
    r"""Returns the form in which question texts are compared: NFC, one space, lower case.

    Example:
        >>> normalise("What  is\n2 + 2 ?") == normalise("what is 2 + 2 ?")
        True
    """
    _require_str(text)
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def make_item(
    question: str,
    answer: str | float | None,
    *,
    task: str = "",
    split: Split = "user",
    choices: Sequence[str] = (),
) -> Item:
    """Makes one item by hand, for tests and for questions that belong to no task.

    Args:
        question: The question as agents see it; choices are appended as lettered lines.
        answer: The gold answer, or of multiple choice the letter or the text of the right choice.
        task: Name of the task.
        split: Its part of the task.
        choices: The choices of a multiple-choice question.

    Raises:
        DataError: if something is empty, of another type or no Unicode, two choices are equal, or none of
            them is the answer.

    Example:
        >>> item = make_item("What is 2 + 2?", 4)
        >>> item.gold, ExactScorer().score(item, "2 + 2 = 4").correct
        (<gold>, True)
    """
    require_text(question, "question")
    if not question.strip():
        raise DataError("question is empty", expected="text")
    require_text(task, "task")
    if split not in get_args(Split):
        raise DataError(f"split is {split!r}", expected=f"one of {', '.join(get_args(Split))}")
    text = written(answer)
    if len(checked_choices(choices, question)) > len(LETTERS):
        raise DataError(f"choices has {len(choices)} entries", expected=f"at most {len(LETTERS)}")
    if choices:
        question = question.rstrip() + _lettered(choices)
    public = PublicItem(
        id=item_id(task, question), question=question, task=task, split=split, choices=tuple(choices)
    )
    return Item(public=public, gold=Gold(_choice(text, choices) if choices else Answer(text=text)))


def _lettered(choices: Sequence[str]) -> str:
    return "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def stem(item: PublicItem) -> str:
    """Returns a question without the lettered list of its choices.

    Example:
        >>> stem(make_item("Which is red?", "B", choices=["grass", "blood"]).public)
        'Which is red?'
    """
    return item.question.removesuffix(_lettered(item.choices))


def item_id(task: str, question: str) -> str:
    """Returns the stable id of a question: the same text of the same task has the same id."""
    return digest("item", task, normalise(question))[:16]


def _choice(text: str | None, choices: Sequence[str]) -> Answer:
    right = [index for index, choice in enumerate(choices) if text == choice.strip()]
    if not right and text is not None and len(text) == 1 and text.upper() in LETTERS[: len(choices)]:
        right = [LETTERS.index(text.upper())]
    if len(right) != 1:
        raise DataError(
            f"answer {text!r} names {len(right)} of the choices", expected="the text or letter of one"
        )
    letter, choice = LETTERS[right[0]], choices[right[0]].strip()
    return Answer(text=letter, accepted=(choice, f"({letter})", f"{letter}. {choice}", f"{letter}) {choice}"))


class ExactScorer(Scorer):
    r"""Exact match of the final answer; the default scorer of every task.

    The answer is the last line that starts with `Answer:` (or `The answer is`). Without one it is
    the last number if the gold answer is a number, else the whole text. Numbers are compared as
    numbers (`1,000.0` is `1000`), without tolerance; other texts exactly, apart from surrounding
    quotes, bold marks and a final full stop. Where an answer is a text and the task accepts several,
    the task's own scorer decides, too, and only full credit counts.

    Args:
        ignore_case: Compare texts without regard to case.

    Example:
        >>> item = make_item("Compute 38 - 57 - 10.", "-29")
        >>> scorer = ExactScorer()
        >>> scorer.score(item, "38 - 57 = -19\n-19 - 10 = -29\nAnswer: -29").correct
        True
        >>> scorer.score(item, "Answer: 29").correct
        False
        >>> scorer.leaks(item, "It is -29."), scorer.leaks(item, "Start with 38 - 57.")
        (True, False)
    """

    name = "exact"

    def __init__(self, *, ignore_case: bool = False) -> None:
        """Chooses whether case matters."""
        self.ignore_case = ignore_case
        if ignore_case:
            self.name = "exact-ignore-case"

    def score(self, item: Item, text: str) -> Score:
        """Scores the final answer in `text`; malformed text is a wrong answer and never an error."""
        answer = self._answer(item)
        numeric = answer.text is not None and number(answer.text) is not None
        parsed = read_answer(text, numeric=numeric, multiline=answer.text is None or "\n" in answer.text)
        if parsed is None:
            return Score(correct=False, value=0.0)
        if self._equal(answer, parsed):
            return Score(correct=True, value=1.0, parsed=parsed)
        if numeric or answer.judge is None:
            # Task scorers allow numbers a tolerance of up to some per cent: not here.
            return Score(correct=False, value=0.0, parsed=parsed)
        try:
            value = float(answer.judge(parsed))
        except (OSError, MemoryError):  # the machine's failure says nothing about the answer
            raise
        except Exception as error:  # a task's scorer may choke on malformed text in any way
            return Score(correct=False, value=0.0, parsed=parsed, failure=f"{type(error).__name__}: {error}")
        value = min(1.0, max(0.0, value)) if value == value else 0.0
        return Score(correct=value >= _FULL, value=value, parsed=parsed)

    def leaks(self, item: Item, text: str) -> bool:
        """Whether `text` gives the gold answer away.

        A number counts only as a whole number (`69` does not give `9` away). If the gold already
        stands in the question it may be repeated, but not as a result (`= 9`, `the answer is 9`);
        a number spelled as a word counts in such places, too.
        """
        answer = self._answer(item)
        if not text.strip():
            return False
        question = item.public.question
        gold = answer.text
        value = number(gold) if gold is not None else None
        if value is not None:
            return leaks_number(value, question, text)
        if self.score(item, text).correct:
            return True
        golds = [*([gold] if gold is not None else []), *answer.accepted]
        return any(leaks_text(each, question, text, letter=bool(item.public.choices)) for each in golds)

    def answer(self, item: Item) -> str | None:
        """Returns the reference answer as text, or None if the task can only verify."""
        return self._answer(item).text

    def is_unique(self, item: Item) -> bool:
        """Whether no other answer than the reference counts as right."""
        answer = self._answer(item)
        return answer.judge is None or (answer.text is not None and number(answer.text) is not None)

    def _answer(self, item: Item) -> Answer:
        gold = self.open(item)
        if isinstance(gold, Answer):
            return gold
        if gold is None or isinstance(gold, (str, int, float)):
            return Answer(text=None if gold is None else str(gold).strip())
        raise ConfigError(
            f"item {item.id} has a gold answer of type {type(gold).__name__}",
            expected="text, a number or None",
            remedy="write a Scorer of your own that opens it",
        )

    def _equal(self, answer: Answer, parsed: str) -> bool:
        if answer.text is None:
            return False
        value = number(answer.text)
        if value is not None:
            return number(parsed) == value
        return any(self._form(parsed) == self._form(gold) for gold in (answer.text, *answer.accepted))

    def _form(self, text: str) -> str:
        lines = (" ".join(line.split()) for line in unicodedata.normalize("NFC", _unwrap(text)).splitlines())
        form = "\n".join(lines)
        return form.casefold() if self.ignore_case else form


def read_answer(text: str, *, numeric: bool = False, multiline: bool = False) -> str | None:
    r"""Reads the final answer out of a text, or returns None if there is none.

    Args:
        text: What the agent wrote.
        numeric: The answer is a number: take the last one of the answer line, or of the text.
        multiline: The answer may go on after its first line (a grid, a list).

    Example:
        >>> read_answer("I think 12.\n**Answer:** 13.", numeric=True)
        '13'
        >>> read_answer("They are 12 and 15", numeric=True)
        '15'
        >>> read_answer("Answer: Paris.\nIt lies on the Seine.")
        'Paris'
    """
    _require_str(text)
    labels = list(_LABEL.finditer(text))
    if labels:
        tail = text[labels[-1].end() :].strip()
        text = tail if multiline else tail.split("\n", 1)[0]
    if numeric:
        found = [value for value, _, _ in numbers(text)]
        return show(found[-1]) if found else None
    return _unwrap(text) or None


def has_label(text: str) -> bool:
    """Whether a text says where its final answer is, such as `Answer: 7`."""
    return _LABEL.search(text) is not None


def _require_str(text: object) -> None:
    """Models may write half a character, so that any text will do."""
    if not isinstance(text, str):
        raise DataError(f"text is {short(text)}", expected="text")


def _unwrap(text: str) -> str:
    text = text.strip()
    for _ in range(3):
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for start, end in _WRAPPED:
            inner = text[len(start) : len(text) - len(end)]
            whole = len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end)
            if whole and start not in inner and end not in inner:
                text = inner.strip()
        for mark in ("**", "__"):
            # The opening mark went with the label: `**Answer: 7**`.
            text = text.removesuffix(mark).rstrip() if text.count(mark) == 1 else text
        if text == before:
            break
    return text
