"""R4: Damage to stored files is named before anything is used, or changes nothing that is read.

Bit flips, truncations and zeroed pages over the whole of each file, whatever tables or tensors lie there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import re
import shutil
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_bars import plain_rows

from docendo.errors import DocendoError, IntegrityError
from docendo.memory import Blackboard, Channel, Database, Journal, RunStore, TraceStore, verify
from docendo.memory.storage import _schema
from docendo.records import Author, Message, Trace

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 reads a property that transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),  # the base was made here
]

STUDENT = Author(agent="student", role="student")
CHECKER = Author(agent="checker", role="verifier")
PAGE = 4096
ITEMS = 60
#: Long enough to be stored once by its content.
LONG = "Add the numbers digit by digit and carry what is above nine. " * 12
#: What a report may call a record, from the names of the tables.
RECORDS = {name.removeprefix("docendo_").split("_")[0].rstrip("s") for name in _schema.metadata.tables} | {
    "trace",
    "database",
}

Reader = Callable[[Path], Any]


# --- damage ---------------------------------------------------------------------------------------


def damages(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields damaged copies of a file: eight of ten have one flipped bit."""
    draws = random.Random(seed)
    for index in range(count):
        copy = bytearray(data)
        place = draws.randrange(len(copy))
        kind = {8: "truncations", 9: "zeroed pages"}.get(index % 10, "flipped bits")
        if kind == "truncations":
            del copy[place:]
        elif kind == "zeroed pages":
            start = place // PAGE * PAGE
            copy[start : start + PAGE] = bytes(len(copy[start : start + PAGE]))
        else:
            copy[place] ^= 1 << draws.randrange(8)
        yield kind, bytes(copy)


class Tally:
    """What became of the damage."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter(detected=0, harmless=0)
        self.failed: list[str] = []

    def case(
        self, kind: str, what: str, read: Callable[[], Any], good: Callable[[Any], str], name: str
    ) -> None:
        """Reads a damaged copy; `good` says what the content is, "" if it is wrong; `name` must be named."""
        self.kinds[kind] += 1
        try:
            outcome = good(read())
        except DocendoError as error:
            outcome = "detected"
            if not re.search(name, str(error)):
                self.failed.append(f"{what}: the error names no file and no record: {error}")
        except Exception as error:
            self.failed.append(f"{what}: {type(error).__name__}: {error}")
            return
        if outcome:
            self.outcomes[outcome] += 1
        else:
            self.failed.append(f"{what}: read without a word, and differs")

    def counts(self) -> dict[str, Any]:
        return {
            "cases": sum(self.kinds.values()),
            "failed": self.failed,
            "reached": dict(self.kinds),
            "outcomes": dict(self.outcomes),
        }


# --- the database ---------------------------------------------------------------------------------


def fill(database: Database, count: int = ITEMS) -> Iterator[int]:
    """Writes something of every kind, in one transaction per item."""
    board, journal, runs, traces = (store(database) for store in (Blackboard, Journal, RunStore, TraceStore))
    runs.start("run", {"seed": 0}, resume=True)
    board.declare(Channel(name="offers", kinds=("offer",), fields={"confidence": "number"}))
    reader, parents = board.subscribe(name="reader", timeout=0), ()
    yield 0
    for index in range(count):
        name = f"item-{index}"
        text = " ".join(random.Random(index).choices(["sum", "carry", "digit", "answer", "check"], k=20))
        with database.transaction():
            places: dict[str, Any] = {"author": STUDENT, "run": "run", "item": name, "parents": parents}
            post = board.post("attempt", {"text": text}, key=f"run/{name}", **places)
            offer = {"confidence": index / count, "text": LONG[index % 7 :]}
            board.post("offer", offer, key=f"offer/{name}", channel="offers", **places)
            parents = (post.id,)
            board.keys.write("plan", {"step": index, "why": text}, author=STUDENT, expected=index)
            while (seen := reader.next(timeout=0)) is not None:
                reader.acknowledge(seen)
            board.trust(post.id, "verified", by=CHECKER, reason="exact match")
            journal.put(f"call-{index}", {"text": text})
            messages = (
                Message(role="system", content=LONG),
                Message(role="user", content=f"What is {index} + {index}?"),
            )
            fields = {"id": f"t{index}", "run": "run", "item": name, "author": STUDENT, "split": "train"}
            traces.add([Trace(**fields, messages=messages, completion=text, rewards={"verified": 1.0})])
            runs.finish_item("run", name, {"correct": True})
        yield index + 1


def everything(database: Database) -> dict[str, Any]:
    """All that the public stores return."""
    board, journal, runs, traces = (store(database) for store in (Blackboard, Journal, RunStore, TraceStore))
    posts = board.posts()
    return {
        "posts": posts,
        "by item": [board.posts(run="run", item=f"item-{index}") for index in range(0, ITEMS, 7)],
        "by id": [board.get(post.id) for post in posts[::7]],
        "by words": [board.search(word, limit=10) for word in ("carry", "digit answer")],
        "relatives": [(board.descendants(post.id), board.ancestors(post.id)) for post in posts[:4]],
        "channels": board.channels(),
        "keys": {name: board.keys.history(name) for name in board.keys.names()},
        "position": board.subscribe(name="reader", timeout=0).position,
        "digest": board.digest(),
        "journal": [journal.get(f"call-{index}") for index in range(ITEMS)],
        "traces": traces.find(min_reward={"verified": 1.0}),
        # How long a run has been going on, and whether by a living process, is not what was stored.
        "runs": [row.replace(seconds=0.0, holder="", status="running") for row in runs.list()],
        "items": runs.finished("run"),
    }


def verified(path: Path) -> dict[str, Any]:
    """Opens, verifies and reads a database."""
    with Database.open(path) as database:
        for report in verify(database):
            report.raise_for_damage()
        return everything(database)


def anew(folder: Path, **files: bytes) -> Path:
    """Makes a folder that holds nothing but these files; returns the database's path in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix, data in files.items():
        (folder / f"memory.db{suffix.replace('_', '-')}").write_bytes(data)
    return folder / "memory.db"


