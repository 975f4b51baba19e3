"""What a data set was made from and what was left out of it; how it is saved, and read back unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from docendo.distill.datasets._lineage import data_digest, origins
from docendo.errors import ConfigError, DataError, StorageError
from docendo.files import new_directory
from docendo.manifest import MANIFEST, read_manifest, write_manifest
from docendo.records import Record

if TYPE_CHECKING:
    from datasets import Dataset

_KIND = "dataset"
Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetManifest(Record):
    """The account of one data set.

    Attributes:
        builder: Name of the builder.
        settings: Its settings, as JSON values.
        seen: How many traces (posts, items, rows: what the builder is given) it looked at.
        kept: How many of them went into a row.
        left_out: How many did not, by reason; with `kept` they add up to `seen`.
        rows: Number of rows.
        digest: Digest of what the rows teach.
        traces: Ids of the turns that rows were made of.
        posts: Ids of the posts that hold these.
        changed: Whether the rows are no longer those that the builder made.

    Raises:
        DataError: if the counts do not add up.
    """

    builder: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0
    kept: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    digest: str = ""
    traces: tuple[str, ...] = ()
    posts: tuple[str, ...] = ()
    changed: bool = False

    def __post_init__(self) -> None:
        """Checks that nothing was lost on the way."""
        if self.kept + sum(self.left_out.values()) != self.seen:
            raise DataError(
                f"the manifest counts {self.kept} kept and {sum(self.left_out.values())} left out",
                expected=f"{self.seen} together, as many as were seen",
            )


def attach(rows: list[dict[str, Any]], manifest: DatasetManifest) -> Dataset:
    """Makes a `datasets.Dataset` that carries its manifest (in `info.description`).

    Raises:
        DataError: if the rows do not fit into one table.
    """
    from datasets import Dataset

    try:
        made = Dataset.from_list(rows)
    except (TypeError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise DataError(
            f"the rows of {manifest.builder} do not fit into one table ({str(error)[:160]})",
            expected="values of one type in each column",
        ) from error
    made.info.description = json.dumps(manifest.to_json(), ensure_ascii=False)
    return made


def dataset_manifest(dataset: Dataset) -> DatasetManifest:
    """The manifest of a data set that a builder made, also after it was filtered or shuffled.

    Args:
        dataset: The data set. If its rows differ from those that were built, `changed` is set and `rows`,
            `digest`, `traces` and `posts` are those of the rows there are; the counts stay the builder's.

    Raises:
        DataError: if it carries no manifest.

    Example:
        >>> from docendo import distill, evals
        >>> task = evals.tasks("reasoning_gym:chain_sum", train=4, test=3)
        >>> class Student:
        ...     def messages(self, item):
        ...         return ({"role": "user", "content": item.question},)
        >>> prompts = distill.prompts_dataset(items=task.train, exclude=task.test, student=Student())
        >>> made = distill.dataset_manifest(prompts)
        >>> made.builder, made.seen, made.kept, made.rows, made.changed
        ('prompts', 4, 4, 4, False)
        >>> distill.dataset_manifest(prompts.select([0, 1])).changed
        True
    """
    try:
        stored = json.loads(dataset.info.description)
        manifest = DatasetManifest(
            **{**stored, "traces": tuple(stored["traces"]), "posts": tuple(stored["posts"])}
        )
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise DataError(
            "the data set carries no manifest",
            expected="one that a builder of docendo.distill made",
            remedy="build it with sft_dataset or another builder, or read it with load_dataset",
        ) from error
    rows = dataset.to_list()
    found = data_digest(rows)
    if found == manifest.digest:
        return manifest
    made_of = {name: tuple(ids) for name, ids in origins(rows).items()}
    return manifest.replace(changed=True, rows=len(rows), digest=found, **made_of)


def save_dataset(dataset: Dataset, folder: str | Path, *, format: Format = "jsonl") -> DatasetManifest:
    """Writes a data set to a folder, with a manifest that has the SHA-256 of its file.

    Args:
        dataset: What a builder made.
        folder: Where to; an existing data set there is replaced, whole.
        format: "jsonl" can be read by eye, "parquet" is smaller.

    Returns:
        The manifest.

    Raises:
        ConfigError: if the format is unknown, or the folder holds something other than a data set.
        DataError: if the data set carries no manifest.
        StorageError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> from docendo.distill import load_dataset, mix_datasets, save_dataset
        >>> mixed = mix_datasets({"a": [{"prompt": "2 + 2", "completion": "4"}]}, exclude=[])
        >>> folder = Path(tempfile.mkdtemp()) / "mixed"
        >>> save_dataset(mixed, folder).rows
        1
        >>> load_dataset(folder)[0]["completion"]
        '4'
    """
    folder = Path(folder)
    if format not in get_args(Format):
        raise ConfigError(f"format is {format!r}", expected=f"one of {', '.join(get_args(Format))}")
    if folder.exists() and not is_dataset(folder):
        raise ConfigError(
            f"{folder} exists and is no data set", expected="a new folder, or one of a data set"
        )
    manifest = dataset_manifest(dataset)
    with new_directory(folder) as made:
        file = made / f"data.{format}"
        if format == "parquet":
            dataset.to_parquet(file)
        else:
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in dataset.to_list())
            text = "".join(line + "\n" for line in lines)
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
        write_manifest(made, {"format": 1, "kind": _KIND, "dataset": manifest.to_json()})
    return manifest


def load_dataset(folder: str | Path) -> Dataset:
    """Reads a data set that `save_dataset` wrote.

    Args:
        folder: The folder.

    Raises:
        DataError: if the folder holds no data set.
        IntegrityError: if a file or the manifest was changed, naming it.
        StorageError: if it cannot be read.

    Example:
        >>> load_dataset("data/pairs")  # doctest: +SKIP
    """
    folder = Path(folder)
    if not is_dataset(folder):
        raise DataError(f"{folder} holds no data set", expected="a folder that save_dataset wrote")
    stored = read_manifest(folder)["dataset"]
    manifest = DatasetManifest(
        **{**stored, "traces": tuple(stored["traces"]), "posts": tuple(stored["posts"])}
    )
    return attach(_read(folder), manifest)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a data set, intact or not."""
    try:
        return bool(json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("kind") == _KIND)
    except (OSError, ValueError, AttributeError):
        return False


def _read(folder: Path) -> list[dict[str, Any]]:
    try:
        if (folder / "data.parquet").is_file():
            from pyarrow.parquet import read_table

            return list(read_table(folder / "data.parquet").to_pylist())
        with (folder / "data.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror or error}") from error
