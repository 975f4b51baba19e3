"""Two hundred malformed inputs: what is called, and what the error has to name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docendo import Author, ScriptedEngine, agents, distill, evals, graphs, memory, registry
from docendo.agents import open_engine
from docendo.records import Grammar, Request, Result, SamplingParams, ScoreRequest, Trace

AUTHOR = Author(agent="student", role="student")
NAN, INF = float("nan"), float("inf")
HUGE = "x" * 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call that must be refused, and what its error has to name."""

    name: str
    call: Callable[[], object]
    says: str


class World:
    """What the calls work on: an empty folder, a database with a little in it, engines, models."""

    def __init__(self, folder: Path, *, model: Path, adapter: Path, foreign: Path, engine: Any) -> None:
        self.folder, self.model, self.adapter, self.foreign, self.engine = (
            folder,
            model,
            adapter,
            foreign,
            engine,
        )
        self.database = memory.Database.open(folder / "memory.db")
        self.board, self.journal = memory.Blackboard(self.database), memory.Journal(self.database)
        self.traces, self.runs = memory.TraceStore(self.database), memory.RunStore(self.database)
        self.post = self.board.post("attempt", {"text": "4"}, author=AUTHOR, key="one")
        self.board.search("4")  # brings the index up to date, which a refused search may do as well
        self.runs.start("run", {}, resume=True)
        self.scripted = ScriptedEngine(lambda request: "Answer: 4")
        self.item = evals.make_item("2 + 2 =", 4)
        self.file("good.jsonl", *({"question": f"{n} + {n} =", "answer": 2 * n} for n in range(20)))

    def file(self, name: str, *lines: Any) -> str:
        """Writes JSON lines (a text is a line as it is, bytes are the file) and returns the path."""
        path = self.folder / name
        if lines and isinstance(lines[0], bytes):
            path.write_bytes(lines[0])
        else:
            texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return str(path)

    def trace(self, **changes: Any) -> Trace:
        fields: dict[str, Any] = {
            "id": "t1",
            "run": "run",
            "item": "i",
            "author": AUTHOR,
            "messages": ({"role": "user", "content": "2 + 2 ="},),
            "completion": "4",
        }
        return Trace(**{**fields, **changes})


def cases(world: World) -> Iterator[Case]:
    """All cases, in the order of the rooms."""
    for table in (
        boards,
        channels,
        stores,
        records,
        engines,
        servers,
        roles,
        tasks,
        results,
        running,
        training,
        recipes,
    ):
        for name, call, says in table(world):
            yield Case(name=f"{table.__name__}: {name}", call=call, says=says)


Table = Iterator[tuple[str, Callable[[], object], str]]


def boards(world: World) -> Table:
    board, post = world.board, world.board.post

    def posting(**changes: Any) -> Callable[[], object]:
        fields: dict[str, Any] = {"kind": "attempt", "body": {"text": "5"}, "author": AUTHOR, "key": "two"}
        fields |= changes
        return lambda: post(fields.pop("kind"), fields.pop("body"), **fields)

    deep: Any = {}
    for _ in range(500):
        deep = {"deeper": deep}
    for name, changes, says in (
        ("unknown kind", {"kind": "gossip"}, "kind"),
        ("kind of another type", {"kind": 3}, "kind"),
        ("kind None", {"kind": None}, "kind"),
        ("body of 5 MB", {"body": {"text": HUGE}}, "body"),
        ("5 MB of NUL", {"body": {"text": "\x00" * 5_000_000}}, "body"),
        ("5 MB of surrogates", {"body": {"text": "\ud800" * 5_000_000}}, "body"),
        ("body is text", {"body": "text"}, "body"),
        ("body is a list", {"body": [1]}, "body"),
        ("body is None", {"body": None}, "body"),
        ("NaN in the body", {"body": {"scores": [1.0, NAN]}}, "body.scores[1]"),
        ("infinity in the body", {"body": {"score": INF}}, "body.score"),
        ("a set in the body", {"body": {"a": {1, 2}}}, "body.a"),
        ("bytes in the body", {"body": {"a": [b"x"]}}, "body.a[0]"),
        ("an object in the body", {"body": {"a": object()}}, "body.a"),
        ("a number as key of the body", {"body": {1: "x"}}, "body"),
        ("500 levels", {"body": deep}, "body"),
        ("empty key", {"key": ""}, "key"),
        ("key None", {"key": None}, "key"),
        ("key is a number", {"key": 7}, "key"),
        ("run is a number", {"run": 7}, "run"),
        ("item is a list", {"item": ["a"]}, "item"),
        ("author is text", {"author": "student"}, "author"),
        ("author None", {"author": None}, "author"),
        ("author's agent is a number", {"author": Author(agent=3, role="student")}, "agent"),  # type: ignore[arg-type]
        ("author's agent is empty", {"author": Author(agent="", role="student")}, "agent"),
        ("parents is text", {"parents": "abc"}, "parents"),
        ("unknown parent", {"parents": ("0" * 16,)}, "parent"),
        ("parent None", {"parents": (None,)}, "parents"),
        ("parents is a number", {"parents": 3}, "parents"),
    ):
        yield name, posting(**changes), says
    trust = board.trust
    judge = Author(agent="judge", role="verifier")
    yield "get of an unknown post", lambda: board.get("nothing"), "'nothing'"
    yield "get of None", lambda: board.get(None), "id"  # type: ignore[arg-type]
    yield "posts of no kind", lambda: board.posts(kind="gossip"), "kind"  # type: ignore[arg-type]
    yield "a negative limit", lambda: board.posts(limit=-1), "limit"
    yield "limit is text", lambda: board.posts(limit="all"), "limit"  # type: ignore[arg-type]
    yield "after is text", lambda: board.posts(after="now"), "after"  # type: ignore[arg-type]
    yield "run is a number", lambda: board.posts(run=3), "run"  # type: ignore[arg-type]
    yield "no such trust", lambda: trust(world.post.id, "high", by=judge, reason="r"), "trust level"  # type: ignore[arg-type]
    yield "trust in nothing", lambda: trust("nothing", "verified", by=judge, reason="r"), "'nothing'"
    yield "trust in oneself", lambda: trust(world.post.id, "verified", by=AUTHOR, reason="r"), "own post"
    yield "reason is a number", lambda: trust(world.post.id, "verified", by=judge, reason=3), "reason"  # type: ignore[arg-type]
    yield "trust by text", lambda: trust(world.post.id, "verified", by="judge", reason="r"), "author"  # type: ignore[arg-type]
    yield "board without a name", lambda: memory.Blackboard(world.database, name=""), "name"
    yield "board's name is a number", lambda: memory.Blackboard(world.database, name=3), "name"  # type: ignore[arg-type]


