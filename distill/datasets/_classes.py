"""Rows with a class each: what a verifier, a router or a classifier learns from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docendo.checks import is_number
from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import Candidate, Prompter, by_item, draft_of, name_of, spoken
from docendo.errors import ConfigError, DataError
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database


def classification_dataset(
    traces: Iterable[Trace],
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    labels: Sequence[str],
    label: Callable[[Trace], str | None] | None = None,
    label_probs: Callable[[Trace], Mapping[str, float] | None] | None = None,
    student: Prompter | None = None,
    reward: str | None = None,
    threshold: float = 1.0,
    max_per_item: int | None = 1,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds prompts with a class each, for classifiers, routers and verifiers.

    Args:
        traces: Recorded turns.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        labels: The classes, in the order that gives them their numbers.
        label: The class of a trace, or None to leave it out; by default what the trace says, if it is one.
        label_probs: How likely the teacher holds each class, as probabilities that add up to 1 (a missing
            class has 0), or None to leave the trace out. Without `label` the likeliest class is the label.
        student: The agent whose prompt takes the place of the one that was sent, or None to keep that.
        reward: Name of a reward that a trace must have, or None to take the teacher at its word.
        threshold: Least such reward.
        max_per_item: Most rows per item, or None for all: verifiers judge many answers to one item.
        database: Where to record what the rows were made of, as for `sft_dataset`.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns `prompt` (chat messages), `text` (the last message a user sent),
        `label` (a number from 0), `label_probs` (a list in the order of `labels`, if asked for), `item`,
        `traces` and `posts`. The labels are in the manifest's settings.

    Raises:
        ConfigError: if the labels are not distinct texts.
        LeakError: if a trace or a prompt belongs to an excluded item, by id or by question text.
        DataError: if nothing is left (the message counts why), or probabilities are none.

    Example:
        >>> from docendo.distill import classification_dataset
        >>> from docendo.records import Author, Gold, Item, PublicItem, Trace
        >>> item = Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4"))
        >>> turns = [
        ...     Trace(id=text, run="r", item="i", split="train", completion=text, rewards={"verified": value},
        ...           author=Author(agent="s", role="student"),
        ...           messages=({"role": "user", "content": "2 + 2"},))
        ...     for text, value in (("no", 1.0),)
        ... ]
        >>> classification_dataset(turns, items=[item], exclude=[], labels=["yes", "no"])["label"][:]
        [1]
    """
    names = _labels(labels)
    builder = Builder(
        "classification",
        {
            "labels": list(names),
            "label": None if label is None else name_of(label),
            "label_probs": None if label_probs is None else name_of(label_probs),
            "reward": reward,
            "threshold": threshold,
        },
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )

    def against(trace: Trace) -> str | None:
        if reward is None or trace.rewards.get(reward, math.nan) >= threshold:
            return None if label or label_probs else spoken(trace)
        return f"below {reward} {threshold:g}"

    drafts = []
    for one in builder.candidates(traces, against=against):
        if not builder.promoted(one):
            continue
        found = _classified(one, names, label, label_probs)
        if found is None:
            builder.because(one.trace.id, "without a label")
            continue
        asked = [message["content"] for message in one.prompt if message["role"] == "user"]
        text = str(asked[-1] if asked else one.prompt[-1]["content"])
        drafts.append(draft_of(one, {"prompt": one.prompt, "text": text, **found}))
    return builder.dataset(
        by_item(drafts),
        unused="not used",
        expected=f"a train trace with one of the labels {', '.join(names)}",
        remedy="check labels and label=",
    )


def _labels(labels: Sequence[str]) -> dict[str, int]:
    good = not isinstance(labels, str) and all(isinstance(one, str) and one for one in labels)
    if not good or len(labels) < 2 or len(set(labels)) < len(labels):
        raise ConfigError(f"labels is {labels!r}"[:200], expected="at least two different texts")
    return {name: number for number, name in enumerate(labels)}


def _classified(
    one: Candidate,
    names: Mapping[str, int],
    label: Callable[[Trace], str | None] | None,
    label_probs: Callable[[Trace], Mapping[str, float] | None] | None,
) -> dict[str, Any] | None:
    """The columns of a row's class, or None if it has none."""
    found: dict[str, Any] = {}
    probs = label_probs(one.trace) if label_probs else None
    if label_probs is not None:
        if probs is None:
            return None
        found["label_probs"] = _distribution(probs, names, one.trace.id)
    if label is None and probs is not None:
        # Of equally likely classes the first.
        return {"label": max(names.values(), key=lambda at: (found["label_probs"][at], -at)), **found}
    name = label(one.trace) if label else one.answer
    return {"label": names[name], **found} if name is not None and name in names else None


def _distribution(probs: Mapping[str, float], names: Mapping[str, int], trace: str) -> list[float]:
    good = all(is_number(value) and value >= 0 for value in probs.values()) and set(probs) <= set(names)
    if not good or not math.isclose(sum(probs.values()), 1, abs_tol=1e-3):
        raise DataError(
            f"the label_probs of trace {trace!r} are {dict(probs)!r}"[:200],
            expected="probabilities of the labels that add up to 1",
        )
    return [float(probs.get(name, 0.0)) for name in names]
