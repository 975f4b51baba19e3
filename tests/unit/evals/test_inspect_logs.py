"""Evaluations as logs of inspect_ai, there and back, and logs that are damaged or mean harm."""

import json
import math
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docendo.errors import ConfigError, DataError, StorageError
from docendo.evals import (
    EvalRecord,
    EvalResult,
    Sample,
    compare,
    load_result,
    make_item,
    read_inspect_log,
    to_inspect_log,
)
from docendo.records import Usage

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def result_of(*rights: bool | None, name: str = "before") -> EvalResult:
    records = tuple(
        EvalRecord(
            item=f"item-{n}",
            question=f"{n} + 1?",
            text="" if right is None else f"It is {n + 1}.",
            parsed=None if right is None else str(n + 1),
            correct=right,
            failure="model: ModelFailure: the logits are not finite" if right is None else None,
            value=float(bool(right)),
            confidence=None if right is None else 0.5,
            stratum="easy",
            usage=Usage(prompt_tokens=9, cached_tokens=4, generated_tokens=2),
            seconds=0.25,
        )
        for n, right in enumerate(rights)
    )
    return EvalResult(
        name=name,
        task="sums",
        scorer="exact",
        records=records,
        majority=0.5,
        model="abc",
        adapter="def",
        sampling={"temperature": 0.0, "max_tokens": 8},
        seconds=3.0,
    )


