"""The examples of the documentation run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import pytest

import docendo
from docendo.agents import Engine
from docendo.evals import make_item
from docendo.records import Request, SamplingParams
from docendo.registry import get_recipe
from docendo.scoring import Score

ROOT = Path(__file__).resolve().parents[2]
# The wheel has neither examples nor README.
pytestmark = pytest.mark.skipif(
    not (ROOT / "Makefile").is_file(), reason="needs the repository, not only the tests"
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_graph_of_ones_own_is_run_and_distilled(
    guessing_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    load("own_graph").main(str(guessing_model_dir), train=24, test=12, steps=2)
    assert "verdict" in capsys.readouterr().out
    assert (tmp_path / "runs/own-graph/summary.json").is_file()
    assert (tmp_path / "adapters/own-graph/adapter_model.safetensors").is_file()


def test_volunteers_answer(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    load("volunteers").main(str(tiny_model_dir))
    out = capsys.readouterr().out
    assert "response  birds       How far birds fly: a tern 70,000 km a year." in out
    assert "response  distances   The moon is 384,400 km away." in out
    assert "answer    main" in out


def test_a_lesson_is_held_and_the_person_may_join(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load("classroom").main(str(tiny_model_dir))[0] == "teacher"
    assert "The lesson ended: " in capsys.readouterr().out
    asked: list[str] = []
    load("classroom").main(str(tiny_model_dir), lambda said: asked.append(said) or "Why?")
    assert capsys.readouterr().out.count("you      Why?") == len(asked)


def test_a_long_text_is_read_in_parts(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load("long_input")
    document, question, answer = example.text()
    boss = re.search(r"boss of (\w+) live", question)
    assert boss is not None
    named = re.search(rf"The boss of {boss[1]} is (\w+)\.", document)
    assert named is not None
    assert f"{named[1]} lives in {answer}." in document
    example.main(str(tiny_model_dir), people=4)
    assert "tries: " in capsys.readouterr().out


def test_what_a_person_says_becomes_a_row(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = {"advice": "A pound of tea has 500 grams here.", "verdict": "yes"}
    rows = load("human_teacher").main(str(tiny_model_dir), lambda asked: replies[asked["asked"]])
    assert "A pound of tea has 500 grams here." in [row["completion"][0]["content"] for row in rows]
    assert "right: True" in capsys.readouterr().out
    replies["verdict"] = "no"
    assert load("human_teacher").main(str(tiny_model_dir), lambda asked: replies[asked["asked"]]) == []


def test_the_readme_shows_lines_of_the_example() -> None:
    readme, example = (ROOT / "README.md").read_text(), (ROOT / "examples/own_graph.py").read_text()
    shown = re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert shown is not None
    there = {line.strip() for line in example.splitlines()}
    lines = [line.strip() for line in shown[1].splitlines() if line.strip()]
    assert len(lines) <= 20
    assert [line for line in lines if line not in there] == []


def test_the_readme_names_what_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / path).exists(), path
    for room in ("agents", "distill", "docendo", "evals", "graphs", "memory"):
        assert f"{room}/" in readme


@pytest.mark.parametrize("page", ["README.md", "docs/memory.md"])
def test_what_the_pages_say_of_memory_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    shown = [block for block in blocks if block.startswith("from docendo.memory")]
    assert shown
    for block in shown:
        exec(compile(block, page, "exec"), {})
    assert "ok" in capsys.readouterr().out


def test_what_the_page_says_of_teaching_runs(
    guessing_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second, third = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/teaching.md").read_text(), flags=re.DOTALL
    )
    changes = {
        "smollm2-135m-instruct": str(guessing_model_dir),
        "reasoning_gym:gsm_symbolic": "reasoning_gym:chain_sum",
        "train=200, test=50": "train=16, test=2, max_terms=2, max_digits=1",
        "least=0.6": "least=-1.0",
        "read=evals.read_answer,": "read=evals.read_answer,\n    grade=0.5,",
    }
    for shown, here in changes.items():
        assert shown in first
        first = first.replace(shown, here)
    scope: dict[str, Any] = {}
    exec(compile(first, "teaching.md", "exec"), scope)
    with closing(scope["engine"]):
        assert "/2, 95 % interval" in capsys.readouterr().out
        exec(compile(second, "teaching.md", "exec"), scope)
        assert len(scope["pairs"])
        exec(compile(third, "teaching.md", "exec"), scope)
        assert capsys.readouterr().out.strip()


def test_an_agent_of_ones_own_is_compared(
    guessing_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load("own_agent").main(str(guessing_model_dir), train=20, test=12)
    out = capsys.readouterr().out
    assert "well read" in out
    assert "verdict" in out


def test_a_scorer_of_ones_own_judges(guessing_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("own_scorer")
    module.main(str(guessing_model_dir))
    assert "How many weeks are in a year?" in capsys.readouterr().out
    item, scorer = make_item("How many weeks are in a year?", 52), module.Estimate()
    assert scorer.score(item, "About 50 weeks").correct
    assert scorer.score(item, "1,052") == Score(correct=False, value=0.0, parsed="1052")
    assert not scorer.score(item, "many").correct
    assert scorer.leaks(item, "52!")


def test_a_recipe_of_ones_own_runs(guessing_model_dir: Path, tmp_path: Path) -> None:
    recipe = get_recipe(str(ROOT / "examples" / "own_recipe.py"))
    config = recipe.configure({"model": str(guessing_model_dir)}, scale="tiny")
    summary = recipe.function(config, folder=tmp_path / "run", resume=False, quiet=True)
    assert list(summary["arms"]) == ["none", "examples", "examples, answers exchanged"]
    assert [row["role"] for row in summary["findings"]] == ["claim", "claim"]


def test_a_hosted_teacher_teaches_a_local_student(
    guessing_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with Engine.load(guessing_model_dir) as engine, served(engine) as address:
        load("hosted_teacher").main(
            f"openai:{address}#large", str(guessing_model_dir), train=24, test=12, steps=2
        )
    assert "verdict" in capsys.readouterr().out
    assert (tmp_path / "adapters/hosted/adapter_model.safetensors").is_file()


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    """A model behind the chat interface of OpenAI, as far as the example needs it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sampling = SamplingParams(
                n=body.get("n", 1), temperature=body["temperature"], max_tokens=body["max_completion_tokens"]
            )
            result = engine.generate(Request(prompt=tuple(body["messages"]), sampling=sampling))
            choices = [
                {"index": n, "message": {"role": "assistant", "content": c.text}, "finish_reason": "stop"}
                for n, c in enumerate(result.completions)
            ]
            usage = {"prompt_tokens": 1, "completion_tokens": 1}
            data = json.dumps({"id": "1", "model": "large", "choices": choices, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("where", ["here", "server"])
def test_one_graph_file_runs_with_a_model_here_and_on_a_server(
    where: str, guessing_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        if where == "server":
            engine = stack.enter_context(Engine.load(guessing_model_dir))
            monkeypatch.setenv("TUTORING_MODEL", f"openai:{stack.enter_context(served(engine))}#large")
        else:
            monkeypatch.setenv("TUTORING_MODEL", str(guessing_model_dir))
        module = load("tutoring")
        stack.enter_context(closing(module.engine))
        items = module.task.train[:4]
        alone = module.graph.invoke({"item": items[0].id})
        assert alone["attempts"]
        run = stack.enter_context(
            docendo.run(module.graph, items, name="tutored", folder=tmp_path, quiet=True)
        )
        assert [outcome["status"] for outcome in run.outcomes.values()] == ["done"] * 4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("langgraph_cli") is None, reason="needs langgraph-cli[inmem]")
def test_the_same_file_opens_in_langgraphs_server(
    guessing_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTORING_MODEL", str(guessing_model_dir))
    module = load("tutoring")
    module.engine.close()
    item = module.task.train[0].id
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "langgraph.json", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["dev", "--no-browser", "--no-reload", "--allow-blocking", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "langgraph_cli", *arguments],
        cwd=tmp_path,
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            time.sleep(1)
            with suppress(OSError), urlopen(f"{address}/ok", timeout=2):
                break
        body = json.dumps({"assistant_id": "tutoring", "input": {"item": item}}).encode()
        request = UrlRequest(f"{address}/runs/wait", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as answer:
            state = json.load(answer)
        assert state["item"] == item
        assert state["attempts"]
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_tells_its_story(
    guessing_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    sizes = {"MODEL": guessing_model_dir, "TRAIN": 24, "TEST": 12, "STEPS": 2, "FOLDER": tmp_path / "runs"}
    for name, value in sizes.items():
        monkeypatch.setenv(f"STORY_{name}", str(value))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(ROOT / "examples" / "story.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's client
        NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = " ".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "verdict" in said
    assert "teaching-scores" in said
