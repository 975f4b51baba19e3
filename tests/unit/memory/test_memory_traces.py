"""TraceStore: without loss, without duplicates, found by what matters for training."""

import json

import pytest

from docendo.errors import DataError, IntegrityError, StorageError
from docendo.memory import TraceStore, read_traces
from docendo.records import Author, Message, Trace, Usage

PROMPT = (Message(role="system", content="You add."), Message(role="user", content="2 + 2?"))


def trace(name="t", **changes):
    fields = {
        "id": name,
        "run": "r",
        "item": "i",
        "split": "train",
        "author": Author(agent="student", role="student", model="m", adapter="a"),
        "messages": PROMPT,
        "completion": "4\x00\ud800é",
        "parents": ("p",),
        "graph": "g",
        "node": "n",
        "step": 2,
        "sample": 1,
        "token_ids": (1, 2, 3),
        "logprobs": (-0.1, -2e-17, 0.0),
        "finish_reason": "length",
        "sampling": {"temperature": 0.8, "stop": ["\n"], "seed": 2**62},
        "usage": Usage(prompt_tokens=9, generated_tokens=3),
        "seconds": 0.25,
        "rewards": {"verified": 1.0},
    }
    return Trace(**{**fields, **changes})


@pytest.fixture
def store(database_url):
    with TraceStore.open(database_url) as opened:
        yield opened


def count(store, table):
    with store.database.reading() as connection:
        return connection.exec_driver_sql(f"SELECT count(*) FROM docendo_{table}").scalar()


def test_a_trace_comes_back_exactly(store, database_url):
    store.add([trace(), trace("bare", rewards={}, parents=(), logprobs=(), sampling={})])
    store.close()
    with TraceStore.open(database_url) as reopened:
        assert reopened.get("t") == trace()
        assert reopened.find() == [trace(), trace("bare", rewards={}, parents=(), logprobs=(), sampling={})]


def test_adding_again_changes_nothing(store):
    store.add([trace()])
    store.add([trace(rewards={"verified": 0.0}), trace("u")])
    assert [found.id for found in store.find()] == ["t", "u"]
    assert store.get("t") == trace()


@pytest.mark.parametrize("change", [{"completion": "other"}, {"messages": PROMPT[1:]}])
def test_another_turn_under_the_same_id_is_refused(store, change):
    store.add([trace()])
    with pytest.raises(DataError, match=r"trace 't' .* another text; .* step="):
        store.add([trace("u"), trace(**change)])
    assert [found.id for found in store.find()] == ["t"]
    assert store.get("t") == trace()


def test_samples_share_one_stored_prompt(store):
    store.add([trace(f"t{n}", sample=n) for n in range(8)])
    store.add([trace("other", messages=PROMPT[1:])])
    assert count(store, "traces") == 9
    assert count(store, "prompts") == len(PROMPT) + len(PROMPT[1:])
    assert store.get("other").messages == PROMPT[1:]


def test_nothing_to_add(store):
    store.add([])
    assert store.find() == []


def test_all_or_none(store):
    with pytest.raises(DataError, match=r"trace 'bad'\.logprobs\[0\] is nan"):
        store.add([trace(), trace("bad", logprobs=(float("nan"),))])
    assert store.find() == []


def test_find(store):
    tutor = Author(agent="tutor", role="tutor")
    store.add(
        [
            trace("a", rewards={"verified": 1.0}),
            trace("b", run="s", rewards={"verified": 0.0, "short": 0.5}),
            trace("c", item="j", split="test", rewards={}),
            trace("d", author=tutor, rewards={"verified": 0.5}),
        ]
    )

    def ids(**filters):
        return [found.id for found in store.find(**filters)]

    assert ids() == ["a", "b", "c", "d"]
    assert ids(run="r") == ["a", "c", "d"]
    assert ids(role="tutor") == ["d"]
    assert ids(item="i") == ["a", "b", "d"]
    assert ids(split="train") == ["a", "b", "d"]
    assert ids(min_reward={"verified": 0.5}) == ["a", "d"]
    assert ids(min_reward={"verified": 0.0, "short": 0.5}) == ["b"]
    assert ids(run="r", role="student", min_reward={"verified": 1}) == ["a"]
    assert ids(run="nope") == ids(min_reward={"nope": 0.0}) == []
    assert store.find(run="s")[0].rewards == {"short": 0.5, "verified": 0.0}


