"""From verified traces to a training set, with the leak check in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from docendo.distill.datasets._lineage import record_dataset
from docendo.errors import ConfigError, DataError, LeakError
from docendo.evals import normalise
from docendo.hashing import digest
from docendo.progress import say
from docendo.records import Item, Message, PublicItem, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database


class Prompter(Protocol):
    """What `sft_dataset` needs of a student: the prompt it is asked with. Every `Agent` has it."""

    def messages(self, item: PublicItem) -> tuple[Message, ...]:
        """Returns the chat messages for `item`."""
        ...


def sft_dataset(
    traces: Iterable[Trace],
    *,
    student: Prompter,
    items: Iterable[Item],
    exclude: Iterable[Item],
    reward: str = "verified",
    threshold: float = 1.0,
    max_per_item: int = 4,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds a training set: the student's own prompt, and an answer that was verified.

    A teacher may have been shown worked examples or hints; the student learns to answer without them, so
    the prompt is always the one `student` sends. Of equal answers to one prompt the first is kept. An
    answer that was cut off by its token limit is left out, because it would teach to stop mid-sentence.

    Of a run that posts on a blackboard only promoted posts are learnt from (`Trace.trust` is "verified");
    what is quarantined, or follows from what is, never is. Traces in a file carry what they were held to be
    when they were exported. Where a run has no board the reward alone decides.

    Args:
        traces: Recorded turns, in the order in which `max_per_item` prefers them.
        student: The agent that is to learn.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        reward: Name of the reward that decides.
        threshold: Least reward.
        max_per_item: Most answers per item.
        database: Where to record which turns went into the data set, so that `Blackboard.taint` finds it:
            the database that the traces come from.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns `prompt`, `completion`, `item`, `trace`, `posts` and `weight`,
        ordered by item as in `items`, then as in `traces`.

    Raises:
        LeakError: if a trace or a prompt belongs to an excluded item, by id or by question text.
        DataError: if nothing is left; the message counts why.
    """
    from datasets import Dataset

    if max_per_item < 1:
        raise ConfigError(f"max_per_item is {max_per_item}", expected="at least 1")
    known: dict[str, Item] = {}
    for item in items:
        known.setdefault(item.id, item)
    held = _HeldOut(exclude)
    for item in known.values():
        held.check_item(item.public)
    left_out: Counter[str] = Counter()
    rows: dict[str, list[dict[str, Any]]] = {item: [] for item in known}
    seen: set[str] = set()
    total = 0
    for total, trace in enumerate(traces, start=1):  # noqa: B007 - the count outlives the loop
        held.check_trace(trace)
        reason = _reason_against(trace, known, reward, threshold)
        if reason is not None:
            left_out[reason] += 1
            continue
        prompt = list(student.messages(known[trace.item].public))
        held.check_texts((message["content"] for message in prompt), trace)
        answer = trace.completion.strip()
        key = digest(prompt, answer)
        if key in seen or len(rows[trace.item]) >= max_per_item:
            left_out["repeated" if key in seen else f"over {max_per_item} per item"] += 1
            continue
        # Of a run without a board nothing is known.
        if trace.trust not in ("", "verified"):
            left_out["not promoted"] += 1
            continue
        seen.add(key)
        rows[trace.item].append(
            {
                "prompt": prompt,
                "completion": [{"role": "assistant", "content": answer}],
                "item": trace.item,
                "trace": trace.id,
                "posts": list(trace.posts),
                "weight": 1.0,
            }
        )
    chosen = [row for group in rows.values() for row in group]
    distrusted = ", ".join(f"{left_out[reason]} {reason}" for reason in _DISTRUST if left_out[reason])
    if distrusted and not quiet:
        say(f"Of {total} traces left out: {distrusted}.")
    if not chosen:
        counts = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "no traces given"
        )
        raise DataError(
            f"none of {total} traces can be learnt from ({counts})",
            expected=f"a train trace with {reward} >= {threshold:g}",
            remedy="use a stronger teacher, more samples per item, or a lower threshold",
        )
    if database is not None:
        record_dataset(database, chosen)
    return Dataset.from_list(chosen)


#: Why a trace is not learnt from, whatever its reward.
_DISTRUST = ("quarantined", "not promoted")


def _reason_against(trace: Trace, known: dict[str, Item], reward: str, threshold: float) -> str | None:
    if trace.split != "train":
        return f"of split {trace.split}"
    if trace.item not in known:
        return "of other items"
    if trace.trust == "quarantined":
        return "quarantined"
    if reward not in trace.rewards:
        return f"without the reward {reward}"
    # `not >=` also refuses NaN.
    if not trace.rewards[reward] >= threshold:
        return f"below {reward} {threshold:g}"
    if not trace.completion.strip():
        return "empty"
    if trace.finish_reason != "stop":
        return "cut off"
    return None


class _HeldOut:
    """Knows the test items by id and by normalised question."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._ids: set[str] = set()
        self._questions: dict[str, str] = {}
        for item in items:
            self._ids.add(item.id)
            self._questions[_flat(item.public.question)] = item.id
        self._questions.pop("", None)

    def check_item(self, item: PublicItem) -> None:
        if item.id in self._ids or self._find(item.question) is not None:
            raise LeakError(
                f"training item {item.id!r} has the same id or question as an excluded item",
                expected="disjoint items and exclude",
                remedy="take both from one docendo.evals.tasks call",
            )

    def check_trace(self, trace: Trace) -> None:
        if trace.item in self._ids:
            raise LeakError(
                f"trace {trace.id!r} was made on the excluded item {trace.item!r}",
                expected="traces of training items",
                remedy="run the graph on task.train",
            )
        self.check_texts([*(message["content"] for message in trace.messages), trace.completion], trace)

    def check_texts(self, texts: Iterable[str], trace: Trace) -> None:
        for text in texts:
            found = self._find(text)
            if found is not None:
                raise LeakError(
                    f"trace {trace.id!r} holds the question of the excluded item {found!r}",
                    expected="prompts and worked examples from training items",
                    remedy="take examples from task.examples",
                )

    def _find(self, text: str) -> str | None:
        """The held-out item whose question stands anywhere in the text, as whole words."""
        flat = f" {_flat(text)} "
        for question, item in self._questions.items():
            if f" {question} " in flat:
                return item
        return None


def _flat(text: str) -> str:
    return " ".join(normalise(text).split())
