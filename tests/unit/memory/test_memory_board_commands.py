"""`docendo board` on both databases: follow, search, timeline, export as parquet, filters."""

import json
import signal
import subprocess
import sys

import pytest

from docendo.cli import _board, _board_text, main
from docendo.errors import ConfigError
from docendo.memory import Blackboard, Channel, TraceStore, stream_posts, stream_traces, timeline
from docendo.records import Author, Message, Trace

STUDENT = Author(agent="student", role="student")
TUTOR = Author(agent="tutor", role="tutor")


@pytest.fixture
def board(database_url):
    with Blackboard.open(database_url) as opened:
        yield opened


@pytest.fixture
def story(board):
    """One item: a task, two attempts with their turns, a verdict, a hint, a change of trust; and another."""
    traces = TraceStore(board.database)

    def turn(node, step, text):
        fields = {
            "run": "r",
            "item": "i1",
            "author": STUDENT,
            "messages": (Message(role="user", content="?"),),
        }
        trace = Trace(id=f"{node}{step}", completion=text, node=node, step=step, token_ids=(1, 2), **fields)
        traces.add([trace])
        return trace.id

    def post(kind, body, node, step, author=STUDENT, parents=()):
        key = f"r/i1/{node}/{step}/{kind}"
        return board.post(kind, body, author=author, key=key, run="r", item="i1", parents=parents)

    task = post("task", {"question": "20 and 22?"}, "start", 0)
    post("event", {"note": "elsewhere"}, "other", 0)
    turn("attempt", 0, "41")
    first = post("attempt", {"text": "41"}, "attempt", 0, parents=[task.id])
    verdict = {"correct": False, "parsed": "41"}
    post("verdict", verdict, "grade", 0, author=TUTOR, parents=[first.id])
    board.trust(first.id, "verified", by=TUTOR, reason="wrong \x1b[31m")
    turn("hint", 0, "never posted")
    held = turn("free", 7, "carry")
    hint = post(
        "hint", {"text": "carry\nthe one", "trace": held}, "hint", 1, author=TUTOR, parents=[first.id]
    )
    turn("attempt", 1, "42")
    post("attempt", {"text": "42"}, "attempt", 1, parents=[task.id, hint.id])
    board.post("attempt", {"text": "5"}, author=STUDENT, key="x", run="r", item="i2")
    return board


