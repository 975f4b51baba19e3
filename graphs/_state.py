"""A graph's state holds ids and small JSON; what grows larger is told once a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

#: Above this, a state is no longer small: it is stored with each item, and by a checkpointer at each step.
STATE_BYTES = 64 << 10


class LargeState(UserWarning):
    """The final state of an item is larger than graph states are meant to be."""


def check_state(state: Mapping[str, Any], *, run: str, item: str) -> None:
    """Warns of a state larger than `STATE_BYTES`, naming its largest field; what is not JSON is let pass.

    Whoever stores it refuses what is not JSON, with the name of the field.

    Example:
        >>> check_state({"answer": "4", "posts": ["5d41402abc4b2a76"]}, run="demo", item="i1")
    """
    sizes = {key: len(json.dumps(value, default=str)) for key, value in state.items()}
    total = sum(sizes.values())
    if total <= STATE_BYTES:
        return
    largest = max(sizes, key=lambda key: sizes[key])
    warnings.warn(
        f"the final state of item {item!r} in run {run!r} has {total} bytes, {sizes[largest]} of them in "
        f"{largest!r}; a checkpointer writes it at every step, so post long texts and keep their ids",
        LargeState,
        stacklevel=2,
    )
