"""Several turns of one author as one conversation: found again in the messages of the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from docendo.distill.datasets._messages import messages_of
from docendo.records import Trace


class Turns:
    """Which turns an author said before, in the same conversation.

    A turn came before another if the other's messages begin with its messages and go on with what it said.
    Ids of parents do not matter: a graph may hand over what others said without saying where it is from.
    """

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._spoken: dict[tuple[str, ...], list[tuple[Trace, list[dict[str, Any]]]]] = {}
        for trace in traces:
            self._spoken.setdefault(_speaker(trace), []).append((trace, messages_of(trace.messages)))

    def before(self, trace: Trace) -> list[Trace]:
        """Turns before this one, the first one first; of several that said the same, the first given."""
        messages = messages_of(trace.messages)
        found: dict[int, Trace] = {}
        for turn, prompt in self._spoken.get(_speaker(trace), ()):
            at = len(prompt)
            if at < len(messages) and messages[:at] == prompt and _same(messages[at], turn):
                found.setdefault(at, turn)
        return [found[at] for at in sorted(found)]


def conversation(
    trace: Trace,
    before: Sequence[Trace],
    *,
    prompt: list[dict[str, Any]] | None,
    learnable: Callable[[Trace], bool],
) -> dict[str, Any]:
    """Prompt and completion of a conversation; each message of the completion says whether it is learnt.

    Args:
        trace: The last turn, which is learnt.
        before: The turns before it (`Turns.before`).
        prompt: What takes the place of the messages before the first turn, or None to leave them.
        learnable: Whether a turn before is learnt; one with space around it is not.
    """
    messages = messages_of(trace.messages)
    # Tokens at the edges of a turn depend on space around it: in one row they might not be those it had.
    learnt = {len(turn.messages) for turn in before if learnable(turn)}
    learnt = {at for at in learnt if messages[at]["content"] == messages[at]["content"].strip()}
    opening = len(before[0].messages) if before else len(messages)
    first = min(learnt, default=len(messages))
    start = messages[:opening] if prompt is None else prompt
    last = {"role": "assistant", "content": trace.completion.strip(), "learn": True}
    rest = [{**message, "learn": at in learnt} for at, message in enumerate(messages) if at >= first]
    return {"prompt": [*start, *messages[opening:first]], "completion": [*rest, last]}


def _speaker(trace: Trace) -> tuple[str, ...]:
    author = trace.author
    return trace.run, trace.item, author.agent, author.role


def _same(message: dict[str, Any], turn: Trace) -> bool:
    said = message.get("content")
    return (
        message.get("role") == "assistant"
        and isinstance(said, str)
        and said.strip() == turn.completion.strip()
    )
