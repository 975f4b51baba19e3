import json

import pytest

from docendo.errors import ConfigError, DataError, LeakError, StorageError
from docendo.evals import ExactScorer, Task, make_item, normalise, tasks
from docendo.evals.items._tasks import _example, reference
from docendo.records import Gold

CHAIN = {"min_terms": 2, "max_terms": 3, "max_digits": 2}


def texts(items):
    return [normalise(item.public.question) for item in items]


def ids(items):
    return [item.id for item in items]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def chain():
    return tasks("reasoning_gym:chain_sum", train=400, test=200, dev=50, **CHAIN)


def test_the_splits_are_disjoint_by_text(chain):
    parts = [set(texts(part)) for part in (chain.train, chain.dev, chain.test)]
    assert [len(part) for part in parts] == [400, 50, 200]
    assert len(set.union(*parts)) == 650
    assert {item.public.split for item in chain.test} == {"test"}
    assert {item.public.split for item in chain.train} == {"train"}


def test_the_same_arguments_give_the_same_task(chain):
    again = tasks("reasoning_gym:chain_sum", train=400, test=200, dev=50, **CHAIN)
    assert again.fingerprint == chain.fingerprint
    assert ids(again.test) == ids(chain.test)
    assert (
        tasks("reasoning_gym:chain_sum", train=400, test=200, dev=50, seed=1, **CHAIN).fingerprint
        != chain.fingerprint
    )


@pytest.mark.parametrize(
    "sizes", [{"train": 0, "test": 200}, {"train": 30, "test": 80}, {"train": 900, "test": 200}]
)
def test_test_items_do_not_depend_on_the_other_sizes(chain, sizes):
    other = tasks("reasoning_gym:chain_sum", **sizes, **CHAIN)
    assert ids(other.test) == ids(chain.test)[: sizes["test"]]


def test_no_other_seed_or_size_tests_on_what_was_trained(chain):
    trained = set(texts(chain.train))
    for seed in range(3):
        other = tasks("reasoning_gym:chain_sum", train=0, test=400, seed=seed, **CHAIN)
        assert not trained & set(texts(other.test))


def test_a_small_space_is_split_whole_and_says_how_large_it_is():
    tiny = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    whole = tasks("reasoning_gym:chain_sum", train=120, test=80, **tiny)
    assert len(set(texts(whole.train)) | set(texts(whole.test))) == 200
    assert ids(tasks("reasoning_gym:chain_sum", train=20, test=80, **tiny).test) == ids(whole.test)
    with pytest.raises(DataError, match="200 distinct questions, but 201 were asked for"):
        tasks("reasoning_gym:chain_sum", train=120, test=81, **tiny)


def test_a_test_part_that_has_to_borrow_ignores_the_training_size():
    tiny = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    large = [ids(tasks("reasoning_gym:chain_sum", train=n, test=150, **tiny).test) for n in (0, 10, 50)]
    assert large[0] == large[1] == large[2]


def test_metadata_never_holds_the_answer():
    for name in ("gcd", "leg_counting", "count_bits", "number_sorting", "letter_counting", "chain_sum"):
        for item in tasks(f"reasoning_gym:{name}", test=5).test:
            assert set(item.public.metadata) <= {"difficulty", "expression"}
            assert repr(item.gold) == "<gold>"
    assert item.public.metadata["expression"] in item.public.question


# Cheap generators of each kind of answer: numbers, texts, lists, grids, formulas, many right answers.
NAMES = "chain_sum basic_arithmetic gcd products spell_backward number_sorting countdown mini_sudoku"
NAMES += " knights_knaves fraction_simplification prime_factorization syllogism time_intervals"
NAMES += " game_of_life_halting simple_equations"
NAMES += " letter_counting n_queens polynomial_multiplication caesar_cipher power_function"


@pytest.mark.parametrize("name", NAMES.split())
def test_each_reference_answer_is_right_and_junk_is_not(name):
    task = tasks(f"reasoning_gym:{name}", test=4)
    for item in task.test:
        answer = reference(item)
        assert task.scorer.score(item, f"Let me think.\nAnswer: {answer}").correct, answer
        for junk in (
            "",
            "Answer:",
            "no idea",
            "0.12345",
            "\ud800",
            "((((",
            "9" * 5000,
            "Answer: 1e999999999",
        ):
            assert not task.scorer.score(item, junk).correct, junk


def test_items_without_a_reference_answer_can_be_scored_but_not_shown():
    task = tasks("reasoning_gym:propositional_logic", train=3, test=3)
    assert reference(task.test[0]) is None
    assert not task.scorer.score(task.test[0], "Answer: nothing").correct
    assert not task.scorer.leaks(task.test[0], "a hint")
    with pytest.raises(DataError, match="no reference answers"):
        task.examples(1)


