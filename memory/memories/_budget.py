"""What a read may cost, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from docendo.errors import ConfigError
from docendo.memory.board._posts import Post
from docendo.records import Record

#: How often in a row an entry that does not fit is passed over before the rest is left unread.
MISSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """One entry of a memory, as it was read.

    Attributes:
        post: The post that it is: id, author, trust, parents.
        text: What goes into a prompt.
        score: How well it answers the query; higher is better. Comparable within one read alone.
        parts: What the score was made of, by name.
    """

    post: Post
    text: str
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the texts of a read may take together, joined by line breaks. All limits that are given hold.

    Attributes:
        entries: Most entries.
        characters: Most characters.
        tokens: Most tokens, as `counter` counts them.
        counter: Counts the tokens of a text; needed for `tokens` and for nothing else.

    Example:
        >>> Budget(characters=7).holds(["one", "two"])
        True
        >>> Budget(tokens=2, counter=lambda text: len(text.split())).holds(["one", "two three"])
        False
    """

    entries: int | None = None
    characters: int | None = None
    tokens: int | None = None
    counter: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        """Checks that there is a limit, and a counter for tokens."""
        limits = {"entries": self.entries, "characters": self.characters, "tokens": self.tokens}
        for name, limit in limits.items():
            if limit is not None and limit < 0:
                raise ConfigError(f"the budget's {name} is {limit}", expected="0 or more")
        if all(limit is None for limit in limits.values()):
            raise ConfigError("the budget has no limit", expected="entries, characters or tokens")
        if (self.tokens is None) != (self.counter is None):
            raise ConfigError(
                "the budget has tokens without a counter or a counter without tokens", expected="both"
            )

    def holds(self, texts: Sequence[str]) -> bool:
        """Whether these texts are within all limits."""
        if self.entries is not None and len(texts) > self.entries:
            return False
        joined = "\n".join(texts)
        if self.characters is not None and len(joined) > self.characters:
            return False
        return self.tokens is None or self.counter is None or self.counter(joined) <= self.tokens

    def fill(self, ranked: Iterable[Entry], *, gaps: bool = True) -> list[Entry]:
        """Takes entries in their order as long as they fit.

        Args:
            ranked: Entries, best first; read no further than needed.
            gaps: Whether an entry that does not fit is passed over, at most 16 times in a row; else it is
                the end.
        """
        taken: list[Entry] = []
        texts: list[str] = []
        missed = 0
        if self.entries == 0:
            return taken
        for entry in ranked:
            # Counted as a whole: a tokenizer may need more tokens for the joined text than for its parts.
            if self.holds([*texts, entry.text]):
                taken.append(entry)
                texts.append(entry.text)
                missed = 0
            elif gaps and missed < MISSES:
                missed += 1
            else:
                break
            if len(taken) == self.entries:
                break
        return taken
