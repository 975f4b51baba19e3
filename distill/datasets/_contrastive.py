"""Rows of a good answer with other good and with bad ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import (
    Candidate,
    Draft,
    Prompter,
    by_item,
    check_threshold,
    grouped,
    judged,
    origin,
)
from docendo.distill.datasets._messages import said
from docendo.distill.datasets._pairs import merged
from docendo.errors import ConfigError
from docendo.hashing import digest
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database


def contrastive_dataset(
    traces: Iterable[Trace],
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    student: Prompter | None = None,
    reward: str = "verified",
    threshold: float = 1.0,
    max_positives: int = 10,
    max_negatives: int = 4,
    max_per_item: int | None = 4,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds good answers with other good and with bad ones, for losses that contrast them.

    That is how Learn-to-Reason (Wang et al. 2023, arXiv 2310.13332) lets a student reflect on its own
    mistakes. Each good answer is once the anchor, which is learnt; an item without a second good answer or
    without a bad one has no row. Who gave the answers does not matter where `student` is given; without it
    only answers to one prompt come together. The order of the traces does not matter.

    Args:
        traces: Recorded turns: the teacher's and the student's.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        student: The agent whose prompt takes the place of the one that was sent, or None to keep that.
        reward: Name of the reward that decides.
        threshold: Least reward of a good answer.
        max_positives: Most positives of an anchor; 10 as in the paper's code.
        max_negatives: Most negatives; 4 likewise.
        max_per_item: Most anchors per item, or None for all.
        database: Where to record what the rows were made of, as for `sft_dataset`.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns `prompt`, `completion` (the anchor, one assistant message),
        `positives` and `negatives` (texts), and `item`, `traces` and `posts`.

    Raises:
        ConfigError: if a limit is less than 1.
        LeakError: if a trace or a prompt belongs to an excluded item, by id or by question text.
        DataError: if nothing is left; the message counts why.

    Example:
        >>> from docendo.distill import contrastive_dataset
        >>> from docendo.records import Author, Gold, Item, PublicItem, Trace
        >>> item = Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4"))
        >>> turns = [
        ...     Trace(id=text, run="r", item="i", split="train", completion=text, rewards={"verified": value},
        ...           author=Author(agent="s", role="student"),
        ...           messages=({"role": "user", "content": "2 + 2"},))
        ...     for text, value in (("4", 1.0), ("IV", 1.0), ("5", 0.0))
        ... ]
        >>> row = contrastive_dataset(turns, items=[item], exclude=[])[0]
        >>> row["completion"][0]["content"], row["positives"], row["negatives"]
        ('4', ['IV'], ['5'])
    """
    check_threshold("threshold", threshold)
    if max_positives < 1 or max_negatives < 1:
        raise ConfigError(
            f"max_positives is {max_positives} and max_negatives {max_negatives}", expected="at least 1 each"
        )
    limits = {"max_positives": max_positives, "max_negatives": max_negatives}
    builder = Builder(
        "contrastive",
        {"reward": reward, "threshold": threshold, **limits},
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )
    drafts = []
    candidates = builder.candidates(traces, against=judged(reward), reward=reward)
    for group in grouped(candidates, lambda one: (one.trace.item, digest(one.prompt))):
        different = merged(group, builder)
        good = [one for one in different if one.value >= threshold and builder.promoted(one)]
        bad = [one for one in different if not one.value >= threshold]
        for one in bad[max_negatives:]:
            builder.because(one.trace.id, f"over {max_negatives} negatives")
        for anchor in good:
            others = [one for one in good if one is not anchor][:max_positives]
            if others and bad:
                drafts.append(_contrast(anchor, others, bad[:max_negatives]))
    return builder.dataset(
        by_item(drafts),
        unused="without a counterpart",
        expected="an item with two good answers and a bad one",
        remedy="sample several answers per item",
    )


def _contrast(anchor: Candidate, positives: Sequence[Candidate], negatives: Sequence[Candidate]) -> Draft:
    family = [one.trace for one in (anchor, *positives, *negatives)]
    return Draft(
        fields={
            "prompt": anchor.prompt,
            "completion": said(anchor.answer),
            "positives": [one.answer for one in positives],
            "negatives": [one.answer for one in negatives],
        },
        item=anchor.trace.item,
        sources=tuple(trace.id for trace in family),
        origin=origin(family),
    )
