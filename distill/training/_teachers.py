"""A teacher's distributions at the labels: live beside the student, or stored once and read back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from docendo.agents import models
from docendo.checks import is_count
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.objectives._token import TOP_IDS, TOP_LOGPROBS
from docendo.distill.training._batches import Encoded, encode
from docendo.distill.training._config import Dtype, require_batch_size
from docendo.distill.training._forward import Forward
from docendo.distill.training._live import load_teacher, require_same, vocabulary_digest
from docendo.distill.training._models import base_name
from docendo.errors import ConfigError, DataError, IntegrityError
from docendo.files import new_directory, require_writable
from docendo.hashing import digest
from docendo.manifest import MANIFEST, read_manifest, write_manifest
from docendo.progress import progress

_PART = 256
"""Examples in one part of a store: what an interruption loses at most (a minute, about)."""

_FILE = "logprobs.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTeacher:
    """A teacher's log-probabilities of the likeliest tokens at every label, in a folder.

    Attributes:
        path: The folder, made by `store_teacher`.
        top: How many tokens it holds of each label.
        mass: Mean probability of these together.
        manifest: Everything recorded about it: teacher, vocabulary, number of examples and labels.

    Example:
        >>> from docendo.distill import KL, StoredTeacher, train
        >>> teacher = StoredTeacher.open("teachers/large")  # doctest: +SKIP
        >>> adapter = train(
        ...     "small", rows, output="adapters/kl", objective=KL(), teacher=teacher
        ... )  # doctest: +SKIP
    """

    path: Path
    top: int
    mass: float
    manifest: Mapping[str, Any]
    _places: Mapping[str, tuple[str, int, int]] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> StoredTeacher:
        """Opens a store and checks every file.

        Raises:
            DataError: if the folder is not a finished store.
            IntegrityError: if a file is missing or damaged, naming it.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{path} has no {MANIFEST}",
                expected="a folder that store_teacher has finished",
                remedy="call store_teacher again: it goes on where it was interrupted",
            )
        manifest = read_manifest(path)
        try:
            places = {
                key: (part, int(start), int(stop))
                for part, keys in manifest["places"].items()
                for key, start, stop in keys
            }
            return cls(
                path=path, top=manifest["top"], mass=manifest["mass"], manifest=manifest, _places=places
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path / MANIFEST} is no manifest of a stored teacher ({error})") from error

    def columns(self, example: Encoded) -> dict[str, Any]:
        """What it says at each token of the completion of an example.

        Returns:
            `teacher_ids` (int32) and `teacher_logprobs` (float32), both tokens x `top`, the likeliest first.

        Raises:
            DataError: if the store does not hold the example.
        """
        try:
            part, start, stop = self._places[_key(example)]
        except KeyError:
            raise DataError(
                "the stored teacher has never seen one of the examples",
                expected="the rows that it was stored for, with the same chat template",
                remedy="call store_teacher for these rows",
            ) from None
        with safe_open(self.path / part / _FILE, framework="numpy") as file:
            return {name: file.get_slice(name)[start:stop] for name in (TOP_IDS, TOP_LOGPROBS)}

    def require_vocabulary(self, tokenizer: Any) -> None:
        """Checks that a student has the teacher's tokens.

        Raises:
            DataError: if its tokenizer has others.
        """
        require_same(self.manifest["vocabulary"], tokenizer, self.manifest["teacher"]["name"])


def store_teacher(
    model: str | Path,
    dataset: Iterable[Mapping[str, Any]],
    *,
    output: str | Path,
    adapter: str | Path | None = None,
    top: int = 64,
    batch_size: int = 16,
    max_length: int = 1024,
    dtype: Dtype = "auto",
    quiet: bool = False,
) -> StoredTeacher:
    """Runs a teacher once over the completions of rows and stores its likeliest tokens at every label.

    Training from a store needs neither the teacher's memory nor its time, however many epochs, seeds and
    settings follow. The student must have the same tokens (`ALM` is for others). An interrupted call goes
    on where it stopped; of several processes that call it at once one stores, and the others wait.

    Args:
        model: The teacher: catalogue name, folder or hub id.
        dataset: Rows with `prompt` and `completion`, as for `train`.
        output: Folder of the store.
        adapter: A LoRA adapter of the teacher, or None.
        top: Tokens kept of each label; the rest becomes one bin (64: 0.5 KB a label).
        batch_size: Examples in a forward pass.
        max_length: Longer examples are left out, as in `train`.
        dtype: Precision of the teacher, as in `TrainConfig`.
        quiet: Show no progress.

    Returns:
        The store.

    Raises:
        ConfigError: if `top` is more than the vocabulary or below 1, or `batch_size` is.
        DataError: if the dataset is empty or malformed, or a part of another store lies there.

    Example:
        >>> from docendo.distill import store_teacher
        >>> teacher = store_teacher("large", rows, output="teachers/large")  # doctest: +SKIP
        >>> print(f"{teacher.mass:.1%} of the probability in {teacher.top} tokens")  # doctest: +SKIP
        98.9 % of the probability in 64 tokens
    """
    if not is_count(top) or top < 1:
        raise ConfigError(f"top is {top!r}", expected="a whole number, 1 or more")
    require_batch_size(batch_size)
    output, source = Path(output), models.resolve(model)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    examples, left_out = encode(dataset, tokenizer, max_length=max_length)
    keyed = {_key(example): example for example in examples}
    # Neither repeated rows nor their order make another store.
    examples = [keyed[key] for key in sorted(keyed, key=lambda key: (len(keyed[key]), key))]
    older = Adapter.open(adapter) if adapter is not None else None
    facts = {
        "teacher": {
            "name": base_name(model),
            "fingerprint": models.fingerprint(source),
            "adapter": older.sha256 if older else None,
            "dtype": dtype,
        },
        "vocabulary": vocabulary_digest(tokenizer),
        "top": top,
        "examples": len(examples),
        "too_long": left_out,
        "digest": digest([_key(example) for example in examples]),
    }
    identity = digest(facts)
    if _finished(output, identity) is None:
        require_writable(output)
        with _held(output):
            if _finished(output, identity) is None:
                load = partial(load_teacher, source, older, dtype)
                known = {**facts, "identity": identity}
                _store(output, examples, known, load, batch_size=batch_size, quiet=quiet)
    return StoredTeacher.open(output)


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """Keeps other processes waiting while one writes a store, and clears what a dead one left half."""
    output.mkdir(parents=True, exist_ok=True)
    # Beside the folder, because the manifest lists all that is in it.
    lock = output.with_name(f".{output.name}.lock")
    with FileLock(lock):
        for rest in output.glob(".part-*"):
            shutil.rmtree(rest, ignore_errors=True)
        yield
        # The store is finished, and who waits for the lock or makes it anew finds it so.
        with suppress(OSError):  # not on Windows, where it is open
            lock.unlink()


