"""Which tokens of a conversation are learnt: those that the student writes, as the engine serves them.

A conversation is served turn by turn: each time the engine renders the messages so far and the student
writes on. Training on it in one row is exact only where what is rendered later begins with what was served
and written before. Templates that rewrite earlier turns (dropping what was thought, trimming spaces) have no
such rows, and neither have models without a chat template, which never see the token that ended a turn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docendo.agents._templates import completion_ids, prompt_ids
from docendo.distill.datasets._messages import learnt, plain
from docendo.errors import ConfigError, DataError

__all__ = ["learnt", "plain", "spans"]


def spans(
    tokenizer: Any,
    prompt: Sequence[Mapping[str, Any]],
    completion: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    where: str,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Tokenises a conversation.

    Args:
        tokenizer: The base model's tokenizer.
        prompt: Messages before the completion.
        completion: Messages of which those by the assistant are learnt, unless one is empty or says
            `"learn": false`. What stands after the last learnt one teaches nothing and is dropped.
        tools: Tools that the chat template shows.
        where: What the row is called in an error message.

    Returns:
        Ids of the prompt as it is served for the first learnt message, ids of the rest, and for each of
        these whether it is learnt. All are empty where no message is learnt.

    Raises:
        DataError: if a learnt message holds tool calls beside its text, or if what is served for a message
            does not begin with what was served and written before.
    """
    for message in (*prompt, *completion):
        if not isinstance(message, Mapping):
            raise DataError(f"{where} holds {message!r}"[:200], expected="chat messages")
    messages = [*prompt]
    served: list[int] = []
    ids: list[int] = []
    mask: list[bool] = []
    for message in completion:
        if learnt(message) and message.get("tool_calls"):
            raise DataError(
                f"a learnt message of {where} has tool_calls",
                expected="calls written in its content, as the model writes them",
            )
        text = str(message.get("content") or "")
        if learnt(message) and text.strip():
            try:
                now = prompt_ids(tokenizer, _shown(messages), tools)
            except ConfigError as error:
                raise DataError(f"{where} cannot be rendered: {error}", expected="chat messages") from error
            written = completion_ids(tokenizer, text)
            before = [*served, *ids]
            if now[: len(before)] != before:
                raise DataError(
                    f"the chat template renders a turn of {where} otherwise once others follow",
                    expected="a template that leaves earlier turns as they were served",
                    remedy="make one row of each turn, or strip the learnt ones of surrounding space",
                )
            if served:
                mask += [False] * (len(now) - len(before))
                ids = now[len(served) :]
            else:
                served = now
            ids += written
            mask += [True] * len(written)
        messages.append(message)
    return tuple(served), tuple(ids), tuple(mask)


def _shown(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Messages as the engine gets them: without our own mark."""
    return [{key: value for key, value in plain(one).items() if key != "learn"} for one in messages]
