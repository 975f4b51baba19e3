"""What goes wrong between an engine and its server: each failure is one line of the right class."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import pytest

from docendo.agents import OpenAIEngine
from docendo.errors import (
    CapabilityError,
    ConfigError,
    DeadlineExceeded,
    DocendoError,
    EngineClosed,
    InfrastructureError,
    ModelNotFound,
)
from docendo.records import EngineEvent, Grammar, Message, Origin, Request, Result, SamplingParams

HELLO: Message = {"role": "user", "content": "hello"}


def ask(**settings: Any) -> Request:
    timeout, priority = settings.pop("timeout", None), settings.pop("priority", 0)
    return Request(prompt=(HELLO,), sampling=SamplingParams(**settings), timeout=timeout, priority=priority)


def answer(*texts: str, **more: Any) -> dict[str, Any]:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    return {"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 2}, **more}


class FaultServer(ThreadingHTTPServer):
    """Does to each request in turn what `plan` says; the last step is repeated."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan: list[Callable[[_Handler], None]] = [say(answer("fine"))]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self.gone = threading.Event()  # a client broke off
        self.release = threading.Event()  # lets hanging requests go on
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append(self.headers)
            self.server.paths.append(self.path)
            step = self.server.plan.pop(0) if len(self.server.plan) > 1 else self.server.plan[0]
        step(self)

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


Step = Callable[[_Handler], None]


def say(value: Any, status: int = 200, **headers: str) -> Step:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda handler: handler.send(status, body, **headers)


def fail(status: int, message: str = "no", **headers: str) -> Step:
    return say({"error": {"message": message}}, status, **headers)


def hang(handler: _Handler) -> None:
    """Answers only when released; notices when the client goes."""
    handler.connection.settimeout(0.02)
    while not handler.server.release.is_set():
        try:
            if handler.connection.recv(1) == b"":
                handler.server.gone.set()
                return
        except TimeoutError:
            continue
    handler.connection.settimeout(None)
    say(answer("released"))(handler)


