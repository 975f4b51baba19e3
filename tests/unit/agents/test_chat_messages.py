"""LangChain messages to docendo's and back."""

from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from docendo.agents._messages import from_messages, to_messages, with_system, without_tools
from docendo.errors import CapabilityError, ConfigError
from docendo.records import Message

CALL = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
CHAT: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage("1 + 1?", name="ann"),
    AIMessage("Let me see.", tool_calls=[CALL]),
    ToolMessage("2", tool_call_id="c1", name="add"),
    AIMessage("Two."),
    ChatMessage(content="Aside.", role="narrator"),
]


def test_every_kind_of_message_has_its_role() -> None:
    assert to_messages(CHAT) == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?", "name": "ann"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}
            ],
        },
        {"role": "tool", "content": "2", "name": "add", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Two."},
        {"role": "narrator", "content": "Aside."},
    )


def test_there_and_back() -> None:
    assert from_messages(to_messages(CHAT)) == CHAT
    assert to_messages(from_messages(to_messages(CHAT))) == to_messages(CHAT)


def test_arguments_as_a_text_come_back_as_an_object() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    (message,) = from_messages([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert isinstance(message, AIMessage)
    assert message.tool_calls == [CALL]
    call["function"] = {"name": "add", "arguments": "{"}
    with pytest.raises(ConfigError, match="expected a JSON object"):
        from_messages([{"role": "assistant", "content": "", "tool_calls": [call]}])


def test_neighbours_of_one_role_become_one_message() -> None:
    chat = [SystemMessage("a"), SystemMessage("b"), HumanMessage("c"), HumanMessage(""), HumanMessage("d")]
    assert [m["content"] for m in to_messages(chat)] == ["a\n\nb", "c\n\nd"]
    named = [HumanMessage("c", name="ann"), HumanMessage("d", name="bob")]
    called = [AIMessage("", tool_calls=[CALL]), AIMessage("so")]
    answered = [ToolMessage("1", tool_call_id="c1"), ToolMessage("2", tool_call_id="c2")]
    for apart in (named, called, answered):
        assert len(to_messages(apart)) == 2


def test_blocks_of_text_are_joined_and_repeated_ones_left_out() -> None:
    blocks = ["a", {"type": "text", "text": "b"}, {"type": "reasoning", "reasoning": "hm"}, CALL]
    (message,) = to_messages([AIMessage(blocks, tool_calls=[CALL])])
    assert message["content"] == "ab"
    assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "image", "url": "x"},
        {"type": "audio", "base64": "x", "mime_type": "audio/wav"},
        {"type": "file", "file_id": "1"},
        {"text": "no type"},
    ],
)
def test_what_is_no_text_is_refused_by_name(block: dict[str, object]) -> None:
    with pytest.raises(
        CapabilityError, match=f"message 1 holds a content block of type {block.get('type')!r}"
    ):
        to_messages([SystemMessage("x"), HumanMessage([{"type": "text", "text": "see"}, block])])


def test_what_is_no_turn_is_refused() -> None:
    with pytest.raises(ConfigError, match="message 0 is a RemoveMessage"):
        to_messages([RemoveMessage(id="1")])
    with pytest.raises(ConfigError, match="no messages"):
        to_messages([])


def test_an_unreadable_call_stays_visible_to_its_model() -> None:
    for args in ("<tool_call>\n{oops\n</tool_call>", "{oops"):
        bad = {"name": None, "args": args, "id": "1", "error": "?", "type": "invalid_tool_call"}
        (message,) = to_messages([AIMessage("Hm.", invalid_tool_calls=[bad])])
        assert message == {"role": "assistant", "content": "Hm.\n<tool_call>\n{oops\n</tool_call>"}


def test_without_a_template_for_tools_calls_and_answers_are_text() -> None:
    chat = [*CHAT[1:4], ToolMessage("3", tool_call_id="c2")]
    assert without_tools(to_messages(chat)) == (
        {"role": "user", "content": "1 + 1?"},
        {
            "role": "assistant",
            "content": 'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        },
        {
            "role": "user",
            "content": "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>",
        },
    )


def test_a_system_message_is_added_to_or_made() -> None:
    user: Message = {"role": "user", "content": "x"}
    assert [m["content"] for m in with_system([user], "new")] == ["new", "x"]
    assert [m["content"] for m in with_system([{"role": "system", "content": "old"}, user], "new")] == [
        "old\n\nnew",
        "x",
    ]
