"""Tasks: disjoint splits of questions, a scorer, and worked examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from docendo.checks import is_count, short
from docendo.errors import ConfigError, DataError, LeakError
from docendo.evals.items._raw import Raw, Source
from docendo.evals.items._scorer import ExactScorer, normalise
from docendo.evals.items._sources import open_source
from docendo.evals.items._table import Columns
from docendo.evals.items._worked import worked
from docendo.hashing import digest
from docendo.records import Example, Item, Split
from docendo.scoring import Scorer

# Of ten questions five can become training items, one a development item and four test items.
_PARTS: tuple[Split, ...] = ("train",) * 5 + ("dev",) + ("test",) * 4
# More questions than any memory holds.
_MOST = 10**8
# Splits are filled in this order, so that test items depend on no other request.
_ORDER: tuple[Split, ...] = ("test", "dev", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Questions in three disjoint parts, and how answers to them are scored.

    Attributes:
        name: Name of the task.
        train: Items to learn from.
        dev: Items to choose settings by.
        test: Items for the verdict, never learnt from.
        scorer: Decides what is right.
        config: The resolved configuration, as JSON.
        fingerprint: Digest of all questions, answers (where there is but one) and the scorer.
    """

    name: str
    train: tuple[Item, ...] = ()
    dev: tuple[Item, ...] = ()
    test: tuple[Item, ...] = ()
    scorer: Scorer = field(default_factory=ExactScorer)
    config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def examples(self, k: int, *, seed: int = 0, steps: bool = True) -> tuple[Example, ...]:
        """Returns `k` examples made from training items.

        With `steps`, arithmetic tasks show each step; other tasks, and all without `steps`, show the
        answer alone. Both end with `Answer: ...`. Leave the items out of training with `without` if a
        teacher is shown them.

        Raises:
            DataError: if there are fewer training items than `k`, or they have no reference answer.

        Example:
            >>> task = tasks("reasoning_gym:chain_sum", train=20, test=10, max_terms=3)
            >>> task.examples(1)[0].answer.splitlines()[-1].startswith("Answer: ")
            True
        """
        if not 0 <= k <= len(self.train):
            raise DataError(
                f"{k} examples of task {self.name!r} were asked for",
                expected=f"0 to {len(self.train)}, its number of training items",
            )
        order = sorted(self.train, key=lambda item: digest("example", seed, item.id))
        return tuple(_example(item, steps=steps) for item in order[:k])

    def without(self, examples: Iterable[Example | Item]) -> Task:
        """Returns the task without the training items that `examples` were made from.

        Example:
            >>> task = tasks("reasoning_gym:chain_sum", train=20, test=10)
            >>> len(task.without(task.examples(6)).train)
            14
        """
        used = {each.item if isinstance(each, Example) else each.id for each in examples}
        train = tuple(item for item in self.train if item.id not in used)
        return replace(
            self, train=train, fingerprint=fingerprint(self.name, train, self.dev, self.test, self.scorer)
        )


def tasks(
    source: str,
    *,
    train: int = 0,
    test: int = 200,
    dev: int = 0,
    seed: int = 0,
    columns: Columns | None = None,
    level: int | None = None,
    levels: Mapping[str, int] | None = None,
    compact: bool = False,
    scorer: Scorer | None = None,
    **config: Any,
) -> Task:
    r"""Makes a task with splits that are disjoint by question text.

    A question belongs to one part for ever: five of ten texts, chosen by their digest, can become
    training items, one a development item and four test items, whatever the seed and the sizes. So a
    test set drawn later cannot hold a question that was trained on before. Only where a source has
    too few questions does a part borrow from another, the test part first. The first `n` test items
    are the same for every `test >= n` and do not depend on `train` and `dev`. A generator of few
    questions is drawn from until nothing new comes, and all that there are is split.

    Args:
        source: `reasoning_gym:NAME`, `jsonl:PATH`, `csv:PATH`, `parquet:PATH` (or a path ending in
            `.jsonl`, `.csv`, `.tsv` or `.parquet`), or `datasets:PATH[:split]` with a folder or hub id
            (split `train` if none is given).
        train: Number of training items.
        test: Number of test items.
        dev: Number of development items.
        seed: Which items are drawn, and their order.
        columns: Names of the columns `question`, `answer`, `choices`, `id` and `stratum`, such as
            `{"question": "input"}`. `a.b` looks into a nested column. The question may be a template
            (`"{context}\n\n{question}"`), the choices a list of columns. Where there are choices the answer
            is one of them, its letter, or its place from 0; what could be both is refused. Name
            `answer_index` instead of `answer` for places alone, and `labels` (`choices.label`) for a column
            of labels of which the answer is one.
        level: Level of difficulty of a generator that has a curriculum, from 0: ranges go from the easiest
            to this one. `docendo tasks show NAME` lists them.
        levels: Levels of single attributes of the curriculum, such as `{"num_terms": 2}`; the others stay
            at `level`, or at 0 without it.
        compact: Show a generator's questions in their shortest form (`12+7=`), for models that cannot read.
        scorer: Decides what is right; exact match if None.
        **config: Settings of the generator (`max_terms=3`), or `name`, `data_dir`, `data_files` and
            `revision` of `datasets.load_dataset`.

    Returns:
        The task.

    Raises:
        DataError: if the source is unknown, malformed, or has fewer distinct questions than asked for.
        ConfigError: if a setting is unknown or out of range.

    Example:
        >>> task = tasks("reasoning_gym:chain_sum", train=4, test=3, min_terms=2, max_terms=3)
        >>> len(task.train), len(task.test), task.test[0].public.split
        (4, 3, 'test')
    """
    wanted: dict[Split, int] = {"test": test, "dev": dev, "train": train}
    for name, size in wanted.items():
        if not is_count(size) or not 0 <= size <= _MOST:
            raise ConfigError(f"{name} is {short(size)}", expected=f"0 to {_MOST}")
    if not any(wanted.values()):
        raise DataError(
            "train, dev and test are all 0",
            expected="at least one item",
            remedy="raise one, such as test=200",
        )
    if not is_count(seed):
        raise ConfigError(f"seed is {short(seed)}", expected="a whole number")
    if not isinstance(compact, bool):
        raise ConfigError(f"compact is {short(compact)}", expected="True or False")
    scorer = ExactScorer() if scorer is None else scorer
    if not isinstance(scorer, Scorer):
        raise ConfigError(f"scorer is {short(scorer)}", expected="a Scorer, such as MathScorer()")
    opened = open_source(source, columns, config, level=level, levels=levels, compact=compact)
    parts = _split(opened, wanted, seed)
    items = {
        name: tuple(replace(raw.item, public=replace(raw.item.public, split=name)) for raw in raws)
        for name, raws in parts.items()
    }
    return Task(
        name=opened.name,
        train=items["train"],
        dev=items["dev"],
        test=items["test"],
        scorer=scorer,
        config={"source": source, "seed": seed, "train": train, "dev": dev, "test": test, **opened.config},
        fingerprint=fingerprint(opened.name, items["train"], items["dev"], items["test"], scorer),
    )


