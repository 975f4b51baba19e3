"""Rows of lessons that answer a student's mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import (
    Candidate,
    Draft,
    Prompter,
    by_item,
    check_threshold,
    judged,
    name_of,
    origin,
)
from docendo.distill.datasets._messages import said
from docendo.records import Item, PublicItem, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

#: Makes a row of an item, a student's wrong attempt and a lesson about it; None makes none.
LessonRow: TypeAlias = "Callable[[PublicItem, str, str], Mapping[str, Any] | None]"


def feedback_dataset(
    traces: Iterable[Trace],
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    student: Prompter | None = None,
    row: LessonRow | None = None,
    reward: str = "verified",
    threshold: float = 1.0,
    teacher_role: str = "teacher",
    max_per_item: int | None = None,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds rows of a teacher's lessons about wrong attempts, as `graphs.tailored_lessons` records them.

    A lesson is a trace of the teacher's role whose parent is the attempt that it is about. By default it
    answers the attempt's question and becomes a row under the student's own prompt, as in Learn-to-Reason
    (Wang et al. 2023, arXiv 2310.13332). A lesson may also be something else, such as an exercise of its
    own: then `row` says what is asked and what is answered. The order of the traces does not matter.

    Args:
        traces: Recorded turns: attempts and lessons.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        student: The agent whose prompt rows have; needed without `row`.
        row: Makes the columns of a row from the item, the attempt and the lesson: `prompt`, `completion`, and
            for objectives that contrast (`TripletHidden`) `positives` and `negatives`.
        reward: Name of the reward of lessons that decides.
        threshold: Least reward of a lesson.
        teacher_role: Role of those who teach.
        max_per_item: Most rows of an item, or None for all.
        database: Where to record what the rows were made of, as for `sft_dataset`.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns of the rows, and `item`, `traces` (of lesson and attempt) and
        `posts`.

    Raises:
        ConfigError: if there is neither `row` nor `student`, or a limit is less than 1.
        LeakError: if a trace or a row belongs to an excluded item, by id or by question text.
        DataError: if nothing is left; the message counts why.

    Example:
        >>> from docendo.distill import feedback_dataset
        >>> from docendo.records import Author, Gold, Item, PublicItem, Trace
        >>> item = Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4"))
        >>> turns = [
        ...     Trace(id=role, run="r", item="i", split="train", completion=text, rewards={"verified": value},
        ...           author=Author(agent=role, role=role), parents=parents,
        ...           messages=({"role": "user", "content": "2 + 2"},))
        ...     for role, text, value, parents in (
        ...         ("student", "5", 0.0, ()), ("teacher", "2, 3, 4", 1.0, ("student",)))
        ... ]
        >>> def contrast(item, attempt, lesson):
        ...     return {"prompt": item.question, "completion": lesson, "negatives": [attempt]}
        >>> made = feedback_dataset(turns, items=[item], exclude=[], row=contrast)[0]
        >>> made["completion"], made["negatives"]
        ('2, 3, 4', ['5'])
    """
    check_threshold("threshold", threshold)
    builder = Builder(
        "feedback",
        {"reward": reward, "threshold": threshold, "row": name_of(row) if row is not None else None},
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )
    turns = list(traces)
    by_id = {trace.id: trace for trace in turns}
    speaks = judged(reward)

    def against(trace: Trace) -> str | None:
        if trace.author.role != teacher_role:
            return "of other roles"
        if not any(parent in by_id for parent in trace.parents):
            return "about no attempt"
        reason = speaks(trace)
        return reason or ("not right" if trace.rewards[reward] < threshold else None)

    drafts = []
    for one in builder.candidates(turns, against=against, reward=reward):
        attempt = next(by_id[parent] for parent in one.trace.parents if parent in by_id)
        item = builder.guard.items[one.trace.item]
        if not builder.promoted(one):
            continue
        fields = row(item.public, attempt.completion.strip(), one.answer) if row else _answer(one, builder)
        if fields is None:
            builder.because(one.trace.id, "without a row")
        else:
            drafts.append(_draft(one, attempt, fields))
    return builder.dataset(
        by_item(drafts),
        unused="without a row",
        expected="a right lesson whose parent is an attempt that is given, too",
        remedy="run graphs.tailored_lessons on items that the student gets wrong",
    )


def _answer(one: Candidate, builder: Builder) -> Mapping[str, Any]:
    """The lesson as the answer to the question."""
    prompt = builder.prompt_for(builder.guard.items[one.trace.item], "a lesson that answers the question")
    return {"prompt": prompt, "completion": said(one.answer)}


def _draft(one: Candidate, attempt: Trace, fields: Mapping[str, Any]) -> Draft:
    family = [one.trace, attempt]
    return Draft(
        fields=fields,
        item=one.trace.item,
        sources=(one.trace.id,),
        origin=origin(family),
    )