def channels(world: World) -> Table:
    board, channel, keys = world.board, memory.Channel, world.board.keys
    board.declare(
        channel(name="offers", kinds=("offer",), fields={"confidence": "number"}, writers=("tutor",))
    )
    keys.write("plan", 1, author=AUTHOR)
    tutor = Author(agent="tutor", role="tutor")

    def offer(body: Any, **changes: Any) -> Callable[[], object]:
        settings = {"author": tutor, "key": "offer", "channel": "offers", **changes}
        return lambda: board.post(settings.pop("kind", "offer"), body, **settings)

    yield "no such channel", offer({"confidence": 1}, channel="gone"), "'gone'"
    yield "channel is a number", offer({"confidence": 1}, channel=3), "channel"
    yield "a field is missing", offer({}), "confidence"
    yield "a field of another type", offer({"confidence": "high"}), "confidence"
    yield "a field is NaN", offer({"confidence": NAN}), "confidence"
    yield "another kind", offer({"confidence": 1}, kind="hint"), "hint"
    yield "a writer without the right", offer({"confidence": 1}, author=AUTHOR), "student"
    yield "channel without a name", lambda: board.declare(channel(name="")), "name"
    yield "field of no type", lambda: channel(name="x", fields={"a": "colour"}), "colour"  # type: ignore[dict-item]
    yield "kinds is text", lambda: channel(name="x", kinds="offer"), "kinds"  # type: ignore[arg-type]
    yield "fields is a list", lambda: channel(name="x", fields=["a"]), "fields"  # type: ignore[arg-type]
    yield "no channel", lambda: board.declare("offers"), "channel"  # type: ignore[arg-type]
    yield "declared otherwise", lambda: board.declare(channel(name="offers", kinds=("hint",))), "'offers'"
    yield "key without a name", lambda: keys.write("", 1, author=AUTHOR), "key"
    yield "value with a set", lambda: keys.write("k", {"a": {1}}, author=AUTHOR), "value.a"  # type: ignore[dict-item]
    yield "value is NaN", lambda: keys.write("k", NAN, author=AUTHOR), "value"
    yield "a negative version", lambda: keys.write("plan", 1, author=AUTHOR, expected=-1), "expected"
    yield "version is text", lambda: keys.write("plan", 1, author=AUTHOR, expected="new"), "expected"  # type: ignore[arg-type]
    yield "an older version", lambda: keys.write("plan", 1, author=AUTHOR, expected=0), "'plan'"
    yield "author of a key is text", lambda: keys.write("plan", 1, author="student"), "author"  # type: ignore[arg-type]
    yield "no attempts", lambda: keys.update("plan", lambda old: 2, author=AUTHOR, attempts=0), "attempts"
    yield "a change that gives a set", lambda: keys.update("plan", lambda old: {1}, author=AUTHOR), "value"  # type: ignore[arg-type,return-value]
    yield "prefix is a number", lambda: keys.names(prefix=3), "prefix"  # type: ignore[arg-type]
    yield "search for a number", lambda: board.search(3), "query"  # type: ignore[arg-type]
    yield "a negative number of hits", lambda: board.search("sum", limit=-1), "limit"
    yield "hits is text", lambda: board.search("sum", limit="all"), "limit"  # type: ignore[arg-type]
    yield (
        "an author's role is a list",
        lambda: board.post("claim", {}, author=Author(agent="a", role=[]), key="x"),
        "role",
    )  # type: ignore[arg-type]
    yield (
        "an author's adapter is a number",
        lambda: board.post("claim", {}, author=Author(agent="a", role="r", adapter=1), key="x"),
        "adapter",
    )  # type: ignore[arg-type]
    yield "search in a channel that is a number", lambda: board.search("sum", channel=3), "channel"  # type: ignore[arg-type]
    yield "search of a run that is a number", lambda: board.search("sum", run=0), "run"  # type: ignore[arg-type]
    yield "count of an item that is a number", lambda: board.count(item=3), "item"  # type: ignore[arg-type]
    yield "search in no channel", lambda: board.search("sum", channel="gone"), "'gone'"
    yield "search with no trust", lambda: board.search("sum", trust="high"), "trust"  # type: ignore[arg-type]
    yield "subscribe from before", lambda: board.subscribe(after=-1), "after"
    yield "subscribe with a negative timeout", lambda: board.subscribe(timeout=-1), "timeout"
    yield "timeout is text", lambda: board.subscribe(timeout="soon"), "timeout"  # type: ignore[arg-type]
    yield "subscribe to nothing", lambda: board.subscribe(channel="gone").next(0), "'gone'"
    yield "acknowledge without a name", lambda: board.subscribe(timeout=0).acknowledge(world.post), "name"
    yield "children of None", lambda: board.children(None), "id"  # type: ignore[arg-type]


