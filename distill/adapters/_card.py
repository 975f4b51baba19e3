"""The model card of an adapter, from recorded facts alone: what nobody recorded is not in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from docendo.checks import is_number
from docendo.distill.adapters._facts import method_of, objective_of, parents_of, seed_of

_METHODS = {
    "": "A LoRA adapter trained on the completions of chat examples.",
    "sft": "A LoRA adapter trained on the completions of chat examples.",
    "dpo": "A LoRA adapter trained on pairs of a better and a worse answer.",
    "kto": "A LoRA adapter trained on answers that are each marked as good or bad.",
    "grpo": "A LoRA adapter trained on rewards of its own answers.",
    "merge": "A LoRA adapter merged from others; nothing was trained.",
}
_USE = """\
## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("path/to/base")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```
"""
_MERGED_USE = """\
## Use

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```
"""
_UNMEASURED = """\
No evaluation was recorded. A loss says how well the training answers are reproduced, not whether answers to
new questions are right: compare before and after on held-out items before relying on this adapter.
"""


def model_card(
    facts: Mapping[str, Any], *, verdict: Mapping[str, Any] | None = None, merged: bool = False
) -> str:
    """Returns the README of an adapter.

    Args:
        facts: Its manifest. Of the user's own `metadata`, `license`, `data_license` and `evaluation` have a
            place of their own; the last maps names to `value`, `interval` (low and high) and `n`.
        verdict: The evidence of its promotion, as a paired comparison says it, or None.
        merged: Whether the folder holds a whole model with the adapter merged in.
    """
    base, metadata = facts["base"], facts.get("metadata") or {}
    # YAML strings are written as JSON, which YAML contains, so that no name can break the header.
    header = [
        "---",
        f"library_name: {'transformers' if merged else 'peft'}",
        f"base_model: {json.dumps(base['name'])}",
        "pipeline_tag: text-generation",
        f"tags: [{'merge' if merged else 'lora'}, docendo]",
        *([f"license: {json.dumps(metadata['license'])}"] if metadata.get("license") else []),
        "---",
    ]
    about = _METHODS.get(method_of(facts), f"A LoRA adapter made by {method_of(facts)}.")
    if merged:
        about = f"The base model with an adapter merged into its weights. {about}"
    parts = [
        *header,
        "",
        f"# {facts['name']}",
        "",
        about,
        "",
        *_table(_rows(facts)),
        "",
        *_evaluation(metadata.get("evaluation"), verdict),
        _MERGED_USE if merged else _USE,
    ]
    return "\n".join(parts)


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts that were recorded, in order."""
    base, config, metadata = facts["base"], facts.get("config") or {}, facts.get("metadata") or {}
    made = _merged(facts) if method_of(facts) == "merge" else _trained(facts)
    seed, versions = seed_of(facts), facts.get("versions") or {}
    rows = [
        ("Base model", f"{base['name']} (fingerprint `{base['fingerprint'][:16]}`)"),
        *made,
        ("Data licence", metadata.get("data_license")),
        (
            "LoRA",
            f"rank {config['lora_r']}, alpha {config['lora_alpha']}, on {_layers(config['target_modules'])}",
        ),
        ("Seed", None if seed is None else str(seed)),
        ("Created", facts["created"]),
        ("Made with", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(key, str(value)) for key, value in rows if value not in (None, "")]


def _layers(modules: Any) -> str:
    if isinstance(modules, str):
        return modules
    return ", ".join(modules) if len(modules) <= 8 else f"{len(modules)} layers"


def _trained(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    data, config, metrics = facts["data"], facts["config"], facts["metrics"]
    parents = ", ".join(f"`{parent[:16]}`" for parent in parents_of(facts))
    lineage = facts.get("lineage") or {}
    turns = len(lineage.get("traces") or ())
    rate, tokens = config.get("learning_rate"), data.get("completion_tokens")
    steps, batch = metrics.get("steps"), config.get("per_device_train_batch_size")
    return [
        ("Parent adapter", parents or "none"),
        ("Method", method_of(facts)),
        ("Objective", objective_of(facts)),
        (
            "Training data",
            f"{data['examples']} examples of {data['items']} items (digest `{data['digest'][:16]}`)",
        ),
        ("Learnt from", f"{turns} recorded turns" if turns else None),
        ("Completion tokens", None if tokens is None else f"{tokens:,} per epoch"),
        ("Optimiser steps", None if steps is None else f"{steps:g} of {batch} examples"),
        ("Learning rate", None if rate is None else f"{rate:g}, {config.get('lr_scheduler_type')}"),
        (
            "Loss",
            f"{metrics['first_loss']:.4f} at the first step, {metrics['final_loss']:.4f} at the last"
            if {"first_loss", "final_loss"} <= metrics.keys()
            else None,
        ),
    ]


def _merged(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    method, metrics = facts["method"], facts["metrics"]
    pairs = zip(parents_of(facts), method["weights"], strict=True)
    turns = len((facts.get("lineage") or {}).get("traces") or ())
    return [
        ("Merged from", ", ".join(f"{weight:g} × `{parent[:16]}`" for parent, weight in pairs)),
        ("Combination", objective_of(facts)),
        ("Distance from the weighted sum", f"{metrics['sum_error']:.2g} of its norm"),
        ("Training data", ", ".join(f"`{digest[:16]}`" for digest in facts["data"].get("sources", ()))),
        ("Learnt from", f"{turns} recorded turns" if turns else None),
    ]


def _evaluation(measured: Any, verdict: Mapping[str, Any] | None) -> list[str]:
    """Figures with intervals, where somebody measured any."""
    rows: list[tuple[str, str]] = []
    for name, one in measured.items() if isinstance(measured, Mapping) else ():
        if isinstance(one, Mapping) and is_number(one.get("value")):
            rows.append((str(name), _figure(one["value"], one.get("interval"), one.get("n"))))
    said = verdict or {}
    # A gate's verdict holds the comparison that it goes by.
    found = {**(said.get("comparison") or {}), **said}
    for side in ("before", "after"):
        if is_number(found.get(side)):
            name = found.get(f"{side}_name") or side
            label = name if name == side else f"{side} ({name})"
            rows.append((label, _figure(found[side], found.get(f"{side}_interval"), found.get("n"))))
    if is_number(found.get("difference")):
        rows.append(("difference", _figure(found["difference"], found.get("interval"), found.get("n"))))
    if is_number(found.get("p_value")):
        rows.append(("p", f"{found['p_value']:.3g}"))
    if said:
        rows.append(("verdict of the promotion", f"{said.get('verdict', '')}. {said.get('reason', '')}"))
    return ["## Evaluation", "", *_table(rows), ""] if rows else [_UNMEASURED]


def _figure(value: float, interval: Any, n: Any) -> str:
    text = f"{value:.4g}"
    if isinstance(interval, (list, tuple)) and len(interval) == 2 and all(map(is_number, interval)):
        text += f" ({interval[0]:.4g} to {interval[1]:.4g})"
    return text + (f", n = {n}" if is_number(n) else "")


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows)]


def _cell(text: str) -> str:
    """On one line, and with no bar that would end the cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
