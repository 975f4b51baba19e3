"""`docendo work`: volunteers in processes of their own, on SQLite and PostgreSQL, killed and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import docendo.cli as cli
from docendo import graphs
from docendo.agents import Asker, RunContext, ScriptedEngine
from docendo.memory import Blackboard, Requests
from docendo.records import Author, Gold, Item, PublicItem

MAIN = Author(agent="main", role="main")
FILE = """
import os, time
from pathlib import Path
from docendo.agents import NoteKeeper, volunteers

HERE = Path(__file__).parent

@volunteers(confidence=lambda request: 0.9)
def quick(request):
    return f"quick {os.getpid()}"

@volunteers(confidence=lambda request: 0.9)
def held(request):
    (HERE / "started").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return f"held {os.getpid()}"

@volunteers(confidence=lambda request: 0.6)
def second(request):
    return "second"

def many():
    return [quick, NoteKeeper("birds", ["Terns fly far."])]

def modelled(engine):
    return NoteKeeper(engine.name, ["Terns fly far."])

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def requests(database_url: str) -> Iterator[Requests]:
    with Blackboard.open(database_url) as board:
        yield Requests(board, askers=("main",))


def ask(requests: Requests, key: str = "1", **options: Any) -> Any:
    return requests.ask("How far?", author=MAIN, key=key, **{"places": 1, "deadline": 60.0, **options})


