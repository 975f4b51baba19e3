"""An adapter is known by what it learnt from: in the database, and in its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docendo.distill import Adapter, TrainConfig, train
from docendo.errors import AdapterError, StorageError
from docendo.memory import Artifacts, Blackboard, Database, TraceStore, verify
from docendo.records import Author, Message, Trace

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUICK = TrainConfig(max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, lora_r=4, dtype="float32")
TUTOR = Author(agent="tutor", role="tutor", model="m")
CHECKER = Author(agent="checker", role="verifier")


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"{number} + 1"}],
        "completion": [{"role": "assistant", "content": f"Answer: {number + 1}"}],
        "item": str(number),
        **more,
    }


@pytest.fixture
def board(tmp_path: Path) -> Any:
    with Blackboard.open(tmp_path / "memory.db") as board:
        question = (Message(role="user", content="?"),)
        traces = [
            Trace(id=f"t{n}", run="r", item=str(n), author=TUTOR, messages=question, completion=str(n))
            for n in range(4)
        ]
        TraceStore(board.database).add(traces)
        yield board


def post(board: Any, number: int) -> Any:
    return board.post("demonstration", {}, author=TUTOR, key=str(number), run="r", traces=[f"t{number}"])


def rows_of(*posts: Any) -> list[dict[str, Any]]:
    return [row(int(p.key), trace=p.traces[0], posts=[p.id]) for p in posts]


def test_taint_reaches_adapters_and_their_descendants(
    board: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    bad, good = post(board, 0), post(board, 1)
    options: dict[str, Any] = {"config": QUICK, "quiet": True, "database": board.database}
    first = train(tiny_model_dir, rows_of(bad, good), output=tmp_path / "first", **options)
    second = train(tiny_model_dir, rows_of(good), output=tmp_path / "second", parent=first.path, **options)
    clean = train(tiny_model_dir, rows_of(good), output=tmp_path / "clean", **options)
    taint = board.quarantine(bad.id, by=CHECKER, reason="an order")
    assert set(taint.adapters) == {first.sha256, second.sha256}
    assert taint.rows == ((first.manifest["data"]["digest"], "t0"),)
    assert first.manifest["lineage"] == {"traces": ["t0", "t1"], "posts": [bad.id, good.id]}
    # The folder alone says it as well.
    assert second.manifest["lineage"]["traces"] == ["t1", "t0"]
    alone = taint.replace(adapters=())
    for name, expected in (("first", True), ("second", True), ("clean", False)):
        assert Adapter.open(tmp_path / name).descends_from(alone) is expected
    assert clean.sha256 not in taint.adapters
    assert [one.facts["name"] for one in Artifacts(board.database).find(kind="adapter")] == [
        "first",
        "second",
        "clean",
    ]
    assert all(report.ok for report in verify(board.database))


def test_without_a_database_the_manifest_is_what_remains(
    board: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    bad = post(board, 0)
    adapter = train(tiny_model_dir, rows_of(bad), output=tmp_path / "a", config=QUICK, quiet=True)
    taint = board.quarantine(bad.id, by=CHECKER, reason="an order")
    assert taint.adapters == ()
    assert adapter.descends_from(taint)
    plain = train(tiny_model_dir, [row(1)], output=tmp_path / "b", config=QUICK, quiet=True)
    with pytest.raises(AdapterError, match="names no turns"):
        plain.descends_from(taint)


def test_an_adapter_that_was_kept_is_recorded_too(board: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output": tmp_path / "a", "config": QUICK, "quiet": True, "resume": True}
    rows = rows_of(post(board, 0))
    made = train(tiny_model_dir, rows, **options)
    assert Artifacts(board.database).find() == []
    kept = train(tiny_model_dir, rows, database=board.database, **options)
    assert kept.manifest == made.manifest
    for _ in range(2):
        train(tiny_model_dir, rows, database=board.database, **options)
    assert [one.kind for one in Artifacts(board.database).find()] == ["dataset", "adapter"]
    # The same words from other turns: taint has to know.
    other = train(tiny_model_dir, rows_of(post(board, 1).replace(key="0")), **options)
    assert other.manifest["lineage"]["traces"] == ["t1"]


def test_no_adapter_appears_that_is_not_recorded(board: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = rows_of(post(board, 0))
    path = board.database.path
    board.close()
    with Database.open(path, read_only=True) as database, pytest.raises(StorageError, match="read-only"):
        train(tiny_model_dir, rows, output=tmp_path / "a", config=QUICK, quiet=True, database=database)
    assert not (tmp_path / "a").exists()