def _split(source: Source, wanted: Mapping[Split, int], seed: int) -> dict[Split, list[Raw]]:
    """Fills the parts from one stream, in its order."""
    found: list[Raw] = []
    homes: dict[Split, list[Raw]] = {name: [] for name in _ORDER}
    for raw in _distinct(source.stream(seed), endless=source.endless):
        found.append(raw)
        homes[_home(raw)].append(raw)
        if source.endless and all(len(homes[name]) >= wanted[name] for name in _ORDER):
            break
    total = sum(wanted.values())
    if not found:
        raise DataError(
            f"task source {source.name!r} holds no question",
            expected="at least one",
            remedy="give it other settings"
            if source.endless
            else 'add lines such as {"question": .., "answer": ..}',
        )
    if len(found) < total:
        raise DataError(
            f"task {source.name!r} has {len(found)} distinct questions, but {total} were asked for "
            f"(train={wanted['train']}, dev={wanted['dev']}, test={wanted['test']})",
            remedy="ask for fewer" + (" or widen its settings" if source.endless else " or add questions"),
        )
    parts: dict[Split, list[Raw]] = {}
    used: set[str] = set()
    for name in _ORDER:
        # Its own questions first; where they do not suffice, any that no earlier part holds. The
        # test part is filled from the whole source, so no other request can move it.
        pool = [raw for raw in (*homes[name], *found) if raw.item.id not in used]
        parts[name] = list({raw.item.id: raw for raw in pool}.values())[: wanted[name]]
        used.update(raw.item.id for raw in parts[name])
    return parts


def _home(raw: Raw) -> Split:
    return _PARTS[int(digest("part", normalise(raw.item.public.question))[:8], 16) % len(_PARTS)]


def _distinct(stream: Iterator[Raw | None], *, endless: bool) -> Iterator[Raw]:
    """Yields each question text once; gives an endless stream up when it only repeats itself."""
    seen: dict[str, Raw] = {}
    stale = 0
    for raw in stream:
        key = normalise(raw.item.public.question) if raw is not None else ""
        if raw is not None and key not in seen:
            seen[key] = raw
            stale = 0
            yield raw
            continue
        if raw is not None and not endless:
            _check_same(seen[key], raw)
        stale += 1
        # With D equally likely questions one that is still unseen is missed with chance exp(-10).
        if endless and stale > 1000 + 10 * len(seen):
            return


def _check_same(first: Raw, second: Raw) -> None:
    """Refuses one question with two answers: a file mistake that no score could survive."""
    same_text = first.item.public.question.split() == second.item.public.question.split()
    if same_text and reference(first.item) != reference(second.item):
        raise DataError(
            f"{second.where}: the question of {first.where} again, with another answer",
            remedy="keep one of the two",
        )


# Reads the gold answers that worked examples, baselines and fingerprints need.
_KEY = ExactScorer()


def reference(item: Item) -> str | None:
    """Returns the gold answer as text; None if the item can only be verified, or its gold is no text."""
    try:
        return _KEY.answer(item)
    except ConfigError:
        return None


def only_answer(item: Item) -> str | None:
    """The gold answer if no other one is right: of several, another process may find another one."""
    try:
        return _KEY.answer(item) if _KEY.is_unique(item) else None
    except ConfigError:
        return None


def _example(item: Item, *, steps: bool) -> Example:
    if item.public.split != "train":
        raise LeakError(f"item {item.id} is a {item.public.split} item", expected="a training item")
    answer = reference(item)
    if answer is None:
        raise DataError(
            f"task {item.public.task!r} has no reference answers, it can only verify",
            remedy="write the examples by hand",
        )
    expression = item.public.metadata.get("expression")
    shown = worked(expression, answer) if steps and isinstance(expression, str) else None
    return Example(
        question=item.public.question,
        answer=shown or f"Answer: {answer}",
        item=item.id,
    )


def fingerprint(
    name: str, train: tuple[Item, ...], dev: tuple[Item, ...], test: tuple[Item, ...], scorer: Scorer
) -> str:
    """Digest of all questions, answers (where there is but one) and the scorer of a task."""
    parts = [[(item.public.question, only_answer(item)) for item in items] for items in (train, dev, test)]
    return digest("task", name, scorer.name, parts)