def stores(world: World) -> Table:
    open_, journal, runs, traces = memory.Database.open, world.journal, world.runs, world.traces
    text = world.file("text.db", b"no database " * 500)
    foreign = world.file("zeros.db", bytes(8192))
    yield "database is a folder", lambda: open_(world.folder), "folder"
    yield "database is text", lambda: open_(text), "text.db"
    yield "database of zeros", lambda: open_(foreign, read_only=True), "zeros.db"
    yield "no such database", lambda: open_(world.folder / "gone.db", create=False), "gone.db"
    yield "no such database to read", lambda: open_(world.folder / "gone.db", read_only=True), "gone.db"
    yield "below a file", lambda: open_(world.folder / "good.jsonl" / "x.db"), "good.jsonl"
    yield "no such backend", lambda: open_("oracle9://host/x"), "oracle9"
    yield "not a URL", lambda: open_("http://host:port/x"), "URL"
    yield "empty path", lambda: open_("gone/../\x00.db"), "path"
    yield "journal, empty key", lambda: journal.put("", {}), "key"
    yield "journal, key None", lambda: journal.get(None), "key"  # type: ignore[arg-type]
    yield "journal, value is text", lambda: journal.put("k", "v"), "value"  # type: ignore[arg-type]
    yield "journal, NaN", lambda: journal.put("k", {"logprobs": [0.5, NAN]}), "logprobs[1]"
    yield "run without a name", lambda: runs.start("", {}, resume=True), "name"
    yield "config with a set", lambda: runs.start("new", {"a": {1}}, resume=True), "config.a"
    yield "config is a list", lambda: runs.start("new", [], resume=True), "config"  # type: ignore[arg-type]
    yield "other config", lambda: runs.start("run", {"seed": 1}, resume=True), "seed"
    yield "run is there", lambda: runs.start("run", {}, resume=False), "'run'"
    yield "item of no run", lambda: runs.finish_item("gone", "i", {}), "'gone'"
    yield "outcome is text", lambda: runs.finish_item("run", "i", "done"), "outcome"  # type: ignore[arg-type]
    yield "outcome with infinity", lambda: runs.finish_item("run", "i", {"value": INF}), "outcome.value"
    yield "item without an id", lambda: runs.finish_item("run", "", {}), "item"
    yield "no such end", lambda: runs.end("run", "dead"), "status"  # type: ignore[arg-type]
    yield "end of no run", lambda: runs.end("gone", "finished"), "'gone'"
    yield "get of no run", lambda: runs.get("gone"), "'gone'"
    for name, changes, says in (
        ("trace without an id", {"id": ""}, "id"),
        ("trace with an id None", {"id": None}, "id"),
        ("trace with a NaN reward", {"rewards": {"verified": NAN}}, "rewards.verified"),
        ("trace with a text as reward", {"rewards": {"verified": "yes"}}, "'verified'"),
        ("trace with a set as messages", {"messages": ({1, 2},)}, "messages"),
        ("trace with a number as completion", {"completion": 4}, "completion"),
        ("trace with an infinite logprob", {"logprobs": (INF,)}, "logprobs"),
        ("trace of no split", {"split": "exam"}, "split"),
        ("trace with a text as author", {"author": "student"}, "author"),
    ):
        yield name, lambda c=changes: traces.add([world.trace(**c)]), says
    yield "a trace that is none", lambda: traces.add(["trace"]), "trace"  # type: ignore[list-item]
    yield "no such trace", lambda: traces.get("gone"), "'gone'"
    yield "reward of no trace", lambda: traces.reward("gone", "verified", 1.0), "'gone'"
    good = {**world.trace().to_json()}
    for name, line, says in (
        ("not JSON", "{", "line 2"),
        ("a list", "[]", "line 2"),
        ("a number", "3", "line 2"),
        ("without an id", {k: v for k, v in good.items() if k != "id"}, "'id'"),
        ("without messages", {k: v for k, v in good.items() if k != "messages"}, "'messages'"),
        ("without an author", {k: v for k, v in good.items() if k != "author"}, "'author'"),
        ("without a completion", {k: v for k, v in good.items() if k != "completion"}, "'completion'"),
        ("with an author without an agent", {**good, "author": {"role": "student"}}, "agent"),
        ("with a field nobody knows", {**good, "mood": "bad"}, "mood"),
        ("with rewards that are a list", {**good, "rewards": [1]}, "rewards"),
        ("with messages that are text", {**good, "messages": "hello"}, "messages"),
        ("nested 5,000 deep", "[" * 5000 + "]" * 5000, "line 2"),
    ):
        path = world.file(f"traces-{name}.jsonl", good, line)
        yield f"trace line {name}", lambda p=path: memory.read_traces(p), says
    latin = world.file("latin.jsonl", "täglich".encode("latin-1"))
    yield "traces that are not UTF-8", lambda: memory.read_traces(latin), "latin.jsonl"
    yield "traces of no file", lambda: memory.read_traces(world.folder / "gone.jsonl"), "gone.jsonl"
    yield "traces of a folder", lambda: memory.read_traces(world.folder), str(world.folder)


