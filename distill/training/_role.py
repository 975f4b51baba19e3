"""Training one role of a graph from a tree of turns with values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from docendo.distill.adapters._adapter import Adapter
from docendo.distill.datasets._tree import TraceTree
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._preferences import train_dpo
from docendo.distill.training._train import train
from docendo.distill.training._trl import GENTLE
from docendo.records import Item

if TYPE_CHECKING:
    from docendo.memory import Database


def train_role(
    model: str | Path,
    tree: TraceTree,
    role: str,
    *,
    items: Iterable[Item],
    exclude: Iterable[Item],
    output: str | Path,
    config: TrainConfig | None = None,
    preferences: TrainConfig | None = GENTLE,
    beta: float = 0.2,
    theta: float = 0.5,
    max_per_item: int | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains the adapter of one role as MALT does (arXiv 2412.01928): on its good turns, then on pairs.

    Turns of a value above `theta` are learnt by supervised training. Then siblings, one above and one not,
    are learnt as preferences by DPO, which continues the first adapter and is held by it. All roles may share
    one base model, each with an adapter of its own.

    Args:
        model: Folder, catalogue name or hub id of the base model.
        tree: The turns with values, as from `TraceTree(traces).backup("verified")`.
        role: Whose turns are learnt.
        items: The training items.
        exclude: The test items.
        output: Folder of the role's adapters: `sft`, and `dpo` where there are preferences.
        config: Settings of the supervised training; those of `TrainConfig` by default.
        preferences: Settings of DPO, or None to leave it out, as the paper does for a generator whose base
            model follows instructions.
        beta: How strongly the supervised adapter holds DPO (0.2: the paper's).
        theta: Value above which a turn is good (0.5: the paper's).
        max_per_item: Most turns, and most pairs, of an item; None for all.
        resume: Go on from checkpoints, or use what was made from the same.
        database: Where to record data sets and adapters.
        quiet: Print no progress.

    Returns:
        The last adapter.

    Raises:
        ConfigError: if the tree has no values, or a setting is out of range.
        LeakError: if a turn is of a test item.
        DataError: if no turn is good, or, with `preferences`, none has a sibling that is not.

    Example:
        >>> from docendo.distill import train_role
        >>> adapter = train_role("smollm2-135m-instruct", tree, "refiner", items=task.train,
        ...                      exclude=task.test, output="adapters/refiner")  # doctest: +SKIP
    """
    known, hidden = list(items), list(exclude)
    rows = tree.rows(
        role,
        items=known,
        exclude=hidden,
        theta=theta,
        max_per_item=max_per_item,
        database=database,
        quiet=quiet,
    )
    # Both sets are made before the first training, so that what is missing is said at once.
    pairs = None
    if preferences is not None:
        pairs = tree.pairs(
            role,
            items=known,
            exclude=hidden,
            theta=theta,
            max_per_item=max_per_item,
            database=database,
            quiet=quiet,
        )
    folder = Path(output)
    adapter = train(
        model,
        rows,
        output=folder / "sft",
        config=config or TrainConfig(),
        resume=resume,
        database=database,
        quiet=quiet,
    )
    if preferences is None or pairs is None:
        return adapter
    return train_dpo(
        model,
        pairs,
        output=folder / "dpo",
        config=preferences,
        beta=beta,
        parent=adapter.path,
        resume=resume,
        database=database,
        quiet=quiet,
    )
