"""From chat messages to token ids, in one place, so that training and serving see the same tokens.

Models with a chat template use it. Base models without one use a plain template::

    {system}

    User: {question}
    Assistant: {answer}

    User: {question}
    Assistant:

Message text is data: a role marker inside it (such as ``<|im_end|>``) is broken up with a zero-width
space, so that model-written text cannot open a new turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from jinja2 import TemplateError

from docendo.errors import CapabilityError, ConfigError
from docendo.records import Message

Prompt: TypeAlias = "str | Sequence[Message] | Sequence[int]"

_PLAIN_NAMES = {"user": "User", "assistant": "Assistant", "tool": "Tool"}


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def takes_tools(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template shows tools to the model."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return "tools" in (template if isinstance(template, str) else str(template))


def render(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Renders chat messages, up to where the assistant starts to write.

    Args:
        tokenizer: A Hugging Face tokenizer.
        messages: At least one message with the keys "role" and "content".
        tools: JSON schemas of tools, for templates that show them.

    Raises:
        ConfigError: if there is no message, one is malformed, or the model's template refuses them.
        CapabilityError: if there are tools and the template does not show them.
    """
    if tools and not takes_tools(tokenizer):
        raise CapabilityError(
            "the model's chat template does not show tools",
            remedy="describe them in a system message (ChatDocendo does), or use a model trained with tools",
        )
    if not messages:
        raise ConfigError("the prompt has no messages", expected="at least one")
    safe: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise ConfigError(
                f"the message {message!r} is malformed", expected='"role" and "content", both texts'
            )
        safe.append({**message, "content": _break_markers(tokenizer, message["content"])})
    if has_chat_template(tokenizer):
        try:
            return str(
                tokenizer.apply_chat_template(
                    safe, tools=list(tools) or None, tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as error:
            raise ConfigError(f"the model's chat template refuses the messages: {error}") from error
    blocks = []
    for turn in safe:
        if turn["role"] == "system":
            blocks.append(turn["content"] + "\n\n")
        else:
            name = _PLAIN_NAMES.get(turn["role"], turn["role"].title())
            blocks.append(f"{name}: {turn['content']}\n" + ("\n" if turn["role"] == "assistant" else ""))
    return "".join(blocks) + "Assistant:"


def plain_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """One line a message, after one a tool: where the model's own template is not known.

    Example:
        >>> plain_text([{"role": "user", "content": "hello"}])
        'user: hello'
    """
    lines = [f"tool: {json.dumps(tool, sort_keys=True)}" for tool in tools]
    return "\n".join([*lines, *(f"{m['role']}: {m['content']}" for m in messages)])


def prompt_ids(tokenizer: Any, prompt: Prompt, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """Token ids of a prompt: text, chat messages, or ids (returned as they are).

    Raises:
        ConfigError: if the prompt is empty.
    """
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt).input_ids)
    elif prompt and isinstance(prompt[0], int):
        ids = list(prompt)
    else:
        # The chat template writes its own begin-of-sequence token.
        special = not has_chat_template(tokenizer)
        ids = list(tokenizer(render(tokenizer, prompt, tools), add_special_tokens=special).input_ids)  # type: ignore[arg-type]
    if not ids:
        raise ConfigError("the prompt is empty", expected="at least one token")
    return ids


def completion_ids(tokenizer: Any, text: str, *, end: bool = True) -> list[int]:
    """Token ids of an assistant's text, with the token that ends the turn unless `end` is False."""
    text = _break_markers(tokenizer, text)
    if not has_chat_template(tokenizer):
        text = " " + text.lstrip()
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    if end and tokenizer.eos_token_id is not None:
        ids.append(int(tokenizer.eos_token_id))
    return ids


def template_stops(tokenizer: Any) -> tuple[str, ...]:
    """Strings that end a turn where the model has no end-of-turn token."""
    return () if has_chat_template(tokenizer) else ("\nUser:",)


def end_ids(tokenizer: Any, *configs: Any) -> frozenset[int]:
    """Tokens that end a completion: of the tokenizer and of any model or generation configs."""
    found: set[int] = set()
    for source in (tokenizer, *configs):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, Iterable) else () if value is None else (value,))
    return frozenset(int(token) for token in found)


def _break_markers(tokenizer: Any, text: str) -> str:
    for marker in _markers(tokenizer):
        if marker in text:
            text = text.replace(marker, f"{marker[0]}\u200b{marker[1:]}")
    return text


def _markers(tokenizer: Any) -> tuple[str, ...]:
    cached: tuple[str, ...] | None = getattr(tokenizer, "_docendo_markers", None)
    if cached is None:
        added = (
            str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special
        )
        named = (str(token) for token in getattr(tokenizer, "all_special_tokens", ()))
        # In the plain template a turn starts with a name on a line of its own.
        plain = () if has_chat_template(tokenizer) else (f"\n{name}:" for name in _PLAIN_NAMES.values())
        cached = tuple(sorted({m for m in (*added, *named, *plain) if len(m) > 1}, key=len, reverse=True))
        tokenizer._docendo_markers = cached
    return cached