def records(world: World) -> Table:
    for field, value in (
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("max_tokens", 2.5),
        ("temperature", -1),
        ("temperature", NAN),
        ("temperature", "hot"),
        ("temperature", INF),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", NAN),
        ("min_p", 1),
        ("repetition_penalty", 0),
        ("repetition_penalty", None),
        ("n", 0),
        ("seed", "seven"),
        ("stop", "text"),
        ("stop", ("",)),
        ("stop", (3,)),
        ("stop", 3),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", ("a",)),
        ("top_logprobs", 1000),
    ):
        yield f"{field}={value!r}", lambda f=field, v=value: SamplingParams(**{f: v}), field
    yield "grammar of no kind", lambda: Grammar(kind="ebnf", spec="x"), "kind"  # type: ignore[arg-type]
    yield "empty pattern", lambda: Grammar.regex(""), "regular expression"
    yield "no choices", lambda: Grammar.choice([]), "choices"
    yield "schema with a set", lambda: Grammar.json_schema({"enum": {1}}), "schema"
    for value in (0, -1.0, NAN, "soon"):
        yield f"timeout={value!r}", lambda v=value: Request(prompt="x", timeout=v), "timeout"
        yield (
            f"score, timeout={value!r}",
            lambda v=value: ScoreRequest(prompt="x", completion="y", timeout=v),
            "timeout",
        )
    yield "result without completions", lambda: Result.from_json({}), "completions"
    yield "trace from nothing", lambda: Trace.from_json({}), "id"


