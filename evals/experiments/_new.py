"""The file of a new recipe."""

from __future__ import annotations

import keyword
import re

from docendo.errors import ConfigError

_TEMPLATE = '''"""TITLE.

What the method does, in two or three sentences, and where it was published (Author et al. YEAR,
arXiv 0000.00000). Say where each default comes from.

Claim: one measurable sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from docendo.evals import Scores, Trial, experiment, gain, no_gain
from docendo.records import Record
from docendo.registry import recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class CLASS(Record):
    """Settings.

    Attributes:
        items: Number of test items.
        seed: First seed.
        seeds: Number of seeds.
    """

    items: int = 200
    seed: int = 0
    seeds: int = 5


@recipe(
    id="ID",
    title="TITLE",
    paper="Author et al. YEAR, arXiv 0000.00000",
    claim="The method answers more items than the baseline; with a shuffled signal it does not.",
    config=CLASS,
    cost="a second on two cores",
    scales={"tiny": {"items": 20, "seeds": 2}},
)
@experiment(gain("method", over="baseline"), no_gain("method, shuffled signal", over="baseline"))
def NAME(config: CLASS, *, seed: int, folder: Path, quiet: bool) -> Trial:
    """One seed: every arm answers the same items. Replace the coin by the method."""
    rng = np.random.default_rng(seed)

    def arm(chance: float) -> Scores:
        return Scores(values={str(item): bool(rng.random() < chance) for item in range(config.items)})

    return Trial(arms={"baseline": arm(0.5), "method": arm(0.7), "method, shuffled signal": arm(0.5)})
'''


def new_recipe(id: str) -> str:
    """The text of a recipe's file that runs as it is.

    Args:
        id: Its id: lower-case words with dashes.

    Raises:
        ConfigError: if it is no id, or cannot be the name of a Python function.

    Example:
        >>> print(new_recipe("my-method").splitlines()[-1].strip()[:20])
        return Trial(arms={"
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", id):
        raise ConfigError(f"the recipe id is {id!r}", expected="lower-case words with dashes")
    words = id.split("-")
    if keyword.iskeyword("_".join(words)) or id == "np":
        raise ConfigError(
            f"the recipe id is {id!r}, which means something in Python", remedy="choose another"
        )
    # Not the words alone: a recipe "scores" would hide what it imports.
    text = _TEMPLATE.replace("CLASS", "".join(word.capitalize() for word in words) + "Settings")
    text = text.replace("TITLE", " ".join(words).capitalize()).replace("NAME", "_".join(words))
    return text.replace('"ID"', f'"{id}"')
