"""Checkpoints of a training: folders that are whole and verified, or are not used.

A checkpoint is written beside, synced, and renamed when its last file, the manifest with the SHA-256 of all
others, is there. It holds safetensors and JSON alone, so that reading one runs nothing. The newest that
matches its manifest counts; older ones go when a newer one has been read back.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from docendo.errors import ConfigError, IntegrityError, ResumeError, StorageError
from docendo.files import new_directory, write_json
from docendo.manifest import read_manifest, write_manifest

_PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that matches its manifest.

    Attributes:
        path: Its folder.
        step: Optimiser steps that had been made.
        seconds: How long they had taken.
    """

    path: Path
    step: int
    seconds: float


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: Where they are; it is made when it is entered, and removed when nothing is in it.
        identity: What makes two trainings the same, as JSON values.
        keep: How many are kept.
        tell: Where lines about damage go.

    Example:
        >>> kept = Checkpoints(Path("sum.checkpoints"), {"seed": 0})
        >>> kept.newest() is None
        True
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        keep: int = 2,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.keep, self.tell = folder, keep, tell
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from training into the same folder, and clears what a dead one left half.

        Raises:
            StorageError: if another process does, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"{self.folder} is in use: another process trains into it; wait, or choose another output"
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot write {self.folder}: {error.strerror or error}; free space or choose another folder"
            ) from error
        try:
            for rest in self.folder.glob(f".{_PREFIX}*"):
                shutil.rmtree(rest, ignore_errors=True)
            yield
        finally:
            if not self.steps():
                self.clear()
            lock.release()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, verified or not, newest first."""
        names = (path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that matches its manifest, or None; says which do not, and why.

        Raises:
            ResumeError: if it belongs to another training, naming what differs.
        """
        steps = self.steps()
        for index, step in enumerate(steps):
            path = self._path(step)
            try:
                facts = read_manifest(path)
            except IntegrityError as error:
                older = steps[index + 1 :]
                then = f"trying the one of step {older[0]}" if older else "none is left: starting afresh"
                self.tell(f"Damaged checkpoint: {str(error).partition(';')[0]}; {then}.")
                continue
            self._require_same(path, facts)
            return Checkpoint(path=path, step=step, seconds=float(facts["seconds"]))
        return None

    def save(self, step: int, write: Callable[[Path], None], *, seconds: float) -> None:
        """Adds a checkpoint, reads it back, and removes what it makes superfluous.

        Args:
            step: Optimiser steps that have been made.
            write: Writes its files into a folder.
            seconds: How long they have taken.

        Raises:
            StorageError: if it cannot be written; the others stay.
            IntegrityError: if it cannot be read back; the others stay.
        """
        path = self._path(step)
        with new_directory(path) as folder:
            write(folder)
            facts = {"format": 1, "step": step, "seconds": seconds, "identity": self.identity}
            write_manifest(folder, facts)
        read_manifest(path)
        # What is ahead was found damaged, or this training would have gone on from there.
        behind = [other for other in self.steps() if other <= step]
        for other in {*self.steps()} - {*behind[: self.keep]}:
            shutil.rmtree(self._path(other), ignore_errors=True)

    def clear(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step}"

    def _require_same(self, path: Path, facts: Mapping[str, Any]) -> None:
        if other := differences(facts["identity"], self.identity):
            raise ResumeError(
                f"{path} belongs to a training with another {', another '.join(other[:3])}",
                expected="the same model, data and settings",
                remedy=f"train as before, or remove {self.folder}",
            )


def differences(kept: Any, wanted: Any, name: str = "") -> list[str]:
    """Names of the values that differ, with those of the values around them.

    Example:
        >>> differences({"config": {"seed": 0, "lora_r": 8}}, {"config": {"seed": 1, "lora_r": 8}})
        ['config.seed (0, now 1)']
    """
    if isinstance(kept, Mapping) and isinstance(wanted, Mapping):
        found = []
        for key in sorted({*kept, *wanted}):
            found += differences(kept.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        return found
    if kept == wanted:
        return []
    texts = [json.dumps(value, ensure_ascii=False) for value in (kept, wanted)]
    short = " (" + ", now ".join(texts) + ")" if max(map(len, texts)) <= 40 else ""
    return [name + short]


# --- tensors and what is around them -----------------------------------------------------------------


def write_state(folder: Path, name: str, state: Any) -> None:
    """Writes nested dicts, lists and tuples of tensors and plain values as NAME.json and NAME.safetensors.

    Raises:
        ConfigError: if there is anything else in it.
    """
    tensors: dict[str, Any] = {}
    write_json(folder / f"{name}.json", _pack(state, tensors, name))
    try:
        save_file(tensors, folder / f"{name}.safetensors")
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{name}.safetensors: {error}") from error


def read_state(folder: Path, name: str) -> Any:
    """Reads what `write_state` has written, to the last bit; tensors are on the CPU.

    Raises:
        IntegrityError: if the files hold anything else.
    """
    try:
        tree = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return _unpack(tree, load_file(folder / f"{name}.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"{folder / name} cannot be read ({error}); remove the checkpoint") from error


def _pack(value: Any, tensors: dict[str, Any], where: str) -> Any:
    """JSON values; tensors are put aside under the path that leads to them."""
    if isinstance(value, torch.Tensor):
        # A copy of its own: safetensors stores no two tensors that share memory.
        tensors[where] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": where}
    if isinstance(value, Mapping):
        return {"dict": [[key, _pack(entry, tensors, f"{where}.{key}")] for key, entry in value.items()]}
    if isinstance(value, (list, tuple)):
        entries = [_pack(entry, tensors, f"{where}.{index}") for index, entry in enumerate(value)]
        return {"tuple": entries} if isinstance(value, tuple) else entries
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold",
        expected="tensors, numbers and texts",
        remedy="set save_steps=0 to train without checkpoints",
    )


def _unpack(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(entry, tensors) for key, entry in content}
    if kind == "tuple":
        return tuple(_unpack(entry, tensors) for entry in content)
    if kind == "float":
        return float(content)
    raise ValueError(f"unknown kind {kind!r}")
