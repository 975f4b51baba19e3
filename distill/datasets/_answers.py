"""Rows of single answers that are labelled good or bad, and prompts without answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import (
    Draft,
    Prompter,
    by_item,
    check_threshold,
    draft_of,
    grouped,
    judged,
    name_of,
    origin,
)
from docendo.distill.datasets._messages import said
from docendo.distill.datasets._pairs import merged
from docendo.errors import ConfigError
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database


def unpaired_dataset(
    traces: Iterable[Trace],
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    student: Prompter | None = None,
    reward: str = "verified",
    threshold: float = 1.0,
    max_per_item: int | None = 4,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds answers that are labelled good or bad, for KTO (arXiv 2402.01306).

    An answer that was given several times counts once, with the mean of its rewards. Good answers must have
    been promoted, where the run has a board; bad ones must only not be quarantined. The order of the traces
    does not matter.

    Args:
        traces: Recorded turns.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        student: The agent whose prompt takes the place of the one that was sent, or None to keep that.
        reward: Name of the reward that decides.
        threshold: Least reward of a good answer.
        max_per_item: Most good and most bad answers per item, or None for all.
        database: Where to record what the rows were made of, as for `sft_dataset`.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with TRL's columns `prompt`, `completion` and `label` (true for good), and
        `item`, `traces` and `posts`.

    Raises:
        LeakError: if a trace or a prompt belongs to an excluded item, by id or by question text.
        DataError: if nothing is left; the message counts why.

    Example:
        >>> from docendo.distill import unpaired_dataset
        >>> from docendo.records import Author, Gold, Item, PublicItem, Trace
        >>> item = Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4"))
        >>> turns = [
        ...     Trace(id=text, run="r", item="i", split="train", completion=text, rewards={"verified": value},
        ...           author=Author(agent="s", role="student"),
        ...           messages=({"role": "user", "content": "2 + 2"},))
        ...     for text, value in (("4", 1.0), ("5", 0.0))
        ... ]
        >>> unpaired_dataset(turns, items=[item], exclude=[])["label"][:]
        [True, False]
    """
    check_threshold("threshold", threshold)
    builder = Builder(
        "unpaired",
        {"reward": reward, "threshold": threshold},
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )
    drafts = []
    candidates = builder.candidates(traces, against=judged(reward), reward=reward)
    for group in grouped(candidates, lambda one: one.trace.item):
        for one in merged(group, builder):
            good = one.value >= threshold
            if good and not builder.promoted(one):
                continue
            fields = {"prompt": one.prompt, "completion": said(one.answer), "label": good}
            drafts.append(draft_of(one, fields, bucket=str(good)))
    return builder.dataset(
        by_item(drafts),
        unused="not used",
        expected=f"a train trace with the reward {reward}",
        remedy="score the traces, or name another reward",
    )


def prompts_dataset(
    traces: Iterable[Trace] | None = None,
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    student: Prompter | None = None,
    answer: Callable[[Item], str] | None = None,
    max_per_item: int | None = None,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds prompts without answers, for GRPO and on-policy distillation.

    Without traces there is one row for each training item: the student's own prompt. With traces there is
    one for each prompt that was sent, which is how a role in the middle of a graph is trained.

    Args:
        traces: Recorded turns of one role (`TraceStore.find(role=...)`), or None.
        items: The training items.
        exclude: The test items, which must not appear in the result in any form.
        student: The agent that is to learn; needed without traces. With traces its prompt takes the place of
            the one that was sent.
        answer: What to put into the column `answer` for a reward function, such as `task.scorer.open`.
        max_per_item: Most prompts per item, or None for all.
        database: Where to record what the rows were made of, as for `sft_dataset`.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns `prompt`, `item`, `traces` and `posts`, and `answer` if asked
        for.

    Raises:
        ConfigError: if there are neither traces nor a student.
        LeakError: if a trace, a prompt or an answer belongs to an excluded item, by id or by question text.
        DataError: if nothing is left; the message counts why.

    Example:
        >>> from docendo import distill, evals
        >>> task = evals.tasks("reasoning_gym:chain_sum", train=4, test=3)
        >>> class Student:
        ...     def messages(self, item):
        ...         return ({"role": "user", "content": item.question},)
        >>> made = distill.prompts_dataset(items=task.train, exclude=task.test, student=Student())
        >>> made[0]["prompt"][0]["content"] == task.train[0].public.question
        True
    """
    if traces is None and student is None:
        raise ConfigError("prompts_dataset has neither traces nor a student", expected="one of them")
    builder = Builder(
        "prompts",
        {"answer": None if answer is None else name_of(answer)},
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        unit="items" if traces is None else "traces",
        database=database,
        quiet=quiet,
    )

    def fields(prompt: list[dict[str, Any]], item: Item) -> dict[str, Any]:
        return {"prompt": prompt} if answer is None else {"prompt": prompt, "answer": str(answer(item))}

    drafts = []
    if traces is None:
        for item in builder.guard.items.values():
            if item.public.split != "train":
                builder.refuse(f"of split {item.public.split}")
                continue
            builder.take(item.id)
            prompt = builder.prompt_for(item, f"the prompt of item {item.id!r}")
            drafts.append(
                Draft(fields=fields(prompt, item), item=item.id, sources=(item.id,), origin=origin([]))
            )
    else:
        for one in builder.candidates(traces, against=lambda trace: None):
            drafts.append(draft_of(one, fields(one.prompt, builder.guard.items[one.trace.item])))
    return builder.dataset(
        by_item(drafts),
        unused="not used",
        expected="a training item",
        remedy="take the items from task.train",
    )
