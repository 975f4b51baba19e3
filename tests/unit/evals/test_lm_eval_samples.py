"""Samples that lm-eval has logged as evaluations, and files that are no such samples."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from docendo.errors import ConfigError, DataError
from docendo.evals import compare, load_result, read_lm_eval_samples

DATE = "2026-01-02T03-04-05.678901"


def choice(doc: int, scores: list[float], target: int, **more: Any) -> dict[str, Any]:
    """A sample of multiple choice, as lm-eval logs it: numbers of answers as text."""
    answers = [[str(score), "False"] for score in scores]
    return {
        "doc_id": doc,
        "doc": {"q": f"q{doc}"},
        "target": str(target),
        "arguments": {
            f"gen_args_{n}": {"arg_0": f"Question {doc}", "arg_1": f" {'x' * (n + 1)}"}
            for n in range(len(scores))
        },
        "resps": [[answer] for answer in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"hash-{doc}",
        "acc": float(scores.index(max(scores)) == target),
        "acc_norm": 1.0,
        **more,
    }


def text(doc: int, answer: str, *, kept: str = "none", **metrics: Any) -> dict[str, Any]:
    return {
        "doc_id": doc,
        "target": "4",
        "arguments": {"gen_args_0": {"arg_0": "2 + 2?", "arg_1": {"until": ["\n"]}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": kept,
        "metrics": list(metrics),
        "doc_hash": f"hash-{doc}",
        **metrics,
    }


def write(folder: Path, rows: list[Any], *, task: str = "words", date: str = DATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task}_{date}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_multiple_choice_keeps_likelihoods_confidence_and_chance(tmp_path: Path) -> None:
    path = write(tmp_path, [choice(1, [-1.0, -3.0], 0), choice(0, [-2.0, -1.0], 0)])
    result = read_lm_eval_samples(path, metric="acc")
    second, first = result.records  # by the number of the document
    assert [first.item, second.item] == ["hash-1", "hash-0"]
    assert [first.correct, second.correct] == [True, False]
    assert (first.question, first.text, first.parsed) == ("Question 1", "x", "x")
    assert first.choices == (-1.0, -3.0)
    assert first.confidence == pytest.approx(1 / (1 + math.exp(-2)))
    assert (result.task, result.scorer, result.chance, result.majority) == ("words", "acc", 0.5, 1.0)


def test_normed_accuracy_judges_choices_by_their_length(tmp_path: Path) -> None:
    path = write(tmp_path, [choice(0, [-1.0, -1.5], 1)])
    assert read_lm_eval_samples(path, metric="acc").records[0].text == "x"
    normed = read_lm_eval_samples(path, metric="acc_norm").records[0]  # -1 and -0.75 for a character
    assert (normed.text, normed.correct) == ("xx", True)


def test_likelihoods_without_context_are_no_choices(tmp_path: Path) -> None:
    row = choice(0, [-2.0, -1.0, -0.1, -0.2], 1)
    for n in (2, 3):
        row["arguments"][f"gen_args_{n}"] = {"arg_0": "", "arg_1": f" {'x' * (n - 1)}"}
    assert read_lm_eval_samples(write(tmp_path, [row]), metric="acc").records[0].choices == (-2.0, -1.0)


def test_a_metric_has_to_be_chosen_among_several(tmp_path: Path) -> None:
    path = write(tmp_path, [choice(0, [-1.0, -2.0], 0)])
    with pytest.raises(ConfigError, match="has several metrics; expected metric= one of acc, acc_norm"):
        load_result(path)
    with pytest.raises(ConfigError, match="has no metric 'f1'"):
        load_result(path, metric="f1")
    # Named with the filter as in lm-eval's results, it is the same metric.
    assert load_result(path, metric="acc,none").scorer == "acc"


def test_filters_are_chosen_with_the_metric(tmp_path: Path) -> None:
    rows = [
        text(0, "4", kept="strict-match", exact_match=1.0),
        text(0, "It is 4", kept="flexible-extract", exact_match=0.0),
    ]
    path = write(tmp_path, rows)
    with pytest.raises(ConfigError, match="one of exact_match,strict-match, exact_match,flexible-extract"):
        load_result(path)
    result = load_result(path, metric="exact_match,flexible-extract")
    assert (result.n, result.correct, result.records[0].text) == (1, 0, "It is 4")


def test_values_of_one_are_right_and_nothing_less(tmp_path: Path) -> None:
    values = [1, True, 0.999, 0, None, math.nan]
    path = write(tmp_path, [text(n, "a", score=value) for n, value in enumerate(values)])
    result = read_lm_eval_samples(path)
    assert [record.correct for record in result.records] == [True, True, False, False, None, None]
    assert result.records[2].value == 0.999
    assert result.records[4].failure == "task: score has no value"
    with pytest.raises(
        DataError, match=r"word_perplexity of document 0 is .*; expected a number from 0 to 1"
    ):
        read_lm_eval_samples(write(tmp_path / "b", [text(0, "a", word_perplexity=[-3.0, 2])]))


def test_equal_documents_are_told_apart(tmp_path: Path) -> None:
    rows = [text(n, "a", exact_match=1.0) | {"doc_hash": "same"} for n in range(3)]
    result = read_lm_eval_samples(write(tmp_path, rows))
    assert [record.item for record in result.records] == ["same", "same:2", "same:3"]
    for row in rows:
        del row["doc_hash"]
    result = read_lm_eval_samples(write(tmp_path, rows))
    assert [record.item for record in result.records] == ["words:0", "words:1", "words:2"]


def test_two_runs_are_paired_by_their_documents(tmp_path: Path) -> None:
    before = write(tmp_path / "a", [text(n, "a", exact_match=0.0) for n in range(12)])
    # Another run, over some of the documents, in another order.
    after = write(tmp_path / "b", [text(n, "b", exact_match=1.0) for n in reversed(range(1, 12))])
    found = compare(load_result(before), load_result(after))
    assert (found.n, found.up, found.only_before, found.verdict) == (11, 11, 1, "better")


def test_the_results_beside_tell_of_the_model(tmp_path: Path) -> None:
    write(tmp_path / "model", [text(0, "a", exact_match=1.0)])
    facts = {
        "model_name": "some-model",
        "total_evaluation_time_seconds": "12.5",
        "config": {"model_fingerprint": "abc", "adapter_sha256": "def", "gen_kwargs": {"temperature": 0.5}},
    }
    beside = tmp_path / "model" / f"results_{DATE}.json"
    beside.write_text(json.dumps(facts))
    for path in (tmp_path, tmp_path / "model", beside):
        result = load_result(path)
        assert (result.name, result.model, result.adapter, result.seconds) == (
            "some-model",
            "abc",
            "def",
            12.5,
        )
        assert result.sampling == {"temperature": 0.5}
    assert load_result(tmp_path, name="mine").name == "mine"
    beside.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        load_result(tmp_path)
    beside.write_text(json.dumps({"config": [], "total_evaluation_time_seconds": "soon"}))
    assert (load_result(tmp_path).model, load_result(tmp_path).seconds) == ("", 0.0)


def test_a_folder_with_several_files_asks_which(tmp_path: Path) -> None:
    rows = [text(0, "a", exact_match=1.0)]
    write(tmp_path, rows)
    write(tmp_path, rows, task="more_words")
    with pytest.raises(ConfigError, match="holds several tasks; expected task= one of more_words, words"):
        load_result(tmp_path)
    assert load_result(tmp_path, task="words").task == "words"
    with pytest.raises(DataError, match="holds no samples of the task 'none'"):
        load_result(tmp_path, task="none")
    later = write(tmp_path, rows, date="2026-02-02T03-04-05.678901")
    with pytest.raises(DataError, match=f"holds 2 runs of words; name one, such as {later}"):
        load_result(tmp_path, task="words")
    assert load_result(later).n == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of .* is not JSON"),
        ("[" * 100_000, "line 2 of .* is not JSON"),
        ("[1]", "line 2 of .* has no doc_id"),
        ('{"doc_id": "x", "metrics": ["exact_match"]}', "has the doc_id 'x'; expected a number"),
        ('{"doc_id": true}', "has the doc_id True"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, [text(0, "a", exact_match=1.0)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        load_result(path)
    assert "\n" not in str(caught.value)


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        load_result(write(tmp_path, []))
    with pytest.raises(DataError, match="says of no metric"):
        load_result(write(tmp_path, [{"doc_id": 0}]))
    path = tmp_path / "samples_x.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        load_result(path)


def test_strange_answers_are_text_and_no_error(tmp_path: Path) -> None:
    rows = [
        text(0, "a", exact_match=1.0) | {"filtered_resps": strange, "arguments": asked}
        for strange, asked in (
            ([["-1.0", "maybe"]], {"gen_args_0": 3}),
            ([["nan", "True"]], "none"),
            ({}, [["a", "b"]]),
            ([["x", "True"], ["-1", "True"]], [[], ["a"]]),
        )
    ]
    result = read_lm_eval_samples(write(tmp_path, [row | {"doc_id": n} for n, row in enumerate(rows)]))
    assert [record.choices for record in result.records] == [()] * 4
    assert result.correct == 4


# --- whichever it is -----------------------------------------------------------------------------


def test_a_result_folder_of_docendo_is_one_too(tmp_path: Path) -> None:
    result = read_lm_eval_samples(write(tmp_path / "a", [text(0, "a", exact_match=1.0)]))
    folder = result.save(tmp_path / "runs" / "own")
    assert load_result(folder) == result
    assert load_result(folder, name="mine").name == "mine"
    with pytest.raises(ConfigError, match="metric was given, which evaluations of docendo do not have"):
        load_result(folder, metric="acc")
    with pytest.raises(DataError, match=f"is no evaluation; expected a result folder.*did you mean {folder}"):
        load_result(tmp_path / "runs")


def test_what_is_no_evaluation_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*missing; expected a result folder of docendo"):
        load_result(tmp_path / "missing")
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    for path in (other, tmp_path):
        with pytest.raises(DataError, match="is no evaluation"):
            load_result(path)