@pytest.mark.parametrize(
    ("source", "config", "error", "message"),
    [
        ("reasoning_gym:chain_sums", {}, DataError, "did you mean chain_sum"),
        ("reasoning_gym:composit", {}, DataError, "one of its 105 names; see docendo tasks list"),
        ("reasoning_gym:composite", {}, DataError, "composite"),
        (
            "reasoning_gym:chain_sum",
            {"max_term": 3},
            ConfigError,
            "no setting 'max_term'.*did you mean max_terms",
        ),
        ("reasoning_gym:chain_sum", {"max_terms": 1}, ConfigError, "refuses max_terms=1"),
        ("reasoning_gym:chain_sum", {"size": 10}, ConfigError, "no setting 'size'"),
        ("reasoning_gym:chain_sum", {"columns": {"question": "q"}}, ConfigError, "columns"),
        ("arithmetic", {}, DataError, "task source 'arithmetic' is unknown"),
        ("jsonl:/no/such.jsonl", {}, DataError, "does not exist"),
        ("datasets:/no/such/folder", {}, DataError, "cannot load the data set"),
        ("datasets:x", {"split": "a"}, ConfigError, "unknown setting 'split'"),
        ("a.jsonl", {"max_terms": 2}, ConfigError, "unknown setting 'max_terms'"),
        ("a.jsonl", {"columns": {"input": "q"}}, ConfigError, "columns has the key 'input'"),
        ("reasoning_gym:chain_sum", {"test": 0}, DataError, "are all 0"),
        ("reasoning_gym:chain_sum", {"test": -1}, ConfigError, "test is -1"),
        ("reasoning_gym:chain_sum", {"seed": None}, ConfigError, "seed is None"),
        ("reasoning_gym:chain_sum", {"seed": "a"}, ConfigError, "seed is 'a'"),
        ("reasoning_gym:chain_sum", {"compact": "false"}, ConfigError, "compact is 'false'"),
        ("reasoning_gym:chain_sum", {"scorer": "math"}, ConfigError, "scorer is 'math'; expected a Scorer"),
        ("reasoning_gym:chain_sum", {"min_terms": 2.5, "max_terms": 3}, DataError, "give it other settings"),
        (3, {}, DataError, "task source is 3; expected"),
    ],
)
def test_a_wrong_source_or_setting_is_one_clear_line(source, config, error, message):
    with pytest.raises(error, match=message) as caught:
        tasks(source, **config)
    assert "\n" not in str(caught.value)


def test_examples_are_worked_out_and_come_from_training_items(chain):
    examples = chain.examples(6)
    by_id = {item.id: item for item in chain.train}
    for example in examples:
        item = by_id[example.item]
        assert example.question == item.public.question
        lines = example.answer.splitlines()
        assert lines[-1] == f"Answer: {reference(item)}"
        assert len(lines) == item.public.metadata["expression"].count(" ") // 2 + 1
        assert chain.scorer.score(item, example.answer).correct
    assert chain.examples(6) == examples
    assert chain.examples(6, seed=1) != examples
    assert chain.examples(3) == examples[:3]


def test_without_takes_the_examples_out_of_training(chain):
    examples = chain.examples(6)
    rest = chain.without(examples)
    assert len(rest.train) == 394
    assert not {example.item for example in examples} & set(ids(rest.train))
    assert rest.test == chain.test
    assert rest.fingerprint != chain.fingerprint


def test_other_tasks_have_examples_with_the_answer_alone():
    task = tasks("reasoning_gym:spell_backward", train=5, test=5)
    (example,) = task.examples(1)
    assert example.answer.startswith("Answer: ")
    assert "\n" not in example.answer


def test_examples_without_steps_have_the_answer_alone(chain):
    (example,) = chain.examples(1, steps=False)
    assert example.answer == "Answer: " + chain.examples(1)[0].answer.rpartition(" ")[2]


def test_too_many_examples_are_refused(chain):
    with pytest.raises(DataError, match="expected 0 to 400"):
        chain.examples(401)


def test_a_test_item_never_becomes_an_example(chain):
    with pytest.raises(LeakError, match="is a test item"):
        _example(chain.test[0], steps=True)


def rows(n):
    return [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(n)]


def test_json_lines_in_any_order_give_the_same_split(tmp_path):
    first = tasks(str(write(tmp_path / "sums.jsonl", rows(60))), train=30, test=20)
    second = tasks("jsonl:" + str(write(tmp_path / "sums.jsonl", rows(60)[::-1])), train=5, test=20)
    assert ids(first.test) == ids(second.test)
    assert first.name == "sums"
    assert not set(texts(first.train)) & set(texts(first.test))
    assert first.scorer.score(first.test[0], f"Answer: {reference(first.test[0])}").correct


