"""Where questions come from: reasoning_gym generators, JSON lines, `datasets`.

Each source is a stream of `Raw` questions in a fixed order that depends on the source, its
configuration and the seed alone. `_tasks` cuts the splits from it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docendo.errors import ConfigError, DataError, StorageError
from docendo.evals.items._judge import judge
from docendo.evals.items._scorer import Answer, make_item, normalise
from docendo.hashing import derive_seed, digest
from docendo.records import Gold, Item, PublicItem

# Item i of a generator uses seed + i, so neighbouring seeds share nearly all items. Chunks of this
# size with seeds far apart stay distinct however many are drawn.
_CHUNK = 512
_COLUMNS = {"question": "question", "answer": "answer", "choices": "choices"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One question before it belongs to a split.

    Attributes:
        item: The item, its split still open.
        where: Where it was read, for error messages.
    """

    item: Item
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A stream of questions.

    Attributes:
        name: Task name.
        config: What the stream depends on, as JSON.
        stream: Opens the stream for a seed; None is a draw that gave nothing.
        endless: Whether the stream repeats itself for ever and so must be given up at some point.
    """

    name: str
    config: Mapping[str, Any]
    stream: Callable[[int], Iterator[Raw | None]]
    endless: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)


def open_source(source: str, columns: Mapping[str, str] | None, config: Mapping[str, Any]) -> Source:
    """Opens the source that a text such as `reasoning_gym:chain_sum` names."""
    kind, colon, rest = source.partition(":")
    if kind == "reasoning_gym" and colon:
        if columns:
            raise ConfigError("columns was given for a reasoning_gym task", remedy="leave columns out")
        return _reasoning_gym(rest, config)
    if kind == "datasets" and colon:
        return _datasets(rest, _columns(columns), config)
    path = rest if kind == "jsonl" and colon else source
    if (kind == "jsonl" and colon) or source.endswith(".jsonl"):
        if config:
            raise ConfigError(
                f"unknown setting {sorted(config)[0]!r} for a JSONL task", expected="columns alone"
            )
        return _jsonl(Path(path), _columns(columns))
    raise DataError(
        f"task source {source!r} is unknown",
        expected='"reasoning_gym:NAME", "jsonl:PATH", a path ending in .jsonl, or "datasets:PATH[:split]"',
    )


def _columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    unknown = sorted(set(columns or {}) - set(_COLUMNS))
    if unknown:
        raise ConfigError(f"columns has the key {unknown[0]!r}", expected=" and ".join(_COLUMNS))
    return {**_COLUMNS, **(columns or {})}


# reasoning_gym ------------------------------------------------------------------------------------


def _reasoning_gym(name: str, config: Mapping[str, Any]) -> Source:
    from reasoning_gym.factory import DATASETS

    if name == "composite":
        raise DataError(
            "reasoning_gym:composite is not a task of its own", remedy="make one task for each part"
        )
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.5)
        raise DataError(
            f"reasoning_gym has no task {name!r}",
            expected=f"one of its {len(DATASETS)} names",
            remedy=f"did you mean {' or '.join(near)}?" if near else "see the list in its documentation",
        )
    generator = _generator(name, config, seed=0)
    # The settings as they are in force, so that another default of a later release shows.
    resolved = {key: value for key, value in _plain(dataclasses.asdict(generator.config)).items()
                if key not in ("seed", "size")}  # fmt: skip

    def stream(seed: int) -> Iterator[Raw | None]:
        chunk = 0
        while True:
            start = derive_seed("reasoning_gym", name, resolved, seed, chunk) % 2**31
            dataset = _generator(name, config, seed=start)
            for index in range(_CHUNK):
                try:
                    entry = dataset[index]
                except Exception:  # some generators fail on some seeds; the next draw may not
                    yield None
                    continue
                yield _entry(name, dataset, entry)
            chunk += 1

    return Source(name=name, config=resolved, stream=stream, endless=True)


def _generator(name: str, config: Mapping[str, Any], *, seed: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    fields = [f.name for f in dataclasses.fields(DATASETS[name][1]) if f.name not in ("seed", "size")]
    for key in config:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
            raise ConfigError(
                f"reasoning_gym:{name} has no setting {key!r}",
                expected=f"one of {', '.join(fields)}",
                remedy=f"did you mean {near[0]}?" if near else None,
            )
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=_CHUNK, **config)
    except (AssertionError, TypeError, ValueError) as error:
        settings = ", ".join(f"{key}={value!r}" for key, value in config.items())
        raise ConfigError(
            f"reasoning_gym:{name} refuses {settings or 'its defaults'}: {error or type(error).__name__}",
            expected=f"valid values of {', '.join(fields)}",
        ) from error


def _entry(name: str, dataset: Any, entry: Mapping[str, Any]) -> Raw | None:
    question, answer = entry.get("question"), entry.get("answer")
    if not isinstance(question, str) or not question.strip():
        return None
    text = None if answer is None else str(answer).strip() or None
    public = PublicItem(
        id=digest("item", name, normalise(question))[:16],
        question=question,
        task=name,
        metadata=_public(question, entry.get("metadata") or {}),
    )
    gold = Answer(text=text, judge=judge(dataset, entry))
    return Raw(item=Item(public=public, gold=Gold(gold)))


def _public(question: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps the facts that cannot give the answer away.

    Most generators put the solution into their metadata. The difficulty holds settings alone, and an
    expression is public if it stands in the question word for word.
    """
    public = {"difficulty": _plain(metadata.get("difficulty", {}))}
    expression = metadata.get("expression")
    if isinstance(expression, str) and expression and expression in question:
        public["expression"] = expression
    return public