@pytest.mark.parametrize("ending", [".eval", ".json"])
def test_an_evaluation_comes_back_from_a_log(tmp_path: Path, ending: str) -> None:
    result = result_of(True, False, None)
    path = to_inspect_log(result, tmp_path / "logs" / f"before{ending}")
    assert read_inspect_log(path) == load_result(path) == result
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_inspect_reads_samples_scores_errors_and_tokens(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    made = datetime(2026, 1, 2, tzinfo=UTC)
    log = read_eval_log(str(to_inspect_log(result_of(True, False, None), tmp_path / "a.eval", created=made)))
    right, wrong, failed = log.samples
    assert (right.id, right.input, right.target) == ("item-0", "0 + 1?", "")
    assert (right.output.completion, right.scores["exact"].value, right.scores["exact"].answer) == (
        "It is 1.",
        "C",
        "1",
    )
    assert wrong.scores["exact"].value == "I"
    assert (failed.scores, failed.error.message) == (None, "model: ModelFailure: the logits are not finite")
    usage = right.model_usage[log.eval.model]
    assert (usage.input_tokens, usage.input_tokens_cache_read, usage.output_tokens) == (5, 4, 2)
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    assert log.eval.metadata["docendo"]["failed"] == 1
    assert log.eval.created == made.isoformat()
    assert log.stats.model_usage[log.eval.model].total_tokens == 3 * 11


def test_gold_is_in_a_log_only_if_items_are_given(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    item = make_item("Which is a fruit?", "B", choices=["oak", "apple"], task="plants")
    record = EvalRecord(item=item.id, question=item.public.question, text="B", parsed="B", correct=True)
    result = EvalResult(name="x", task="plants", scorer="exact", records=(record,))
    (plain,) = read_eval_log(str(to_inspect_log(result, tmp_path / "plain.json"))).samples
    assert (plain.target, plain.choices) == ("", None)
    (with_gold,) = read_eval_log(str(to_inspect_log(result, tmp_path / "gold.json", items=[item]))).samples
    assert (with_gold.target, with_gold.choices) == ("B", ["oak", "apple"])
    other = make_item("Another?", 1)
    with pytest.raises(DataError, match=f"item {item.id} of 'x' is not among the items given"):
        to_inspect_log(result, tmp_path / "other.json", items=[other])


texts = st.text(st.characters(codec="utf-8"), max_size=20)
answers = st.builds(
    Sample,
    text=texts,
    parsed=st.none() | texts,
    correct=st.booleans(),
    value=st.floats(0, 1),
    score_failure=st.none() | texts,
    confidence=st.none() | st.floats(0, 1),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(st.lists(answers, min_size=1, max_size=3), min_size=1, max_size=3))
def test_whatever_was_answered_comes_back(drawn: list[list[Sample]], tmp_path: Path) -> None:
    records = tuple(
        EvalRecord(
            item=f"i{n}",
            question="?",
            text=first.text,
            parsed=first.parsed,
            correct=first.correct,
            value=first.value,
            score_failure=first.score_failure,
            confidence=first.confidence,
            stratum="s",
            more=tuple(more),
        )
        for n, (first, *more) in enumerate(drawn)
    )
    result = EvalResult(name="n", task="t", scorer="exact", records=records)
    assert read_inspect_log(to_inspect_log(result, tmp_path / "x.json")) == result


def test_text_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    record = EvalRecord(item="a", question="?", text="half \ud800", correct=True)
    path = to_inspect_log(
        EvalResult(name="n", task="t", scorer="exact", records=(record,)), tmp_path / "x.json"
    )
    assert read_inspect_log(path).records[0].text.startswith("half ")


def test_two_logs_are_compared_item_by_item(tmp_path: Path) -> None:
    before = to_inspect_log(result_of(*[False] * 12), tmp_path / "before.eval")
    after = to_inspect_log(result_of(*[True] * 11, None, name="after"), tmp_path / "after.json")
    found = compare(load_result(before), load_result(after))
    assert (found.n, found.up, found.failed, found.verdict) == (11, 11, 1, "better")


def test_a_log_needs_a_name_that_inspect_reads_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'x\.txt'; expected a name in \.eval or \.json"):
        to_inspect_log(result_of(True), tmp_path / "x.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        to_inspect_log(result_of(True), tmp_path / "file" / "x.json")


# --- logs of others ------------------------------------------------------------------------------


def write(path: Path, scores: list[Any], *, status: str = "success", **options: Any) -> Path:
    """A log as inspect_ai writes it: a list of (id, epoch, scores by scorer)."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.scorer import Score

    samples = [
        EvalSample(
            id=number,
            epoch=epoch,
            input="?",
            target="t",
            scores={name: Score(value=value) for name, value in given.items()} or None,
        )
        for number, epoch, given in scores
    ]
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="sums",
        dataset=EvalDataset(),
        model="hf/some",
        config=EvalConfig(),
        **options,
    )
    write_eval_log(EvalLog(status=status, eval=spec, samples=samples), str(path))
    return path


def test_scores_are_right_only_in_full(tmp_path: Path) -> None:
    values = ["C", "I", "P", "N", 1, 0, 1.0, 0.99, True, False]
    path = write(tmp_path / "x.json", [(n, 1, {"match": value}) for n, value in enumerate(values, start=1)])
    result = read_inspect_log(path)
    rights = [record.correct for record in result.records]
    assert rights == [True, False, False, False, True, False, True, False, True, False]
    assert [record.value for record in result.records][:3] == [1.0, 0.0, 0.5]
    assert (result.name, result.scorer, result.majority) == ("hf/some", "match", 1.0)
    assert result.records[0].item == "sums:1"


def test_what_has_no_score_has_failed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", [("a", 1, {"match": math.nan}), ("b", 1, {}), ("c", 1, {"match": "C"})])
    result = read_inspect_log(path)
    assert [record.failure for record in result.records] == [
        "task: match could not score it",
        "task: match gave no score",
        None,
    ]
    assert (result.n, result.failed) == (1, 2)


def test_epochs_are_samples_unless_one_is_chosen(tmp_path: Path) -> None:
    rows = [("a", 2, {"m": "C"}), ("a", 1, {"m": "I"}), ("b", 1, {"m": "C"}), ("b", 2, {})]
    path = write(tmp_path / "x.eval", rows)
    result = read_inspect_log(path)
    first, second = result.records
    assert [sample.correct for sample in first.samples] == [False, True]
    assert second.failure == "task: m gave no score"
    assert read_inspect_log(path, epoch=1).correct == 1
    with pytest.raises(ConfigError, match="epoch is 3; expected one of 1, 2"):
        load_result(path, epoch=3)


def test_a_choice_among_scorers_has_to_be_made(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", [("a", 1, {"one": "C", "two": [1, 2]})])
    with pytest.raises(ConfigError, match="has several scorers; expected scorer= one of one, two"):
        read_inspect_log(path)
    assert load_result(path, metric="one").correct == 1
    with pytest.raises(ConfigError, match="has no scorer 'three'"):
        read_inspect_log(path, scorer="three")
    with pytest.raises(
        DataError, match=r"two gave item a the score \[1, 2\]; expected C, I, P, N, or a number"
    ):
        read_inspect_log(path, scorer="two")


def test_an_evaluation_that_has_not_succeeded_is_refused(tmp_path: Path) -> None:
    rows = [("a", 1, {"m": "C"})]
    with pytest.raises(DataError, match="has the status 'cancelled'; expected success"):
        read_inspect_log(write(tmp_path / "x.json", rows, status="cancelled"))
    with pytest.raises(DataError, match="holds no samples"):
        read_inspect_log(write(tmp_path / "y.json", []))
    with pytest.raises(DataError, match="holds sample 'a' of epoch 1 more than once"):
        read_inspect_log(write(tmp_path / "z.json", rows * 2))
    with pytest.raises(DataError, match="holds no scores"):
        read_inspect_log(write(tmp_path / "s.json", [("a", 1, {})]))


def test_facts_of_the_wrong_kind_are_not_believed(tmp_path: Path) -> None:
    lies = {"majority": "much", "adapter": 3, "sampling": "hot", "seconds": math.inf, "name": "n"}
    path = write(tmp_path / "x.json", [("a", 1, {"m": "C"})], metadata={"docendo": lies})
    result = read_inspect_log(path)
    assert (result.majority, result.adapter, result.seconds, result.name) == (1.0, None, 0.0, "n")
    assert result.sampling == {}


def _zip(path: Path, **members: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_json", ".json"), data)
    return path.read_bytes()


@pytest.mark.parametrize("ending", [".eval", ".json"])
def test_files_that_are_no_logs_are_refused_in_one_line(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = to_inspect_log(result_of(True, False), tmp_path / f"whole{ending}").read_bytes()
    hostile = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "pickle": b"cos\nsystem\n(S'touch evil'\ntR.",  # a pickle
        "deep": b"[" * 100_000,
        "other": json.dumps({"eval": 3, "status": ["success"]}).encode(),
        "list": b"[1, 2]",
        "zip": _zip(tmp_path / "a.zip", header_json=b'{"eval": {}}', samples__a_json=b"{"),
        "bytes": bytes(range(256)) * 4,
    }
    for name, data in hostile.items():
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            read_inspect_log(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert not (tmp_path / "evil").exists()
    with pytest.raises(DataError, match="there is no file"):
        read_inspect_log(tmp_path / f"missing{ending}")


def test_a_log_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docendo.evals.interop import _inspect_read

    monkeypatch.setattr(_inspect_read, "_MOST_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.eval"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b" " * (5 << 20))
    with pytest.raises(DataError, match="would unpack to 5 MiB"):
        read_inspect_log(bomb)