def test_all_lines_of_a_file_can_be_used(tmp_path):
    task = tasks(str(write(tmp_path / "sums.jsonl", rows(30))), train=10, dev=10, test=10)
    assert len({*ids(task.train), *ids(task.dev), *ids(task.test)}) == 30


def test_columns_blank_lines_byte_order_mark_and_choices(tmp_path):
    path = tmp_path / "quiz.jsonl"
    row = {"prompt": "Which is a fruit?", "label": "B", "choices": ["stone", "apple"]}
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(row).encode() + b"\n\n")
    task = tasks(str(path), test=1, columns={"question": "prompt", "answer": "label"})
    assert task.test[0].public.choices == ("stone", "apple")
    assert task.scorer.score(task.test[0], "apple").correct


def test_the_same_question_twice_counts_once_and_two_answers_are_an_error(tmp_path):
    twice = [*rows(3), {"question": "what  is 0 + 1?", "answer": 1}]
    assert len(tasks(str(write(tmp_path / "a.jsonl", twice)), test=3).test) == 3
    with pytest.raises(DataError, match="3 distinct questions, but 4"):
        tasks(str(tmp_path / "a.jsonl"), test=4)
    contrary = [*rows(3), {"question": "What is  0 + 1?", "answer": 2}]
    with pytest.raises(DataError, match=r"line \d: the question of .*line \d again, with another answer"):
        tasks(str(write(tmp_path / "b.jsonl", contrary)), test=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a", "answer": 1', r"line 2: not JSON \(.* at column \d+\)"),
        ("[1]", "line 2: list; expected an object"),
        ('{"question": "a"}', "line 2: field 'answer' is missing"),
        ('{"question": "", "answer": 1}', "line 2: field 'question' is ''"),
        ('{"question": 5, "answer": 1}', "line 2: field 'question' is 5"),
        ('{"question": "a", "answer": null}', "line 2: field 'answer' is None"),
        ('{"question": "a", "answer": true}', "line 2: field 'answer' is True"),
        ('{"question": "a", "answer": " "}', "line 2: field 'answer' is ' '"),
        ('{"question": "a", "answer": "x", "choices": "xy"}', "line 2: field 'choices' is 'xy'"),
        (
            '{"question": "a", "answer": "z", "choices": ["x", "y"]}',
            "line 2: answer 'z' names 0 of the choices",
        ),
        ("[" * 100_000, "line 2: (nested too deeply|not JSON)"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "good", "answer": 1}\n' + line + "\n")
    with pytest.raises(DataError, match="bad.jsonl, " + message):
        tasks(str(path), test=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a\\ud800", "answer": 1}', r"question has half a character at 1, '\\ud800'"),
        ('{"question": "a", "answer": "\\ud800"}', "answer has half a character at 0"),
        ('{"question": "a", "answer": ' + "9" * 5000 + "}", "a number of too many digits"),
        ('{"question": "a", "answer": "1", "id": "\\ud800"}', "id has half a character"),
        (
            '{"question": "Which?", "answer": "C", "choices": ["x", " x ", "y"]}',
            "the choices of 'Which.' are 'x', ' x ', 'y'; expected each once, and not 'x' twice",
        ),
    ],
)
def test_what_no_item_can_hold_is_named_with_its_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    columns = {"id": "id"} if '"id"' in line else None
    with pytest.raises(DataError, match=f"a.jsonl, line 1: {message}"):
        tasks(str(tmp_path / "a.jsonl"), test=1, columns=columns)


def test_files_that_cannot_be_tasks(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no question"):
        tasks(str(tmp_path / "empty.jsonl"), test=1)
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": 1}')
    with pytest.raises(DataError, match="not UTF-8 at byte"):
        tasks(str(tmp_path / "latin.jsonl"), test=1)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        tasks(str(tmp_path / "folder.jsonl"), test=1)


def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"q": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(20)])
    datasets.DatasetDict({"train": table, "validation": table.select(range(5))}).save_to_disk(
        str(tmp_path / "sums")
    )
    source = f"datasets:{tmp_path / 'sums'}"
    assert len(tasks(source, train=10, test=10, columns={"question": "q"}).train) == 10
    assert len(tasks(source + ":validation", test=5, columns={"question": "q"}).test) == 5
    with pytest.raises(DataError, match="has no split 'test'"):
        tasks(source + ":test", test=1)
    with pytest.raises(DataError, match=r"row 0: field 'question' is missing \(there is answer, q\)"):
        tasks(source, test=1)


def test_an_item_with_a_gold_of_the_users_own_has_no_reference():
    item = make_item("What?", 1)
    own = type(item)(public=item.public, gold=Gold({"weights": [1]}))
    assert reference(own) is None
    assert Task(name="own", test=(own,)).scorer.name == ExactScorer.name