@contextmanager
def worker(url: str, *helpers: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    arguments = [f"--helper={helper}" for helper in helpers]
    arguments += [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "docendo", "work", f"--board={url}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def test_a_worker_killed_with_a_claim_is_replaced_when_its_lease_runs_out(
    database_url: str, requests: Requests, file: Path
) -> None:
    request = ask(requests)
    with worker(database_url, f"{file}:held", lease=2) as dying:
        until(lambda: (file.parent / "started").exists())
        with worker(database_url, f"{file}:second", lease=2):
            dying.send_signal(signal.SIGKILL)
            dying.wait()
            outcome = requests.collect(request, reader=MAIN, wait=30.0)
    assert [response.text for response in outcome.responses] == ["second"]
    assert outcome.claims == 2
    assert [r.late for r in requests.responses(request, reader=MAIN)] == [False]


def test_a_worker_that_was_frozen_comes_back_late(database_url: str, requests: Requests, file: Path) -> None:
    request = ask(requests)
    with worker(database_url, f"{file}:held", lease=1) as frozen:
        until(lambda: (file.parent / "started").exists())
        frozen.send_signal(signal.SIGSTOP)
        with worker(database_url, f"{file}:second", lease=30):
            assert requests.collect(request, reader=MAIN, wait=30.0).responses[0].text == "second"
        (file.parent / "go").touch()
        frozen.send_signal(signal.SIGCONT)
        until(lambda: len(requests.responses(request, reader=MAIN)) == 2)
    late = [r.volunteer for r in requests.responses(request, reader=MAIN) if r.late]
    assert late == ["held"]


def test_two_workers_never_both_answer_one_claim(database_url: str, requests: Requests, file: Path) -> None:
    asked = [ask(requests, key=str(number)) for number in range(20)]
    with (
        worker(database_url, f"{file}:quick", once=True) as one,
        worker(database_url, f"{file}:quick", once=True) as two,
    ):
        outputs = [process.communicate(timeout=60)[0] for process in (one, two)]
        pids = {one.pid, two.pid}
    for request in asked:
        (response,) = requests.responses(request, reader=MAIN)
        assert not response.late
        assert int(response.text.split()[1]) in pids
    answered = [int(output.splitlines()[-1].split()[2]) for output in outputs]
    assert sum(answered) == len(asked)
    assert requests.board.verify().ok


def test_a_graph_asks_here_and_is_answered_elsewhere(
    database_url: str, requests: Requests, file: Path
) -> None:
    engine = ScriptedEngine(["REQUEST: How far?", "ANSWER: far"])
    item = Item(public=PublicItem(id="i", question="?"), gold=Gold("far"))
    graph = graphs.blackboard(Asker(engine), [], deadline=60.0, quorum=1)
    with worker(database_url, f"{file}:quick") as process:
        context = RunContext([item], requests.board.database)
        state = graph.invoke({"item": "i"}, context=context)
    assert state["answer"] == "far"
    (post,) = [context.board.get(post) for post in state["responses"]]
    assert post.body["text"] == f"quick {process.pid}"
    assert post.process.endswith(f":{process.pid}")


def test_without_a_worker_the_asker_times_out(requests: Requests) -> None:
    outcome = requests.collect(ask(requests, deadline=0.3), reader=MAIN, wait=None)
    assert (outcome.state, outcome.volunteers) == ("unanswered", 0)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_finishes_and_twice_gives_back(tmp_path: Path, file: Path, times: int) -> None:
    url = str(tmp_path / "board.db")
    with Blackboard.open(url) as board:
        requests = Requests(board, askers=("main",))
        request = ask(requests)
        with worker(url, f"{file}:held") as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert f"serves {url} with held; lease 30 s; Ctrl-C ends it" in first
            until(lambda: (file.parent / "started").exists())
            process.send_signal(signal.SIGINT)
            until(lambda: "stopping" in process.stdout.readline())
            if times == 2:
                process.send_signal(signal.SIGINT)
                until(lambda: requests.state(request) == "open")
            (file.parent / "go").touch()
            out, err = process.communicate(timeout=30)
        if times == 2:
            assert (process.returncode, err) == (130, "stopped\n")
            assert requests.collect(request, reader=MAIN).state == "unanswered"
        else:
            assert (process.returncode, err) == (0, "")
            assert out.splitlines()[-1].endswith("ended; 1 answered")
            assert requests.collect(request, reader=MAIN).state == "answered"


def test_a_name_takes_up_its_own_claims_at_once(tmp_path: Path, file: Path) -> None:
    url = str(tmp_path / "board.db")
    with Blackboard.open(url) as board:
        requests = Requests(board, askers=("main",))
        request = ask(requests)
        with worker(url, f"{file}:held", name="w", lease=1000) as process:
            until(lambda: (file.parent / "started").exists())
            process.send_signal(signal.SIGKILL)
            process.wait()
        (file.parent / "go").touch()
        with worker(url, f"{file}:held", name="w", lease=1000, once=True) as again:
            assert again.wait(timeout=30) == 0
        assert requests.collect(request, reader=MAIN).state == "answered"


def test_in_process(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "docendo.db")
    with Blackboard.open(url) as board:
        request = ask(Requests(board, askers=("main",)))
    assert cli.main(["work", "--board", str(tmp_path), "--helper", f"{file}:many", "--once"]) == 0
    out = capsys.readouterr().out
    assert "with quick, birds" in out
    assert "quick offered (0.90): How far?" in out
    with Blackboard.open(url) as board:
        assert Requests(board).state(request) == "answered"
    assert cli.main(["work", "--board", url, "--helper", f"{file}:quick", "--once", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_model_is_opened_for_functions_that_take_one(
    tmp_path: Path, file: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Blackboard.open(tmp_path / "docendo.db").close()
    arguments = ["work", "--board", str(tmp_path), "--helper", f"{file}:modelled", "--once"]
    assert cli.main(arguments) == 2
    assert "makes its volunteers with a model; add --model." in capsys.readouterr().err
    assert cli.main([*arguments, "--model", str(tiny_model_dir)]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"board": "nowhere.db"}, "there is no database at "),
        ({"board": "mysql://x/y"}, "mysql"),
        ({"helper": "nowhere.py:x"}, "there is no file 'nowhere.py'; expected FILE.py:NAME of a volunteer."),
        ({"helper": "mine"}, "there is no file 'mine'"),
        ({"helper": "{file}:nothing"}, "has no 'nothing'"),
        ({"helper": "{file}:number"}, "is a int; expected a volunteer"),
        ({"lease": "0"}, "lease is 0.0; expected seconds"),
        ({"concurrency": "0"}, "concurrency is 0"),
        ({"model": "no-such-model"}, "no-such-model"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, file: Path, change: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Blackboard.open(tmp_path / "docendo.db").close()
    options = {"board": str(tmp_path), "helper": f"{file}:quick", **change}
    arguments = [f"--{name}={value.format(file=file)}" for name, value in options.items()]
    assert cli.main(["work", "--once", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert message in err
    assert out == ""


def test_a_worker_without_a_model_loads_no_torch(tmp_path: Path, file: Path) -> None:
    Blackboard.open(tmp_path / "docendo.db").close()
    script = (
        "import sys\nfrom docendo.cli import main\n"
        f"code = main(['work', '--board', {str(tmp_path)!r}, '--helper', '{file}:quick', '--once'])\n"
        "heavy = {'torch', 'transformers', 'langgraph'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
