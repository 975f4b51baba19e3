"""LangChain messages to docendo's and back. Text only: other content is refused by name.

A message of LangChain may hold a list of content blocks. Text blocks are joined; blocks that repeat what the
message says elsewhere (its tool calls) or that templates do not show again (reasoning) are left out; images,
audio, video and files are an error, because a text model would answer as if they were not there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from docendo.agents._toolcalls import CLOSE, OPEN, Tool, describe_tools, format_call, format_response
from docendo.errors import CapabilityError, ConfigError
from docendo.records import Message

_TEXT_BLOCKS = frozenset({"text", "input_text", "output_text"})
_REPEATED_BLOCKS = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call"}
    | {"thinking", "redacted_thinking", "reasoning", "reasoning_content"}
)
_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
)


def to_messages(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    r"""Converts LangChain messages to chat messages in the shape of Hugging Face templates.

    Neighbours of the same role and name become one message, because many templates refuse two in a row.

    Raises:
        CapabilityError: if a message holds anything but text.
        ConfigError: if there is no message or one has a type that is no turn of a chat.

    Example:
        >>> to_messages([HumanMessage("Hello"), HumanMessage("you")])
        ({'role': 'user', 'content': 'Hello\n\nyou'},)
    """
    if not messages:
        raise ConfigError("the prompt has no messages", expected="at least one")
    found: list[Message] = []
    for number, message in enumerate(messages):
        turn = _to_message(message, number)
        if found and _joins(found[-1], turn):
            found[-1]["content"] = "\n\n".join(filter(None, (found[-1]["content"], turn["content"])))
        else:
            found.append(turn)
    return tuple(found)


def from_messages(messages: Sequence[Message]) -> list[BaseMessage]:
    """Converts chat messages to LangChain's; the inverse of `to_messages`, but for joined neighbours.

    Example:
        >>> from_messages([{"role": "user", "content": "Hello"}])[0].content
        'Hello'
    """
    found: list[BaseMessage] = []
    for message in messages:
        role, content, name = message["role"], message["content"], message.get("name")
        if role == "system":
            found.append(SystemMessage(content, name=name))
        elif role == "user":
            found.append(HumanMessage(content, name=name))
        elif role == "assistant":
            calls = [_from_call(call) for call in message.get("tool_calls", ())]
            found.append(AIMessage(content, name=name, tool_calls=calls))
        elif role == "tool":
            found.append(ToolMessage(content, name=name, tool_call_id=message.get("tool_call_id", "")))
        else:
            found.append(ChatMessage(content=content, role=role, name=name))
    return found


def without_tools(messages: Sequence[Message]) -> tuple[Message, ...]:
    r"""Writes tool calls and their answers as text, for a chat template that knows only plain turns.

    Answers become a user's turn, as in Qwen's template: most others refuse the role "tool".

    Example:
        >>> without_tools([{"role": "tool", "content": "3", "tool_call_id": "a"}])
        ({'role': 'user', 'content': '<tool_response>\n3\n</tool_response>'},)
    """
    found: list[Message] = []
    for message in messages:
        turn: Message = {"role": message["role"], "content": message["content"]}
        if message["role"] == "tool":
            turn = {"role": "user", "content": format_response(message["content"])}
            if found and found[-1]["role"] == "user":
                found[-1]["content"] += "\n" + turn["content"]
                continue
        for call in message.get("tool_calls", ()):
            function = call["function"]
            text = format_call(function["name"], function["arguments"])
            turn["content"] = f"{turn['content']}\n{text}" if turn["content"] else text
        found.append(turn)
    return tuple(found)


def prompt_with(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    native: bool,
    forced: Collection[str] = (),
    bare: bool = False,
) -> tuple[tuple[Message, ...], tuple[Tool, ...]]:
    """A chat with tools: what the messages say of them, and the tools that the chat template is to show.

    Args:
        messages: The chat.
        tools: The tools, in OpenAI's shape.
        native: Whether the chat template shows tools, calls and answers.
        forced: Names of the tools of which one must be called, or none.
        bare: Whether a grammar holds calls to bare JSON. Then the tools are described even where the
            template could show them: it asks for calls in its own form, and servers refuse tools beside a
            grammar.
    """
    prompt = tuple(messages) if native else without_tools(messages)
    if native and not bare:
        return prompt, tuple(tools)
    return (with_system(prompt, describe_tools(tools, forced=forced, bare=bare)) if tools else prompt), ()


def with_system(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """Adds a text to the system message, or a system message where there is none."""
    if messages and messages[0]["role"] == "system":
        first: Message = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}".lstrip()}
        return (first, *messages[1:])
    return ({"role": "system", "content": text}, *messages)


def _to_message(message: BaseMessage, number: int) -> Message:
    role = next((role for kind, role in _ROLES if isinstance(message, kind)), "")
    if isinstance(message, ChatMessage):
        role = message.role
    if not role:
        raise ConfigError(
            f"message {number} is a {type(message).__name__}",
            expected="a system, human, AI, tool or chat message",
        )
    turn: Message = {"role": role, "content": _text(message, number)}
    if message.name:
        turn["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call["id"] or "",
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in message.tool_calls
        ]
    if isinstance(message, AIMessage):
        # What could not be read was said nevertheless, and the model should see it.
        bad = (call["args"] or "" for call in message.invalid_tool_calls)
        written = (text if text.startswith(OPEN) else f"{OPEN}\n{text}\n{CLOSE}" for text in bad)
        turn["content"] = "\n".join(filter(None, (turn["content"], *written)))
    if isinstance(message, ToolMessage):
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _text(message: BaseMessage, number: int) -> str:
    if isinstance(message.content, str):
        return message.content
    parts: list[str] = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
            continue
        kind = block.get("type")
        if kind in _TEXT_BLOCKS:
            parts.append(str(block.get("text") or ""))
        elif kind not in _REPEATED_BLOCKS:
            raise CapabilityError(
                f"message {number} holds a content block of type {kind!r}",
                expected="text: the engine's models read nothing else",
                remedy="describe it in words, or use a model that takes it",
            )
    return "".join(parts)


def _joins(one: Message, other: Message) -> bool:
    plain = all(not turn.get("tool_calls") and turn["role"] != "tool" for turn in (one, other))
    return plain and one["role"] == other["role"] and one.get("name") == other.get("name")


def _from_call(call: Mapping[str, Any]) -> Any:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # as in OpenAI's API; chat templates take objects
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise ConfigError(
                f"the arguments of a tool call are {arguments!r}", expected="a JSON object"
            ) from error
    return {"name": function["name"], "args": arguments, "id": call.get("id") or "", "type": "tool_call"}