def reset(handler: _Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def events(*values: Any, end: bytes = b"data: [DONE]\n\n") -> Step:
    data = b"".join(b"data: " + json.dumps(v, ensure_ascii=False).encode() + b"\n\n" for v in values)

    def step(handler: _Handler) -> None:
        handler.send(200, data + end, kind="text/event-stream")
        handler.close_connection = True

    return step


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": finish}]}


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


@pytest.fixture
def server(_no_thread_left: None) -> Iterator[FaultServer]:
    with FaultServer() as made:
        thread = threading.Thread(target=lambda: made.serve_forever(poll_interval=0.01))
        thread.start()
        yield made
        made.release.set()
        made.shutdown()
        thread.join()


@pytest.fixture
def make(server: FaultServer) -> Iterator[Callable[..., OpenAIEngine]]:
    made: list[OpenAIEngine] = []

    def engine(**options: Any) -> OpenAIEngine:
        made.append(OpenAIEngine(server.url, "model-x", **options))
        return made[-1]

    yield engine
    for each in made:
        each.close()


def refused(engine: OpenAIEngine, request: Request | None = None) -> DocendoError:
    """The error of a request, which must be one line and one of ours."""
    with pytest.raises(DocendoError) as caught:
        engine.generate(request or ask())
    assert "\n" not in str(caught.value)
    return caught.value


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- answers that are errors -------------------------------------------------------------------------


def test_a_server_error_is_tried_again(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [fail(500), fail(503), say(answer("fine"))]
    result = make(retries=2).generate(ask())
    assert (result.text, result.usage.prompt_tokens, result.usage.generated_tokens) == ("fine", 3, 2)
    assert len(server.bodies) == 3
    assert server.bodies[0] == server.bodies[2]
    assert result.latency > 0.5  # the pauses: at least 0.25 and 0.5 seconds


def test_a_server_that_stays_broken_is_named(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [fail(502, "bad\ngateway")]
    error = refused(make(retries=1))
    assert type(error) is InfrastructureError
    assert str(error) == f"the server at {server.url} answered 502 (2 tries): bad gateway"


@pytest.mark.parametrize(
    "stamp", [lambda: "0.4", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["seconds", "date"]
)
def test_retry_after_is_waited_for(
    server: FaultServer, make: Callable[..., OpenAIEngine], stamp: Callable[[], str]
) -> None:
    server.plan = [fail(429, Retry_After=stamp()), say(answer("fine"))]
    start = time.monotonic()
    assert make(retries=1).generate(ask()).text == "fine"
    assert time.monotonic() - start > 0.39


def test_a_server_that_asks_for_an_hour_is_given_up(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    server.plan = [fail(429, "quota", Retry_After="3600")]
    assert type(refused(make(retries=5))) is InfrastructureError
    assert len(server.bodies) == 1


def test_a_wrong_key_is_the_users_affair(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [fail(401, "Incorrect API key")]
    error = refused(make(api_key="sk-secret", retries=3))
    assert type(error) is ConfigError
    assert "refuses access (401: Incorrect API key); pass its api_key" in str(error)
    assert "sk-secret" not in str(error)
    assert len(server.bodies) == 1


def test_an_unknown_model_is_named(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [fail(404, "The model `model-x` does not exist.")]
    error = refused(make())
    assert type(error) is ModelNotFound
    assert "has no model 'model-x'" in str(error)
    assert f"{server.url}/models" in str(error)


def test_a_wrong_path_is_no_unknown_model(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [say({"detail": "Not Found"}, 404)]
    error = refused(make())
    assert type(error) is ConfigError
    assert "has no /chat/completions (Not Found)" in str(error)


def test_a_refused_request_is_not_tried_again(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [say({"detail": [{"loc": ["body"], "msg": "too long"}]}, 422)]
    error = refused(make(retries=3))
    assert type(error) is ConfigError
    assert "(422: too long)" in str(error)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b"<html>hello</html>", "'<html>hello</html>'; expected a JSON object"),
        (b'{"choices": [', "expected a JSON object"),
        (b"[]", "expected a JSON object"),
        (b"{}", "has no choices"),
        (b'{"choices": []}', "has no choices"),
    ],
)
def test_garbage_is_told(
    server: FaultServer, make: Callable[..., OpenAIEngine], body: bytes, seen: str
) -> None:
    server.plan = [say(body)]
    error = refused(make())
    assert type(error) is InfrastructureError
    assert seen in str(error)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with OpenAIEngine(url, "m", retries=1) as engine:
            error = refused(engine)
    assert type(error) is InfrastructureError
    assert f"cannot reach the server at {url}: " in str(error)
    assert "(2 tries)" in str(error)


def test_a_broken_connection_is_tried_again(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [reset, say(answer("fine"))]
    assert make(retries=1).generate(ask()).text == "fine"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://u:p@x/v1", "http://x/v1?key=1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        OpenAIEngine(url, "m")


# --- settings that a server ignores ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"n": 2}, r"ignored n \(1 samples came instead of 2\)"),
        ({"top_logprobs": 1}, "ignored top_logprobs"),
        ({"prompt_logprobs": True}, "ignored prompt_logprobs"),
        ({"grammar": Grammar.choice(["yes", "no"])}, "ignored grammar choice .*'fine'"),
        ({"grammar": Grammar.regex("[0-9]+")}, "ignored grammar regex"),
        ({"grammar": Grammar.json_schema({"type": "object"})}, "ignored grammar json_schema"),
    ],
)
def test_what_the_server_ignored_is_refused(
    make: Callable[..., OpenAIEngine], settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(CapabilityError, match=what):
        make(server="vllm").generate(ask(**settings))


def test_a_grammar_cannot_be_judged_by_half_a_text(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    cut = answer('{"a":')
    cut["choices"][0]["finish_reason"] = "length"
    server.plan = [say(cut)]
    result = make().generate(ask(grammar=Grammar.json_schema({"type": "object"})))
    assert (result.text, result.completions[0].finish_reason) == ('{"a":', "length")


def test_nothing_of_the_environment_is_sent(
    server: FaultServer, make: Callable[..., OpenAIEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    make().generate(ask())
    assert "secret" not in str(server.headers[0])
    make(api_key="mine").generate(ask())
    assert server.headers[1]["Authorization"] == "Bearer mine"


# --- streams -----------------------------------------------------------------------------------------


def test_a_stream_is_read_whole(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
    server.plan = [
        events(delta(""), delta("a\u2028b \x85"), delta("c\n"), delta("\nd"), delta(None, "stop"), usage)
    ]
    engine = make()
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    chunks = list(engine.stream(ask(stop=("\n\n",))))
    assert [c.text for c in chunks] == ["a\u2028b \x85", "c", ""]
    assert [c.finish_reason for c in chunks] == [None, None, "stop"]
    assert [c.usage and c.usage.prompt_tokens for c in chunks] == [None, None, 7]
    assert (seen[0].usage.prompt_tokens, seen[0].usage.generated_tokens) == (7, 4)
    assert seen[0].submitted <= seen[0].started <= seen[0].first_token <= seen[0].ended
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_the_first_token_is_the_first_that_brings_text(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    def slow(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for value in (delta(role="assistant"), delta("a"), delta(None, "stop")):
            handler.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
            time.sleep(0.1)
        handler.close_connection = True

    server.plan = [slow]
    result = make(server="transformers").generate(ask())  # always streamed there
    assert server.bodies[0]["stream"] is True
    assert 0.09 < result.first_token < result.latency - 0.09


def test_tool_calls_come_as_text(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    call = {"name": "add", "arguments": '{"a": 1}'}
    whole = answer("Well")
    whole["choices"][0]["message"]["tool_calls"] = [{"id": "1", "type": "function", "function": call}]
    parts = [
        delta("Well"),
        delta(tool_calls=[{"index": 0, "function": {"name": "add", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}]),
        delta(None, "tool_calls"),
    ]
    server.plan = [say(whole), events(*parts)]
    engine, request = make(), ask().replace(tools=({"type": "function", "function": {"name": "add"}},))
    expected = 'Well\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert engine.generate(request).text == expected
    assert "".join(c.text for c in engine.stream(request)) == expected


@pytest.mark.parametrize(
    ("step", "seen"),
    [
        (
            events(delta("a"), {"error": {"message": "out of\nmemory"}}),
            "failed while it answered: out of memory",
        ),
        (events(delta("a")), "ended its stream before the answer was complete"),
        (events(), "ended its stream before the answer was complete"),
        (events(delta("a"), end=b"data: {\n\n"), "expected a JSON object"),
        (events(delta("a", "abort")), "broke off the request"),
        (say(answer("whole")), "broke while it answered"),
    ],
    ids=["error", "no-finish", "empty", "garbage", "abort", "no-stream"],
)
def test_broken_streams(
    server: FaultServer, make: Callable[..., OpenAIEngine], step: Step, seen: str
) -> None:
    server.plan = [step]
    with pytest.raises(InfrastructureError, match=seen):
        list(make().stream(ask()))


def test_a_closed_stream_is_broken_off(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    def endless(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        while True:
            try:
                handler.wfile.write(b"data: " + json.dumps(delta("x")).encode() + b"\n\n")
            except OSError:
                handler.server.gone.set()
                return
            time.sleep(0.005)

    server.plan = [endless]
    engine = make()
    seen: list[EngineEvent] = []
    engine.subscribe(seen.append)
    stream = engine.stream(ask())
    assert next(stream).text == "x"
    stream.close()  # type: ignore[attr-defined]
    assert server.gone.wait(5)

    async def read_two() -> None:
        chunks = engine.astream(ask())
        assert (await anext(chunks)).text == "x"
        await chunks.aclose()  # type: ignore[attr-defined]

    server.gone.clear()
    asyncio.run(read_two())
    assert server.gone.wait(5)
    assert [event.status for event in seen] == ["cancelled", "cancelled"]
    (row,) = engine.ledger()
    assert (row["calls"], row["generated_tokens"]) == (2, 0)  # what they cost, the server did not tell
    assert row["seconds"] > 0


# --- time --------------------------------------------------------------------------------------------


def test_a_hanging_server_meets_the_deadline(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [hang]
    start = time.monotonic()
    error = refused(make(), ask(timeout=0.2))
    assert type(error) is DeadlineExceeded
    assert str(error) == "the request was not finished within its timeout of 0.2 s"
    assert 0.19 < time.monotonic() - start < 3
    assert server.gone.wait(5)  # the server was told


def test_the_engines_own_timeout_begins_when_a_request_is_sent(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    server.plan = [hang]
    engine = make(timeout=0.2, max_concurrency=1)
    futures = [engine.submit(ask()) for _ in range(2)]
    start = time.monotonic()
    for future in futures:
        assert str(future.exception(5)) == "the server did not answer within 0.2 s"
        assert isinstance(future.exception(), DeadlineExceeded)
    assert time.monotonic() - start > 0.3  # one after the other, 0.2 seconds each


def test_the_deadline_holds_while_it_waits_and_retries(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    server.plan = [fail(500, Retry_After="30")]
    assert type(refused(make(), ask(timeout=0.1))) is DeadlineExceeded
    server.plan = [hang]
    engine = make(max_concurrency=1)
    first = engine.submit(ask())
    assert type(refused(engine, ask(timeout=0.1))) is DeadlineExceeded  # in the queue
    assert first.cancel()


def test_cancelling_frees_the_place(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [hang, say(answer("next"))]
    engine = make(max_concurrency=1)
    first, second, third = (engine.submit(ask()) for _ in range(3))
    wait_for(lambda: server.bodies)
    assert third.cancel()
    assert not second.done()
    assert first.cancel()
    assert second.result(5).text == "next"
    assert server.gone.wait(5)
    assert len(server.bodies) == 2  # the third was never sent


async def test_cancelling_a_task_cancels_the_request(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    server.plan = [hang]
    task = asyncio.create_task(make().agenerate(ask()))
    await asyncio.to_thread(wait_for, lambda: server.bodies)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.gone.wait, 5)


def test_closing_fails_what_runs_and_what_waits(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    server.plan = [hang]
    engine = make(max_concurrency=1, max_waiting=1)
    futures = [engine.submit(ask()) for _ in range(2)]
    blocked: Future[Any] = Future()
    thread = threading.Thread(target=lambda: blocked.set_result(_error_of(lambda: engine.submit(ask()))))
    thread.start()
    time.sleep(0.05)
    start = time.monotonic()
    engine.close()
    engine.close()
    assert time.monotonic() - start < 3
    for future in futures:
        assert isinstance(future.exception(1), EngineClosed)
    assert isinstance(blocked.result(5), EngineClosed)
    thread.join()
    assert type(refused(engine)) is EngineClosed
    with pytest.raises(EngineClosed):
        asyncio.run(engine.agenerate(ask()))


def _error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except DocendoError as error:
        return error
    return None


# --- queues ------------------------------------------------------------------------------------------


def test_a_full_queue_holds_the_caller(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    server.plan = [hang]
    engine = make(max_concurrency=1, max_waiting=1)
    futures = [engine.submit(ask()) for _ in range(2)]
    with pytest.raises(DeadlineExceeded):
        engine.submit(ask(timeout=0.1))

    async def wait_for_a_place() -> list[Result]:
        ticks = 0
        tasks = [asyncio.create_task(engine.agenerate(ask())) for _ in range(3)]
        while ticks < 20:
            await asyncio.sleep(0.005)  # the loop goes on while they wait
            ticks += 1
        assert len(server.bodies) == 1
        tasks[1].cancel()
        server.release.set()
        return await asyncio.gather(tasks[0], tasks[2])

    assert [result.text for result in asyncio.run(wait_for_a_place())] == ["released"] * 2
    assert [future.result(5).text for future in futures] == ["released"] * 2
    assert len(server.bodies) == 4  # neither the late one nor the cancelled one


def test_the_lowest_priority_number_goes_first(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    server.plan = [hang, say(answer("fine"))]
    engine = make(max_concurrency=1)
    first = engine.submit(ask(max_tokens=1))
    wait_for(lambda: server.bodies)
    order = [(5, 2), (0, 3), (5, 4), (-1, 5)]
    futures = [engine.submit(ask(priority=p, max_tokens=name)) for p, name in order]
    server.release.set()
    wait([first, *futures], timeout=5)
    assert [body["max_tokens"] for body in server.bodies] == [1, 5, 3, 2, 4]


def test_many_requests_and_cancellations_leave_nothing(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    engine = make(max_concurrency=4, max_waiting=8)
    random, seen = Random(0), list[EngineEvent]()
    engine.subscribe(seen.append)
    futures = []
    for _ in range(300):
        future = engine.submit(ask())
        futures.append(future)
        if random.random() < 0.4:
            random.choice(futures[-6:]).cancel()
    done, pending = wait(futures, timeout=60)
    assert not pending
    finished = [f for f in done if not f.cancelled()]
    assert all(f.result().text == "fine" for f in finished)
    assert 0 < len(finished) < 300
    (row,) = engine.ledger()
    assert len(finished) <= row["calls"] <= 300  # those that were sent and then cancelled as well
    assert row["prompt_tokens"] == 3 * len(finished)
    assert len(seen) == 300
    assert engine._dispatcher.room._free == 12  # every place was given back
    assert not engine._dispatcher._queue
    assert not engine._dispatcher._running


# --- what is told ------------------------------------------------------------------------------------


def test_ledger_and_events_tell_the_same(server: FaultServer, make: Callable[..., OpenAIEngine]) -> None:
    cached = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    server.plan = [say(answer("fine", usage=cached)), fail(400), say(answer("fine"))]
    engine = make()
    seen: list[EngineEvent] = []

    def broken(event: EngineEvent) -> None:
        raise ValueError(event.kind)

    engine.subscribe(broken)  # must not harm the request
    stop = engine.subscribe(seen.append)
    origin = Origin(run="r", role="teacher", agent="t")
    engine.generate(ask().replace(origin=origin))
    refused(engine)
    stop()
    stop()
    engine.generate(ask())
    assert [(e.status, e.error, e.origin.run) for e in seen] == [
        ("finished", "", "r"),
        ("failed", "ConfigError", ""),
    ]
    rows = {row["role"]: row for row in engine.ledger()}
    assert rows["teacher"]["cached_tokens"] == 1
    assert rows["teacher"]["generated_tokens"] == rows[""]["generated_tokens"] == 2
    assert rows["teacher"]["seconds"] == round(seen[0].seconds, 3)


def test_the_seconds_of_concurrent_requests_add_up_to_the_time(
    server: FaultServer, make: Callable[..., OpenAIEngine]
) -> None:
    def slow(handler: _Handler) -> None:
        time.sleep(0.2)
        say(answer("fine"))(handler)

    server.plan = [slow]
    engine = make()
    start = time.monotonic()
    results = [future.result() for future in [engine.submit(ask()) for _ in range(4)]]
    took = time.monotonic() - start
    assert 0.2 <= sum(result.seconds for result in results) <= took
    assert all(result.latency >= 0.2 for result in results)
    assert took < 0.7  # they were there together


def test_an_engine_nobody_holds_ends_its_thread(server: FaultServer) -> None:
    assert OpenAIEngine(server.url, "m").generate(ask()).text == "fine"
    future = OpenAIEngine(server.url, "m").submit(ask())
    assert future.result(5).text == "fine"  # held by its own request
