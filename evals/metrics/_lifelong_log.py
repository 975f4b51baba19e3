"""A log of lifelong learning: blocks of learning and of evaluation, task by task, in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Self, get_args

from docendo.checks import is_count, is_number
from docendo.errors import ConfigError, DataError
from docendo.records import Record

BlockKind = Literal["learn", "evaluate"]

# The widest window of smoothing, and its width as a share of the block; less than three smooths nothing.
_WIDEST, _PARTS, _NARROWEST = 100, 5, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LifelongBlock(Record):
    """One task in one block: a stretch of learning, or an evaluation between them.

    Attributes:
        kind: "learn" or "evaluate".
        task: Name of the task.
        scores: Score of each learning experience (a batch, an episode), or of each evaluation, in order.

    Example:
        >>> LifelongBlock(kind="learn", task="sums", scores=(0.0,) * 9 + (0.5,)).terminal
        0.5
    """

    kind: BlockKind
    task: str
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks kind and scores."""
        if self.kind not in get_args(BlockKind):
            raise DataError(f"a block's kind is {self.kind!r}", expected="learn or evaluate")
        if not self.scores or not all(map(is_number, self.scores)):
            raise DataError(
                f"the scores of task {self.task!r} are {self.scores}"[:200],
                expected="finite numbers, at least one",
            )

    @property
    def terminal(self) -> float:
        """Mean of the last tenth of a learning block (at least one score), or of all of an evaluation."""
        count = len(self.scores) if self.kind == "evaluate" else -(-len(self.scores) // 10)
        return sum(self.scores[-count:]) / count


def smooth(scores: Sequence[float], window: int | None = None) -> tuple[float, ...]:
    """Returns the centred moving average, mirrored at both ends.

    Args:
        scores: The scores.
        window: Scores in each mean; by default a fifth of them, at most 100. Below 3 nothing changes.
    """
    from scipy.ndimage import uniform_filter1d

    if window is not None and (not is_count(window) or window < 1):
        raise ConfigError(f"window is {window!r}", expected="1 or more, or None")
    size = min(len(scores) // _PARTS, _WIDEST) if window is None else min(window, len(scores))
    if size < _NARROWEST:
        return tuple(scores)
    return tuple(float(one) for one in uniform_filter1d([float(s) for s in scores], size, mode="mirror"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks(Record):
    """The blocks of a log, and what is done to them before they are measured.

    Attributes:
        blocks: The blocks in their order; an evaluation of several tasks is one block for each.
    """

    blocks: tuple[LifelongBlock, ...]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Builds a log from rows with the fields `block`, `kind`, `task`, `step` and `score`.

        Rows may come in any order: blocks are ordered by `block`, scores in them by `step`.

        Raises:
            DataError: if a field is missing, or a task both learns and is evaluated in one block.
        """
        found: dict[tuple[Any, str], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            missing = [name for name in ("block", "kind", "task", "step", "score") if name not in row]
            if missing:
                raise DataError(
                    f"a row has no {missing[0]!r}: {dict(row)}"[:200],
                    expected="block, kind, task, step and score",
                )
            found[row["block"], str(row["task"])].append(row)
        blocks = []
        for (block, task), same in sorted(found.items()):
            if len({row["kind"] for row in same}) > 1:
                raise DataError(f"task {task!r} both learns and is evaluated in block {block!r}")
            ordered = sorted(same, key=lambda row: row["step"])
            blocks.append(
                LifelongBlock(kind=same[0]["kind"], task=task, scores=tuple(row["score"] for row in ordered))
            )
        return cls(blocks=tuple(blocks))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuilds a log stored by `to_json`."""
        return cls(
            blocks=tuple(
                LifelongBlock(**{**block, "scores": tuple(block["scores"])}) for block in value["blocks"]
            )
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order in which they first occur."""
        return tuple(dict.fromkeys(block.task for block in self.blocks))

    def curve(self, task: str) -> tuple[float, ...]:
        """All scores of a task's learning blocks, one after the other."""
        return tuple(chain.from_iterable(self.blocks[at].scores for at in self.places(task, "learn")))

    def places(self, task: str, kind: BlockKind) -> list[int]:
        """Where the task's blocks of a kind are."""
        return [at for at, block in enumerate(self.blocks) if block.task == task and block.kind == kind]

    def smoothed(self, window: int | None = None) -> Self:
        """Returns the log with each learning block smoothed by a centred moving average.

        Nothing is smoothed unless this is called; evaluations never are.

        Args:
            window: Scores in each mean; by default a fifth of the block's, at most 100. Below 3 the block
                stays as it is.
        """
        return self.replace(
            blocks=tuple(
                block.replace(scores=smooth(block.scores, window)) if block.kind == "learn" else block
                for block in self.blocks
            )
        )

    def normalised(
        self,
        experts: Mapping[str, Sequence[float]] | None = None,
        *,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> tuple[Self, dict[str, tuple[float, ...]]]:
        """Returns the log and the experts' curves with each task's scores mapped to 0 to 1.

        Nothing is normalised unless this is called. Transfer and relative performance need scores of 0 or
        more, and means over tasks scores of one scale.

        Args:
            experts: Learning curves of the single-task experts.
            ranges: What becomes 0 and 1, by task; by default the lowest and highest score that log and
                expert have of the task.

        Raises:
            DataError: if the two are equal.
        """
        experts = experts or {}
        limits: dict[str, tuple[float, float]] = {}
        for task in dict.fromkeys([*self.tasks, *experts]):
            scores = [*experts.get(task, ()), *(s for b in self.blocks if b.task == task for s in b.scores)]
            low, high = limits[task] = (ranges or {}).get(task, (min(scores), max(scores)))
            if not low < high:
                raise DataError(
                    f"the scores of task {task!r} range from {low} to {high}",
                    expected="a range",
                    remedy="say with ranges= what becomes 0 and 1",
                )

        def mapped(task: str, scores: Sequence[float]) -> tuple[float, ...]:
            low, high = limits[task]
            return tuple((score - low) / (high - low) for score in scores)

        blocks = tuple(block.replace(scores=mapped(block.task, block.scores)) for block in self.blocks)
        return self.replace(blocks=blocks), {task: mapped(task, curve) for task, curve in experts.items()}
