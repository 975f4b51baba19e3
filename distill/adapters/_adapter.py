"""An adapter on disk: a PEFT folder with a manifest that can be checked and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from docendo.distill.adapters._card import model_card
from docendo.distill.adapters._facts import parents_of
from docendo.errors import AdapterError, ConfigError, IntegrityError
from docendo.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from docendo.memory import Taint

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
CARD = "README.md"
#: What the manifest of a model with an adapter merged into its weights is called.
MERGED = "merged model"

__all__ = ["CARD", "MERGED", "SETTINGS", "WEIGHTS", "Adapter", "model_card", "opened", "require_replaceable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A trained LoRA adapter. The folder is an ordinary PEFT folder and loads with PEFT as well.

    Attributes:
        path: Its folder.
        name: Its name.
        sha256: SHA-256 of `adapter_model.safetensors`; engines report the same value when they serve it.
        base: Fingerprint of the base model it was trained on.
        metrics: Numbers of the training, such as `final_loss`.
        losses: Loss per optimiser step.
        manifest: Everything recorded about it: data digest, settings, parent, versions.
    """

    path: Path
    name: str
    sha256: str
    base: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    losses: tuple[tuple[int, float], ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens an adapter folder and checks every file against its manifest.

        Raises:
            AdapterError: if the folder is not an adapter with a manifest.
            IntegrityError: if a file is missing or differs from the manifest, naming it.
        """
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file():
            raise AdapterError(
                f"{path} has no {MANIFEST}",
                expected="a folder written by docendo.distill.train",
                remedy="check the path, or train again",
            )
        manifest = read_manifest(path)
        files = manifest["files"]
        if WEIGHTS not in files:
            raise IntegrityError(f"{file} lists no {WEIGHTS}; train again or restore a copy")
        return cls(
            path=path,
            name=manifest["name"],
            sha256=files[WEIGHTS],
            base=manifest["base"]["fingerprint"],
            metrics=manifest["metrics"],
            losses=tuple((int(step), float(loss)) for step, loss in manifest["losses"]),
            manifest=manifest,
        )

    def descends_from(self, taint: Taint) -> bool:
        """Whether the adapter learnt from what a post led to: by its manifest alone, wherever the folder is.

        Raises:
            AdapterError: if the manifest cannot rule it out, because it names no turns: it is older, or rows
                that it, or an adapter merged into it, learnt from named none.

        Example:
            >>> taint = board.taint(post.id)  # doctest: +SKIP
            >>> Adapter.open("adapters/sum").descends_from(taint)  # doctest: +SKIP
            False
        """
        lineage = self.manifest.get("lineage") or {}
        turns = {*taint.traces, *taint.spoken_traces}
        posts = {*taint.posts, *taint.spoken_posts}
        if (
            {self.sha256, *parents_of(self.manifest)} & set(taint.adapters)
            or turns & set(lineage.get("traces", ()))
            or posts & set(lineage.get("posts", ()))
        ):
            return True
        if not lineage.get("traces") or lineage.get("unknown"):
            who = "a part of it" if lineage.get("traces") else "it"
            raise AdapterError(
                f"the manifest of adapter {self.name!r} names no turns that {who} learnt from",
                expected="an adapter trained on rows from sft_dataset",
                remedy="train it again",
            )
        return False

    def require_base(self, fingerprint: str) -> None:
        """Checks that this adapter was trained on the base model with `fingerprint`.

        Raises:
            AdapterError: if it was trained on another.
        """
        if self.base != fingerprint:
            raise AdapterError(
                f"adapter {self.name!r} was trained on the base model {self.base[:12]}",
                expected=f"the base model {fingerprint[:12]}",
                remedy="load the model it was trained on, or train a new adapter",
            )


def require_replaceable(folder: Path) -> None:
    """Refuses to put an adapter, or a model with one in it, in the place of anything else.

    Raises:
        ConfigError: if the folder exists, and is neither empty nor one of these.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = WEIGHTS in facts["files"] or facts.get("kind") == MERGED
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ConfigError(
            f"{folder} exists and holds something else than an adapter",
            expected="a new folder, or one of an adapter, which is replaced",
        )


def opened(adapter: Adapter | str | Path) -> Adapter:
    """Opens an adapter, or checks one once more that was opened before; it keeps its name.

    Raises:
        AdapterError: if the folder is not an adapter with a manifest.
        IntegrityError: if a file is missing or differs from the manifest, naming it.
    """
    if isinstance(adapter, Adapter):
        return replace(Adapter.open(adapter.path), name=adapter.name)
    return Adapter.open(adapter)