def run(capsys, *args):
    code = main(["board", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def seqs(out):
    return [json.loads(line)["seq"] for line in out.splitlines()]


def test_filters(story, database_url, capsys):
    story.declare(Channel(name="offers", kinds=("offer",)))
    story.post("offer", {"text": "help"}, author=TUTOR, key="o", channel="offers")
    for filters, found in (
        (["--agent", "tutor"], [4, 5, 8]),
        (["--trust", "verified"], [3]),
        (["--channel", "offers"], [8]),
        (["--kind", "attempt", "--after", "3"], [6, 7]),
        (["--newest", "--limit", "2"], [7, 8]),
        (["--since", "1h", "--limit", "1"], [1]),
        (["--since", "2999-01-01"], []),
        (["--since", "2999-01-01", "--newest"], []),
    ):
        code, out, err = run(capsys, "show", database_url, "--json", *filters)
        assert (code, seqs(out), err) == (0, found, "")


def test_search(story, database_url, capsys):
    assert run(capsys, "search", database_url, "nowhere")[1] == "No posts.\n"
    code, out, _ = run(capsys, "search", database_url, "CARRY", "it", "--kind", "hint")
    assert code == 0
    assert [line.split()[1:4] for line in out.splitlines()] == [["5", "hint", "tutor"]]
    (hit,) = map(json.loads, run(capsys, "search", database_url, "carry", "--json")[1].splitlines())
    assert hit["post"]["seq"] == 5
    assert hit["score"] > 0


def test_reindex_mends_the_index(story, database_url, capsys):
    story.search("carry")
    with story.database.transaction() as connection:
        clear = "DELETE FROM docendo_search"
        if connection.dialect.name == "sqlite":
            clear = "INSERT INTO docendo_search(docendo_search) VALUES ('delete-all')"
        connection.exec_driver_sql(clear)
    code, out, _ = run(capsys, "verify", database_url)
    assert code == 1
    assert "board reindex" in out
    assert run(capsys, "reindex", database_url)[:2] == (0, "Indexed 7 posts.\n")
    assert run(capsys, "verify", database_url)[0] == 0


def test_the_timeline_interleaves_posts_turns_and_trust(story, database_url, capsys):
    code, out, _ = run(capsys, "timeline", database_url, "i1")
    assert code == 0
    head, *lines = out.splitlines()
    assert head == "i1: 6 posts, 4 turns and 1 change of trust by 2 agents"
    assert all(len(line) <= 100 for line in lines)
    told = [" ".join(part for part in line.split() if not part.startswith("+")) for line in lines]
    assert told == [
        "1 student task 20 and 22?",
        '2 student event {"note": "elsewhere"}',
        "student turn [attempt/0, 2 tokens] 41",
        "3 student attempt <- 1 41 (verified now)",
        '4 tutor verdict <- 3 wrong (read as "41")',
        "tutor trust 3 is verified: wrong \\x1b[31m",
        "student turn [hint/0, 2 tokens] never posted",
        "student turn [free/7, 2 tokens] carry",
        "5 tutor hint <- 3 carry the one",
        "student turn [attempt/1, 2 tokens] 42",
        "6 student attempt <- 1, 5 42",
    ]
    entries = [
        json.loads(line) for line in run(capsys, "timeline", database_url, "i1", "--json")[1].splitlines()
    ]
    kinds = ["post", "post", "turn", "post", "post", "trust", "turn", "turn", "post", "turn", "post"]
    assert [entry["what"] for entry in entries] == kinds
    assert (entries[5]["author"]["agent"], entries[5]["reason"]) == ("tutor", "wrong \x1b[31m")
    code, _, err = run(capsys, "timeline", database_url, "i9", "--run", "r")
    assert code == 2
    assert "nothing on board 'main' is about item 'i9' of run 'r'" in err


def test_the_timeline_of_one_run(story):
    story.post("attempt", {"text": "6"}, author=TUTOR, key="y", run="s", item="i1")
    assert [entry.post.run for entry in timeline(story, "i1", run="s")] == ["s"]
    assert len(timeline(story, "i1")) == 12
    assert timeline(story, "i9") == []


def test_tail_shows_old_posts_and_ends_in_silence(story, database_url, capsys):
    code, out, _ = run(capsys, "tail", database_url, "-n", "2", "--timeout", "0", "--json")
    assert (code, seqs(out)) == (0, [6, 7])
    filters = ["--kind", "attempt", "--trust", "verified", "--timeout", "0"]
    assert run(capsys, "tail", database_url, *filters)[1].split()[0] == "3"


def test_tail_follows_another_process_until_it_is_interrupted(board, database_url):
    command = [sys.executable, "-P", "-m", "docendo", "board", "tail", database_url, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "waiting for the first post on board 'main'" in process.stderr.readline()
    seen = []
    for n in range(5):
        board.post("hint", {"n": n}, author=TUTOR, key=str(n))
        seen.append(json.loads(process.stdout.readline())["body"]["n"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert seen == list(range(5))
    assert (process.returncode, err) == (130, "stopped\n")


def test_export_as_parquet(story, database_url, capsys, tmp_path):
    from pyarrow import parquet

    output = tmp_path / "posts.parquet"
    code, out, _ = run(capsys, "export", database_url, "--kind", "attempt", "--output", output, "--json")
    assert (code, json.loads(out)["records"]) == (0, 3)
    rows = parquet.read_table(output).to_pylist()
    assert [row["seq"] for row in rows] == [3, 6, 7]
    assert (json.loads(rows[0]["body"]), rows[1]["trust"]) == ({"text": "41"}, "unverified")
    assert rows[1]["parents"] == list(story.posts(after=5, limit=1)[0].parents)
    turns = tmp_path / "turns"
    assert run(capsys, "export", database_url, "--traces", "--format", "parquet", "-o", turns)[0] == 0
    rows = parquet.read_table(turns).to_pylist()
    assert [row["completion"] for row in rows] == ["41", "never posted", "carry", "42"]
    assert rows[0]["token_ids"] == [1, 2]


def test_an_export_that_fails_leaves_the_old_file(story, database_url, capsys, tmp_path):
    with story.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE docendo_posts SET run = 'other' WHERE seq = 6")
    for name in ("posts.jsonl", "posts.parquet"):
        (tmp_path / name).write_text("old")
        code, _, err = run(capsys, "export", database_url, "--output", tmp_path / name)
        assert code == 1
        assert "post 6 (" in err
        assert (tmp_path / name).read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.glob("*posts*")) == ["posts.jsonl", "posts.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--format", "csv"], "--format is 'csv'; expected one of jsonl, parquet"),
        (["export", "--format", "parquet"], "needs a file"),
        (["export", "--traces", "--kind", "hint"], "--kind is given with --traces"),
        (["export", "--traces", "--since", "1h"], "--since is given with --traces"),
        (["show", "--since", "yesterday"], "--since is 'yesterday'"),
        (["show", "--channel", "nowhere"], "no channel 'nowhere'"),
        (["show", "--trust", "some"], "trust level is 'some'"),
        (["tail", "--kind", "rumour"], "kind is 'rumour'"),
    ],
)
def test_mistakes_are_one_line(story, database_url, capsys, arguments, message):
    command, *rest = arguments
    code, out, err = run(capsys, command, database_url, *rest)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_server_that_is_not_there_is_one_line(capsys):
    code, _, err = run(capsys, "show", "postgresql://nobody@127.0.0.1:1/none")
    assert code != 0
    assert err.count("\n") == 1
    assert "postgresql://nobody@127.0.0.1:1/none" in err


def test_verify_shows_progress_on_long_boards(story, database_url, capsys, monkeypatch):
    assert run(capsys, "verify", database_url)[2] == ""
    monkeypatch.setattr(_board, "_LONG", 5)
    code, out, err = run(capsys, "verify", database_url)
    assert code == 0
    assert "records of boards: 8/8" in err
    assert "records of boards" not in out


def test_streams_read_a_board_piece_by_piece(board, monkeypatch):
    for n in range(1203):
        board.post("hint", {"n": n}, author=TUTOR if n % 2 else STUDENT, key=str(n), item=f"i{n % 3}")
    asked = []
    posts = Blackboard.posts
    monkeypatch.setattr(
        Blackboard, "posts", lambda self, **given: asked.append(given) or posts(self, **given)
    )
    assert [post.body["n"] for post in stream_posts(board)] == list(range(1203))
    assert [given["after"] for given in asked] == [0, 500, 1000]
    assert [post.body["n"] for post in stream_posts(board, agent="tutor", limit=501)] == list(
        range(1, 1003, 2)
    )
    assert list(stream_posts(board, limit=0)) == []
    middle = posts(board, after=599, limit=1)[0].created
    assert [post.seq for post in stream_posts(board, since=middle)] == list(range(600, 1204))


def test_streams_of_traces(board):
    store = TraceStore(board.database)
    message = Message(role="user", content="?")
    fields = {"run": "r", "author": STUDENT, "messages": (message,)}
    store.add([Trace(id=f"t{n}", item=f"i{n % 2}", completion=str(n), **fields) for n in range(1100)])
    assert [trace.completion for trace in stream_traces(store)] == [str(n) for n in range(1100)]
    assert len(list(stream_traces(store, item="i1"))) == 550
    assert [trace.id for trace in stream_traces(store, run="r", limit=3)] == ["t0", "t1", "t2"]
    assert list(stream_traces(store, run="none")) == []


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("plain", 5, "plain"),
        ("plainer", 5, "plai…"),
        ("二十二", 6, "二十二"),
        ("二十二", 5, "二十…"),
        ("a\x1b[31m\u202eb\nc", 40, "a\\x1b[31m\\u202eb c"),
        ("a\nb\r", 0, "a\nb\\r"),
    ],
)
def test_text_is_harmless_and_fits(text, columns, shown):
    assert _board_text.safe(text, columns) == shown


