"""How messages reach those that hear them: as they were said, or those about another item, as a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from docendo.agents import RunContext
from docendo.errors import ConfigError, DataError
from docendo.memory import Post

#: How a message reaches those that hear it; an empty text does not.
Deliver = Callable[[RunContext, Post], str]


def direct_delivery(context: RunContext, post: Post) -> str:
    """A message as it was said; one that was taken out does not arrive."""
    return "" if post.trust == "quarantined" else str(post.body["text"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """Delivers what was said about another item: a control with all the plumbing and none of the information.

    Members and orchestrator hear, instead of a message, the one of the same sender at the same place in an
    earlier run of the same team, about another item. Nothing else is different, the number of tokens least
    of all.

    Attributes:
        run: The earlier run, on the same board.
        partner: For each item the other one, never itself.

    Raises:
        ConfigError: if an item is its own partner.

    Example:
        >>> crossed = Crossed.over(["a", "b", "c"], run="team")
        >>> crossed.partner
        {'a': 'b', 'b': 'c', 'c': 'a'}
    """

    run: str
    partner: Mapping[str, str]

    def __post_init__(self) -> None:
        """Checks the partners."""
        alone = [item for item, other in self.partner.items() if item == other]
        if alone or not self.partner:
            raise ConfigError(
                f"{alone[0] if alone else 'no item'} is its own partner", expected="another item for each"
            )

    @classmethod
    def over(cls, items: Sequence[str], *, run: str) -> Crossed:
        """Each item hears of the next, and the last of the first.

        Args:
            items: Item ids, at least two.
            run: The earlier run.
        """
        return cls(run=run, partner=dict(zip(items, [*items[1:], *items[:1]], strict=True)))

    def __call__(self, context: RunContext, post: Post) -> str:
        """The other item's message.

        Raises:
            DataError: if the earlier run has none at that place.
        """
        other = self.partner.get(post.item, "")
        key = f"{self.run}/{other}/{post.key.removeprefix(f'{post.run}/{post.item}/')}"
        found = context.board.find(key)
        if found is not None:
            return str(found.body["text"])
        raise DataError(
            f"the run {self.run!r} has no message {key!r}",
            expected="an earlier run of the same team on the same board, with both items",
        )
