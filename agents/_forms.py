"""Forms of an answer: JSON schemas of structured output and of tool calls, and the parsers of the former.

LangChain's users give them as pydantic classes, TypedDicts, JSON schemas or OpenAI's parameters; an engine's
grammar takes one JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import pydantic
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from docendo.agents._toolcalls import Tool, tool_name
from docendo.errors import ConfigError

ANY_OBJECT = {"type": "object"}
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMAS = ("items", "prefixItems", "anyOf", "oneOf")  # not allOf: its parts add to each other


def json_schema_of(schema: dict[str, Any] | type) -> dict[str, Any]:
    """The JSON schema of a pydantic class, a TypedDict, or a schema in one of LangChain's forms.

    Example:
        >>> class Answer(pydantic.BaseModel):
        ...     value: int
        >>> json_schema_of(Answer)["properties"]
        {'value': {'type': 'integer'}}
    """
    if isinstance(schema, dict) and not {"function", "parameters"} & set(schema):
        return schema
    if isinstance(schema, type) and issubclass(schema, pydantic.BaseModel):
        own = schema.model_json_schema()
        if "$defs" in own:  # LangChain's conversion forgets what recursive parts look like
            return own
    return convert_to_json_schema(schema)


def response_schema(form: Any) -> dict[str, Any] | None:
    """The JSON schema that OpenAI's `response_format` asks for; None for plain text.

    Example:
        >>> response_schema({"type": "json_object"})
        {'type': 'object'}
    """
    kind = form.get("type") if isinstance(form, Mapping) else None
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind == "json_schema" and isinstance(form.get("json_schema", {}).get("schema"), Mapping):
        return dict(form["json_schema"]["schema"])
    raise ConfigError(
        f"response_format is {form!r}",
        expected='{"type": "json_schema", "json_schema": {"schema": ...}} or {"type": "json_object"}',
    )


def describe_schema(schema: Mapping[str, Any], *, otherwise: bool = False) -> str:
    """What a system message says about the form of the answer; `otherwise` if it may also be a call."""
    text = json.dumps(schema, ensure_ascii=False)
    begin = "Otherwise answer" if otherwise else "Answer"
    return f"{begin} with one JSON object that fits this schema, and nothing else:\n{text}"


def forced_tools(tools: Sequence[Tool], choice: Any) -> list[Tool]:
    """The tools of which `tool_choice` wants one to be called: none if the model is free.

    Raises:
        ConfigError: if it names no tool.
    """
    if choice in (None, False, "auto", "none"):
        return []
    if choice in (True, "any", "required"):
        found = list(tools)
    else:
        name = choice.get("function", choice).get("name") if isinstance(choice, Mapping) else choice
        found = [tool for tool in tools if tool_name(tool) == name]
    if not found:
        names = ", ".join(tool_name(tool) for tool in tools) or "no tools are bound"
        raise ConfigError(f"tool_choice is {choice!r}", expected=f"auto, any, none or a tool ({names})")
    return found


def call_schema(tool: Tool) -> dict[str, Any]:
    """JSON schema of a call to a tool.

    Example:
        >>> call_schema({"type": "function", "function": {"name": "now"}})["required"]
        ['name', 'arguments']
    """
    arguments = dict(tool["function"].get("parameters") or {**ANY_OBJECT, "properties": {}})
    definitions = {"$defs": arguments.pop("$defs")} if "$defs" in arguments else {}
    return {
        "type": "object",
        "properties": {"name": {"const": tool_name(tool)}, "arguments": arguments},
        "required": ["name", "arguments"],
        **definitions,
    }


def any_of(schemas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of what satisfies one of the schemas; their definitions are kept apart.

    Example:
        >>> any_of([{"$ref": "#/$defs/A", "$defs": {"A": {"type": "null"}}}, {"type": "string"}])
        {'anyOf': [{'$ref': '#/$defs/0.A'}, {'type': 'string'}], '$defs': {'0.A': {'type': 'null'}}}
    """
    if len(schemas) == 1:
        return dict(schemas[0])
    parts: list[Any] = []
    definitions: dict[str, Any] = {}
    for number, schema in enumerate(schemas):
        part = _refer(schema, f"#/$defs/{number}.")
        definitions |= {f"{number}.{name}": inner for name, inner in part.pop("$defs", {}).items()}
        parts.append(part)
    return {"anyOf": parts, **({"$defs": definitions} if definitions else {})}


def closed(schema: Any) -> Any:
    """The schema with no properties beyond the named ones, where it does not speak of others.

    By the standard an object may have any further property; a model that is held to such a schema may go on
    inventing them.

    Example:
        >>> closed({"type": "object", "properties": {"a": {"type": "null"}}})
        {'type': 'object', 'properties': {'a': {'type': 'null'}}, 'additionalProperties': False}
    """
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for key, value in schema.items():
        if key in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
            found[key] = {name: closed(part) for name, part in value.items()}
        elif key in _SCHEMAS:
            found[key] = closed(value)
    if isinstance(schema.get("properties"), Mapping) and not {"allOf", "patternProperties"} & set(schema):
        found.setdefault("additionalProperties", False)
    return found


def answer_parser(schema: dict[str, Any] | type) -> Runnable[BaseMessage, Any]:
    """Parses a message into an instance of a pydantic class, or else a dictionary.

    Parts of a streamed answer are parsed as far as they go. An answer that was cut off is an error.
    """
    parser: JsonOutputParser = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    return RunnableGenerator(_complete, _acomplete) | parser


def _refer(schema: Any, prefix: str) -> Any:
    if isinstance(schema, list):
        return [_refer(part, prefix) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _refer(value, prefix) for key, value in schema.items()}
    if isinstance(target := found.get("$ref"), str):
        found["$ref"] = target.replace("#/$defs/", prefix)
    return found


def _uncut(message: BaseMessage) -> BaseMessage:
    # LangChain's parser closes open brackets, so text that was cut off would pass for an answer.
    if message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "the answer was cut off at max_tokens; expected whole JSON; raise max_tokens"
        )
    return message


def _complete(messages: Iterator[BaseMessage]) -> Iterator[BaseMessage]:
    for message in messages:
        yield _uncut(message)


async def _acomplete(messages: AsyncIterator[BaseMessage]) -> AsyncIterator[BaseMessage]:
    async for message in messages:
        yield _uncut(message)
