"""Journal: the first writer wins, values come back as stored, damage is an error."""

import threading

import pytest

from docendo.errors import DataError, IntegrityError
from docendo.hashing import digest
from docendo.memory import Journal
from docendo.memory.storage import _schema
from docendo.records import Completion, Result, Usage


@pytest.fixture
def journal(database_url):
    with Journal.open(database_url) as opened:
        yield opened


def test_the_first_writer_wins(journal):
    assert journal.get("k") is None
    assert journal.put("k", {"v": (1, 2)}) == {"v": [1, 2]}
    assert journal.put("k", {"v": 3}) == {"v": [1, 2]}
    assert journal.get("k") == {"v": [1, 2]}


def test_of_many_threads_one_wins_and_all_agree(journal):
    answers = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(journal.put("k", {"n": n}))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [journal.get("k")] * 8


def test_a_result_comes_back_exactly(journal, database_url):
    completion = Completion(text="a\x00b \ud800 é\u2028", token_ids=(1, 2), logprobs=(-0.1, -1e-300))
    result = Result(
        completions=(completion,), usage=Usage(prompt_tokens=3), seed=2**63 - 1, seconds=0.1 + 0.2
    )
    key = digest("model", "prompt")
    journal.put(key, result.to_json())
    journal.close()
    with Journal.open(database_url) as reopened:
        assert Result.from_json(reopened.get(key)) == result


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("", {}, "the journal key is empty"),
        ("k", [1], "value is a list"),
        ("k", {"logprobs": [0.0, float("-inf")]}, r"value.logprobs\[1\] is -inf"),
        ("k", {"a": object()}, "value.a is a object"),
    ],
)
def test_malformed_entries_are_refused(journal, key, value, message):
    with pytest.raises(DataError, match=message):
        journal.put(key, value)
    assert journal.verify().records == 0


@pytest.mark.parametrize("change", [{"value": '{"v":2}'}, {"key": "l"}, {"hash": "x"}, {"created": 1.0}])
def test_damage_is_an_error_and_named(journal, change):
    journal.put("k", {"v": 1})
    with journal.database.transaction() as connection:
        connection.execute(_schema.journal.update().values(**change))
    name = "l" if "key" in change else "k"
    with pytest.raises(IntegrityError, match=f"journal entry '{name}' does not match"):
        journal.get(name)
    with pytest.raises(IntegrityError, match=f"journal entry '{name}' does not match"):
        journal.put(name, {"v": 1})
    report = journal.verify()
    assert [(damage.record, damage.id) for damage in report.damage] == [("journal entry", name)]
