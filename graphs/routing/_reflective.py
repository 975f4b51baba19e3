"""Reflective training: what the small model learns to judge its own steps from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from docendo.agents import Agent, RunContext
from docendo.errors import ConfigError, DataError, LeakError
from docendo.graphs._run import Run
from docendo.graphs.routing._uncertainty import SmallTurn
from docendo.hashing import derive_seed
from docendo.records import Item, Message

#: Called as `check(item, written, step)`: whether a step behind those written is right.
StepChecker = Callable[[Item, str, str], bool]


class CheckedSteps:
    """The examiner of training questions: certain that a step is wrong if a rule says so.

    In the place of an uncertainty it makes `switching` AdaSwitch's collaborative examination: the small model
    solves training questions, the large one corrects each wrong step, and the small one goes on from there.
    It sees the gold, so it refuses all items but those for training.

    Args:
        check: Called as `check(item, written, step)`; returns whether the step is right.
    """

    def __init__(self, check: StepChecker) -> None:
        if not callable(check):
            raise ConfigError(f"check is {check!r}", expected="a function of item, written text and step")
        self.check = check

    async def measure(self, context: RunContext, said: SmallTurn) -> float:
        """1 if the step is wrong, else 0.

        Raises:
            LeakError: if the item is not one for training.
        """
        whole = context.item(said.item)
        if whole.public.split != "train":
            raise LeakError(
                f"item {said.item!r} is of the split {whole.public.split!r} and its steps were to be checked",
                expected="training items, because the check may know the answer",
            )
        return 0.0 if self.check(whole, said.written, said.turn.text) else 1.0

    def describe(self) -> dict[str, Any]:
        """The examiner as JSON."""
        return {
            "class": type(self).__name__,
            "check": getattr(self.check, "__qualname__", repr(self.check)),
        }


def reflective_rows(
    run: Run,
    items: Iterable[Item],
    *,
    judge: Agent,
    right: str,
    wrong: str,
    separator: str = "",
    reviser: Agent | None = None,
    balanced: bool = True,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Training rows from an examination: verdicts on the small model's own steps, and corrections.

    Of AdaSwitch's reflective learning (Sun et al. 2024, arXiv 2410.13181): a wrong step stays in the prompt,
    where nothing is learnt from it; what is learnt is the verdict, and the correction behind it.

    Args:
        run: A run of `switching(uncertainty=CheckedSteps(...), switch=0.5)` over training items.
        items: Its items.
        judge: Whose prompt shows the steps, the last of them to be judged, in `{steps}`.
        right: Verdict on a right step.
        wrong: Verdict on a wrong one.
        separator: As in `switching`.
        reviser: For rows of corrections: whose prompt shows `{steps}` and `{rejected}`. None for none.
        balanced: Keep as many verdicts of one kind as there are of the other: few steps are wrong.
        seed: Seed of which are kept.

    Returns:
        Rows for `docendo.distill.train`: `prompt`, `completion` and `item`.

    Raises:
        LeakError: if an item is not one for training.
        DataError: if no step was right, or none was wrong.
    """
    verdicts: dict[str, list[dict[str, Any]]] = {right: [], wrong: []}
    corrections = []
    for item in items:
        if item.public.split != "train":
            raise LeakError(
                f"item {item.id!r} is of the split {item.public.split!r}", expected="training items"
            )
        outcome = run.outcomes.get(item.id, {})
        if outcome.get("status") != "done":
            continue
        texts = {trace.id: trace.completion for trace in run.traces(item=item.id)}
        written = ""
        for kept, rejected in zip(outcome["steps"], outcome["rejected"], strict=True):
            said, verdict = texts[rejected or kept], wrong if rejected else right
            verdicts[verdict].append(_row(judge.messages(item.public, steps=written + said), verdict, item))
            if rejected and reviser is not None:
                asked = reviser.messages(item.public, steps=written, rejected=said)
                corrections.append(_row(asked, texts[kept], item))
            written += texts[kept] + separator
    if not all(verdicts.values()):
        found = " and ".join(f"{len(rows)} {verdict!r}" for verdict, rows in verdicts.items())
        raise DataError(f"the examination gave {found}", expected="steps of both kinds")
    if balanced:
        few = min(map(len, verdicts.values()))
        verdicts = {name: _some(rows, few, seed, name) for name, rows in verdicts.items()}
    return [*verdicts[right], *verdicts[wrong], *corrections]


def _row(prompt: Sequence[Message], completion: str, item: Item) -> dict[str, Any]:
    answer = [{"role": "assistant", "content": completion}]
    return {"prompt": list(prompt), "completion": answer, "item": item.id}


def _some(rows: list[dict[str, Any]], count: int, seed: int, name: str) -> list[dict[str, Any]]:
    """`count` rows, drawn without replacement, in their order."""
    drawn = sorted(range(len(rows)), key=lambda place: derive_seed("reflective", seed, name, place))[:count]
    return [rows[place] for place in sorted(drawn)]
