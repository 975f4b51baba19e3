"""`docendo board`: shows, verifies and exports without writing, and without trusting what models wrote."""

import json

import pytest

from docendo.cli import main
from docendo.memory import Blackboard, RunStore, TraceStore, read_traces
from docendo.records import Author, Message, Trace

STUDENT = Author(agent="student", role="student")
TUTOR = Author(agent="tutor", role="tutor")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "runs" / "demo" / "memory.db"
    with Blackboard.open(path) as board:
        attempt = board.post("attempt", {"text": "5"}, author=STUDENT, key="a", run="r", item="i1")
        board.post(
            "hint", {"text": "carry\nthe \x1b[31mone"}, author=TUTOR, key="h", item="i1", parents=[attempt.id]
        )
        board.post("attempt", {"steps": ["2", "4"]}, author=STUDENT, key="b", run="r", item="i2")
        board.trust(attempt.id, "quarantined", by=TUTOR, reason="wrong")
        RunStore(board.database).start("r", {}, resume=False)
        message = Message(role="user", content="2 + 2?")
        fields = {"run": "r", "item": "i1", "author": STUDENT, "messages": (message,)}
        TraceStore(board.database).add([Trace(id="t", completion="4\ud800", **fields)])
    return path


def run(capsys, *args):
    code = main(["board", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_show(path, capsys):
    code, out, _ = run(capsys, "show", path)
    assert code == 0
    lines = out.splitlines()
    assert [line.split() for line in lines] == [
        ["1", "attempt", "student", "quarantined", "i1", "5"],
        ["2", "hint", "tutor", "quarantined", "i1", "carry", "the", "\\x1b[31mone"],
        ["3", "attempt", "student", "unverified", "i2", '{"steps":', '["2",', '"4"]}'],
    ]


def test_show_with_filters(path, capsys):
    folder = path.parent  # a run folder does as well
    assert [line[:3].strip() for line in run(capsys, "show", folder, "--run", "r")[1].splitlines()] == [
        "1",
        "3",
    ]
    assert len(run(capsys, "show", folder, "--kind", "hint")[1].splitlines()) == 1
    assert len(run(capsys, "show", folder, "--item", "i1", "--after", "1")[1].splitlines()) == 1
    assert run(capsys, "show", folder, "--item", "none")[1] == "No posts.\n"
    assert run(capsys, "show", folder, "--limit", "2")[1].splitlines()[-1] == "More follow: add --after 2"


def test_show_as_json(path, capsys):
    _, out, _ = run(capsys, "show", path, "--json", "--limit", "2")
    posts = [json.loads(line) for line in out.splitlines()]
    assert [post["seq"] for post in posts] == [1, 2]
    assert posts[1]["body"] == {"text": "carry\nthe \x1b[31mone"}
    assert posts[1]["author"]["agent"] == "tutor"


def test_verify(path, capsys):
    code, out, _ = run(capsys, "verify", path)
    assert code == 0
    assert "board 'main': 5 records, ok" in out
    assert json.loads(run(capsys, "verify", path, "--json")[1])["ok"] is True


def test_verify_names_damage_and_fails(path, capsys):
    with Blackboard.open(path) as board, board.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_posts SET body = '{}' WHERE seq = 2")
    code, out, _ = run(capsys, "verify", path)
    assert code == 1
    assert "post 2 (" in out
    code, out, _ = run(capsys, "verify", path, "--json")
    assert code == 1
    value = json.loads(out)
    assert value["ok"] is False
    assert [report["name"] for report in value["reports"] if not report["ok"]] == ["board 'main'"]
    code, _, err = run(capsys, "show", path)
    assert (code, err.count("\n")) == (1, 1)
    assert "post 2 (" in err


def test_export(path, capsys, tmp_path):
    _, out, _ = run(capsys, "export", path, "--kind", "attempt")
    assert [json.loads(line)["key"] for line in out.splitlines()] == ["a", "b"]
    output = tmp_path / "posts.jsonl"
    code, out, _ = run(capsys, "export", path, "--output", output, "--limit", "1", "--json")
    assert (code, json.loads(out)) == (0, {"output": str(output), "records": 1})
    assert json.loads(output.read_text())["key"] == "a"


def test_export_of_traces(path, capsys, tmp_path):
    output = tmp_path / "traces.jsonl"
    code, out, _ = run(capsys, "export", path, "--traces", "--output", output)
    assert (code, out) == (0, f"Wrote 1 records to {output}\n")
    assert [trace.completion for trace in read_traces(output)] == ["4\ud800"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "{}/absent.db"), "there is no database at"),
        (("show", "{}"), "holds 0 databases (none); expected one; name the database file"),
        (("verify", "{}/text.txt"), "is no database"),
        (("show", "{}/runs/demo", "--kind", "rumour"), "kind is 'rumour'; expected one of task"),
        (("show", "{}/runs/demo", "--board", "mian"), "--board 'mian' has no posts"),
        (("export", "{}/runs/demo", "--output", "{}/text.txt/out"), "cannot write"),
    ],
)
def test_mistakes_are_one_line(path, tmp_path, capsys, arguments, message):
    (tmp_path / "text.txt").write_text("not a database " * 100)
    code, out, err = run(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert code in (1, 2)
    assert out == "" or "damaged" in out
    assert message in err + out
    assert err.count("\n") <= 1


def test_looking_writes_nothing(path, capsys):
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    for command in ("show", "verify", "export"):
        run(capsys, command, path)
    after = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    assert after["memory.db"] == before["memory.db"]
    assert {name for name in after if name not in before} <= {"memory.db-wal", "memory.db-shm"}
