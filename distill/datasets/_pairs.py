"""Preference pairs: which of two answers to one prompt is the better one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import (
    Candidate,
    Draft,
    Prompter,
    check_threshold,
    grouped,
    judged,
    origin,
    sibling_key,
)
from docendo.distill.datasets._messages import said
from docendo.errors import ConfigError
from docendo.hashing import digest
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

PairSelection = Literal["siblings", "margin", "top_bottom", "length", "teacher_wins"]

#: Picks pairs of (chosen, rejected) from answers that may be compared, the best pairs first.
Pairing: TypeAlias = "Callable[[Sequence[Candidate]], list[tuple[Candidate, Candidate]]]"


def pairs_dataset(
    traces: Iterable[Trace],
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    select: PairSelection = "siblings",
    student: Prompter | None = None,
    reward: str = "verified",
    threshold: float = 1.0,
    margin: float = 0.5,
    ratio: float = 1.5,
    student_role: str = "student",
    teacher_role: str = "teacher",
    max_per_item: int | None = 4,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds preference pairs, for DPO and its kin.

    Only siblings are compared: answers to the same prompt, on the same item, under the same parent turns;
    `teacher_wins` alone compares answers of one item. An answer that was given several times counts once,
    with the mean of its rewards. Where one family of siblings prefers A to B and another one, under the same
    prompt, B to A, neither pair is taken. What is chosen must have been promoted, where the run has a board;
    what is rejected must only not be quarantined. The order of the traces does not matter.

    Args:
        traces: Recorded turns.
        items: The training items; a trace of any other item is left out.
        exclude: The test items, which must not appear in the result in any form.
        select: Which pairs.

            * "siblings": a good answer (reward at least `threshold`) and one that is not.
            * "margin": any two whose rewards differ by at least `margin`, the largest difference first.
            * "top_bottom": the best and the worst of each family of siblings.
            * "length": the shortest good answer, and longer ones that are not good, or good ones of more than
              `ratio` times its length (long2short of Kimi k1.5, arXiv 2501.12599). Lengths are in tokens, or
              in characters where a trace has no tokens.
            * "teacher_wins": a good answer of the teacher and a bad one of the student, under the prompt that
              the student had.
        student: The agent whose prompt takes the place of the one that was sent, or None to keep that.
        reward: Name of the reward that is compared.
        threshold: Least reward of a good answer.
        margin: For "margin": least difference, more than 0.
        ratio: For "length": at least 1; 1.5 as in the paper.
        student_role: For "teacher_wins": role of those whose answers are rejected.
        teacher_role: For "teacher_wins": role of those whose answers are chosen.
        max_per_item: Most pairs per item, or None for all; families of siblings take turns.
        database: Where to record what the pairs were made of, as for `sft_dataset`.
        quiet: Do not say how many traces were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with TRL's columns `prompt`, `chosen` and `rejected` (chat messages), and `item`,
        `traces` (of the chosen and the rejected answer) and `posts`.

    Raises:
        ConfigError: if a setting is out of range.
        LeakError: if a trace or a prompt belongs to an excluded item, by id or by question text.
        DataError: if there is no pair; the message counts why.

    Example:
        >>> from docendo.distill import pairs_dataset
        >>> from docendo.records import Author, Gold, Item, PublicItem, Trace
        >>> item = Item(public=PublicItem(id="i", question="2 + 2", split="train"), gold=Gold("4"))
        >>> turns = [
        ...     Trace(id=text, run="r", item="i", split="train", completion=text, rewards={"verified": value},
        ...           author=Author(agent="s", role="student"),
        ...           messages=({"role": "user", "content": "2 + 2"},))
        ...     for text, value in (("4", 1.0), ("5", 0.0))
        ... ]
        >>> row = pairs_dataset(turns, items=[item], exclude=[])[0]
        >>> row["chosen"][0]["content"], row["rejected"][0]["content"]
        ('4', '5')
    """
    for name, value in (("threshold", threshold), ("margin", margin), ("ratio", ratio)):
        check_threshold(name, value)
    if margin <= 0 or ratio < 1:
        raise ConfigError(f"margin is {margin} and ratio {ratio}", expected="more than 0, and at least 1")
    settings: dict[str, Any] = {"select": select, "reward": reward, "threshold": threshold}

    def good(value: float) -> bool:
        return value >= threshold

    key: Callable[[Candidate], Any] = sibling_key
    roles: tuple[str, ...] | None = None
    pairing: Pairing
    if select == "siblings":
        pairing = by_threshold(good)
    elif select == "margin":
        pairing = by_interval(margin)
        settings["margin"] = margin
    elif select == "top_bottom":
        pairing = top_bottom
    elif select == "length":
        pairing = by_length(good, ratio)
        settings["ratio"] = ratio
    elif select == "teacher_wins":
        roles = teacher_role, student_role
        pairing = teacher_wins(good, *roles)
        settings["roles"] = list(roles)
        key = _item
    else:
        raise ConfigError(f"select is {select!r}", expected=f"one of {', '.join(get_args(PairSelection))}")
    builder = Builder(
        "pairs",
        settings,
        items=items,
        exclude=exclude,
        student=student,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )
    return build_pairs(builder, traces, pairing, key=key, reward=reward, roles=roles)