def engines(world: World) -> Table:
    engine, folder = world.engine, world.folder
    load = agents.Engine.load
    broken = folder / "broken-model"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    yield "no such model", lambda: load("smollm3-of-nobody"), "smollm3-of-nobody"
    yield "no such folder", lambda: load("./gone"), "gone"
    yield "an empty folder", lambda: load(folder), "config.json"
    yield "a broken config", lambda: load(broken), "broken-model"
    yield "a file", lambda: load(folder / "good.jsonl"), "good.jsonl"
    yield "an adapter", lambda: load(world.adapter), "adapter"
    yield "no dtype", lambda: load(world.model, dtype="int3"), "dtype"  # type: ignore[arg-type]
    yield "no device", lambda: load(world.model, device="quantum"), "device"
    yield "no rows", lambda: load(world.model, max_rows=0), "max_rows"
    for name, request, says in (
        ("an unknown adapter", {"prompt": "x", "adapter": "gone"}, "gone"),
        ("a token beyond the vocabulary", {"prompt": (10**6,)}, "token id"),
        ("a negative token", {"prompt": (-1,)}, "token id"),
        ("no prompt", {"prompt": ()}, "prompt"),
        ("prompt None", {"prompt": None}, "prompt"),
        ("a number as prompt", {"prompt": 3}, "prompt"),
        ("a message without content", {"prompt": ({"role": "user"},)}, "content"),
        ("a message without a role", {"prompt": ({"content": "x"},)}, "role"),
        ("a longer prompt than the context", {"prompt": "word " * 5000}, "prompt"),
        (
            "an open pattern",
            {"prompt": "x", "sampling": SamplingParams(grammar=Grammar.regex("(["))},
            "regular expression",
        ),
        ("no sampling", {"prompt": "x", "sampling": {"n": 2}}, "sampling"),
    ):
        yield name, lambda r=request: engine.generate(Request(**r)), says
    yield "nothing to score", lambda: engine.score(ScoreRequest(prompt="x", completion=())), "completion"
    yield "a number to score", lambda: engine.score(ScoreRequest(prompt="x", completion=3)), "completion"  # type: ignore[arg-type]
    yield "a text as request", lambda: engine.generate("hello"), "request"  # type: ignore[arg-type]
    yield "adapter of another base", lambda: engine.load_adapter("a", world.foreign), "base model"
    yield "adapter in no folder", lambda: engine.load_adapter("a", folder / "gone"), "gone"
    yield "adapter is a model", lambda: engine.load_adapter("a", world.model), "adapter_config.json"
    for name, settings, says in (
        ("without a rank", {"lora_alpha": 8}, "'r'"),
        ("with a text as rank", {"r": "four", "lora_alpha": 8}, "four"),
        ("of rank 0", {"r": 0, "lora_alpha": 8}, "r"),
        ("that is a list", [], "adapter"),
        ("that is not JSON", None, "adapter"),
    ):
        copy = folder / f"adapter {name}"
        copy.mkdir()
        (copy / "adapter_model.safetensors").write_bytes(
            (world.adapter / "adapter_model.safetensors").read_bytes()
        )
        (copy / "adapter_config.json").write_text("{" if settings is None else json.dumps(settings))
        yield f"adapter {name}", lambda c=copy: engine.load_adapter("a", c), says
    yield "dropping no adapter", lambda: engine.drop_adapter("gone"), "gone"
    yield "pulling no model", lambda: agents.models.pull("smollm3-of-nobody"), "smollm3-of-nobody"
    yield "path of no model", lambda: agents.models.path("smollm3-of-nobody"), "smollm3-of-nobody"
    yield "no model at all", lambda: agents.models.resolve(""), "model"


def servers(world: World) -> Table:
    for spec, says in (
        ("vllm:http://", "vllm:http://"),
        ("vllm:http://127.0.0.1:1/v1", "#"),
        ("quantum:http://127.0.0.1:1/v1#m", "quantum"),
        ("ftp://127.0.0.1/v1#m", "ftp"),
        ("vllm:http://127.0.0.1:99999/v1#m", "99999"),
    ):
        yield f"server {spec}", lambda s=spec: open_engine(s), says
    for field, value in (("server", "quantum"), ("retries", -1), ("timeout", 0), ("max_concurrency", 0)):
        settings: dict[str, Any] = {field: value}
        yield (
            f"{field}={value!r}",
            lambda s=settings: agents.OpenAIEngine("http://127.0.0.1:1/v1", "m", **s).close(),
            field,
        )


def roles(world: World) -> Table:
    engine, item = world.scripted, world.item.public
    ask = lambda **fields: agents.Agent(engine, role="critic", **fields).messages(item)  # noqa: E731
    yield "a field nobody gives", lambda: ask(prompt="{said} {question}"), "'said'"
    yield "an open brace", lambda: ask(prompt="{question"), "prompt"
    yield "a numbered field", lambda: ask(prompt="{0}"), "prompt"
    yield "an attribute", lambda: ask(prompt="{question.secret}"), "prompt"
    yield "an adapter that is not loaded", lambda: agents.Student(world.engine, adapter="gone"), "gone"
    yield "threshold", lambda: agents.ModelVerifier(engine, threshold=1.5), "threshold"
    yield "threshold is text", lambda: agents.ModelVerifier(engine, threshold="high"), "threshold"  # type: ignore[arg-type]
    context = agents.RunContext.in_memory([world.item])
    yield "an item of another run", lambda: context.item("gone"), "'gone'"
    yield "a public item of another run", lambda: context.public("gone"), "'gone'"


