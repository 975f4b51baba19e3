"""Tool calls in text: every form that models write is read, and nothing that is no call is taken for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docendo.agents._toolcalls import BadCall, CallReader, ToolCall, describe_tools, format_call, parse_calls

ADD = ToolCall(name="add", arguments={"a": 1})
NOW = ToolCall(name="now", arguments={})
NAMES = ("add", "now")
ADD_JSON = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        # Hermes and Qwen
        (f"<tool_call>\n{ADD_JSON}\n</tool_call>", "", [ADD]),
        (f'Wait.\n<tool_call>{ADD_JSON}</tool_call>\n<tool_call>{{"name": "now"}}', "Wait.\n", [ADD, NOW]),
        (f"  <tool_call>{ADD_JSON}</tool_call> Done.", " Done.", [ADD]),
        (f'<tool_call>[{ADD_JSON}, {{"name": "now", "arguments": null}}]</tool_call>', "", [ADD, NOW]),
        # Llama
        ('{"name": "add", "parameters": {"a": 1}}', "", [ADD]),
        ('<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": 1}}', "", [ADD]),
        (f'{ADD_JSON}; {{"name": "now", "parameters": {{}}}}', "", [ADD, NOW]),
        # what others write
        (f" {ADD_JSON}\n", "", [ADD]),
        (f"[{ADD_JSON}]", "", [ADD]),
        (f"```json\n{ADD_JSON}\n```", "", [ADD]),
        (f"```\n{ADD_JSON}\n```", "", [ADD]),
        ('{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}', "", [ADD]),
        # the end of the JSON counts, not the first closing tag
        (
            '<tool_call>{"name": "now", "arguments": {"x": "</tool_call>\nhi"}}</tool_call>',
            "",
            [ToolCall(name="now", arguments={"x": "</tool_call>\nhi"})],
        ),
        # a tool that nobody knows is called all the same: whoever runs tools answers that
        (
            '<tool_call>{"name": "sub", "arguments": {}}</tool_call>',
            "",
            [ToolCall(name="sub", arguments={})],
        ),
    ],
)
def test_reads_the_forms_of_calls(text: str, said: str, calls: list[ToolCall]) -> None:
    assert parse_calls(text, NAMES) == (said, calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "Hello {there}",
        f"I could call {ADD_JSON}",
        f"{ADD_JSON} is what I would call",
        '{"name": "Ann", "arguments": {}}',  # no tool of that name
        '{"age": 3}',
        "[1, 2]",
        "[see](there)",
        '{"name": "add", "arguments": {"a": NaN}}',
        "```python\nprint(1)\n```",
        "<tool_cal",
        "{" * 50_000,
    ],
)
def test_takes_nothing_else_for_a_call(text: str) -> None:
    assert parse_calls(text, NAMES) == (text, [])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"name": "add", "argu', "not JSON"),
        ('{"name": "add", "arguments": [1]}', "no JSON object"),
        ('{"name": "add", "arguments": "{"}', "arguments are not JSON"),
        ('{"arguments": {}}', "no name"),
        ("[[1]]", "no name"),
        ("add(1)", "nothing but JSON"),
        (f"{ADD_JSON} please", "nothing but JSON"),
        ("[" * 50_000, "not JSON"),
    ],
)
def test_an_unreadable_call_says_why(body: str, reason: str) -> None:
    said, (call,) = parse_calls(f"Well: <tool_call>{body}</tool_call>", NAMES)
    assert said == "Well: "
    assert isinstance(call, BadCall)
    assert reason in call.error
    assert parse_calls(call.written, NAMES)[1] != []  # and is still one when it is shown again


def test_a_call_that_had_to_be_made_and_was_cut_off_is_bad() -> None:
    text = '{"name": "add", "arguments": {"a": 1'
    assert parse_calls(text, NAMES) == (text, [])
    said, (call,) = parse_calls(text, NAMES, forced=True)
    assert (said, type(call)) == ("", BadCall)
    assert parse_calls("I will not.", NAMES, forced=True) == ("I will not.", [])


def read(pieces: list[str]) -> tuple[str, list[ToolCall | BadCall]]:
    reader = CallReader(NAMES)
    said = "".join(reader.feed(piece) for piece in pieces)
    rest, calls = reader.finish()
    return said + rest, calls


FRAGMENTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        ADD_JSON,
        '{"name": "now"}',
        "{",
        "}",
        "Hello",
        " ",
        "\n",
        "<",
        "```json\n",
        "[",
        ";",
    ]
)


@given(st.lists(FRAGMENTS, max_size=8).map("".join), st.data())
def test_a_stream_is_read_as_the_whole_text_is(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == parse_calls(text, NAMES)


def test_a_stream_passes_on_what_is_no_call_at_once() -> None:
    reader = CallReader(NAMES)
    assert [reader.feed(piece) for piece in ("a < b", " <too", "t> c", " <tool_call", ">{", "}")] == [
        "a < b",
        " ",
        "<toot> c",
        " ",
        "",
        "",
    ]


def test_the_description_lists_tools_and_says_what_is_forced() -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in NAMES
    ]
    free, forced = describe_tools(tools), describe_tools(tools, forced=["add"])
    listed = free.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line) for line in listed] == tools
    assert "<tool_call>" in free
    assert "<tool_call>" not in forced
    assert "Call add." in forced


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
)
def test_what_is_written_is_read_back(arguments: dict[str, object]) -> None:
    text = "Now:" + format_call("add", arguments)
    assert parse_calls(text, NAMES) == ("Now:", [ToolCall(name="add", arguments=arguments)])
