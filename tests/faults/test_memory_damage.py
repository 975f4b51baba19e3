"""Bit flips, truncation and zeroed pages: what is damaged is named, or nothing that is read has changed."""

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from docendo.errors import DocendoError
from docendo.memory import Blackboard, Database, Journal, RunStore, TraceStore, verify
from docendo.records import Author, Message, Trace

pytestmark = pytest.mark.slow

STUDENT = Author(agent="student", role="student")
CHECKER = Author(agent="checker", role="verifier")
FLIPS = 150


def stores(database: Database) -> tuple[Blackboard, Journal, RunStore, TraceStore]:
    return Blackboard(database), Journal(database), RunStore(database), TraceStore(database)


def fill(database: Database, count: int) -> None:
    board, journal, runs, traces = stores(database)
    runs.start("run", {"seed": 0}, resume=True)
    for index in range(count):
        name = f"item-{index}"
        text = " ".join(random.Random(index).choices(["sum", "carry", "digit", "answer", "check"], k=20))
        with database.transaction():
            post = board.post(
                "attempt", {"text": text}, author=STUDENT, key=f"run/{name}", run="run", item=name
            )
            board.trust(post.id, "verified", by=CHECKER, reason="exact match")
            journal.put(f"call-{index}", {"text": text})
            message = Message(role="user", content=f"What is {index} + {index}?")
            fields = {"id": f"t{index}", "run": "run", "item": name, "author": STUDENT, "split": "train"}
            traces.add([Trace(**fields, messages=(message,), completion=text, rewards={"verified": 1.0})])
            runs.finish_item("run", name, {"correct": True})


def everything(database: Database) -> dict[str, Any]:
    """All that the stores return, the digest of every value included."""
    count = 60
    board, journal, runs, traces = stores(database)
    return {
        "posts": board.posts(),
        "by item": [board.posts(run="run", item=f"item-{index}") for index in range(count)],
        "by id": [board.get(post.id) for post in board.posts()],
        "journal": [journal.get(f"call-{index}") for index in range(count)],
        "traces": traces.find(min_reward={"verified": 1.0}),
        "runs": runs.list(),
        "items": runs.finished("run"),
    }


def rows(path: Path) -> Any:
    """All rows as plain SQLite returns them, without any digest."""
    with sqlite3.connect(path) as plain:
        names = [
            row[0] for row in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        ]
        found = [plain.execute(f"SELECT * FROM {name}").fetchall() for name in names if "sqlite" not in name]
    plain.close()
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "memory.db"
    with Database.open(path) as database:
        fill(database, 60)
        assert all(report.ok for report in verify(database))
        content = everything(database)
    return path, content, rows(path)


def silent(path: Path, content: dict[str, Any]) -> bool:
    """Whether damage went unnoticed although something that is read has changed."""
    try:
        with Database.open(path) as database:
            if not all(report.ok for report in verify(database)):
                return False
            return everything(database) != content
    except DocendoError:
        return False


def damages(data: bytes, random_: random.Random):
    """Yields damaged copies of a file: mostly single bits, some truncations and zeroed pages."""
    for index in range(FLIPS):
        copy = bytearray(data)
        place = random_.randrange(len(copy))
        if index % 25 == 23:
            del copy[place:]
        elif index % 25 == 24:
            start = place // 4096 * 4096
            copy[start : start + 4096] = bytes(len(copy[start : start + 4096]))
        else:
            copy[place] ^= 1 << random_.randrange(8)
        yield bytes(copy)


def test_damage_to_the_file_is_never_silent(original, tmp_path):
    path, content, plain = original
    copy, unnoticed, by_sqlite = tmp_path / "copy.db", [], 0
    for index, data in enumerate(damages(path.read_bytes(), random.Random(11))):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        copy.write_bytes(data)
        with contextlib.suppress(sqlite3.Error):
            by_sqlite += rows(copy) != plain
        copy.write_bytes(data)
        if silent(copy, content):
            unnoticed.append(index)
    assert unnoticed == []
    # The control: without digests many of these flips are silently wrong rows.
    assert by_sqlite > FLIPS // 4


def test_a_damaged_log_leaves_a_prefix(tmp_path):
    """SQLite drops everything after the first damaged frame of its log; what is left must be a true prefix.

    That the end is missing cannot be seen afterwards: no record of it is left in the file.
    """
    source = tmp_path / "source" / "memory.db"
    with Blackboard.open(source) as board:
        with board.database.reading() as connection:
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        for index in range(60):
            board.post("attempt", {"text": f"post {index}"}, author=STUDENT, key=str(index))
        posts, log = board.posts(), Path(f"{source}-wal").read_bytes()
        main = source.read_bytes()
    random_, lengths = random.Random(5), set()
    for index, data in enumerate(damages(log, random_)):
        if index >= 60:
            break
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "memory.db").write_bytes(main)
        (folder / "memory.db-wal").write_bytes(data)
        try:
            with Blackboard.open(folder / "memory.db") as board:
                found = board.posts()
                assert board.verify().ok
        except DocendoError:
            continue
        assert found == posts[: len(found)]
        lengths.add(len(found))
    assert len(lengths) > 10