def tasks(world: World) -> Table:
    make = evals.tasks
    yield "empty source", lambda: make(""), "task"
    yield "no such file", lambda: make(str(world.folder / "gone.jsonl")), "gone.jsonl"
    yield "no such generator", lambda: make("reasoning_gym:chainsum"), "chainsum"
    yield "no generator", lambda: make("reasoning_gym:"), "reasoning_gym"
    yield "no such setting", lambda: make("reasoning_gym:chain_sum", test=2, terms=3), "terms"
    yield (
        "a bad setting",
        lambda: make("reasoning_gym:chain_sum", test=2, min_terms=9, max_terms=2),
        "min_terms",
    )
    yield "a text as setting", lambda: make("reasoning_gym:chain_sum", test=2, min_terms="two"), "min_terms"
    good = str(world.folder / "good.jsonl")
    for field in ("train", "dev", "test"):
        yield f"negative {field}", lambda f=field: make(good, **{f: -1}), field
        yield f"{field} is text", lambda f=field: make(good, **{f: "all"}), field
    yield "nothing asked for", lambda: make(good, test=0), "test"
    yield "more than there are", lambda: make(good, test=400), "20"
    yield "no such column", lambda: make(good, test=2, columns={"question": "frage"}), "frage"
    yield "no such role of a column", lambda: make(good, test=2, columns={"frage": "question"}), "frage"
    yield "columns is text", lambda: make(good, test=2, columns="question"), "columns"  # type: ignore[arg-type]
    question = {"question": "3 + 4 =", "answer": 7}
    for name, line, says in (
        ("not JSON", "{", "line 2"),
        ("a list", "[]", "line 2"),
        ("null", "null", "line 2"),
        ("without an answer", {"question": "1 + 1 ="}, "'answer'"),
        ("without a question", {"answer": 2}, "'question'"),
        ("with an empty question", {"question": " ", "answer": 2}, "'question'"),
        ("with a number as question", {"question": 3, "answer": 2}, "'question'"),
        ("with no answer", {"question": "1 + 1 =", "answer": None}, "'answer'"),
        ("with an empty answer", {"question": "1 + 1 =", "answer": " "}, "answer"),
        ("with a list as answer", {"question": "1 + 1 =", "answer": [2]}, "'answer'"),
        ("with NaN as answer", '{"question": "1 + 1 =", "answer": NaN}', "answer"),
        ("with another answer to the same question", {"question": "3 + 4 =", "answer": 8}, "another answer"),
        ("with a text as choices", {**question, "question": "q", "choices": "ab"}, "'choices'"),
        (
            "with an answer that is no choice",
            {"question": "q", "answer": "c", "choices": ["a", "b"]},
            "choices",
        ),
        ("nested 5,000 deep", "[" * 5000 + "]" * 5000, "line 2"),
    ):
        path = world.file(f"task {name}.jsonl", question, line)
        yield f"line {name}", lambda p=path: make(p, test=1), says
    latin = world.file("task-latin.jsonl", "täglich".encode("latin-1"))
    yield "lines that are not UTF-8", lambda: make(latin, test=1), "task-latin.jsonl"
    empty = world.file("empty.jsonl", "")
    yield "no lines", lambda: make(empty, test=1), "empty"
    for name, arguments, says in (
        ("an empty question", {"question": "", "answer": 1}, "question"),
        ("a question None", {"question": None, "answer": 1}, "question"),
        ("an empty answer", {"question": "q", "answer": ""}, "answer"),
        ("a list as answer", {"question": "q", "answer": [1]}, "answer"),
        ("a NaN as answer", {"question": "q", "answer": NAN}, "answer"),
        ("no split", {"question": "q", "answer": 1, "split": "exam"}, "split"),
        ("choices without the answer", {"question": "q", "answer": "c", "choices": ("a", "b")}, "choices"),
        ("choices that are text", {"question": "q", "answer": "a", "choices": "ab"}, "choices"),
        ("choices that are numbers", {"question": "q", "answer": 3, "choices": [3, 4]}, "choice"),
        ("equal choices", {"question": "q", "answer": "a", "choices": ["a", "a"]}, "choices"),
        ("half a character", {"question": "\ud800", "answer": 1}, "question"),
        ("an answer of 5000 digits", {"question": "q", "answer": 10**5000}, "answer"),
    ):
        yield f"item with {name}", lambda a=arguments: evals.make_item(**a), says


def results(world: World) -> Table:
    yield "more successes than tries", lambda: evals.wilson(3, 2), "successes"
    yield "no level", lambda: evals.wilson(1, 2, level=95), "level"
    yield "negative counts", lambda: evals.mcnemar(-1, 2), "up"
    yield "pairs of other lengths", lambda: evals.paired_bootstrap([1.0], [1.0, 0.0]), "values"
    yield "no pairs", lambda: evals.paired_bootstrap([], []), "values"
    yield "few resamples", lambda: evals.paired_bootstrap([1.0], [0.0], resamples=3), "resamples"
    yield "no power", lambda: evals.detectable_difference(10, 0.2, power=1.5), "power"
    gone = world.folder / "gone"
    yield "no result", lambda: evals.EvalResult.load(gone), "gone"
    for name, file in (("not JSON", "{"), ("a list", "[]"), ("without fields", "{}")):
        folder = world.folder / f"result {name}"
        folder.mkdir()
        (folder / "summary.json").write_text(file)
        (folder / "items.jsonl").write_text(file)
        yield f"a result that is {name}", lambda f=folder: evals.EvalResult.load(f), folder.name
    student = agents.Student(world.scripted)
    score = evals.ExactScorer()
    evaluate = evals.evaluate
    yield "nothing to evaluate", lambda: evaluate(student, [], scorer=score, quiet=True), "item"
    yield (
        "an item twice",
        lambda: evaluate(student, [world.item, world.item], scorer=score, quiet=True),
        world.item.id,
    )
    yield (
        "no concurrency",
        lambda: evaluate(student, [world.item], scorer=score, concurrency=0, quiet=True),
        "concurrency",
    )
    yield "no items but texts", lambda: evaluate(student, ["2 + 2"], scorer=score, quiet=True), "item"  # type: ignore[list-item]