def build_pairs(
    builder: Builder,
    traces: Iterable[Trace],
    pairing: Pairing,
    *,
    key: Callable[[Candidate], Any],
    reward: str,
    roles: tuple[str, ...] | None = None,
) -> Dataset:
    """Builds pairs within groups of equal `key`; only traces of the roles, if there are any, take part."""
    speaks = judged(reward)

    def against(trace: Trace) -> str | None:
        return "of other roles" if roles and trace.author.role not in roles else speaks(trace)

    groups = []
    for group in grouped(builder.candidates(traces, against=against, reward=reward), key):
        different = merged(group, builder, apart=roles is not None)
        for one in different:
            # If it is not rejected, this is why it was not chosen.
            builder.because(one.trace.id, "without a counterpart" if one.promoted else "not promoted")
        groups.append([_draft(chosen, rejected) for chosen, rejected in pairing(different)])
    return builder.dataset(
        _undisputed(groups, builder),
        unused="without a counterpart",
        expected=f"two answers to one prompt that differ in {reward}",
        remedy="sample several answers per item, or select pairs otherwise",
    )


def _undisputed(groups: Sequence[Sequence[Draft]], builder: Builder) -> list[list[Draft]]:
    """Without pairs whose opposite is there under the same prompt, both of them.

    Where rewards are noisy, one family of siblings may prefer what another one rejects; both together would
    teach nothing but the noise.
    """

    def key(draft: Draft, chosen: str, rejected: str) -> str:
        fields = draft.fields
        return digest(draft.item, fields["prompt"], fields[chosen], fields[rejected])

    said = {key(draft, "chosen", "rejected") for group in groups for draft in group}
    found = []
    for group in groups:
        kept = [draft for draft in group if key(draft, "rejected", "chosen") not in said]
        for draft in group:
            for source in draft.sources if draft not in kept else ():
                builder.because(source, "contradicted")
        found.append(kept)
    return found


def merged(group: Iterable[Candidate], builder: Builder, *, apart: bool = False) -> list[Candidate]:
    """Each answer to a prompt once, with the mean of its rewards; promoted copies stand for the others.

    With `apart` answers of different roles stay apart.
    """
    found: list[Candidate] = []
    role = (lambda one: one.trace.author.role) if apart else (lambda one: "")
    for copies in grouped(group, lambda one: (role(one), one.answer, digest(one.prompt))):
        first = next((one for one in copies if one.promoted), copies[0])
        for copy in copies:
            if copy is not first:
                builder.because(copy.trace.id, "repeated")
        found.append(replace(first, value=sum(one.value for one in copies) / len(copies)))
    return found


def by_threshold(good: Callable[[float], bool]) -> Pairing:
    """Every good answer with every bad one, so that each comes up early."""

    def pairing(group: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
        right = [one for one in group if good(one.value) and one.promoted]
        wrong = [one for one in group if not good(one.value)]
        return _crossed(right, wrong)

    return pairing


def by_interval(margin: float) -> Pairing:
    """Any two that are at least `margin` apart, the largest gap first."""

    def pairing(group: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
        found = [
            (better, worse)
            for better, worse in product(group, group)
            # Values are means: a gap of 1/3 must not fail for its last bit, nor come before an equal one.
            if better.promoted and better.value - worse.value >= margin - 1e-9
        ]
        return sorted(found, key=lambda pair: round(pair[1].value - pair[0].value, 9))

    return pairing


def top_bottom(group: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """The best and the worst, if they differ."""
    good = [one for one in group if one.promoted]
    if not good:
        return []
    best, worst = max(good, key=lambda one: one.value), min(group, key=lambda one: one.value)
    return [(best, worst)] if best.value > worst.value else []


def by_length(good: Callable[[float], bool], ratio: float) -> Pairing:
    """The shortest good answer with longer bad ones and much longer good ones, the longest first."""

    def pairing(group: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
        counted = all(one.trace.token_ids for one in group)

        def size(one: Candidate) -> int:
            return len(one.trace.token_ids) if counted else len(one.answer)

        right = [one for one in group if good(one.value) and one.promoted]
        if not right:
            return []
        short = min(right, key=size)
        longer = [one for one in group if size(one) > size(short) * (ratio if good(one.value) else 1)]
        return [(short, one) for one in sorted(longer, key=size, reverse=True)]

    return pairing


def teacher_wins(good: Callable[[float], bool], teacher: str, student: str) -> Pairing:
    """The teacher's good answers with the student's bad ones."""

    def pairing(group: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
        right = [
            one for one in group if one.trace.author.role == teacher and good(one.value) and one.promoted
        ]
        wrong = [one for one in group if one.trace.author.role == student and not good(one.value)]
        return [pair for pair in _crossed(right, wrong) if pair[0].answer != pair[1].answer]

    return pairing


def _crossed(right: Sequence[Candidate], wrong: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    places = sorted(product(range(len(right)), range(len(wrong))), key=lambda at: (sum(at), at))
    return [(right[i], wrong[j]) for i, j in places]


def _draft(chosen: Candidate, rejected: Candidate) -> Draft:
    return Draft(
        fields={
            # The prompt under which the rejected answer was given: the student's, where roles differ.
            "prompt": rejected.prompt,
            "chosen": said(chosen.answer),
            "rejected": said(rejected.answer),
        },
        item=rejected.trace.item,
        sources=(chosen.trace.id, rejected.trace.id),
        origin=origin([chosen.trace, rejected.trace]),
    )


def _item(candidate: Candidate) -> str:
    return candidate.trace.item
