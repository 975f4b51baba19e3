"""Files with columns of all kinds, mixtures, and what may not be in both parts."""

import json

import pytest

from docendo import evals
from docendo.errors import ConfigError, DataError, LeakError, StorageError
from docendo.evals import ExactScorer, MathScorer, evaluate, make_item, mix, require_disjoint, tasks

ROWS = [
    {"q": f"What is {n}?", "a": str(n), "kind": "even" if n % 2 == 0 else "odd", "no": n} for n in range(12)
]


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_csv(path, separator=","):
    lines = [separator.join(ROWS[0]), *(separator.join(map(str, row.values())) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def write_parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


COLUMNS = {"question": "q", "answer": "a", "id": "no", "stratum": "kind"}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_the_same_rows_are_the_same_task_in_every_format(tmp_path, ending):
    path, other = tmp_path / f"rows.{ending}", tmp_path / "other" / "rows.jsonl"
    other.parent.mkdir()
    write_jsonl(other)
    if ending == "parquet":
        write_parquet(path)
    elif ending == "jsonl":
        write_jsonl(path)
    else:
        write_csv(path, "\t" if ending == "tsv" else ",")
    task = tasks(str(path), train=5, test=5, columns=COLUMNS)
    same = tasks(f"jsonl:{other}", train=5, test=5, columns=COLUMNS)
    assert [item.id for item in task.test] == [item.id for item in same.test]
    assert task.fingerprint == same.fingerprint
    item = task.test[0]
    number = item.public.question.split()[2].rstrip("?")
    assert item.public.metadata == {"source_id": number, "stratum": "odd" if int(number) % 2 else "even"}
    assert task.scorer.score(item, number).correct
    if ending in ("csv", "parquet"):
        short = tasks(f"{ending}:{path}", test=3, columns=COLUMNS)
        assert [item.id for item in short.test] == [item.id for item in task.test[:3]]


def rows_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_templates_nested_columns_and_places_of_the_right_choice(tmp_path):
    rows = [
        {
            "context": f"Ann has {n} pears.",
            "ask": "How many?",
            "choices": {"text": [str(n + 1), str(n)]},
            "right": 1,
        }
        for n in range(4)
    ]
    columns = {"question": "{context} {ask}", "answer_index": "right", "choices": "choices.text"}
    task = tasks(rows_of(tmp_path / "nested.jsonl", rows), test=4, columns=columns)
    assert "Ann has 2 pears. How many?\nA. 3\nB. 2" in {item.public.question for item in task.test}
    for item in task.test:
        assert task.scorer.score(item, "B").correct
        assert not task.scorer.score(item, "A").correct


def right(task):
    return {item.public.question.split("\n")[0]: task.scorer.answer(item) for item in task.test}


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("red", ["blue", "red"], "B"),
        ("b", ["blue", "red"], "B"),
        (1, ["blue", "red"], "B"),
        ("1", ["blue", "red"], "B"),
        (1, ["0", "1"], "B"),  # the place and the text are the same choice
        ("4", ["2", "4"], "B"),
        ("2", ["1", "2", "4"], "B"),  # a text: nothing in this column can only be a place
    ],
)
def test_an_answer_is_a_choice_its_letter_or_its_place(tmp_path, answer, choices, letter):
    path = rows_of(tmp_path / "one.jsonl", [{"question": "Which?", "answer": answer, "choices": choices}])
    assert right(tasks(path, test=1)) == {"Which?": letter}


@pytest.mark.parametrize("kind", [int, str])
def test_a_number_that_is_a_choice_and_the_place_of_another_is_refused(tmp_path, kind):
    rows = [
        {"question": "How many?", "answer": kind(1), "choices": ["1", "2"]},
        {"question": "Which?", "answer": kind(0), "choices": ["red", "blue"]},
    ]
    path = rows_of(tmp_path / "numbers.jsonl", rows)
    with pytest.raises(DataError) as error:
        tasks(path, test=2)
    assert "line 1: field 'answer' is" in str(error.value)
    assert "say that it is a place with columns={\"answer_index\": 'answer'}" in str(error.value)
    placed = tasks(path, test=2, columns={"answer_index": "answer"})
    assert right(placed) == {"How many?": "B", "Which?": "A"}


