"""What each known server offers beyond the OpenAI interface, and how it wants to be asked.

Servers ignore fields that they do not know, and fill in defaults of their own for those that are missing
(llama.cpp samples with top_k 40 and min_p 0.05, vLLM with what the model's folder suggests). So every
setting is sent, also where it is off; what a server has no field for is not among its features; and what
comes back is checked (`_answers.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from docendo.errors import CapabilityError, ConfigError
from docendo.records import Determinism, Feature, Grammar, Message, Request, SamplingParams

ServerKind = Literal["generic", "openai", "vllm", "sglang", "llama.cpp", "transformers"]

CHAT, COMPLETIONS = "/chat/completions", "/completions"
#: Seeds are sent as 31 bits, which every server takes.
SEED_MASK = 0x7FFF_FFFF


def _response_format(grammar: Grammar) -> dict[str, Any]:
    schema = {"name": "answer", "schema": json.loads(grammar.spec), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _alternatives(grammar: Grammar) -> str:
    """A grammar in GBNF, which llama.cpp and xgrammar read, for one of several texts."""
    choices = (json.dumps(choice, ensure_ascii=False) for choice in json.loads(grammar.spec))
    return "root ::= " + " | ".join(choices)


def _vllm_grammar(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind == "json_schema":
        return _response_format(grammar)
    spec = json.loads(grammar.spec) if grammar.kind == "choice" else grammar.spec
    return {"structured_outputs": {grammar.kind: spec}}


def _sglang_grammar(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind == "json_schema":
        return _response_format(grammar)
    return {"ebnf": _alternatives(grammar)} if grammar.kind == "choice" else {"regex": grammar.spec}


def _llama_cpp_grammar(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind == "json_schema":
        return {"json_schema": json.loads(grammar.spec)}
    return {"grammar": _alternatives(grammar)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How to ask one kind of server.

    Attributes:
        features: What it offers when it is started with its usual options.
        determinism: What its seeds promise.
        fields: What it calls settings that the OpenAI interface lacks.
        top_k_off: What it takes for "all tokens".
        chat_max_tokens: What it calls `max_tokens` of a chat.
        logprobs: Whether to ask for the log-probabilities of the chosen tokens, as it also tells their ids.
        least_logprobs: Fewest alternatives it can be asked for; it returns nothing below.
        logprobs_of_tools: Whether it returns them while it streams an answer to a request with tools.
        extras: Sent with every request.
        grammar: The fields of a grammar.
        load: Address that loads an adapter, or None; unloading is `unload` there.
        adapter_prefix: Whether an adapter's model name is "model:adapter".
        always_stream: Whether it goes on generating for who has gone, unless the answer is streamed.
    """

    features: frozenset[Feature]
    determinism: Determinism = "none"
    fields: Mapping[str, str] = field(default_factory=dict)
    top_k_off: int = 0
    chat_max_tokens: str = "max_tokens"
    logprobs: bool = False
    least_logprobs: int = 0
    logprobs_of_tools: bool = True
    extras: Mapping[str, Any] = field(default_factory=dict)
    grammar: Callable[[Grammar], dict[str, Any]] = _response_format
    load: str | None = None
    unload: str | None = None
    adapter_prefix: bool = False
    always_stream: bool = False


_GENERIC: frozenset[Feature] = frozenset({"messages", "tools", "n", "stream", "seed", "json_schema"})
#: What the OpenAI interface itself has fields for, so that any server may be said to offer it.
STANDARD: frozenset[Feature] = frozenset({*_GENERIC, "token_prompts", "adapters", "score"})
_SAMPLING: frozenset[Feature] = frozenset({"top_k", "min_p", "repetition_penalty"})
_GPU: frozenset[Feature] = frozenset(
    {*_GENERIC, *_SAMPLING, "score", "adapters", "token_prompts", "stop_token_ids", "prompt_logprobs"}
    | {"top_logprobs", "regex", "choice"}
)
_VLLM_FIELDS = {
    name: name for name in ("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos")
}

#: From the sources of vLLM, SGLang, llama.cpp and transformers as of autumn 2026.
SERVERS: Mapping[ServerKind, Server] = {
    "generic": Server(features=_GENERIC),
    "openai": Server(features=_GENERIC, chat_max_tokens="max_completion_tokens"),
    "vllm": Server(
        features=_GPU,
        determinism="seeded",
        fields=_VLLM_FIELDS,
        top_k_off=-1,
        logprobs=True,
        extras={"return_tokens_as_token_ids": True, "return_token_ids": True},
        grammar=_vllm_grammar,
        load="/v1/load_lora_adapter",
        unload="/v1/unload_lora_adapter",
    ),
    # Seeds count there only if it was started for deterministic inference; alternatives come without ids.
    "sglang": Server(
        features=_GPU - {"seed", "prompt_logprobs", "top_logprobs"},
        fields=_VLLM_FIELDS,
        top_k_off=-1,
        logprobs=True,
        extras={"return_token_ids": True},
        grammar=_sglang_grammar,
        load="/load_lora_adapter",
        unload="/unload_lora_adapter",
        adapter_prefix=True,
    ),
    # It has no log-probabilities of prompts and knows adapters by number, not by model name.
    "llama.cpp": Server(
        features=_GENERIC | _SAMPLING | {"token_prompts", "top_logprobs", "choice"},
        determinism="seeded",
        fields={
            "top_k": "top_k",
            "min_p": "min_p",
            "repetition_penalty": "repeat_penalty",
            "ignore_eos": "ignore_eos",
        },
        logprobs=True,
        least_logprobs=1,
        logprobs_of_tools=False,
        grammar=_llama_cpp_grammar,
    ),
    # It ignores n, log-probabilities and formats; its seed is one for all requests that run.
    "transformers": Server(
        features=frozenset({*_SAMPLING, "messages", "tools", "stream", "adapters"}), always_stream=True
    ),
}