def _store(
    output: Path,
    examples: Sequence[Encoded],
    facts: Mapping[str, Any],
    load: Callable[[], Any],
    *,
    batch_size: int,
    quiet: bool,
) -> None:
    """Makes the parts that are not there, and the manifest."""
    teacher: Forward | None = None
    identity, top = facts["identity"], facts["top"]
    places: dict[str, list[list[Any]]] = {}
    masses: list[tuple[float, int]] = []
    with progress("store the teacher", len(examples), quiet=quiet) as bar:
        for start in range(0, len(examples), _PART):
            chosen, part = examples[start : start + _PART], f"part-{start // _PART:05d}"
            made = _finished(output / part, identity)
            if made is None:
                teacher = teacher or Forward(load(), packed=None, examples=examples)
                made = _store_part(teacher, chosen, output / part, identity, top=top, batch_size=batch_size)
            places[part] = made["places"]
            masses.append((made["mass"], made["labels"]))
            bar.advance(len(chosen))
    labels = sum(count for _, count in masses)
    mass = sum(mass * count for mass, count in masses) / labels
    write_manifest(output, {**facts, "places": places, "labels": labels, "mass": mass})


def _key(example: Encoded) -> str:
    return digest(list(example.prompt), list(example.completion))


def _finished(part: Path, identity: str) -> dict[str, Any] | None:
    """The manifest of a part that is there, or None if it has to be made."""
    if not (part / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(part)
    except IntegrityError:
        return None  # made again: nothing but it is lost
    _require_identity(manifest, identity, part)
    return manifest


def _require_identity(manifest: Mapping[str, Any], identity: str, path: Path) -> None:
    if manifest.get("identity") != identity:
        raise DataError(
            f"{path} was stored for another teacher, other rows or settings",
            expected="a new or the same output",
            remedy="choose another output or remove the folder",
        )


def _store_part(
    teacher: Forward, examples: Sequence[Encoded], folder: Path, identity: str, *, top: int, batch_size: int
) -> dict[str, Any]:
    ids, logprobs = [], []
    for start in range(0, len(examples), batch_size):
        batch = teacher.collate([_whole(example) for example in examples[start : start + batch_size]])
        with torch.inference_mode():
            outputs = teacher(batch)
            for part in range(0, len(batch["labels"]), batch_size):
                found = outputs.logits_of(slice(part, part + batch_size)).float().log_softmax(-1)
                if top > found.shape[-1]:
                    raise ConfigError(f"top is {top}", expected=f"at most the vocabulary's {found.shape[-1]}")
                best = found.topk(top, dim=-1)
                ids.append(best.indices.int())
                logprobs.append(best.values)
    table = torch.cat(logprobs)
    ends = np.cumsum([len(example.completion) for example in examples]).tolist()
    with new_directory(folder) as made:
        save_file({TOP_IDS: torch.cat(ids).contiguous(), TOP_LOGPROBS: table.contiguous()}, made / _FILE)
        return write_manifest(
            made,
            {
                "identity": identity,
                "labels": len(table),
                "mass": float(table.exp().sum(-1).mean()),
                "places": [
                    [_key(example), stop - len(example.completion), stop]
                    for example, stop in zip(examples, ends, strict=True)
                ],
            },
        )


def _whole(example: Encoded) -> Encoded:
    """The example with every token of its completion a label: masks differ between trainings."""
    return Encoded(prompt=example.prompt, completion=example.completion)