def running(world: World) -> Table:
    verifier = agents.Verifier(evals.ExactScorer())
    student = agents.Student(world.scripted)
    build = lambda **changes: graphs.tutoring(  # noqa: E731
        **{"student": student, "tutor": None, "teacher": None, "verifier": verifier, **changes}
    )
    yield "negative retries", lambda: build(retries=-1), "retries"
    yield "retries is text", lambda: build(retries="two"), "retries"
    yield "no student", lambda: build(student=None), "student"
    yield "no verifier", lambda: build(verifier=None), "verifier"
    yield "a verifier that cannot grade", lambda: build(verifier=object()), "verifier"
    yield "keep nothing", lambda: graphs.demonstrate(teacher=student, verifier=verifier, keep=0), "keep"
    graph, runs = build(), world.folder / "runs"

    def run(what: Any = graph, items: Any = (world.item,), **changes: Any) -> Callable[[], object]:
        settings = {"name": "new", "folder": runs, "quiet": True, **changes}
        return lambda: graphs.run(what, items, **settings)

    yield "no graph", run("graph"), "graph"
    yield "graph None", run(None), "graph"
    yield "no items", run(items=()), "items"
    yield "an item twice", run(items=(world.item, world.item)), world.item.id
    yield "texts as items", run(items=("2 + 2",)), "item"
    yield "items is a number", run(items=3), "items"
    yield "a path as name", run(name="../up"), "name"
    yield "an empty name", run(name=" "), "name"
    yield "no concurrency", run(concurrency=0), "concurrency"
    yield "resume without a name", run(name=None, resume=True), "name"
    yield "config with a set", run(config={"a": {1}}), "config.a"
    yield "below a file", run(folder=world.folder / "good.jsonl"), "good.jsonl"
    yield "opening no run", lambda: graphs.Run.open(world.folder / "gone"), "gone"


def training(world: World) -> Table:
    for field, value in (
        ("learning_rate", -1.0),
        ("learning_rate", NAN),
        ("learning_rate", "fast"),
        ("max_steps", 0),
        ("num_train_epochs", 0),
        ("num_train_epochs", NAN),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("warmup_ratio", 1.0),
        ("lr_scheduler_type", "magic"),
        ("weight_decay", NAN),
        ("lora_r", 0),
        ("lora_r", "four"),
        ("lora_dropout", 1.0),
        ("target_modules", ()),
        ("target_modules", 3),
        ("dtype", "int3"),
        ("max_length", 1),
        ("seed", "seven"),
    ):
        yield f"{field}={value!r}", lambda f=field, v=value: distill.TrainConfig(**{f: v}), field
    row = {"prompt": "2 + 2 =", "completion": "4"}

    def train(*rows: Any, **changes: Any) -> Callable[[], object]:
        settings = {"output": world.folder / "out", "quiet": True, **changes}
        return lambda: distill.train(settings.pop("model", world.model), rows, **settings)

    yield "no rows", train(), "dataset"
    yield "a row of text", train("row"), "row 0"
    yield "a row without a prompt", train({"completion": "4"}), "'prompt'"
    yield "a row without a completion", train(row, {"prompt": "x"}), "'completion'"
    yield "a row with a number as prompt", train({**row, "prompt": 3}), "prompt"
    yield "a row with None as completion", train({**row, "completion": None}), "row 0"
    yield "a row with an empty completion", train({**row, "completion": " "}), "completion"
    yield (
        "a row with messages without content",
        train({**row, "completion": [{"role": "assistant"}]}),
        "content",
    )
    yield "a row with a NaN weight", train({**row, "weight": NAN}), "weight"
    yield "a row with a text as weight", train({**row, "weight": "much"}), "weight"
    yield "rows of weight 0", train({**row, "weight": 0}), "weight"
    yield "rows that are too long", train({**row, "prompt": "word " * 3000}), "max_length"
    yield "a parent of another base", train(row, parent=world.foreign), "base model"
    yield "a parent that is no adapter", train(row, parent=world.model), "manifest.json"
    yield (
        "a parent of another rank",
        train(row, parent=world.adapter, config=distill.TrainConfig(lora_r=3)),
        "lora_r",
    )
    yield "no such model", train(row, model="smollm3-of-nobody"), "smollm3-of-nobody"
    yield "below a file", train(row, output=world.folder / "good.jsonl" / "out"), "good.jsonl"
    yield "metadata with a set", train(row, metadata={"a": {1}}), "metadata"
    yield "opening no adapter", lambda: distill.Adapter.open(world.folder / "gone"), "gone"
    yield "opening a model as adapter", lambda: distill.Adapter.open(world.model), "manifest.json"
    student = agents.Student(world.scripted)
    items = (world.item,)
    dataset = lambda *traces, **changes: distill.sft_dataset(  # noqa: E731
        traces, **{"student": student, "items": items, "exclude": (), **changes}
    )
    yield "no traces", lambda: dataset(), "traces"
    yield "none per item", lambda: dataset(world.trace(), max_per_item=0), "max_per_item"
    yield (
        "training on what is held out",
        lambda: dataset(world.trace(item=world.item.id), exclude=items),
        world.item.id,
    )


