"""R7: Malformed input is refused within a second, in one line that names the field, and writes nothing.

A table of cases for every public entry point (`_bad_inputs.py`), the command line, and random values.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_bad_evals import ELSEWHERE, RETURNED, bad_calls, good_calls
from fault_bad_inputs import AUTHOR, COMMANDS, World, cases
from fault_bars import plain_rows
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from docendo import agents, distill, evals
from docendo.cli import main
from docendo.errors import DocendoError
from docendo.records import SamplingParams

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 reads a property that transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

SECONDS = 1.0


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of the tiny model, and one of a model like it."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = [{"prompt": "2 + 2 =", "completion": "4"}] * 4
    config = distill.TrainConfig(max_steps=1, learning_rate=1e-2, lora_r=4, dtype="float32")
    other = agents.tiny_model(folder / "base", seed=9)
    make = lambda base, name: distill.train(base, rows, output=folder / name, config=config, quiet=True).path  # noqa: E731
    return make(tiny_model_dir, "adapter"), make(other, "foreign")


@pytest.fixture
def world(
    tiny_model_dir: Path, adapters: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    with agents.Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        made = World(tmp_path, model=tiny_model_dir, adapter=adapters[0], foreign=adapters[1], engine=engine)
        yield made
        made.database.close()


def state(world: World) -> tuple[Any, ...]:
    """All files, and all rows of the database: what must be the same after a refusal."""
    files = {
        path.relative_to(world.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(world.folder.rglob("*"))
        if path.is_file() and not path.name.startswith("memory.db") and not path.name.endswith(".lock")
    }
    folders = [path.name for path in sorted(world.folder.rglob("*")) if path.is_dir()]
    return files, folders, plain_rows(world.folder / "memory.db")


def wrong_with(call: Callable[[], object], says: str, limit: float) -> str:
    """Makes a call that must be refused; returns what was wrong with that."""
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
    except DocendoError as error:
        took, line = time.monotonic() - began, str(error)
        if "\n" in line:
            return f"more than one line: {line!r}"
        if says not in line:
            return f"does not name {says!r}: {line}"
        return f"took {took:.1f} s" if took > limit else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def test_calls(bar: Any, world: World) -> None:
    failed, count = [], 0
    for case in cases(world):
        count += 1
        before = state(world)
        problem = wrong_with(case.call, case.says, bar.size(1, short=5) * SECONDS)
        if not problem and state(world) != before:
            problem = "something was written"
        failed += [f"{case.name}: {problem}"] if problem else []
    bar.part("calls of the library", cases=count, failed=failed, needed=200)


def test_every_public_function_of_evals(bar: Any, world: World) -> None:
    """A wrong value of any argument is taken, or refused in one line, and never in Python's words."""
    good = good_calls(world.folder)
    assert {name.partition(".")[0] for name in good} | RETURNED | ELSEWHERE == set(evals.__all__)
    failed = [
        name for name, (function, arguments) in good.items() if raises(lambda f=function, a=arguments: f(**a))
    ]
    counts = {"accepted": 0, "refused": 0}
    for name, call in bad_calls(world.folder):
        problem = wrong_with(call, "", bar.size(1, short=5) * SECONDS)
        counts["accepted" if problem == "accepted" else "refused"] += 1
        failed += [f"{name}: {problem}"] if problem not in ("", "accepted") else []
    bar.part(
        "public functions of evals", cases=sum(counts.values()), failed=failed, reached=counts, needed=1500
    )


def raises(call: Callable[[], object]) -> bool:
    """Whether a call that should work does not."""
    try:
        call()
    except Exception:
        return True
    return False


def test_commands(bar: Any, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    failed = []
    places = {
        "good": world.folder / "good.jsonl",
        "folder": world.folder,
        "model": world.model,
        "foreign": world.foreign,
        "database": world.folder / "memory.db",
    }
    for text, says in COMMANDS:
        before = state(world)
        capsys.readouterr()
        code = main([part.format(**places) for part in text.split()])
        out, err = capsys.readouterr()
        lines = err.splitlines()
        problem = ""
        if code != 2:
            problem = f"exit code {code}: {err}"
        elif len(lines) != 1 or out:
            problem = f"{len(lines)} lines on stderr, {len(out)} characters on stdout: {err}{out}"
        elif says not in err:
            problem = f"does not name {says!r}: {err}"
        elif state(world) != before:
            problem = "something was written"
        failed += [f"docendo {text}: {problem}"] if problem else []
    bar.part("command lines", cases=len(COMMANDS), failed=failed, needed=40)


# --- random values --------------------------------------------------------------------------------

#: Anything that may come out of a JSON file or a careless program.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from([*SamplingParams.__dataclass_fields__])


def fuzzed(world: World, value: Any, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is called with a random value."""
    board = world.board
    yield "body", lambda: board.post("attempt", value, author=AUTHOR, key="fuzz")
    yield "value in a body", lambda: board.post("attempt", {"a": value}, author=AUTHOR, key=repr(value))
    yield "key", lambda: board.post("attempt", {}, author=AUTHOR, key=value)
    yield "kind", lambda: board.post(value, {}, author=AUTHOR, key="fuzz")
    yield "journal", lambda: world.journal.put(repr(value), {"a": value})
    yield "outcome", lambda: world.runs.finish_item("run", repr(value), value)
    yield "sampling", lambda: SamplingParams(**{name: value})


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_random_values(bar: Any, world: World) -> None:
    """Each is taken as it is or refused with an error of ours; what is taken must be readable."""
    failed: dict[str, str] = {}
    counts = {"accepted": 0, "refused": 0}

    @seed(7)
    @settings(
        max_examples=bar.size(2000, short=60),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(VALUES, FIELDS)
    def try_one(value: Any, name: str) -> None:
        for where, call in fuzzed(world, value, name):
            try:
                call()
                counts["accepted"] += 1
            except DocendoError:
                counts["refused"] += 1
            except Exception as error:
                failed[f"{where} {name if where == 'sampling' else ''}"] = (
                    f"{value!r}: {type(error).__name__}: {error}"
                )

    try_one()
    assert world.board.verify().ok
    bar.part(
        "random values",
        cases=sum(counts.values()) + len(failed),
        failed=[f"{where}: {what}" for where, what in failed.items()],
        reached=counts,
    )


def test_the_bar_catches_a_call_that_checks_nothing(bar: Any, world: World) -> None:
    """The same cases against a board that writes what it gets, and against Python's own messages."""
    stored: list[Any] = []
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: stored.append({"kind": "gossip"}), "kind"),
        (lambda: math.sqrt("many"), "max_tokens"),  # type: ignore[arg-type]
        (lambda: {}["messages"], "messages"),
    ]
    failed = [problem for call, says in calls if (problem := wrong_with(call, says, SECONDS))]
    bar.broken("calls that check nothing", cases=len(calls), failed=failed)
    assert len(failed) == len(calls)
