"""Tool calls in text: how a model is told of tools, how calls are written, and how they are read back.

One form is written, that of Hermes and Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.
An engine that gets calls as data (a server, a chat model) writes them in this form into its text, so that
readers have one kind of text to understand. Read are also the forms that models without it write: bare JSON
objects (Llama: ``{"name": ..., "parameters": {...}}``, several with ``;`` between them), lists of them, and
both in a JSON code fence. Bare JSON is a call only if it makes up the whole text and names a known tool.

The text comes from a model and is data: what cannot be read becomes a `BadCall` with the reason, never an
error. Whether the arguments suit the tool is for the tool to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from docendo.agents._streams import certain_text
from docendo.errors import ConfigError
from docendo.records import Record

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_PYTHON_TAG = "<|python_tag|>"  # Llama writes it before its calls
_BARE = ("{", "[", "```json", "```\n", _PYTHON_TAG)
_MARKS = (*_BARE, OPEN)  # what a completion that calls may begin with
_BETWEEN = re.compile(r"[\s;,]*")

Tool: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(Record):
    """A call that could be read."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCall(Record):
    """Text that was meant as a call and cannot be read as one."""

    text: str
    error: str
    name: str = ""

    @property
    def written(self) -> str:
        """The text as a call. Tagged it stays a fault: LangChain mends JSON that was cut off."""
        return f"{OPEN}\n{self.text.strip()}\n{CLOSE}"


Call: TypeAlias = "ToolCall | BadCall"


def tool_name(tool: Tool) -> str:
    """The name of a tool in OpenAI's shape."""
    try:
        return str(tool["function"]["name"])
    except (KeyError, TypeError):
        raise ConfigError(
            f"the tool {tool!r} has no name", expected='{"type": "function", "function": {"name": ...}}'
        ) from None


def describe_tools(tools: Sequence[Tool], *, forced: Collection[str] = (), bare: bool = False) -> str:
    """What a system message says about tools to a model whose chat template does not show them.

    Args:
        tools: Tools in OpenAI's shape.
        forced: Names of which one must be called, or none.
        bare: Whether a call is to be JSON and nothing else, because a grammar allows no more.

    Example:
        >>> tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
        >>> print(describe_tools([tool], forced=["now"]))
        # Tools
        <BLANKLINE>
        You may call functions. Their signatures, one JSON object a line:
        <tools>
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
        </tools>
        <BLANKLINE>
        Call now. Answer with one JSON object and nothing else:
        {"name": <function name>, "arguments": <JSON object>}
    """
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    shape = '{"name": <function name>, "arguments": <JSON object>}'
    if forced:
        how = f"Call {' or '.join(forced)}. Answer with one JSON object and nothing else:\n{shape}"
    elif bare:
        how = f"To call one, answer with one JSON object and nothing else:\n{shape}"
    else:
        how = (
            "For each call, write a JSON object with name and arguments between tags:\n"
            f"{OPEN}\n{shape}\n{CLOSE}\nIf no function helps, answer without a call."
        )
    head = "# Tools\n\nYou may call functions. Their signatures, one JSON object a line:"
    return f"{head}\n<tools>\n{lines}\n</tools>\n\n{how}"


