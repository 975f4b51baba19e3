"""From an engine's completions to LangChain's messages, whole or as a stream of chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCallChunk
from langchain_core.messages import ToolCall as LangChainCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from docendo.agents._toolcalls import Call, CallReader, ToolCall, parse_calls
from docendo.hashing import digest
from docendo.records import Chunk, FinishReason, Request, Result, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call of the chat model, ready for the engine, and how its answer is to be read.

    Attributes:
        request: What the engine is asked.
        model_name: Name of the model or adapter that answers.
        adapter_sha256: Digest of that adapter, or None.
        tools: Names of the tools that may be called.
        forced: Whether the answer has to be a call.
        logprobs: Whether the message tells the tokens' log-probabilities.
    """

    request: Request
    model_name: str
    adapter_sha256: str | None = None
    tools: tuple[str, ...] = ()
    forced: bool = False
    logprobs: bool = False

    def metadata(self, finish_reason: FinishReason | None) -> dict[str, Any]:
        """The `response_metadata` of an answer."""
        found = {"model_name": self.model_name, "model_provider": "docendo", "finish_reason": finish_reason}
        return {**found, "adapter_sha256": self.adapter_sha256} if self.adapter_sha256 else found

    def call_id(self, text: str, sample: int, number: int) -> str:
        """Id of a tool call: derived, so that a repeated run has the same; of nine signs, as Mistral asks."""
        request = self.request
        parts = (request.prompt, request.sampling.to_json(), request.adapter, text, sample, number)
        return digest("tool call", *parts)[:9]


def usage_metadata(usage: Usage) -> UsageMetadata:
    """LangChain's form of token counts.

    Example:
        >>> usage_metadata(Usage(prompt_tokens=3, generated_tokens=2))["total_tokens"]
        5
    """
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=usage.prompt_tokens + usage.generated_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )


def generations(ask: Ask, result: Result) -> list[ChatGeneration]:
    """One generation per sample; the first carries the usage of all, so that sums stay right."""
    found = []
    for sample, completion in enumerate(result.completions):
        text, calls = completion.text, list[Call]()
        if ask.tools:
            text, calls = parse_calls(completion.text, ask.tools, forced=ask.forced)
        metadata = ask.metadata(completion.finish_reason)
        if ask.logprobs:
            metadata["logprobs"] = _logprobs(
                completion.token_ids, completion.logprobs, completion.top_logprobs
            )
        ids = [ask.call_id(completion.text, sample, number) for number in range(len(calls))]
        message = AIMessage(
            text,
            tool_calls=[
                LangChainCall(name=call.name, args=dict(call.arguments), id=id_, type="tool_call")
                for call, id_ in zip(calls, ids, strict=True)
                if isinstance(call, ToolCall)
            ],
            invalid_tool_calls=[
                InvalidToolCall(
                    name=call.name or None,
                    args=call.written,
                    id=id_,
                    error=call.error,
                    type="invalid_tool_call",
                )
                for call, id_ in zip(calls, ids, strict=True)
                if not isinstance(call, ToolCall)
            ],
            response_metadata=metadata,
            usage_metadata=usage_metadata(result.usage) if sample == 0 else None,
        )
        found.append(ChatGeneration(message=message))
    return found


class StreamedReply:
    """Turns an engine's chunks into LangChain's: text as it comes, tool calls at the end."""

    def __init__(self, ask: Ask) -> None:
        """Starts before the first chunk."""
        self._ask = ask
        self._reader = CallReader(ask.tools, forced=ask.forced) if ask.tools else None
        self._text: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None

    def feed(self, chunk: Chunk) -> ChatGenerationChunk | None:
        """Takes the engine's next chunk; returns what can be shown already, if anything."""
        self._text.append(chunk.text)
        self._ids += chunk.token_ids
        self._logprobs += chunk.logprobs
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._usage = chunk.usage or self._usage
        text = self._reader.feed(chunk.text) if self._reader else chunk.text
        return ChatGenerationChunk(message=AIMessageChunk(content=text)) if text else None

    def finish(self) -> list[ChatGenerationChunk]:
        """What is left at the end: text that was kept back, and the last chunk with calls and counts."""
        text, calls = self._reader.finish() if self._reader else ("", [])
        found = [ChatGenerationChunk(message=AIMessageChunk(content=text))] if text else []
        metadata = self._ask.metadata(self._finish_reason)
        if self._ask.logprobs:
            metadata["logprobs"] = _logprobs(self._ids, self._logprobs, ())
        whole = "".join(self._text)
        last = AIMessageChunk(
            content="",
            tool_call_chunks=[
                _call_chunk(call, self._ask.call_id(whole, 0, number), number)
                for number, call in enumerate(calls)
            ],
            response_metadata=metadata,
            usage_metadata=usage_metadata(self._usage) if self._usage else None,
            chunk_position="last",
        )
        return [*found, ChatGenerationChunk(message=last)]


def _call_chunk(call: Call, id_: str, number: int) -> ToolCallChunk:
    if isinstance(call, ToolCall):
        name, args = call.name, json.dumps(call.arguments, ensure_ascii=False)
    else:
        name, args = call.name, call.written
    return ToolCallChunk(name=name or None, args=args, id=id_, index=number, type="tool_call_chunk")


def _logprobs(
    ids: Sequence[int], logprobs: Sequence[float], top: Sequence[Sequence[tuple[int, float]]]
) -> Mapping[str, Any]:
    """OpenAI's shape, with token ids for texts: one token need not be whole characters."""
    content: list[dict[str, Any]] = [
        {"token_id": token, "logprob": logprob} for token, logprob in zip(ids, logprobs, strict=False)
    ]
    for entry, position in zip(content, top, strict=False):
        entry["top_logprobs"] = [{"token_id": token, "logprob": logprob} for token, logprob in position]
    return {"content": content}