def test_labels_of_choices_count_as_the_data_set_counts(tmp_path):
    rows = [
        {"question": "Which?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "key": "2"},
        {"question": "How many?", "choices": {"text": ["2", "3"], "label": ["A", "B"]}, "key": "A"},
    ]
    path = rows_of(tmp_path / "labelled.jsonl", rows)
    columns = {"choices": "choices.text", "answer": "key", "labels": "choices.label"}
    assert right(tasks(path, test=2, columns=columns)) == {"Which?": "B", "How many?": "A"}
    with pytest.raises(DataError, match=r"line 1: field 'key' is '2'; expected 0 to 1.*columns=.\"labels\""):
        tasks(path, test=2, columns={"choices": "choices.text", "answer": "key"})
    rows[0]["key"] = "3"
    with pytest.raises(DataError, match="field 'key' is '3', with 2 choices labelled 1, 2"):
        tasks(rows_of(tmp_path / "off.jsonl", rows), test=2, columns=columns)


def test_choices_in_columns_of_their_own(tmp_path):
    path = tmp_path / "choices.csv"
    path.write_text("question,A,B,answer\nRed or blue blood?,blue,red,B\nOne or two?,one,two,0\n")
    task = tasks(str(path), test=2, columns={"choices": ["A", "B"]})
    assert right(task) == {"Red or blue blood?": "B", "One or two?": "A"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("question,answer\na,1,2\n", "line 2: another number of cells"),
        ("question,answer\na\n", "line 2: another number of cells"),
        ("question,response\na,1\n", "line 2: field 'answer' is missing (there is question, response)"),
        ('question,answer\n"a,1\n', "expected a well-formed table"),
        ("question,answer\n", "holds no question"),
        ("question,answer,answer\na,1,2\n", "line 1: the column 'answer' is there twice"),
    ],
)
def test_a_broken_table_is_named_by_its_line(tmp_path, text, line):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        tasks(str(path), test=1)
    assert line in str(error.value)


def test_files_that_are_not_what_they_are_called(tmp_path):
    broken = tmp_path / "rows.parquet"
    with pytest.raises(DataError, match=r"rows\.parquet does not exist; expected a Parquet file"):
        tasks(str(broken), test=1)
    broken.write_text("no")
    with pytest.raises(DataError, match="expected a Parquet file"):
        tasks(str(broken), test=1)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        tasks(str(tmp_path / "folder.csv"), test=1)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "?", "choices": ["a", "b"], "right": 7}))
    with pytest.raises(DataError, match=r"field 'right' is 7; expected 0 to 1, a letter, or a choice"):
        tasks(str(path), test=1, columns={"answer": "right"})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"columns": {"colour": "x"}}, "columns has the key 'colour'"),
        ({"columns": {"answer": ["x"]}}, r"columns\['answer'\] is \['x'\]"),
        ({"columns": {"answer": "a", "answer_index": "b"}}, "names both answer and answer_index"),
        ({"level": 1}, "level was given for 'rows.csv', which is no reasoning_gym task"),
        ({"compact": True}, "compact was given"),
        ({"max_terms": 3}, "unknown setting 'max_terms'"),
    ],
)
def test_settings_that_a_file_does_not_have(options, line):
    with pytest.raises(ConfigError, match=line):
        tasks("rows.csv", test=1, **options)


def test_a_mixture_keeps_strata_and_scorers():
    sums = tasks("reasoning_gym:chain_sum", train=6, dev=2, test=5)
    words = tasks(
        "reasoning_gym:spell_backward", train=6, dev=2, test=5, scorer=ExactScorer(ignore_case=True)
    )
    both = mix({"sums": sums, "words": words}, name="both")
    assert (len(both.train), len(both.dev), len(both.test)) == (12, 4, 10)
    assert both.scorer.name == "exact+exact-ignore-case"
    assert both.fingerprint != mix({"sums": sums}).fingerprint

    def answer(item):
        return both_answers[item.id]

    both_answers = {item.id: str(both.scorer._of(item).answer(item)).upper() for item in both.test}
    result = evaluate(answer, both, quiet=True)
    assert result.accuracy == 1.0
    assert {name: part.n for name, part in result.strata.items()} == {"sums": 5, "words": 5}
    with pytest.raises(ConfigError, match="is of no part of the mixture"):
        both.scorer.score(make_item("1 + 1?", 2), "2")
    with pytest.raises(DataError, match="there is no task to mix"):
        mix({})