def test_rewards_are_added_later_and_once(store):
    store.add([trace(rewards={})])
    assert store.reward("t", "verified", True) == 1.0
    assert store.reward("t", "verified", 0.0) == 1.0
    assert store.reward("t", "brief", 1) == 1.0
    assert store.get("t").rewards == {"brief": 1.0, "verified": 1.0}
    assert store.verify().ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope", "verified", 1.0), "there is no trace 'nope'"),
        (("t", "", 1.0), "reward's name is empty"),
        (("t", "verified", float("inf")), "reward 'verified' of trace 't' is inf"),
        (("t", "verified", "1"), "expected a finite number"),
    ],
)
def test_malformed_rewards_are_refused(store, arguments, message):
    store.add([trace(rewards={})])
    with pytest.raises(DataError, match=message):
        store.reward(*arguments)
    assert store.get("t").rewards == {}


def test_an_unknown_trace_is_named(store):
    with pytest.raises(DataError, match="there is no trace 'nope'"):
        store.get("nope")


@pytest.mark.parametrize(
    ("statement", "record"),
    [
        ("UPDATE docendo_traces SET record = replace(record, '0.25', '0.75')", "trace 't'"),
        ("UPDATE docendo_traces SET split = 'test'", "trace 't'"),
        ("UPDATE docendo_traces SET role = 'teacher'", "trace 't'"),
        ("UPDATE docendo_prompts SET message = replace(message, '2 + 2', '2 + 3')", "prompt "),
        ("DELETE FROM docendo_prompts", "prompt of trace 't' is missing"),
        ("UPDATE docendo_rewards SET value = 0.5", "reward 'verified' of trace 't'"),
    ],
)
def test_damage_is_an_error_and_named(store, statement, record):
    store.add([trace()])
    assert store.verify().ok
    with store.database.transaction() as connection:
        connection.exec_driver_sql(statement)
    with pytest.raises(IntegrityError, match=record):
        store.find()
    with pytest.raises(IntegrityError, match=record):
        store.get("t")
    assert len(store.verify().damage) == 1


def test_verify_finds_orphaned_rewards(store):
    store.add([trace()])
    with store.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM docendo_traces")
    assert str(store.verify().damage[0]) == "reward (t verified): its trace is missing"


def test_export_and_read_back(store, tmp_path):
    store.add([trace("a"), trace("b", run="s"), trace("c", split="test")])
    path = tmp_path / "out" / "traces.jsonl"
    assert store.export_jsonl(path) == 3
    assert read_traces(path) == store.find()
    assert store.export_jsonl(path, run="r", split="train") == 1
    assert read_traces(path) == [trace("a")]
    assert json.loads(path.read_text())["completion"] == trace().completion


def test_an_export_that_fails_leaves_the_old_file(store, tmp_path):
    store.add([trace()])
    (tmp_path / "file").write_text("old")
    with pytest.raises(StorageError, match="cannot write"):
        store.export_jsonl(tmp_path / "file" / "traces.jsonl")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is not JSON"),
        ("[1]", "line 2 is a list"),
        ('{"id": "x"}', "line 2 has no field 'run'"),
        (json.dumps({**trace().to_json(), "author": {"agent": "a"}}), "line 2 is not a trace .*role"),
        (json.dumps({**trace().to_json(), "colour": 1}), "line 2 is not a trace .*colour"),
        (json.dumps({**trace().to_json(), "author": "me"}), "line 2 is not a trace"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(trace().to_json()) + "\n" + line + "\n")
    with pytest.raises(DataError, match=f"traces.jsonl {message}"):
        read_traces(path)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*absent\.jsonl"):
        read_traces(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"binary\.jsonl is not UTF-8"):
        read_traces(tmp_path / "binary.jsonl")
    with pytest.raises(StorageError, match="cannot read"):
        read_traces(tmp_path)