NAMED = rf"memory\.db|\b({'|'.join(sorted(RECORDS))})"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "memory.db"
    with Database.open(path) as database:
        for _ in fill(database):
            pass
    return path


def test_damage_to_the_main_file(bar: Any, ledger: Path, tmp_path: Path) -> None:
    content, tally, needed = verified(ledger), Tally(), bar.size(250, short=60)
    for index, (kind, data) in enumerate(damages(ledger.read_bytes(), needed, 11)):
        path = anew(tmp_path / "copy", **{"": data})
        same = lambda found: "harmless" if found == content else ""  # noqa: E731
        tally.case(kind, f"main file, {kind} {index}", lambda p=path: verified(p), same, NAMED)
    bar.part("the ledger's main file", needed=needed, **tally.counts())


def test_the_bar_catches_a_ledger_without_digests(bar: Any, ledger: Path, tmp_path: Path) -> None:
    """The same damage, read without the digests of the rows."""
    content, silent, count = plain_rows(ledger), [], bar.size(250, short=60)
    for index, (kind, data) in enumerate(damages(ledger.read_bytes(), count, 11)):
        path = anew(tmp_path / "copy", **{"": data})
        try:
            if plain_rows(path) != content:
                silent.append(f"{kind} {index}: other rows without a word")
        except (sqlite3.Error, OSError, ValueError):
            continue
    bar.broken("the ledger's rows read without their digests", cases=count, failed=silent)


