"""Data sets on disk, and mixed with each other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.cli import main
from docendo.distill import (
    Adapter,
    DatasetManifest,
    contrastive_dataset,
    dataset_manifest,
    load_dataset,
    mix_datasets,
    save_dataset,
    sft_dataset,
)
from docendo.errors import ConfigError, DataError, IntegrityError, LeakError
from docendo.memory import Artifacts, Database, TraceStore
from docendo.records import Author, Gold, Item, PublicItem, Trace


def item(name: str, question: str) -> Item:
    return Item(public=PublicItem(id=name, question=question, split="train"), gold=Gold("4"))


ITEMS = [item(f"i{n}", f"{n} + {n} =") for n in range(6)]
TEST = [item("t", "7 + 8 =")]
COMMON: dict[str, Any] = {"items": ITEMS, "exclude": TEST}


def turn(number: int, text: str, value: float = 1.0) -> Trace:
    return Trace(
        id=f"{number} {text}",
        run="r",
        item=f"i{number}",
        author=Author(agent="student", role="student"),
        messages=({"role": "user", "content": f"{number} + {number} ="},),
        completion=text,
        split="train",
        rewards={"verified": value},
        posts=(f"post of {number}",),
    )


TRACES = [
    turn(n, text, float(text != "no")) for n in range(6) for text in (str(2 * n), f"ist {2 * n} ü", "no")
]


@pytest.fixture
def sft() -> Dataset:
    return sft_dataset(TRACES, student=None, **COMMON)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_folder_gives_back_rows_and_manifest(tmp_path: Path, sft: Dataset, format: Any) -> None:
    for name, data in (("sft", sft), ("contrast", contrastive_dataset(TRACES, **COMMON))):
        saved = save_dataset(data, tmp_path / name, format=format)
        again = load_dataset(tmp_path / name)
        assert again.to_list() == data.to_list()
        assert dataset_manifest(again) == dataset_manifest(data) == saved
        assert not saved.changed
    assert sorted(path.name for path in (tmp_path / "sft").iterdir()) == [f"data.{format}", "manifest.json"]


def test_lines_can_be_read_by_eye_and_are_the_same_each_time(tmp_path: Path, sft: Dataset) -> None:
    save_dataset(sft, tmp_path / "a")
    save_dataset(sft, tmp_path / "b")
    lines = (tmp_path / "a" / "data.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == sft.to_list()
    assert "ist 0 ü" in lines[1]
    for name in ("data.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_edit_goes_unnoticed(tmp_path: Path, sft: Dataset) -> None:
    save_dataset(sft, tmp_path / "d")
    file = tmp_path / "d" / "data.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("ist 2", "ist 3"), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"data\.jsonl does not match"):
        load_dataset(tmp_path / "d")
    save_dataset(sft, tmp_path / "d")
    manifest = tmp_path / "d" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"kept": 12', '"kept": 11'))
    with pytest.raises(IntegrityError, match=r"manifest\.json is missing or damaged"):
        load_dataset(tmp_path / "d")


def test_rows_that_were_changed_after_the_build_are_marked(tmp_path: Path, sft: Dataset) -> None:
    assert dataset_manifest(sft).traces[0] == "0 0"
    some = sft.select([2, 3])
    found = save_dataset(some, tmp_path / "d")
    assert (found.changed, found.rows, found.traces) == (True, 2, ("1 2", "1 ist 2 ü"))
    assert dataset_manifest(load_dataset(tmp_path / "d")) == found
    assert (found.seen, found.kept) == (18, 12)


def test_other_folders_and_data_sets_are_refused(tmp_path: Path, sft: Dataset) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists and is no data set"):
        save_dataset(sft, tmp_path / "mine")
    with pytest.raises(ConfigError, match="format is 'csv'"):
        save_dataset(sft, tmp_path / "x", format="csv")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holds no data set"):
        load_dataset(tmp_path / "mine")
    with pytest.raises(DataError, match="carries no manifest"):
        save_dataset(Dataset.from_list([{"a": 1}]), tmp_path / "x")
    with pytest.raises(DataError, match="1 kept and 1 left out; expected 3"):
        DatasetManifest(builder="x", seen=3, kept=1, left_out={"why": 1})


def test_the_command_line_trains_from_a_folder(
    tiny_model_dir: Path, tmp_path: Path, sft: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    save_dataset(sft, tmp_path / "data")
    arguments = ["distill", "--model", str(tiny_model_dir), "--data", str(tmp_path / "data")]
    arguments += ["--max-steps", "2", "--batch-size", "4", "--rank", "4"]
    assert main([*arguments, "--output", str(tmp_path / "adapter")]) == 0
    made = Adapter.open(tmp_path / "adapter").manifest
    assert made["data"]["digest"] == dataset_manifest(sft).digest
    assert made["lineage"]["traces"] == list(dataset_manifest(sft).traces)
    with (tmp_path / "data" / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert main([*arguments, "--output", str(tmp_path / "other")]) != 0
    assert "does not match" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


class TestMixing:
    def test_all_rows_once_spread_evenly(self) -> None:
        rows = [{"text": str(n)} for n in range(8)]
        mixed = mix_datasets({"big": rows, "small": [{"text": "a"}, {"text": "b"}]}, exclude=TEST)
        assert "".join("s" if source == "small" else "." for source in mixed["source"]) == "..s....s.."
        assert sorted(mixed["text"]) == sorted([*map(str, range(8)), "a", "b"])

    def test_shares_and_temperature(self) -> None:
        parts = {"a": [{"n": n} for n in range(90)], "b": [{"n": n} for n in range(10)]}

        def counts(**options: Any) -> dict[str, int]:
            return dict(Counter(mix_datasets(parts, exclude=TEST, **options)["source"]))

        assert counts() == {"a": 90, "b": 10}
        assert counts(weights={"a": 3, "b": 1}) == {"a": 30, "b": 10}
        # 90 ** 0.5 : 10 ** 0.5 is 3 : 1.
        assert counts(temperature=2.0) == {"a": 30, "b": 10}
        assert counts(weights={"a": 3, "b": 1}, stopping_strategy="all_exhausted") == {"a": 90, "b": 30}
        assert counts(temperature=1e9) == {"a": 10, "b": 10}

    def test_columns_are_joined_and_lineage_is_kept(self, sft: Dataset) -> None:
        ask, reply = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
        plain = [{"prompt": [ask], "completion": [reply]}]
        with Database.open(":memory:") as database:
            TraceStore(database).add(TRACES)
            mixed = mix_datasets({"sft": sft, "plain": plain}, exclude=TEST, database=database)
            (artifact,) = Artifacts(database).find()
        row = next(row for row in mixed if row["source"] == "plain")
        assert (row["weight"], row["item"], row["posts"]) == (1.0, None, None)
        manifest = dataset_manifest(mixed)
        assert (artifact.id, artifact.sources) == (manifest.digest, manifest.traces)
        assert set(manifest.traces) == set(dataset_manifest(sft).traces)
        again = mix_datasets({"all": mixed}, exclude=TEST)
        assert set(again["source"]) == {"all/sft", "all/plain"}

    def test_an_item_that_is_a_test_item_elsewhere_is_a_leak(self, sft: Dataset) -> None:
        with pytest.raises(LeakError, match="excluded item 'i3'"):
            mix_datasets({"sft": sft}, exclude=[ITEMS[3]])
        with pytest.raises(LeakError, match="excluded item 'other'"):
            mix_datasets({"sft": sft}, exclude=[item("other", "4  + 4 =")])

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"temperature": 0}, ConfigError, "temperature is 0"),
            ({"weights": {"a": 1}}, ConfigError, "weights are given for a"),
            ({"weights": {"a": 1, "b": float("nan")}}, ConfigError, "weight of 'b' is nan"),
            ({"weights": {"a": 1, "b": 0}}, ConfigError, "weight of 'b' is 0"),
            ({"stopping_strategy": "never"}, ConfigError, "stopping_strategy is 'never'"),
            ({"seed": "x"}, ConfigError, "seed is 'x'"),
            ({"datasets": {}}, DataError, "nothing to mix"),
            ({"datasets": {"a": []}}, DataError, "'a' is empty"),
            ({"datasets": {"a": [{"p": "x"}], "b": [{"p": [{"x": 1}]}]}}, DataError, "do not fit"),
        ],
    )
    def test_settings_are_checked(self, options: Any, error: type[Exception], message: str) -> None:
        given_ = {"datasets": {"a": [{"n": 1}], "b": [{"n": 2}]}, "exclude": TEST, **options}
        with pytest.raises(error, match=message):
            mix_datasets(given_.pop("datasets"), **given_)

    @given(
        sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
        weights=st.lists(st.floats(0.3, 3), min_size=3, max_size=3),
        temperature=st.sampled_from([0.7, 1.0, 3.0]),
        every=st.booleans(),
        seed=st.one_of(st.none(), st.integers(0, 3)),
    )
    @settings(max_examples=30, deadline=None)
    def test_shares_are_kept_to_a_row_and_nothing_is_lost(
        self, sizes: list[int], weights: list[float], temperature: float, every: bool, seed: int | None
    ) -> None:
        parts = {f"p{k}": [{"n": f"{k}/{n}"} for n in range(size)] for k, size in enumerate(sizes)}
        options: dict[str, Any] = {
            "weights": dict(zip(parts, weights, strict=False)),
            "temperature": temperature,
            "stopping_strategy": "all_exhausted" if every else "first_exhausted",
            "seed": seed,
        }
        mixed = mix_datasets(parts, exclude=TEST, **options)
        assert mixed.to_list() == mix_datasets(parts, exclude=TEST, **options).to_list()
        manifest = dataset_manifest(mixed)
        seen = Counter(mixed["n"])
        assert manifest.kept == len(seen)
        assert manifest.seen == sum(sizes)
        shares = manifest.settings["shares"]
        found = Counter(mixed["source"])
        if every:
            assert len(seen) == sum(sizes)
        else:
            assert max(seen.values()) == 1
        for name in parts:
            assert abs(found[name] - len(mixed) * shares[name]) <= len(parts)
