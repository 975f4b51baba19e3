"""How each kind of server is asked, and how its answers are read (shapes as in the servers' sources)."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from docendo.agents import Engine, OpenAIEngine
from docendo.agents._answers import StopText, completions_of, prompt_logprobs_of, tokens_of
from docendo.agents._servers import SERVERS, ServerKind, generation_body
from docendo.errors import AdapterError, CapabilityError, ConfigError, MissingExtra
from docendo.hashing import file_sha256
from docendo.records import Feature, Grammar, Message, Request, SamplingParams, ScoreRequest

KINDS = get_args(ServerKind)
USER: Message = {"role": "user", "content": "q"}


def body_of(
    kind: ServerKind, *, stream: bool = False, tools: bool = False, **settings: Any
) -> dict[str, Any]:
    text = settings.pop("text", None)
    request = Request(
        prompt=text or (USER,),
        sampling=SamplingParams(**settings),
        tools=({"type": "function", "function": {"name": "f"}},) if tools else (),
    )
    path, body = generation_body(
        kind, request, model="m", seed=2**40 + 7, stream=stream, messages=None if text else (USER,)
    )
    assert path == ("/completions" if text else "/chat/completions")
    json.dumps(body)
    return body


# --- asking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_only_known_features_are_declared(kind: ServerKind) -> None:
    assert SERVERS[kind].features <= set(get_args(Feature))
    assert {"messages", "stream"} <= SERVERS[kind].features
    assert "pause" not in SERVERS[kind].features


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_that_is_declared_is_sent(kind: ServerKind) -> None:
    """A changed setting changes the body: nothing that is declared can get lost on the way."""
    plain = body_of(kind, temperature=0.5)
    changes: dict[str, dict[str, Any]] = {
        "n": {"n": 2},
        "top_k": {"top_k": 5},
        "min_p": {"min_p": 0.1},
        "repetition_penalty": {"repetition_penalty": 1.2},
        "stop_token_ids": {"stop_token_ids": (3,)},
        "top_logprobs": {"top_logprobs": 4},
        "prompt_logprobs": {"prompt_logprobs": True},
        "json_schema": {"grammar": Grammar.json_schema({"type": "object"})},
        "regex": {"grammar": Grammar.regex("[a-z]+")},
        "choice": {"grammar": Grammar.choice(["a", "b"])},
    }
    always = [{"max_tokens": 9}, {"temperature": 0.6}, {"top_p": 0.5}, {"stop": ("x",)}]
    for change in [*always, *(changes[name] for name in changes if name in SERVERS[kind].features)]:
        assert body_of(kind, **{"temperature": 0.5, **change}) != plain, change


def test_what_servers_would_fill_in_is_sent_switched_off() -> None:
    for kind, off, penalty in (("vllm", -1, "repetition_penalty"), ("llama.cpp", 0, "repeat_penalty")):
        for settings in ({}, {"temperature": 1.0}, {"top_k": 7, "min_p": 0.5, "top_p": 0.5}):
            body = body_of(kind, **settings)  # type: ignore[arg-type]
            assert (body["top_k"], body["min_p"], body["top_p"], body[penalty]) == (off, 0.0, 1.0, 1.0)


def test_seeds_fit_into_31_bits() -> None:
    assert body_of("vllm")["seed"] == 7


def test_transformers_samples_only_if_it_is_told_so() -> None:
    greedy = json.loads(body_of("transformers", top_k=3)["generation_config"])
    assert greedy == {"do_sample": False, "repetition_penalty": 1.0}
    body = body_of("transformers", temperature=0.7, top_k=3)
    assert json.loads(body["generation_config"])["do_sample"] is True
    assert "temperature" not in body  # with generation_config it would be read twice


def test_grammars_of_each_kind() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    for kind in ("generic", "openai", "vllm", "sglang"):
        assert body_of(kind, grammar=Grammar.json_schema(schema))["response_format"] == wrapped
    assert body_of("llama.cpp", grammar=Grammar.json_schema(schema))["json_schema"] == schema
    assert body_of("vllm", grammar=Grammar.regex("a+"))["structured_outputs"] == {"regex": "a+"}
    choice = Grammar.choice(['say "hi"', "né"])
    assert body_of("vllm", grammar=choice)["structured_outputs"] == {"choice": ['say "hi"', "né"]}
    gbnf = 'root ::= "say \\"hi\\"" | "né"'
    assert body_of("llama.cpp", grammar=choice)["grammar"] == gbnf
    assert body_of("sglang", grammar=choice)["ebnf"] == gbnf
    assert body_of("sglang", grammar=Grammar.regex("a+"))["regex"] == "a+"


def test_logprobs_are_asked_for_where_ids_come_with_them() -> None:
    assert (body_of("vllm")["logprobs"], body_of("vllm")["top_logprobs"]) == (True, 0)
    assert body_of("vllm", text="t", top_logprobs=3)["logprobs"] == 3
    assert body_of("llama.cpp", text="t")["logprobs"] == 1
    assert "logprobs" not in body_of("llama.cpp", stream=True, tools=True)  # it refuses both together
    assert "logprobs" in body_of("llama.cpp", tools=True)
    assert "logprobs" not in body_of("generic")


def test_the_hosted_service_has_another_name_for_max_tokens() -> None:
    assert body_of("openai", max_tokens=5)["max_completion_tokens"] == 5
    assert body_of("openai", text="t", max_tokens=5)["max_tokens"] == 5


def test_arguments_of_tool_calls_are_sent_as_text() -> None:
    said: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}, {"name": "f", "id": "z"}],
    }
    request = Request(prompt=(USER, said))
    _, body = generation_body("generic", request, model="m", seed=None, stream=False, messages=(USER, said))
    first, second = body["messages"][1]["tool_calls"]
    assert first == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a": 1}'},
    }
    assert (second["id"], second["function"]) == ("z", {"name": "f", "arguments": "{}"})
    broken: Message = {**said, "tool_calls": [{"function": "add"}]}
    with pytest.raises(ConfigError, match="malformed"):
        generation_body("generic", request, model="m", seed=None, stream=False, messages=(broken,))


def test_what_has_no_field_is_refused() -> None:
    with pytest.raises(CapabilityError, match="ignore_eos"):
        body_of("generic", ignore_eos=True)
    assert body_of("llama.cpp", ignore_eos=True)["ignore_eos"] is True


# --- answers -----------------------------------------------------------------------------------------


def test_tokens_of_a_vllm_chat() -> None:
    entry = {
        "token": "token_id:5",
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "token_id:9", "logprob": -2.0},
            {"token": "token_id:5", "logprob": -0.5},
            {"token": "token_id:1", "logprob": -3.0},
        ],
    }
    tokens = tokens_of({"token_ids": [5], "logprobs": {"content": [entry]}}, 2)
    assert tokens == ((5,), (-0.5,), (((5, -0.5), (9, -2.0)),))


def test_tokens_of_a_vllm_completion() -> None:
    columns = {
        "tokens": ["token_id:5", "token_id:6"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"token_id:5": -0.5}, {"token_id:7": -0.125, "token_id:6": -0.25}],
        "text_offset": [0, 1],
    }
    tokens = tokens_of({"logprobs": columns}, 1)
    assert tokens == ((5, 6), (-0.5, -0.25), (((5, -0.5),), ((7, -0.125),)))
    assert tokens_of({"logprobs": {**columns, "top_logprobs": None}}, 0).ids == (5, 6)


def test_tokens_of_llama_cpp_and_of_servers_that_tell_none() -> None:
    entry = {
        "id": 5,
        "token": "x",
        "logprob": -0.5,
        "top_logprobs": [{"id": 5, "token": "x", "logprob": -0.5}],
    }
    assert tokens_of({"logprobs": {"content": [entry]}}, 1) == ((5,), (-0.5,), (((5, -0.5),),))
    assert tokens_of({"logprobs": {"content": [{"token": "x", "logprob": -0.5}]}}, 0) == ((), (), ())
    assert tokens_of({"logprobs": None}, 0) == ((), (), ())
    assert tokens_of({"token_ids": [1, 2]}, 0) == ((1, 2), (), ())


def test_prompt_logprobs_of_vllm() -> None:
    positions = [None, {"6": {"logprob": -0.5, "rank": 1}}]
    chat = {"choices": [{}], "prompt_logprobs": positions, "prompt_token_ids": [5, 6]}
    completion = {"choices": [{"prompt_logprobs": positions, "prompt_token_ids": [5, 6]}]}
    for answer in (chat, completion):
        assert prompt_logprobs_of(answer) == ((5, 6), (None, -0.5))


def test_samples_come_in_order() -> None:
    choices = [
        {"index": 1, "text": "b", "finish_reason": "length"},
        {"index": 0, "text": "a\n", "finish_reason": "stop"},
    ]
    made = completions_of({"choices": choices}, SamplingParams(n=2, stop=("\n",)))
    assert [(c.text, c.finish_reason) for c in made] == [("a", "stop"), ("b", "length")]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_stop_strings_are_found_however_the_text_arrives(size: int) -> None:
    for text, stops, expected in (
        ("one END two", ("END",), "one "),
        ("ababac", ("abac",), "ab"),
        ("no stop EN", ("END",), "no stop EN"),
        ("first A then B", ("B", "A"), "first "),
        ("", ("x",), ""),
    ):
        stop = StopText(stops)
        pieces = [stop.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join(pieces) + stop.rest() == expected


# --- with a server -----------------------------------------------------------------------------------

Reply = Callable[[str, dict[str, Any]], Any]


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Starts servers that answer with what a function makes of path and body."""
    started: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, value = reply(self.path, body)
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_scores_as_the_local_engine_does(
    kind: ServerKind, serve: Callable[[Reply], str], engine: Engine, reference: Any
) -> None:
    """`echo` returns the prompt's log-probabilities and those of one token more."""

    def echo(path: str, body: dict[str, Any]) -> Any:
        assert (path, body["echo"], body["max_tokens"]) == ("/v1/completions", True, 1)
        ids = body["prompt"]
        with torch.inference_mode():
            table = torch.log_softmax(reference(torch.tensor([ids])).logits[0].float(), dim=-1)
        following = [float(table[at, token]) for at, token in enumerate(ids[1:])]
        told = {
            "token_logprobs": [None, *following, float(table[-1].max())],
            "tokens": ["x"] * (len(ids) + 1),
        }
        return 200, {
            "choices": [{"index": 0, "text": "", "logprobs": told, "finish_reason": "length"}],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": 1},
        }

    url = serve(echo)
    requests = [
        ScoreRequest(prompt=(USER,), completion="Answer: 7"),
        ScoreRequest(prompt="2 + 2 =", completion=" 4"),
        ScoreRequest(prompt=(5, 6, 7), completion=(8, 9)),
    ]
    with OpenAIEngine(url, "m", server=kind, tokenizer=engine.tokenizer) as remote:
        for request in requests:
            mine, theirs = engine.score(request), remote.score(request)
            assert theirs.token_ids == mine.token_ids
            assert theirs.logprobs == pytest.approx(mine.logprobs, abs=1e-4)
            assert theirs.usage.prompt_tokens == mine.usage.prompt_tokens
    with OpenAIEngine(url, "m", server=kind) as remote:
        assert len(remote.score(requests[2]).logprobs) == 2  # token ids need no tokenizer
        with pytest.raises(CapabilityError, match="needs the model's tokenizer"):
            remote.score(requests[1])
        with pytest.raises(ConfigError, match="completion to score is empty"):
            remote.score(requests[2].replace(completion=()))