def _plain(value: Any) -> Any:
    """Turns settings into JSON values (tuples become lists, unknown types their text)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# Files --------------------------------------------------------------------------------------------


def _jsonl(path: Path, columns: Mapping[str, str]) -> Source:
    def rows() -> Iterator[tuple[str, Mapping[str, Any]]]:
        try:
            with path.open(encoding="utf-8-sig") as handle:
                for number, line in enumerate(handle, 1):
                    if line.strip():
                        yield f"{path}, line {number}", _row(line, f"{path}, line {number}")
        except FileNotFoundError:
            raise DataError(f"task file {path} does not exist", expected="a file of JSON lines") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 at byte {error.start}", remedy="save it as UTF-8"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error

    return _table(path.stem, rows, columns, {"columns": dict(columns)})


def _row(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON ({error.msg} at column {error.colno})",
            expected="one object",
            remedy="mend or remove the line",
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply", expected="one object") from error
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where}: {type(row).__name__}", expected='an object such as {"question": .., "answer": ..}'
        )
    return row


def _datasets(spec: str, columns: Mapping[str, str], config: Mapping[str, Any]) -> Source:
    allowed = ("name", "data_dir", "data_files", "revision")
    unknown = sorted(set(config) - set(allowed))
    if unknown:
        raise ConfigError(
            f"unknown setting {unknown[0]!r} for a datasets task", expected=f"one of {', '.join(allowed)}"
        )
    path, split = spec, "train"
    if not Path(spec).exists() and ":" in spec:
        path, _, split = spec.rpartition(":")

    def rows() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for index, row in enumerate(_load(path, split, config)):
            yield f"{path}:{split}, row {index}", row

    resolved = {"path": path, "split": split, "columns": dict(columns), **_plain(config)}
    return _table(Path(path).name, rows, columns, resolved)


def _load(path: str, split: str, config: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    import datasets

    folder = Path(path)
    saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
    try:
        if not saved:
            return datasets.load_dataset(path, split=split, **config)
        loaded = datasets.load_from_disk(path)
    except Exception as error:  # the library raises many kinds, hub and network errors included
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"cannot load the data set {path!r}, split {split!r}: {reason or type(error).__name__}",
            expected="a folder written by save_to_disk, a folder of data files, or a hub id",
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(
                f"data set {path!r} has no split {split!r}", expected=f"one of {', '.join(loaded)}"
            )
        return loaded[split]
    return loaded


def _table(
    name: str,
    rows: Callable[[], Iterator[tuple[str, Mapping[str, Any]]]],
    columns: Mapping[str, str],
    config: Mapping[str, Any],
) -> Source:
    def stream(seed: int) -> Iterator[Raw | None]:
        # Ordered by a digest of seed and text: neither the order of the lines nor a new line
        # elsewhere moves a question.
        raws = [_raw(name, row, columns, where) for where, row in rows()]
        yield from sorted(raws, key=lambda raw: digest("order", seed, raw.item.id))

    return Source(name=name, config=config, stream=stream)


def _raw(name: str, row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> Raw:
    for field_name in ("question", "answer"):
        column = columns[field_name]
        if column not in row:
            near = ", ".join(sorted(map(str, row))[:8]) or "no fields"
            raise DataError(
                f"{where}: field {column!r} is missing (there is {near})",
                remedy=f"name it with columns={{{field_name!r}: ...}}",
            )
    question, answer = row[columns["question"]], row[columns["answer"]]
    if not isinstance(question, str) or not question.strip():
        raise DataError(
            f"{where}: field {columns['question']!r} is {question!r}", expected="text that is not empty"
        )
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise DataError(f"{where}: field {columns['answer']!r} is {answer!r}", expected="text or a number")
    choices = row.get(columns["choices"]) or ()
    if not isinstance(choices, (list, tuple)) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{where}: field {columns['choices']!r} is {choices!r}", expected="a list of texts")
    try:
        item = make_item(question, answer, task=name, choices=tuple(choices))
    except DataError as error:
        raise DataError(f"{where}: {error.seen}", expected=error.expected) from error
    return Raw(item=item, where=where)
