"""How two adapters of one base model differ: settings, changes of weights, data, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docendo.distill.adapters._adapter import Adapter, opened
from docendo.distill.adapters._weights import Factors, distance, inner, norm, read_weights
from docendo.records import Record

#: Facts whose differences are listed; settings of PEFT that say only where it was made are not.
_FACTS = ("method", "config", "parent", "parents", "metadata")
_PLACE = ("base_model_name_or_path", "peft_version", "inference_mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiff(Record):
    """The changes that two adapters make to one layer. Norms are Frobenius norms.

    Attributes:
        name: The layer.
        before: Norm of the first one's change; 0 if it does not change the layer.
        after: Norm of the second one's.
        difference: Norm of their difference.
        cosine: Cosine of the angle between them, from -1 to 1; None if one of them is zero.
    """

    name: str
    before: float
    after: float
    difference: float
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap(Record):
    """What two adapters learnt from, counted in ids; None in `share` if neither names any.

    Attributes:
        both: Ids that both name.
        before: Ids that only the first names.
        after: Ids that only the second names.
        share: `both` as a share of all.
    """

    both: int
    before: int
    after: int
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDiff(Record):
    """The difference of two adapters; `print` shows it.

    Attributes:
        before: Name of the first adapter.
        after: Name of the second adapter.
        before_sha256: SHA-256 of its weights.
        after_sha256: Likewise.
        settings: Settings and facts that differ: the two values, None where one has none.
        total: All layers together.
        layers: Each layer that either of them changes.
        same_data: Whether they learnt from the same rows.
        traces: Recorded turns that they learnt from.
        posts: Posts that held these.
        metrics: Metrics side by side, None where one has none.
    """

    before: str
    after: str
    before_sha256: str
    after_sha256: str
    settings: Mapping[str, tuple[Any, Any]]
    total: LayerDiff
    layers: tuple[LayerDiff, ...]
    same_data: bool
    traces: Overlap
    posts: Overlap
    metrics: Mapping[str, tuple[float | None, float | None]]

    def __str__(self) -> str:
        lines = [f"{self.before} {self.before_sha256[:12]}  →  {self.after} {self.after_sha256[:12]}"]
        lines += [f"setting  {key}: {_brief(a)} → {_brief(b)}" for key, (a, b) in self.settings.items()]
        lines.append(
            f"data     {'the same rows' if self.same_data else 'other rows'}; turns {_counts(self.traces)}; "
            f"posts {_counts(self.posts)}"
        )
        for key, (a, b) in self.metrics.items():
            lines.append(f"metric   {key}: {_number(a)} → {_number(b)}")
        wide = max(len(layer.name) for layer in (*self.layers, self.total))
        lines.append(f"{'layer':<{wide}}  {'before':>9}  {'after':>9}  {'differ':>9}  cosine")
        for layer in (*self.layers, self.total):
            cosine = "" if layer.cosine is None else f"{layer.cosine:6.3f}"
            lines.append(
                f"{layer.name:<{wide}}  {layer.before:9.4g}  {layer.after:9.4g}  {layer.difference:9.4g}  "
                f"{cosine}".rstrip()
            )
        return "\n".join(lines)


def diff_adapters(before: Adapter | str | Path, after: Adapter | str | Path) -> AdapterDiff:
    """Compares two plain LoRA adapters of one base model.

    Norms and cosines are those of the changes of the weights, scaling x B A, and are exact: the same change
    in other factors, or at another rank, differs by nothing. The changes themselves are never formed.

    Raises:
        AdapterError: if they belong to different base models, or one is no plain LoRA.

    Example:
        >>> print(diff_adapters("adapters/round-1", "adapters/round-2"))  # doctest: +SKIP
    """
    one, two = opened(before), opened(after)
    two.require_base(one.base)
    left, right = read_weights(one, purpose="compared"), read_weights(two, purpose="compared")
    names = sorted({*left.layers, *right.layers})
    rows = [_layer(name, left.layers.get(name), right.layers.get(name)) for name in names]
    dot = sum(product for _, product in rows)
    layers = tuple(row for row, _ in rows)
    sizes = zip(*((row.before, row.after, row.difference) for row in layers), strict=True)
    first, second, difference = (math.sqrt(sum(size * size for size in each)) for each in sizes)
    total = _row("all layers", first, second, difference, dot)
    facts = [one.manifest, two.manifest]
    learnt = [each.get("lineage") or {} for each in facts]
    return AdapterDiff(
        before=one.name,
        after=two.name,
        before_sha256=one.sha256,
        after_sha256=two.sha256,
        settings=_settings([(facts[0], left.settings), (facts[1], right.settings)]),
        total=total,
        layers=layers,
        same_data=facts[0]["data"]["digest"] == facts[1]["data"]["digest"],
        traces=_overlap([each.get("traces") or () for each in learnt]),
        posts=_overlap([each.get("posts") or () for each in learnt]),
        metrics={
            key: (one.metrics.get(key), two.metrics.get(key)) for key in sorted({*one.metrics, *two.metrics})
        },
    )


def _layer(name: str, left: Factors | None, right: Factors | None) -> tuple[LayerDiff, float]:
    """One layer, and the inner product of its two changes."""
    if left is None or right is None:
        sizes = (norm(left) if left else 0.0, norm(right) if right else 0.0)
        return _row(name, *sizes, sum(sizes), 0.0), 0.0
    product = inner(left, right)
    return _row(name, norm(left), norm(right), distance(left, right), product), product


def _row(name: str, before: float, after: float, difference: float, product: float) -> LayerDiff:
    size = before * after
    cosine = max(-1.0, min(1.0, product / size)) if size else None
    return LayerDiff(name=name, before=before, after=after, difference=difference, cosine=cosine)


def _settings(sides: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, tuple[Any, Any]]:
    first, second = (_flat(facts, settings) for facts, settings in sides)
    return {
        key: (first.get(key), second.get(key))
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key)
    }


def _flat(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Facts and settings by dotted names."""
    found = {f"peft.{key}": value for key, value in settings.items() if key not in _PLACE}
    for fact in _FACTS:
        value = facts.get(fact)
        if isinstance(value, Mapping):
            found |= {f"{fact}.{key}": each for key, each in value.items()}
        else:
            found[fact] = value
    return found


def _overlap(ids: Sequence[Sequence[str]]) -> Overlap:
    first, second = set(ids[0]), set(ids[1])
    every = len(first | second)
    return Overlap(
        both=len(first & second),
        before=len(first - second),
        after=len(second - first),
        share=len(first & second) / every if every else None,
    )


def _counts(overlap: Overlap) -> str:
    if overlap.share is None:
        return "not named"
    return f"{overlap.both} common, {overlap.before} only before, {overlap.after} only after"


def _brief(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