def test_damage_to_the_log(bar: Any, tmp_path: Path) -> None:
    """SQLite drops its log from the first damaged frame on, without a word.

    What is left is a true earlier state. The count of commits beside the file tells that it is one.
    """
    source, states, tally = tmp_path / "source" / "memory.db", [], Tally()
    with Database.open(source) as database:
        with database.reading() as connection:
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        states.append(everything(database))
        states += [everything(database) for _ in fill(database, 20)]
        main, log, count = (Path(f"{source}{suffix}").read_bytes() for suffix in ("", "-wal", "-commits"))
    needed, silent = bar.size(100, short=20), []
    for index, (kind, data) in enumerate(damages(log, needed, 5)):
        path = anew(tmp_path / "copy", **{"": main, "_wal": data, "_commits": count})
        same = lambda found: "harmless" if found == states[-1] else ""  # noqa: E731
        tally.case(kind, f"log, {kind} {index}", lambda p=path: verified(p), same, NAMED)
        path = anew(tmp_path / "copy", **{"": main, "_wal": data})
        try:
            left = verified(path)
        except DocendoError:
            continue
        assert left in states, "a log that ends early gives a state that never was"
        if left != states[-1]:
            silent.append(f"{kind} {index}: the last posts are gone without a word")
    bar.part("the ledger's write-ahead log", needed=needed, **tally.counts())
    bar.broken("the log read without the count of commits beside it", cases=needed, failed=silent)


def test_damage_to_the_count_of_commits(bar: Any, ledger: Path, tmp_path: Path) -> None:
    content, tally, needed = verified(ledger), Tally(), bar.size(20, short=5)
    count = Path(f"{ledger}-commits").read_bytes()
    for index, (kind, data) in enumerate(damages(count, needed, 3)):
        path = anew(tmp_path / "copy", **{"": ledger.read_bytes(), "_commits": data})
        same = lambda found: "harmless" if found == content else ""  # noqa: E731
        tally.case(kind, f"count, {kind} {index}", lambda p=path: verified(p), same, NAMED)
    bar.part("the count of commits beside the ledger", needed=needed, **tally.counts())


# --- adapters -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from docendo.distill import TrainConfig, train

    rows = [{"prompt": f"{n} + {n} =", "completion": str(2 * n)} for n in range(4)]
    output = tmp_path_factory.mktemp("adapter") / "adapter"
    config = TrainConfig(max_steps=2, learning_rate=1e-2, lora_r=4, dtype="float32")
    return train(tiny_model_dir, rows, output=output, config=config, quiet=True).path


def opened(path: Path) -> dict[str, Any]:
    """Opens an adapter; returns what it says of itself and all that lies beside."""
    from safetensors.numpy import load_file

    from docendo.distill import Adapter

    found = Adapter.open(path)
    return {
        "adapter": found,
        **unchecked(path),
        "shapes": sorted(load_file(path / "adapter_model.safetensors")),
    }


def unchecked(path: Path) -> dict[str, Any]:
    """The files of an adapter but its manifest, whose meaning `Adapter` holds."""
    return {f.name: f.read_bytes() for f in sorted(path.iterdir()) if f.name != "manifest.json"}


def damaged_folders(source: Path, target: Path, count: int) -> Iterator[tuple[str, str, Path]]:
    """Yields copies of a folder, one file of each damaged; every file has its turn."""
    files = sorted(source.iterdir())
    streams = {file: damages(file.read_bytes(), count, 100 + n) for n, file in enumerate(files)}
    for index in range(count):
        file = files[index % len(files)]
        # A file's own stream is used from kind to kind, so that all files meet all kinds.
        kind, data = next(streams[file])
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        (target / file.name).write_bytes(data)
        yield kind, file.name, target


def test_damage_to_an_adapter(bar: Any, adapter: Path, tmp_path: Path) -> None:
    original = tmp_path / "copy" / "adapter"
    shutil.copytree(adapter, original)
    content, tally, needed = opened(original), Tally(), bar.size(150, short=48)
    for index, (kind, file, path) in enumerate(damaged_folders(adapter, original, needed)):
        same = lambda found: "harmless" if found == content else ""  # noqa: E731
        tally.case(kind, f"{file}, {kind} {index}", lambda p=path: opened(p), same, re.escape(file))
    files = len(list(adapter.iterdir()))
    bar.part(f"the {files} files of an adapter, its manifest included", needed=needed, **tally.counts())


