"""How posts look on a terminal: one line each, with nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from docendo.errors import ConfigError

if TYPE_CHECKING:
    from docendo.memory import Post, TimelineEntry
    from docendo.records import Trace

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
#: Columns where the output is no terminal.
_WIDTH = 100
_LEAST_TEXT = 24


def width() -> int:
    """Columns of the terminal, and 100 where there is none."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() else _WIDTH


def safe(text: str, columns: int) -> str:
    """Makes text that a model wrote harmless for a terminal: no control or formatting characters.

    Args:
        text: The text.
        columns: Makes it one line and cuts it to so many columns; 0 keeps it all, line breaks included.
    """
    kept = "\n" if not columns else ""
    joined = text if not columns else " ".join(text.split())
    shown = "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in joined
    )
    if not columns or _columns(shown) <= columns:
        return shown
    end, used = 0, 1  # one for the ellipsis
    while used + _columns(shown[end]) <= columns:
        used += _columns(shown[end])
        end += 1
    return f"{shown[:end]}…"


def _columns(text: str) -> int:
    """Columns that text takes: Chinese, Japanese and Korean characters take two, accents none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _columns(text))


class Lines:
    """Posts as lines whose columns are as wide as the widest entry so far."""

    def __init__(self) -> None:
        """Starts with what most boards need."""
        self._widths: dict[str, int] = {"seq": 3}

    def fit(self, posts: Iterable[Post]) -> None:
        """Widens the columns for posts that are to come."""
        for post in posts:
            self._cells(post)

    def line(self, post: Post, *, first: str = "") -> str:
        """Returns number, kind, author, trust, item and text of a post."""
        cells = self._cells(post)
        facts = [f"{post.seq:>{self._widths['seq']}}"]
        facts += [_padded(text, self._widths[name]) for name, text in cells.items() if name != "seq"]
        start = first + "  ".join(facts)
        text = safe(summary(post.body), max(width() - _columns(start) - 2, _LEAST_TEXT))
        return f"{start}  {text}".rstrip()

    def _cells(self, post: Post) -> dict[str, str]:
        # Agents and items of most boards have short names; a long one is cut rather than moves the rest.
        cells = {
            "seq": str(post.seq),
            "kind": safe(post.kind, 13),
            "agent": safe(post.author.agent, 16),
            "trust": post.trust,
            "item": safe(post.item, 12),
        }
        for name, text in cells.items():
            self._widths[name] = max(self._widths.get(name, 0), _columns(text))
        return cells


def summary(body: Mapping[str, Any]) -> str:
    """Returns the text of a post if it has one, else its body as JSON."""
    if isinstance(body.get("correct"), bool):
        parsed = body.get("parsed")
        read = f" (read as {json.dumps(parsed, ensure_ascii=False)})" if parsed is not None else ""
        return f"{'right' if body['correct'] else 'wrong'}{read}"
    for field in ("text", "question", "answer", "hint"):
        value = body.get(field)
        if isinstance(value, str) and value:
            return value
    return json.dumps(body, ensure_ascii=False)


def timeline_lines(item: str, entries: Sequence[TimelineEntry]) -> Iterator[str]:
    """The history of an item: number, seconds since the first post, agent, what, parents, text."""
    posts = [entry.post for entry in entries if entry.what == "post" and entry.post is not None]
    numbers = {post.id: post.seq for post in posts}
    counts = {name: sum(entry.what == name for entry in entries) for name in ("post", "turn", "trust")}
    agents = {entry.author.agent for entry in entries}
    runs = {run for entry in entries for source in (entry.post, entry.turn) if source and (run := source.run)}
    yield (
        f"{safe(item, 40)}: {_counted(counts['post'], 'post')}, {_counted(counts['turn'], 'turn')} and "
        f"{_counted(counts['trust'], 'change')} of trust by {_counted(len(agents), 'agent')}"
    )
    start = min((post.created for post in posts), default=0.0)
    seqs = max((len(str(post.seq)) for post in posts), default=1)
    names = max((_columns(safe(entry.author.agent, 14)) for entry in entries), default=1)
    kinds = max(5, *(len(safe(post.kind, 13)) for post in posts)) if posts else 5
    run = ""
    for entry in entries:
        source = entry.turn or entry.post
        if len(runs) > 1 and source is not None and source.run != run:
            run = source.run
            yield f"run {safe(run, 60) or '(none)'}"
        mark = str(entry.post.seq) if entry.what == "post" and entry.post else ""
        clock = "" if entry.created is None else f"+{max(entry.created - start, 0.0):.2f}s"
        kind = safe(entry.post.kind, 13) if entry.what == "post" and entry.post else entry.what
        agent = _padded(safe(entry.author.agent, 14), names)
        line = f"{mark:>{seqs}}  {clock:>9}  {agent}  {kind:<{kinds}}"
        yield f"{line}  {_said(entry, numbers, width() - _columns(line) - 2)}".rstrip()


def _said(entry: TimelineEntry, numbers: Mapping[str, int], columns: int) -> str:
    columns = max(columns, _LEAST_TEXT)
    if entry.turn is not None:
        facts = f"[{turn_facts(entry.turn)}]"
        return safe(f"{facts} {entry.turn.completion}", columns)
    if entry.post is None:
        return ""
    if entry.what == "trust":
        return safe(f"{entry.post.seq} is {entry.level}: {entry.reason}", columns)
    parents = ", ".join(str(numbers.get(parent, parent[:8])) for parent in entry.post.parents)
    trust = "" if entry.post.trust == "unverified" else f" ({entry.post.trust} now)"
    head = f"<- {parents}  " if parents else ""
    text = safe(summary(entry.post.body), max(columns - len(head) - len(trust), 8))
    return f"{head}{text}{trust}"


def turn_facts(turn: Trace) -> str:
    """Node and step of a turn, its tokens and rewards."""
    facts = [f"{turn.node}/{turn.step}" + (f".{turn.sample}" if turn.sample else "")]
    if turn.token_ids:
        facts.append(f"{len(turn.token_ids)} tokens")
    facts += [f"{name} {value:g}" for name, value in turn.rewards.items()]
    return safe(", ".join(facts), 60)


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def parse_since(text: str, now: float) -> float:
    """Reads a time: `90s`, `2h`, `3d` before now, or a date such as 2026-01-31 or 2026-01-31T12:00 (UTC).

    Raises:
        ConfigError: if it is neither.

    Example:
        >>> parse_since("2h", 10_000.0), parse_since("1970-01-02", 0.0)
        (2800.0, 86400.0)
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if ago:
        return now - float(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(
            f"--since is {text!r}", expected="a time ago such as 90s, 2h or 3d, or a date such as 2026-01-31"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