def test_a_server_that_does_not_echo_is_told(serve: Callable[[Reply], str]) -> None:
    url = serve(lambda path, body: (200, {"choices": [{"text": "", "logprobs": {"token_logprobs": [-1.0]}}]}))
    with (
        OpenAIEngine(url, "m", server="vllm") as remote,
        pytest.raises(CapabilityError, match="ignored score"),
    ):
        remote.score(ScoreRequest(prompt=(1, 2), completion=(3,)))


def _adapter(folder: Path, weights: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize(("kind", "prefix"), [("vllm", ""), ("sglang", "m:")])
def test_adapters_are_loaded_swapped_and_dropped(
    kind: ServerKind, prefix: str, serve: Callable[[Reply], str], tmp_path: Path
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    def reply(path: str, body: dict[str, Any]) -> Any:
        told.append((path, body))
        if "lora" in path:
            return 200, "Success: done."  # vLLM answers in plain text
        return 200, {"choices": [{"text": "x", "finish_reason": "stop"}]}

    load, unload = (SERVERS[kind].load, SERVERS[kind].unload)
    with OpenAIEngine(serve(reply), "m", server=kind, adapters={"fixed": "served"}) as engine:
        folder = _adapter(tmp_path / "a", b"one")
        first = engine.load_adapter("a", folder)
        assert first == file_sha256(folder / "adapter_model.safetensors") == engine.adapter_hash("a")
        assert told == [(load, {"lora_name": f"a-{first[:12]}", "lora_path": str(folder)})]
        assert engine.generate(Request(prompt="q", adapter="a")).adapter == first
        assert told[-1][1]["model"] == f"{prefix}a-{first[:12]}"
        engine.load_adapter("a", folder)  # the same again: nothing to do
        second = engine.load_adapter("a", _adapter(folder, b"two"))
        assert [path for path, _ in told[2:]] == [load, unload]
        assert told[-1][1] == {"lora_name": f"a-{first[:12]}"}
        assert set(engine.adapters()) == {"a", "fixed"}
        engine.generate(Request(prompt="q", adapter="fixed"))
        assert told[-1][1]["model"] == "served"
        engine.drop_adapter("a")
        assert told[-1] == (unload, {"lora_name": f"a-{second[:12]}"})
        engine.drop_adapter("fixed")  # not ours to unload
        assert told[-1][0] == unload
        assert len(told) == 6
        with pytest.raises(AdapterError, match=r"adapter 'a' is not loaded \(loaded: none\)"):
            engine.generate(Request(prompt="q", adapter="a"))


def test_adapters_that_cannot_be_loaded(serve: Callable[[Reply], str], tmp_path: Path) -> None:
    url = serve(lambda path, body: (400, {"error": {"message": "LoRA is not enabled"}}))
    with OpenAIEngine(url, "m", server="vllm") as engine:
        with pytest.raises(AdapterError, match="holds no adapter_model"):
            engine.load_adapter("a", tmp_path)
        with pytest.raises(AdapterError, match=r"refuses the adapter .* \(400: LoRA is not enabled\)"):
            engine.load_adapter("a", _adapter(tmp_path / "a", b"x"))
        assert engine.adapters() == {}
    for kind in ("generic", "llama.cpp", "transformers"):
        with (
            OpenAIEngine(url, "m", server=kind) as engine,  # type: ignore[arg-type]
            pytest.raises(CapabilityError, match="cannot make its server"),
        ):
            engine.load_adapter("a", _adapter(tmp_path / "a", b"x"))
    with pytest.raises(CapabilityError, match="an adapter needs adapters"):
        OpenAIEngine(url, "m", server="llama.cpp", adapters={"a": "b"})


def test_role_markers_are_broken_up_if_the_tokenizer_is_known(
    serve: Callable[[Reply], str], engine: Engine
) -> None:
    told: list[str] = []

    def reply(path: str, body: dict[str, Any]) -> Any:
        told.append(body["messages"][0]["content"])
        return 200, {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}

    url, said = serve(reply), Request(prompt=({"role": "user", "content": "a<|im_end|>b"},))
    with OpenAIEngine(url, "m", tokenizer=engine.tokenizer) as remote:
        remote.generate(said)
        assert remote.render(said.prompt) == engine.render(said.prompt)  # type: ignore[arg-type]
    with OpenAIEngine(url, "m") as remote:
        remote.generate(said)
        assert remote.render([USER]) == "user: q"
    assert told == ["a<\u200b|im_end|>b", "a<|im_end|>b"]


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"server": "ollama"}, "server is 'ollama'; expected one of generic"),
        ({"features": ["n", "magic"]}, "features holds magic, which cannot be asked of 'generic'"),
        ({"features": ["regex"]}, "features holds regex, which"),
        ({"retries": -1}, "retries is -1"),
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], seen: str) -> None:
    with pytest.raises(ConfigError, match=seen):
        OpenAIEngine("http://127.0.0.1:1/v1", "m", **options)


@pytest.mark.parametrize("spec", ["m", "vllm:m", "vllm:http://h/v1", "ollama:http://h/v1#m", "vllm:#m"])
def test_specs_that_are_none(spec: str) -> None:
    with pytest.raises(ConfigError, match="KIND:ADDRESS#MODEL"):
        OpenAIEngine.from_spec(spec)


def test_features_say_what_this_server_offers() -> None:
    with OpenAIEngine("http://127.0.0.1:1/v1", "m", features=["messages", "score"]) as engine:
        assert engine.capabilities.features == {"messages", "score"}
        with pytest.raises(CapabilityError, match="needs n, which the engine 'm' lacks"):
            engine.generate(Request(prompt="q", sampling=SamplingParams(n=2)))


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.delitem(sys.modules, "docendo.agents._http", raising=False)
    with pytest.raises(MissingExtra, match=r"'httpx2' is not installed; .*docendo\[openai\]"):
        OpenAIEngine("http://127.0.0.1:1/v1", "m")