def prompt_messages(prompt: Any) -> tuple[Message, ...] | None:
    """The prompt's messages, checked; None for text and token ids."""
    if not prompt:
        raise ConfigError("the prompt is empty", expected="text, messages or token ids")
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return None
    for message in prompt:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise ConfigError(
                f"the message {message!r} is malformed", expected='"role" and "content", both texts'
            )
    return tuple(prompt)


def generation_body(
    kind: ServerKind,
    request: Request,
    *,
    model: str,
    seed: int | None,
    stream: bool,
    messages: Sequence[Message] | None,
) -> tuple[str, dict[str, Any]]:
    """Path and body of a generation request.

    Args:
        kind: The kind of server.
        request: What is asked.
        model: Name of the served model or adapter.
        seed: Seed to send, or None.
        stream: Whether to stream.
        messages: The prompt's messages as they are to be sent, or None for text and token ids.
    """
    server, params = SERVERS[kind], request.sampling
    body: dict[str, Any] = {"model": model, **_sampling(kind, params, chat=messages is not None)}
    if seed is not None:
        body["seed"] = seed & SEED_MASK
    if params.stop:
        body["stop"] = list(params.stop)
    if params.n > 1:
        body["n"] = params.n
    if params.prompt_logprobs:
        body["prompt_logprobs"] = 0
    if params.grammar:
        body |= server.grammar(params.grammar)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    body |= server.extras
    wanted = max(server.least_logprobs, params.top_logprobs)
    tells = server.logprobs and (server.logprobs_of_tools or not (stream and request.tools))
    if messages is None:
        body["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
        return COMPLETIONS, body | ({"logprobs": wanted} if tells else {})
    body["messages"] = [_openai_message(message) for message in messages]
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    return CHAT, body | ({"logprobs": True, "top_logprobs": wanted} if tells else {})


def score_body(
    kind: ServerKind, prompt: Sequence[int], completion: Sequence[int], *, model: str
) -> dict[str, Any]:
    """Body of a completions request that returns the log-probabilities of its own prompt."""
    # One token is generated and dropped: some servers refuse to generate none.
    return {
        "model": model,
        "prompt": [*prompt, *completion],
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "temperature": 0.0,
        **SERVERS[kind].extras,
    }


def _sampling(kind: ServerKind, params: SamplingParams, *, chat: bool) -> dict[str, Any]:
    server = SERVERS[kind]
    if params.ignore_eos and "ignore_eos" not in server.fields:
        raise CapabilityError(
            "the request sets ignore_eos, which this kind of server has no field for", remedy="leave it out"
        )
    if kind == "transformers":
        return {"max_tokens": params.max_tokens, "generation_config": json.dumps(_generation_config(params))}
    body: dict[str, Any] = {
        server.chat_max_tokens if chat else "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": 1.0 if params.greedy else params.top_p,
    }
    values = {
        "top_k": (0 if params.greedy else params.top_k) or server.top_k_off,
        "min_p": 0.0 if params.greedy else params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "stop_token_ids": list(params.stop_token_ids),
        "ignore_eos": params.ignore_eos,
    }
    return body | {name: values[setting] for setting, name in server.fields.items()}


def _generation_config(params: SamplingParams) -> dict[str, Any]:
    """`transformers serve` samples only if it is told so here, whatever the temperature."""
    config: dict[str, Any] = {
        "do_sample": not params.greedy,
        "repetition_penalty": params.repetition_penalty,
    }
    if not params.greedy:
        config |= {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p}
        config["min_p"] = params.min_p or None
    return config


def _openai_message(message: Message) -> dict[str, Any]:
    """A message in the shape of the OpenAI interface, where arguments of tool calls are JSON text."""
    plain: dict[str, Any] = dict(message)
    if "tool_calls" in message:
        plain["tool_calls"] = [
            _openai_call(call, number) for number, call in enumerate(message["tool_calls"])
        ]
    return plain


def _openai_call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(f"the tool call {dict(call)!r} is malformed", expected='a "function" with a "name"')
    arguments = function.get("arguments", {})
    return {
        "id": str(call.get("id") or f"call_{number}"),
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
        },
    }
