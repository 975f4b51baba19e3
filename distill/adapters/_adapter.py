"""An adapter on disk: a PEFT folder with a manifest that can be checked and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from docendo.errors import AdapterError, IntegrityError
from docendo.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from docendo.memory import Taint

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
CARD = "README.md"


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
            AdapterError: if the manifest names no turns: it is older, or the rows it learnt from named none.

        Example:
            >>> taint = board.taint(post.id)  # doctest: +SKIP
            >>> Adapter.open("adapters/sum").descends_from(taint)  # doctest: +SKIP
            False
        """
        lineage = self.manifest.get("lineage") or {}
        known = {self.sha256, self.manifest.get("parent")} & set(taint.adapters)
        if not known and not lineage.get("traces"):
            raise AdapterError(
                f"the manifest of adapter {self.name!r} names no turns that it learnt from",
                expected="an adapter trained on rows from sft_dataset",
                remedy="train it again",
            )
        turns = {*taint.traces, *taint.spoken_traces}
        posts = {*taint.posts, *taint.spoken_posts}
        return bool(known or turns & set(lineage["traces"]) or posts & set(lineage["posts"]))

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


def model_card(facts: Mapping[str, Any]) -> str:
    """Returns the README of an adapter, from its recorded facts alone."""
    base, data, config, metrics = facts["base"], facts["data"], facts["config"], facts["metrics"]
    # YAML strings are written as JSON, which YAML contains, so that no name can break the header.
    header = [
        "---",
        "library_name: peft",
        f"base_model: {json.dumps(base['name'])}",
        "pipeline_tag: text-generation",
        "tags: [lora, docendo]",
        "---",
    ]
    rows = [
        ("Base model", f"{base['name']} (fingerprint `{base['fingerprint'][:16]}`)"),
        ("Parent adapter", f"`{facts['parent'][:16]}`" if facts["parent"] else "none"),
        (
            "Training data",
            f"{data['examples']} examples of {data['items']} items (digest `{data['digest'][:16]}`)",
        ),
        ("Completion tokens", f"{data['completion_tokens']:,} per epoch"),
        ("LoRA", f"rank {config['lora_r']}, alpha {config['lora_alpha']}, on {config['target_modules']}"),
        ("Optimiser steps", f"{metrics['steps']:g} of {config['per_device_train_batch_size']} examples"),
        ("Learning rate", f"{config['learning_rate']:g}, {config['lr_scheduler_type']}"),
        ("Loss", f"{metrics['first_loss']:.4f} at the first step, {metrics['final_loss']:.4f} at the last"),
        ("Seed", str(config["seed"])),
        ("Created", facts["created"]),
    ]
    body = [
        f"# {facts['name']}",
        "",
        "A LoRA adapter trained on the completions of chat examples, with cross-entropy on the answer alone.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows),
        "",
        "## Use",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        'base = AutoModelForCausalLM.from_pretrained("path/to/base")',
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
        "```",
        "",
        "The loss says how well the training answers are reproduced, not whether answers to new questions",
        "are right. Compare before and after on held-out items before relying on this adapter.",
        "",
    ]
    return "\n".join([*header, "", *body])