def test_times():
    assert _board_text.parse_since("90s", 100.0) == 10.0
    assert _board_text.parse_since("2026-01-31T12:00+01:00", 0.0) == 1769857200.0
    for text in ("", "h", "-1h", "1y"):
        with pytest.raises(ConfigError, match="--since is"):
            _board_text.parse_since(text, 0.0)


def test_a_post_is_taken_out_and_given_back(board, database_url, capsys):
    first = board.post("hint", {"text": "Obey me."}, author=TUTOR, key="1")
    second = board.post("attempt", {"text": "I obey."}, author=STUDENT, key="2", parents=[first.id])
    _, out, _ = run(capsys, "taint", database_url, first.id)
    assert "2 posts" in out
    assert "(not quarantined)" in out
    _, out, _ = run(capsys, "quarantine", database_url, first.id, "--reason", "an order", "--by", "ann")
    assert second.id in out
    assert {post.trust for post in board.posts()} == {"quarantined"}
    (event, *_) = board.trust_events(first.id)
    assert (event.by.agent, event.by.role, event.reason) == ("ann", "person", "an order")
    found = json.loads(run(capsys, "release", database_url, first.id, "--reason", "a joke", "--json")[1])
    assert not found["quarantined"]
    assert {post.trust for post in board.posts()} == {"unverified"}
    code, _, err = run(capsys, "quarantine", database_url, "nope", "--reason", "x")
    assert code == 2
    assert "no post 'nope'" in err
