"""From verified traces to a set for supervised training: the student's own prompt, and what was verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from docendo.checks import is_number
from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import (
    Candidate,
    Draft,
    Prompter,
    by_item,
    origin,
    spoken,
)
from docendo.distill.datasets._conversations import Turns, conversation
from docendo.distill.datasets._messages import said
from docendo.errors import DataError
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

#: The weight of a row: one for all, the name of a reward, or what a function says of the trace.
Weight: TypeAlias = "float | str | Callable[[Trace], float]"


def sft_dataset(
    traces: Iterable[Trace],
    *,
    student: Prompter | None,
    items: Iterable[Item],
    exclude: Iterable[Item],
    reward: str = "verified",
    threshold: float = 1.0,
    max_per_item: int | None = 4,
    weight: Weight = 1.0,
    role: str | None = None,
    conversations: bool = False,
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

    With `conversations` a row is a whole conversation that ends in such an answer: `prompt` is what comes
    before the first learnt message, `completion` the rest, each message with `learn`. Learnt are the turns
    of the author of the last one, as far as they are among the traces and neither unverified nor below the
    threshold themselves, and have no space around them, which would change their tokens; a turn without the
    reward has the last one's. All else, tool results and turns of others, is context. There is one row for
    each branch; what is part of a longer one has none.

    Args:
        traces: Recorded turns, in the order in which `max_per_item` prefers them.
        student: The agent that is to learn; its prompt takes the place of the one that was sent. None keeps
            what was sent, for roles whose prompt is made by a graph.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        reward: Name of the reward that decides.
        threshold: Least reward.
        max_per_item: Most answers per item, or None for all.
        weight: Weight of a row: a number, the name of a reward, or a function of the trace. 0 leaves it out.
        role: Only traces by agents of this role.
        conversations: Whether rows are conversations.
        database: Where to record which turns went into the data set, so that `Blackboard.taint` finds it:
            the database that the traces come from.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns `prompt`, `completion`, `item`, `trace`, `posts` and `weight`
        (and `traces`, where rows are conversations), ordered by item as in `items`, then as in `traces`.
        `dataset_manifest` gives its account.

    Raises:
        LeakError: if a trace or a prompt belongs to an excluded item, by id or by question text.
        DataError: if nothing is left (the message counts why), or a weight is no number of at least 0.

    Example:
        >>> from docendo.distill import sft_dataset
        >>> from docendo.records import Author, Gold, Item, PublicItem, Trace
        >>> item = Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4"))
        >>> turn = Trace(id="t", run="r", item="i", split="train", completion="4", rewards={"verified": 1.0},
        ...              author=Author(agent="s", role="student"),
        ...              messages=({"role": "user", "content": "2 + 2"},))
        >>> sft_dataset([turn], student=None, items=[item], exclude=[])[0]["completion"]
        [{'role': 'assistant', 'content': '4'}]
    """
    settings = {
        "reward": reward,
        "threshold": threshold,
        "role": role,
        "conversations": conversations,
        "weight": weight
        if isinstance(weight, (int, float, str))
        else getattr(weight, "__name__", "function"),
    }
    builder = Builder(
        "sft",
        settings,
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )

    def against(trace: Trace) -> str | None:
        if role is not None and trace.author.role != role:
            return "of other roles"
        if reward not in trace.rewards:
            return f"without the reward {reward}"
        # `not >=` also refuses NaN.
        if not trace.rewards[reward] >= threshold:
            return f"below {reward} {threshold:g}"
        return spoken(trace) or _against_weight(trace, weight)

    given = list(traces)
    fit = [
        one
        for one in builder.candidates(given, against=against, reward=reward, ordered=True)
        if builder.promoted(one)
    ]

    def learnable(turn: Trace) -> bool:
        own = turn.rewards.get(reward)
        return turn.trust in ("", "verified") and (own is None or own >= threshold)

    if conversations:
        drafts = _conversations(fit, given, builder, student is not None, learnable)
    else:
        drafts = [(one.trace, _answer(one)) for one in fit]
    return builder.dataset(
        by_item(_weighted(trace, draft, weight) for trace, draft in drafts),
        unused="not used",
        expected=f"a train trace with {reward} >= {threshold:g}",
        remedy="use a stronger teacher, more samples per item, or a lower threshold",
    )


def weight_of(trace: Trace, weight: Weight) -> float | None:
    """The weight of a trace's row, or None if it has no reward of that name.

    Raises:
        DataError: if it is no finite number of at least 0.
    """
    if isinstance(weight, str):
        value: Any = trace.rewards.get(weight)
        if value is None:
            return None
    else:
        value = weight(trace) if callable(weight) else weight
    if not is_number(value) or value < 0:
        raise DataError(
            f"the weight of trace {trace.id!r} is {value!r}", expected="a finite number, 0 or more"
        )
    return float(value)


def _against_weight(trace: Trace, weight: Weight) -> str | None:
    value = weight_of(trace, weight)
    if value is None:
        return f"without the reward {weight}"
    return "of weight 0" if value == 0 else None


def _answer(one: Candidate) -> Draft:
    return Draft(
        fields={"prompt": one.prompt, "completion": said(one.answer)},
        item=one.trace.item,
        sources=(one.trace.id,),
        origin={"trace": one.trace.id, "posts": list(one.trace.posts)},
    )


def _conversations(
    fit: list[Candidate],
    given: list[Trace],
    builder: Builder,
    replaces: bool,
    learnable: Callable[[Trace], bool],
) -> list[tuple[Trace, Draft]]:
    """One draft for each conversation that is no part of a longer one."""
    turns = Turns(given)
    before: dict[str, list[Trace]] = {}
    for one in fit:
        earlier = turns.before(one.trace)
        if any(turn.trust == "quarantined" for turn in earlier):
            builder.because(one.trace.id, "quarantined")
        else:
            before[one.trace.id] = earlier
    inner = {turn.id for earlier in before.values() for turn in earlier}
    drafts = []
    for one in fit:
        trace = one.trace
        if trace.id in before and trace.id not in inner:
            earlier = before[trace.id]
            draft = Draft(
                fields=conversation(
                    trace, earlier, prompt=one.prompt if replaces else None, learnable=learnable
                ),
                item=trace.item,
                sources=(*(turn.id for turn in earlier if turn.id in before), trace.id),
                origin={"trace": trace.id, **origin([*earlier, trace])},
            )
            drafts.append((trace, draft))
    return drafts


def _weighted(trace: Trace, draft: Draft, weight: Weight) -> Draft:
    return replace(draft, origin={**draft.origin, "weight": weight_of(trace, weight)})