def test_damage_to_a_checkpoint(bar: Any, tmp_path: Path) -> None:
    """Weights, optimizer, history and manifest; that a training resumes rightly is bar R5."""
    import torch

    from docendo.distill.training._checkpoints import Checkpoints, read_state, write_state
    from docendo.files import write_json

    def write(folder: Path) -> None:
        write_state(folder, "weights", {"lora_A": torch.arange(600.0).view(4, 150)})
        write_state(
            folder, "state", {"optimizer": {0: {"step": torch.tensor(3.0)}}, "scheduler": {"lr": 0.1}}
        )
        write_json(folder / "trainer_state.json", {"log_history": [{"loss": 0.5, "step": 1}]})

    def read(kept: Checkpoints, said: list[str]) -> str:
        found = kept.newest()
        if found is None:
            raise IntegrityError(said[0])
        return str([read_state(found.path, name) for name in ("weights", "state")])

    whole = Checkpoints(tmp_path / "whole", {"seed": 0})
    whole.save(3, write, seconds=1.0)
    content, tally, needed = read(whole, []), Tally(), bar.size(150, short=60)
    copy = tmp_path / "copy" / "checkpoint-3"
    copy.parent.mkdir()
    for index, (kind, file, _) in enumerate(damaged_folders(whole.folder / copy.name, copy, needed)):
        said: list[str] = []
        kept = Checkpoints(copy.parent, {"seed": 0}, tell=said.append)
        same = lambda found: "harmless" if found == content else ""  # noqa: E731
        tally.case(kind, f"{file}, {kind} {index}", lambda k=kept, s=said: read(k, s), same, re.escape(file))
    files = len(list((whole.folder / copy.name).iterdir()))
    bar.part(f"the {files} files of a checkpoint, its manifest included", needed=needed, **tally.counts())