def recipes(world: World) -> Table:
    recipe = registry.get_recipe("teach-and-distill")
    yield "no such recipe", lambda: registry.get_recipe("teach"), "'teach'"
    yield "no such setting", lambda: recipe.configure({"trian": 3}), "trian"
    for field, value in (
        ("train", -3),
        ("train", "many"),
        ("rounds", 0),
        ("settings", 3),
        ("seed", "x"),
    ):
        yield f"{field}={value!r}", lambda f=field, v=value: recipe.configure({f: v}), field


#: Arguments of the command line, and what its one line on stderr has to name. {good} and so on are files.
COMMANDS: tuple[tuple[str, str], ...] = (
    ("frobnicate", "frobnicate"),
    ("run", "what"),
    ("run teach", "'teach'"),
    ("run teach-and-distill --set trian=3", "trian"),
    ("run teach-and-distill --set train", "train"),
    ("run teach-and-distill --limit many", "--limit"),
    ("run teach-and-distill --limit 0", "--limit"),
    ("run teach-and-distill --frob", "--frob"),
    ("run gone.py:graph --task {good}", "gone.py"),
    ("run {good}:graph", "--task"),
    ("run {good}:graph --task {good}", "good.jsonl"),
    ("eval --model {model}", "--task"),
    ("eval --task {good}", "--model"),
    ("eval --model gone --task {good} --test 2", "gone"),
    ("eval --model {model} --task gone.jsonl", "gone.jsonl"),
    ("eval --model {model} --task {good} --test -1", "test"),
    ("eval --model {model} --task {good} --test 2 --max-tokens 0", "max_tokens"),
    ("eval --model {model} --task {good} --test 2 --temperature -1", "temperature"),
    ("eval --model {model} --task {good} --test 2 --question frage", "frage"),
    ("eval --model {model} --task {good} --test 2 --adapter {foreign}", "base model"),
    ("eval --model {model} --task {good} --test 2 --name ../up", "name"),
    ("eval --model {model} --task {good} --test 2 --level 1", "level"),
    ("eval --model {model} --task {good} --test 2 --scorer kind", "--scorer"),
    ("eval --model {model} --task {good} --test 2 --determinism some", "determinism"),
    ("eval --model {model} --task {good} --test 2 --max-tokens 99999", "--max-tokens"),
    ("eval --model {model} --task {good} --test 2 --method likelihood", "choices"),
    ("eval --model {model} --task {good} --test 2 --method likelihood --temperature 1", "--temperature"),
    ("tasks show chain_sum --levels num_terms", "--levels"),
    ("tasks show acre --compact", "compact"),
    ("compare gone gone2", "gone"),
    ("compare gone gone", "twice"),
    ("compare {folder} gone", "is no evaluation"),
    ("compare", "results"),
    ("distill --model {model} --data gone.jsonl --output out", "gone.jsonl"),
    ("distill --model {model} --data {good} --output out", "--task"),
    ("distill --model {model} --data {good} --output out --rank 0", "lora_r"),
    ("distill --model {model} --data {good} --output out --learning-rate fast", "--learning-rate"),
    ("distill --model {model} --data {good}", "--output"),
    ("board show gone.db", "gone.db"),
    ("board show {good}", "good.jsonl"),
    ("board show {database} --kind gossip", "kind"),
    ("board show {database} --board other", "other"),
    ("board show {database} --limit 0", "--limit"),
    ("board verify gone.db", "gone.db"),
    ("models path gone", "gone"),
    ("models pull gone", "gone"),
    ("recipes show gone", "gone"),
    ("quickstart --limit 0", "0"),
    ("quickstart --student gone", "gone"),
    ("quickstart --rounds -1", "rounds"),
)
