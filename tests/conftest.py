"""What all tests share: no network, tiny and small models, and no room imported by its bare name."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent
_ROOMS = ("agents", "distill", "evals", "graphs", "memory")

# Before any library is imported: most read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["PIP_NO_INDEX"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
# Tests that run side by side (pytest -n) have a processor each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(_HERE / "guard"), os.environ.get("PYTHONPATH", "")])
)

# A job that a script runs in the background ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(name: str, file: Path) -> Any:
    """Loads a module of the tests: they are no package, so there is nothing to import it from."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _guarding() -> Any:
    """The guard that is in force: Python has loaded it already in a process that pytest-xdist started."""
    file, loaded = _HERE / "guard" / "sitecustomize.py", sys.modules.get("sitecustomize")
    if getattr(loaded, "__file__", None) == str(file):
        return sys.modules.setdefault("docendo_test_guard", loaded)  # tests/unit/test_guard.py looks at it
    return _load("docendo_test_guard", file)


_guard = _guarding()
_postgres = _load("docendo_test_postgres", _HERE / "postgres.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test with the real model is slow, whether it says so or not."""
    for item in items:
        if "smollm2" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_network_attempt() -> Iterator[None]:
    """Fails a test that tried to reach the network, even if the code swallowed the refusal."""
    before = len(_guard.attempts)
    yield
    tried, _guard.attempts[before:] = _guard.attempts[before:], []
    if tried:
        pytest.fail(f"the test tried to use the network: {', '.join(tried)}")


def bare_rooms() -> list[str]:
    """Rooms of this repository that were imported as `agents` instead of `docendo.agents`."""
    found = []
    for name in _ROOMS:
        file = getattr(sys.modules.get(name), "__file__", None)
        # Another distribution may own the name (openai-agents installs `agents`); that one is fine.
        if file and Path(file).resolve().parent == (_HERE.parent / name).resolve():
            found.append(name)
    return found


@pytest.fixture(scope="session", autouse=True)
def _no_bare_room() -> Iterator[None]:
    """Checks after the last test that no room was imported under its bare name on the way."""
    yield
    assert not bare_rooms(), "imported by bare name, so loaded twice: write docendo.<room>"


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Any]:
    """A PostgreSQL server of our own (`tests/postgres.py`), which a test may restart or kill."""
    programs = _postgres.programs()
    if programs is None:
        missing = "PostgreSQL's server programs are in neither PATH nor /usr/lib/postgresql"
        needed = os.environ.get("CI") == "true" or os.environ.get("DOCENDO_POSTGRES") == "required"
        if needed and not os.environ.get("DOCENDO_POSTGRES_URL"):
            pytest.fail(f"{missing}; install them, for example: apt-get install postgresql", pytrace=False)
        pytest.skip(f"{missing} (DOCENDO_POSTGRES=required makes this a failure)")
    cluster = _postgres.Cluster(programs)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """An administrator's URL: of the server in DOCENDO_POSTGRES_URL, or of our own."""
    given = os.environ.get("DOCENDO_POSTGRES_URL", "")
    return given or str(request.getfixturevalue("postgres_cluster").url("postgres"))


@pytest.fixture(scope="session")
def postgres_databases(postgres_url: str) -> Iterator[Any]:
    """Makes and drops databases on the server."""
    databases = _postgres.Databases(postgres_url)
    yield databases
    databases.drop_all()


@pytest.fixture
def postgresql_url(postgres_url: str, postgres_databases: Any) -> Iterator[str]:
    """The URL of a empty PostgreSQL database, emptied again after the test."""
    name = postgres_databases.empty()
    yield _postgres.renamed(postgres_url, name)
    postgres_databases.give_back(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database; a test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memory.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Llama with a byte-level tokenizer and a chat template. Do not write into it."""
    from docendo.agents import tiny_model

    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct. Tests that use it are marked slow."""
    from docendo.agents import models

    name = "smollm2-135m-instruct"
    if not models.is_cached(name):
        pytest.fail(f"{name} is not in the cache; fetch it with: docendo models pull {name}", pytrace=False)
    return models.path(name)


@pytest.fixture(scope="session")
def guessing_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, taught to answer any sum with a random digit: now and then it is right."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from docendo.agents._templates import completion_ids, prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    rows = []
    for n in range(40):
        messages = [{"role": "user", "content": f"State the final answer to {n % 7} + {n % 5} ="}]
        prompt, answer = prompt_ids(tokenizer, messages), completion_ids(tokenizer, f"Answer: {n % 10}")
        rows.append((prompt, answer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(100):
            batch = [rows[(8 * step + k) % len(rows)] for k in range(8)]
            longest = max(len(p) + len(a) for p, a in batch)
            ids = torch.tensor([p + a + [0] * (longest - len(p) - len(a)) for p, a in batch])
            labels = torch.tensor(
                [[-100] * len(p) + a + [-100] * (longest - len(p) - len(a)) for p, a in batch]
            )
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("models") / "guessing"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