def format_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Writes a call as text.

    Example:
        >>> print(format_call("add", {"a": 1}))
        <tool_call>
        {"name": "add", "arguments": {"a": 1}}
        </tool_call>
    """
    return f"{OPEN}\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n{CLOSE}"


def format_response(content: str) -> str:
    """Writes what a tool answered as text."""
    return f"<tool_response>\n{content}\n</tool_response>"


def parse_calls(text: str, names: Collection[str], *, forced: bool = False) -> tuple[str, list[Call]]:
    """Splits a model's text into what is said and what is called.

    Args:
        text: The text of one completion.
        names: Names of the known tools.
        forced: Whether it had to be a call: bare text that starts like JSON and cannot be read, because it
            was cut off for example, is then a bad call and not an answer.

    Returns:
        The text without the calls, and the calls in order.

    Example:
        >>> text, calls = parse_calls('{"name": "add", "parameters": {"a": 1}}', ["add"])
        >>> calls
        [ToolCall(name='add', arguments={'a': 1})]
    """
    start = text.find(OPEN)
    if start >= 0:
        before, after, calls = text[:start], "", []
        while start >= 0:
            found, end = _tagged(text, start + len(OPEN))
            calls += found
            start = text.find(OPEN, end)
            after += text[end:start] if start >= 0 else text[end:]
        return "".join(part for part in (before, after) if part.strip()), calls
    bare = text.strip().removeprefix(_PYTHON_TAG).strip()
    values = _values(_unfenced(bare))
    read = [call for value in values or () for call in _calls(value)]
    if read and all(_known(call, names) for call in read):
        return "", read
    if forced and bare.startswith(_BARE):
        error = "not one JSON object with the name and arguments of a known tool"
        return "", [BadCall(text=text, error=error)]
    return text, []


class CallReader:
    """Reads the text of a completion piece by piece: what is said passes through, calls are kept back.

    Together the pieces give what `parse_calls` gives for the whole text.

    Example:
        >>> reader = CallReader(["now"])
        >>> [reader.feed(piece) for piece in ("Let me", " see <tool", "_call>{")]
        ['Let me', ' see ', '']
        >>> reader.feed('"name": "now"}</tool_call>')
        ''
        >>> reader.finish()
        ('', [ToolCall(name='now', arguments={})])
    """

    def __init__(self, names: Collection[str], *, forced: bool = False) -> None:
        """Starts before the first piece."""
        self._names, self._forced = names, forced
        self._kept = ""
        self._calling = self._speaking = False

    def feed(self, piece: str) -> str:
        """Takes the next piece; returns the text that is surely no part of a call."""
        self._kept += piece
        if not self._speaking and not self._calling:
            start = self._kept.lstrip()
            self._calling = start.startswith(_MARKS)
            self._speaking = not any(mark.startswith(start) for mark in _MARKS) and not self._calling
        if self._calling or not self._speaking:
            return ""
        at = self._kept.find(OPEN)
        self._calling = at >= 0
        if not self._calling:
            at = len(certain_text(self._kept, (OPEN,)))
        said, self._kept = self._kept[:at], self._kept[at:]
        return said

    def finish(self) -> tuple[str, list[Call]]:
        """What is left at the end: text and calls."""
        return parse_calls(self._kept, self._names, forced=self._forced)


def _tagged(text: str, at: int) -> tuple[list[Call], int]:
    """The calls after an opening tag, and where the text goes on."""
    begin = _skip(text, at)
    calls: list[Call] = []
    end = begin
    try:
        # The end of the JSON counts, not the closing tag: an argument may contain one.
        while text.startswith(("{", "["), end):
            value, end = _DECODER.raw_decode(text, end)
            calls += _calls(value)
            end = _skip(text, end)
        if calls and (end == len(text) or text.startswith((CLOSE, OPEN), end)):
            return calls, end + len(CLOSE) * text.startswith(CLOSE, end)
        reason = "nothing but JSON was expected"
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {_fault(error)}"
    body, tag, _ = text[begin:].partition(CLOSE)
    return [BadCall(text=body, error=reason)], begin + len(body) + len(tag)


def _values(text: str) -> list[Any] | None:
    """The JSON values that make up the whole text, or None if it is something else."""
    values = []
    at = 0
    try:
        while text.startswith(("{", "["), at):
            value, at = _DECODER.raw_decode(text, at)
            values.append(value)
            at = _skip(text, at)
    except (ValueError, RecursionError):
        return None
    return values if at == len(text) else None


def _unfenced(text: str) -> str:
    if not text.startswith("```"):
        return text
    return text.removeprefix("```").removeprefix("json").removesuffix("```").strip()


def _calls(value: Any) -> Iterator[Call]:
    for part in value if isinstance(value, list) else [value]:
        yield _call(part)


def _call(value: Any) -> Call:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return BadCall(text=_dump(value), error="no name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments)
        except (ValueError, RecursionError) as error:
            return BadCall(text=_dump(value), error=f"arguments are not JSON: {_fault(error)}", name=name)
    if arguments is not None and not isinstance(arguments, dict):
        return BadCall(text=_dump(value), error="arguments are no JSON object", name=name)
    return ToolCall(name=name, arguments=arguments or {})


def _known(call: Call, names: Collection[str]) -> bool:
    return call.name in names


def _skip(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _fault(error: Exception) -> str:
    # Without the position, which for a stream counts from elsewhere.
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


# Line breaks inside strings are let through: small models write them.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse)
