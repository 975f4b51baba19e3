"""One round: what its arrows are given, and how their results are kept so that none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from docendo.errors import DataError, IntegrityError
from docendo.files import write_json
from docendo.hashing import derive_seed, digest
from docendo.memory import Database

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What an arrow is given.

    Attributes:
        number: The round, from 1; 0 is the evaluation before all rounds.
        seed: Seed of this round, derived from that of all rounds.
        folder: Where the round's files belong. What an arrow was writing there when it was killed may still
            be there when it runs again, so let it go on (`docendo.run(..., resume=True)`,
            `train(..., resume=True)`) or overwrite.
        results: What the earlier arrows of this round returned, by name.
        history: The results of the earlier rounds, oldest first; round 0 has "evaluate" alone.
        database: Database of all rounds.
        quiet: Whether to print nothing.
    """

    number: int
    seed: int
    folder: Path
    database: Database
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: tuple[Mapping[str, Mapping[str, Any]], ...] = ()
    quiet: bool = False

    def latest(self, arrow: str) -> Mapping[str, Any] | None:
        """The newest result of an arrow, of this round or an earlier one; None if there is none."""
        for results in (self.results, *reversed(self.history)):
            if arrow in results:
                return results[arrow]
        return None


#: A step of a round: returns JSON values, and the same for the same round. Times do not belong in there.
Arrow: TypeAlias = "Callable[[Round], Mapping[str, Any]]"


class Chain:
    """The results of all arrows so far, each bound to all before it by a digest.

    Args:
        folder: Folder of all rounds.
        start: What the results depend on beside each other.
    """

    def __init__(self, folder: Path, start: Any) -> None:
        self.folder = folder
        self.link = digest("rounds", start)

    def path(self, number: int, arrow: str) -> Path:
        """The file of a result."""
        return self.folder / f"round-{number}" / f"{arrow}.json"

    def get(self, number: int, arrow: str) -> dict[str, Any] | None:
        """The stored result that follows from those so far, or None. It becomes the end of the chain.

        Returns:
            A mapping with `result` and `seconds`.

        Raises:
            IntegrityError: if the file is damaged.
        """
        path = self.path(number, arrow)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            link = _link(stored["after"], number, arrow, stored["result"])
            if stored["link"] != link:
                raise ValueError("its checksum differs")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path} is damaged ({error}); restore it, or remove it to do this step again"
            ) from error
        if stored["after"] != self.link:
            return None  # an earlier step was done again and came out otherwise
        self.link = link
        return dict(stored)

    def put(self, number: int, arrow: str, result: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Stores a result at the end of the chain; returns what `get` would.

        Raises:
            DataError: if the result is no mapping of JSON values.
        """
        try:
            if not isinstance(result, Mapping):
                raise TypeError("no mapping")
            plain = json.loads(json.dumps(dict(result), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{arrow} of round {number} returned {result!r}"[:160] + f" ({error})",
                expected="a mapping of JSON values",
            ) from None
        link = _link(self.link, number, arrow, plain)
        stored = {
            "format": _FORMAT,
            "round": number,
            "arrow": arrow,
            "after": self.link,
            "link": link,
            "seconds": round(seconds, 3),
            "result": plain,
        }
        write_json(self.path(number, arrow), stored)
        self.link = link
        return stored


def round_seed(seed: int, number: int) -> int:
    """The seed of a round."""
    return derive_seed(seed, "round", number)


def _link(after: str, number: int, arrow: str, result: Any) -> str:
    return digest(after, number, arrow, result)