def test_mixtures_of_mixtures_keep_their_scorers(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path)
    file = tasks(str(path), test=6, columns=COLUMNS, scorer=ExactScorer(ignore_case=True))
    sums = tasks("reasoning_gym:chain_sum", test=3)
    inner = mix({"sums": sums, "file": file})
    halves = tasks("reasoning_gym:fraction_simplification", test=3, scorer=MathScorer())
    both = mix({"inner": inner, "halves": halves})
    names = {item.public.metadata["stratum"] for item in both.test}
    assert names == {"inner/sums", "inner/file/odd", "inner/file/even", "halves"}
    for item in both.test:
        answer = both.scorer._of(item)
        while not hasattr(answer, "seconds") and not isinstance(answer, ExactScorer):
            answer = answer._of(item)
        assert isinstance(answer, MathScorer) == (item.public.metadata["stratum"] == "halves")


def test_one_scorer_for_all_stays_that_scorer():
    scorer = MathScorer()
    parts = {name: tasks(f"reasoning_gym:{name}", test=2, scorer=scorer) for name in ("gcd", "lcm")}
    assert mix(parts).scorer is scorer
    plain = {name: tasks(f"reasoning_gym:{name}", test=2) for name in ("gcd", "lcm")}
    assert type(mix(plain).scorer) is ExactScorer


def test_a_mixture_never_trains_on_what_another_part_tests():
    small = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    first = tasks("reasoning_gym:chain_sum", train=60, test=60, seed=1, **small)
    second = tasks("reasoning_gym:chain_sum", train=80, test=80, seed=2, **small)
    with pytest.raises(LeakError, match="questions are in both"):
        require_disjoint(first.train + second.train, first.test + second.test)
    both = mix({"a": first, "b": second})
    require_disjoint(both.train, both.test)
    assert len({item.id for item in both.test}) == len(both.test)


def test_a_task_may_bring_another_scorer():
    assert tasks("reasoning_gym:chain_sum", test=2, scorer=MathScorer()).scorer.name == "math"


def test_baselines_are_those_of_the_items():
    items = [
        make_item("Which?", "A", choices=["x", "y"], task="t"),
        make_item("What?", "B", choices=["x", "y", "z", "w"]),
    ]
    assert evals.baselines(items) == (0.5, 0.375)
    assert evals.baselines([]) == (None, None)
    assert evals.baselines([make_item("?", "1.0"), make_item("??", "1"), make_item("???", 2)])[0] == 2 / 3
    assert evals.baselines([make_item("?", "1"), make_item("??", None)]) == (None, None)
    parts = mix({"a": tasks("reasoning_gym:gcd", test=9), "b": tasks("reasoning_gym:ab", test=5)}).test
    found = evals.strata_baselines(parts)
    assert set(found) == {"a", "b"}
    for name, numbers in found.items():
        assert numbers == evals.baselines([i for i in parts if i.public.metadata["stratum"] == name])


def test_a_template_that_is_none_and_levels_that_are_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path)
    with pytest.raises(ConfigError, match=r"the question's template is '\{q'"):
        tasks(str(path), test=1, columns={**COLUMNS, "question": "{q"})
    with pytest.raises(ConfigError, match="levels is 3; expected levels of attributes"):
        tasks("reasoning_gym:chain_sum", test=1, levels=3)


@pytest.mark.parametrize("template", ["{}: {q}", "{q!r}", "{q:>20}"])
def test_a_template_that_formats_is_refused(tmp_path, template):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "one?", "answer": 1}\n')
    with pytest.raises(
        ConfigError, match=r"the question's template is .* expected names of columns in braces"
    ):
        tasks(str(path), test=1, columns={"question": template})


def test_an_empty_list_of_columns_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "one?", "answer": 1, "choices": ["1", "2"]}\n')
    with pytest.raises(ConfigError, match=r"columns\['choices'\] is \[\]"):
        tasks(str(path), test=1, columns={"choices": []})