def test_an_engine_refuses_a_damaged_adapter(
    bar: Any, adapter: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from docendo.agents import Engine

    tally, needed = Tally(), bar.size(100, short=48)
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        good = engine.load_adapter("good", adapter)
        weights = engine._adapters["good"].pairs

        def judge(sha256: Any) -> str:
            loaded = engine._adapters["copy"].pairs
            same = all(
                (x == y).all() for name in weights for x, y in zip(weights[name], loaded[name], strict=True)
            )
            return "harmless" if sha256 == good and same else ""

        for index, (kind, file, path) in enumerate(damaged_folders(adapter, tmp_path / "copy", needed)):
            load = lambda p=path: engine.load_adapter("copy", p)  # noqa: E731
            tally.case(kind, f"{file}, {kind} {index}", load, judge, re.escape(file))
    bar.part("an engine that loads the adapter", needed=needed, **tally.counts())


def test_the_bar_catches_an_adapter_without_its_manifest(bar: Any, adapter: Path, tmp_path: Path) -> None:
    """A folder without a manifest loads as PEFT loads it: flipped weights are weights."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    silent, count = [], 0
    content = load_file(adapter / "adapter_model.safetensors")
    for kind, file, path in damaged_folders(adapter, tmp_path / "copy", 60):
        if file != "adapter_model.safetensors":
            continue
        count += 1
        try:
            found = load_file(path / file)
        except SafetensorError:
            continue
        if found.keys() != content.keys() or any((found[key] != content[key]).any() for key in content):
            silent.append(f"{kind}: other weights without a word")
    bar.broken("an adapter's weights read without the manifest", cases=count, failed=silent)


# --- others on the same damage --------------------------------------------------------------------


def thirty_lines(path: Path) -> None:
    """A ledger as one writes it on plain SQLite."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(
        "CREATE TABLE posts (seq INTEGER PRIMARY KEY, key TEXT UNIQUE, author TEXT, kind TEXT, body TEXT)"
    )
    for index in range(4 * ITEMS):
        connection.execute("BEGIN IMMEDIATE")
        text = " ".join(random.Random(index).choices(["sum", "carry", "digit", "answer", "check"], k=20))
        row = (f"run/{index}", "student", "attempt", text)
        connection.execute("INSERT OR IGNORE INTO posts (key, author, kind, body) VALUES (?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    connection.close()


def checked_rows(path: Path) -> Any:
    with sqlite3.connect(path) as connection:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise sqlite3.DatabaseError("not ok")
    connection.close()
    return plain_rows(path)


def silent_cases(path: Path, copy: Path, count: int, read: Reader, errors: Any) -> list[str]:
    """Damages a file; returns the cases that were read without an error and differ."""
    content, silent = read(path), []
    for index, (kind, data) in enumerate(damages(path.read_bytes(), count, 11)):
        damaged = anew(copy, **{"": data})
        try:
            if read(damaged) != content:
                silent.append(f"{kind} {index}")
        except errors:
            continue
    return silent


def test_anchor_plain_sqlite(bar: Any, tmp_path: Path) -> None:
    path, count = tmp_path / "plain.db", bar.size(250, short=20)
    thirty_lines(path)
    errors = (sqlite3.Error, OSError, UnicodeError)
    bar.anchor(
        "plain SQLite, a ledger of 30 lines, integrity_check before reading",
        cases=count,
        failed=silent_cases(path, tmp_path / "copy", count, checked_rows, errors),
        note="other rows are read without an error",
    )


def saved_turns(path: Path) -> Any:
    """All checkpoints of a thread, as SqliteSaver reads them."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        saver = SqliteSaver(connection)
        return [
            (found.config, found.checkpoint["channel_values"], found.metadata)
            for found in saver.list({"configurable": {"thread_id": "one"}})
        ]
    finally:
        connection.close()


# Its generator leaves a cursor open when a damaged row stops it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_anchor_langgraph(bar: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("langgraph.checkpoint.sqlite") is None:
        pytest.skip("langgraph-checkpoint-sqlite is not installed")
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph

    path, count = tmp_path / "saver.db", bar.size(250, short=20)
    connection = sqlite3.connect(path, check_same_thread=False)
    graph = StateGraph(dict)
    graph.add_node("say", lambda state: {"turn": state["turn"] + 1, "text": f"answer {state['turn']} " * 9})
    graph.add_edge(START, "say")
    graph.add_edge("say", END)
    compiled = graph.compile(checkpointer=SqliteSaver(connection))
    for turn in range(20):
        compiled.invoke({"turn": turn}, {"configurable": {"thread_id": "one"}})
    connection.close()
    bar.anchor(
        "LangGraph's SqliteSaver, all checkpoints of a thread",
        cases=count,
        failed=silent_cases(path, tmp_path / "copy", count, saved_turns, Exception),
        note="other checkpoints are read without an error",
    )


def test_anchor_peft(bar: Any, adapter: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    def load(path: Path) -> dict[str, str]:
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        state = get_peft_model_state_dict(PeftModel.from_pretrained(base, path))
        return {k: hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for k, v in state.items()}

    content, silent, warned, count = load(adapter), [], 0, bar.size(100, short=6)
    data = (adapter / "adapter_model.safetensors").read_bytes()
    for index, (kind, damaged) in enumerate(damages(data, count, 11)):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(adapter, copy)
        (copy / "adapter_model.safetensors").write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = load(copy)
            except Exception:
                continue
        if found != content:
            missing = [one for one in caught if "missing" in str(one.message)]
            warned += bool(missing)
            silent += [] if missing else [f"{kind} {index}"]
    bar.anchor(
        "PEFT, the weights of the same adapter",
        cases=count,
        failed=silent,
        note="other weights are loaded without an error or a warning",
        only_warned=warned,
    )
