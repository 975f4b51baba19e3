"""What tasks there are."""

from __future__ import annotations

import dataclasses
from typing import Any

from docendo.evals.items._compact import has_compact
from docendo.evals.items._gym import check_name, plain
from docendo.evals.items._levels import attributes, has_levels
from docendo.records import Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo(Record):
    """What can be set of a generator.

    Attributes:
        name: Its name, for `tasks("reasoning_gym:NAME")`.
        settings: Its settings with their defaults.
        levels: The attributes of its curriculum, each with its last level; empty without one.
        compact: Whether its questions have a compact form.
    """

    name: str
    settings: dict[str, Any]
    levels: dict[str, int]
    compact: bool


def task_names() -> tuple[str, ...]:
    """The names of all generators, sorted.

    Example:
        >>> "chain_sum" in task_names()
        True
    """
    from reasoning_gym.factory import DATASETS

    return tuple(sorted(set(DATASETS) - {"composite"}))


def task_info(name: str) -> TaskInfo:
    """What can be set of a generator.

    Raises:
        DataError: if there is none of this name.

    Example:
        >>> task_info("chain_sum").levels
        {'num_terms': 10, 'num_digits': 9}
    """
    from reasoning_gym.factory import DATASETS

    check_name(name)
    config = plain(dataclasses.asdict(DATASETS[name][1]()))
    return TaskInfo(
        name=name,
        settings={key: value for key, value in config.items() if key not in ("seed", "size")},
        levels=attributes(name) if has_levels(name) else {},
        compact=has_compact(name),
    )
