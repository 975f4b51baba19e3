"""Between inspect_ai's messages, tools and outputs and those of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from docendo.agents._toolcalls import Call, Tool, ToolCall, parse_calls
from docendo.errors import CapabilityError, MissingExtra
from docendo.hashing import digest
from docendo.records import Completion, Message, Result, Usage

try:
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        Logprob,
        Logprobs,
        ModelOutput,
        ModelUsage,
        TopLogprob,
    )
    from inspect_ai.tool import ToolCall as InspectCall
except ModuleNotFoundError as error:
    raise MissingExtra("inspect_ai", "inspect") from error

#: Content that a model's own earlier turns may hold and that it need not see again.
_REPEATED = frozenset({"reasoning", "data"})
_STOPS = {"stop": "stop", "length": "max_tokens"}


def to_messages(messages: Sequence[Any]) -> tuple[Message, ...]:
    """inspect_ai's messages as chat messages in the shape of Hugging Face templates.

    Raises:
        CapabilityError: if a message holds anything but text.

    Example:
        >>> from inspect_ai.model import ChatMessageUser
        >>> to_messages([ChatMessageUser(content="Hello")])
        ({'role': 'user', 'content': 'Hello'},)
    """
    found: list[Message] = []
    for number, message in enumerate(messages):
        turn: Message = {"role": message.role, "content": _text(message, number)}
        if message.role == "assistant" and message.tool_calls:
            turn["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {"name": call.function, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id or ""
            if message.function:
                turn["name"] = message.function
            if message.error is not None:
                turn["content"] = f"Error: {message.error.message}"
        found.append(turn)
    return tuple(found)


def to_tools(tools: Sequence[Any]) -> list[Tool]:
    """inspect_ai's tools in OpenAI's shape, which chat templates show."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(exclude_none=True),
            },
        }
        for tool in tools
    ]


def to_usage(usage: Usage) -> Any:
    """Token counts as inspect_ai keeps them: tokens from a stored beginning stand by themselves.

    Example:
        >>> to_usage(Usage(prompt_tokens=9, cached_tokens=4, generated_tokens=2)).input_tokens
        5
    """
    return ModelUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        input_tokens_cache_read=usage.cached_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=usage.prompt_tokens + usage.generated_tokens,
    )


def to_output(
    result: Result,
    *,
    model: str,
    tools: Sequence[str] = (),
    forced: bool = False,
    logprobs: bool = False,
    decode: Callable[[int], str] | None = None,
) -> Any:
    """An engine's result as inspect_ai's output.

    Args:
        result: The result.
        model: What inspect_ai calls the model.
        tools: Names of the tools that may be called.
        forced: Whether the answer had to be a call.
        logprobs: Whether to give the log-probabilities of the generated tokens.
        decode: Gives the text of a token; needed for log-probabilities of any kind.
    """
    prompt = None
    if result.prompt_logprobs and decode is not None:
        # The first token follows nothing, so nothing is known of it.
        pairs = zip(result.prompt_token_ids[1:], result.prompt_logprobs[1:], strict=True)
        prompt = Logprobs(
            content=[_logprob(decode(token), logprob or 0.0) for token, logprob in pairs],
        )
    choices = []
    for sample, completion in enumerate(result.completions):
        text, calls = completion.text, list[Call]()
        if tools:
            text, calls = parse_calls(completion.text, tools, forced=forced)
        message = ChatMessageAssistant(
            content=text,
            model=model,
            source="generate",
            tool_calls=[_call(call, (completion.text, sample, n)) for n, call in enumerate(calls)] or None,
        )
        choices.append(
            ChatCompletionChoice(
                message=message,
                stop_reason="tool_calls" if calls else _STOPS[completion.finish_reason],
                logprobs=_logprobs(completion, decode) if logprobs and decode else None,
                prompt_logprobs=prompt,
            )
        )
    return ModelOutput(
        model=model,
        choices=choices,
        usage=to_usage(result.usage),
        time=result.latency or None,
        metadata={"seed": result.seed, "adapter_sha256": result.adapter},
    )


def _text(message: Any, number: int) -> str:
    if isinstance(message.content, str):
        return message.content
    parts: list[str] = []
    for part in message.content:
        if part.type == "text":
            parts.append(part.text)
        elif part.type not in _REPEATED:
            raise CapabilityError(
                f"message {number} holds a content block of type {part.type!r}",
                expected="text: the engine's models read nothing else",
            )
    return "\n".join(parts)


def _call(call: Call, parts: tuple[Any, ...]) -> Any:
    # Derived, so that a repeated run has the same; of nine signs, as Mistral's template asks.
    id_ = digest("tool call", *parts)[:9]
    if isinstance(call, ToolCall):
        return InspectCall(id=id_, function=call.name, arguments=dict(call.arguments))
    error = f"cannot be read as a tool call ({call.error}): {call.text.strip()}"
    return InspectCall(id=id_, function=call.name or "unknown", arguments={}, parse_error=error)


def _logprobs(completion: Completion, decode: Callable[[int], str]) -> Any:
    top = completion.top_logprobs or ((),) * len(completion.token_ids)
    rows = zip(completion.token_ids, completion.logprobs, top, strict=True)
    return Logprobs(
        content=[
            _logprob(
                decode(token),
                logprob,
                [_top(decode(one), value) for one, value in others] if others else None,
            )
            for token, logprob, others in rows
        ]
    )


def _logprob(text: str, logprob: float, top: list[Any] | None = None) -> Any:
    return Logprob(token=text, logprob=logprob, bytes=_bytes(text), top_logprobs=top)


def _top(text: str, logprob: float) -> Any:
    return TopLogprob(token=text, logprob=logprob, bytes=_bytes(text))


def _bytes(text: str) -> list[int] | None:
    """The bytes of a token, unless it is a part of a character, whose text does not tell them."""
    return None if "\ufffd" in text else list(text.encode())
