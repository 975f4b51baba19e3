"""Writing an adapter for others: as a PEFT folder, or merged into its base as an ordinary model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from docendo.distill.adapters._adapter import CARD, MERGED, Adapter, opened, require_replaceable
from docendo.distill.adapters._card import model_card
from docendo.distill.adapters._store import files_of
from docendo.errors import AdapterError, ConfigError, SilentNoOp
from docendo.files import new_directory, require_writable, write_text
from docendo.manifest import write_manifest
from docendo.progress import quiet_libraries

Format = Literal["peft", "merged"]
Dtype = Literal["auto", "float32", "bfloat16"]

#: Tokens that the logits are compared on.
_PROBE = 24
#: Largest difference of logits in float32, as a share of the largest logit: sums in another order.
_TOLERANCE = 1e-4


def export_adapter(
    adapter: Adapter | str | Path,
    folder: str | Path,
    *,
    format: Format = "peft",
    model: str | Path | None = None,
    dtype: Dtype = "auto",
    verdict: Mapping[str, Any] | None = None,
) -> Path:
    """Writes an adapter as a PEFT folder, or the base model with the adapter merged into its weights.

    A merged model is written from float32, read back, and its logits are compared with those of base and
    adapter; the manifest holds the largest difference and, for scale, what the adapter changes.

    Args:
        adapter: The adapter, or its folder. For "merged" any kind that PEFT loads and merges.
        folder: Folder to write; an adapter, or merged model, that is there is replaced.
        format: "peft" or "merged".
        model: For "merged", the base model; the name in the adapter's manifest by default.
        dtype: For "merged", the precision of the weights. "auto" is that of the base. In bfloat16, changes
            that are small beside the weights are rounded away.
        verdict: Evidence for the model card.

    Returns:
        The folder.

    Raises:
        AdapterError: if the base model is not the one that the adapter was made for.
        ConfigError: if an argument cannot be used, or the folder holds something else.
        ModelNotFound: if there is no such model.
        SilentNoOp: if the merged model does not give the logits of base and adapter.
        StorageError: if the folder cannot be written.

    Example:
        >>> export_adapter("adapters/sum", "share/sum")  # doctest: +SKIP
        PosixPath('share/sum')
    """
    for name, value, known in (("format", format, get_args(Format)), ("dtype", dtype, get_args(Dtype))):
        if value not in known:
            raise ConfigError(f"{name} is {value!r}", expected=f"one of {', '.join(known)}")
    adapter = opened(adapter)
    folder = Path(folder)
    require_writable(folder)
    require_replaceable(folder)
    if format == "merged":
        _write_merged(adapter, folder, model, dtype, verdict)
    else:
        _write_peft(adapter, folder, verdict)
    return folder


def _write_peft(adapter: Adapter, folder: Path, verdict: Mapping[str, Any] | None) -> None:
    facts = _facts(adapter)
    with new_directory(folder) as target:
        for name in files_of(adapter):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapter.path / name, target / name)
        write_text(target / CARD, model_card(facts, verdict=verdict))
        write_manifest(target, facts)


def _write_merged(
    adapter: Adapter,
    folder: Path,
    model: str | Path | None,
    dtype: Dtype,
    verdict: Mapping[str, Any] | None,
) -> None:
    from transformers import AutoTokenizer

    from docendo.agents import models

    source = models.resolve(model if model is not None else adapter.manifest["base"]["name"])
    adapter.require_base(models.fingerprint(source))
    with quiet_libraries():
        base = _load(source)
        stored = base.config.dtype if dtype == "auto" else getattr(torch, dtype)
        tokens = _probe(int(base.config.vocab_size))
        plain = _logits(base, tokens)
        wanted, merged = _merge(base, adapter, tokens)
        _require_close(_logits(merged, tokens), wanted, plain, torch.float32)
        # PEFT leaves the adapter's name in the configuration's place for a base.
        merged.config._name_or_path = ""
        with new_directory(folder) as target:
            merged.to(stored).save_pretrained(target)
            AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(target)
            error = _require_close(_logits(_load(target), tokens), wanted, plain, stored)
            facts = {
                **_facts(adapter),
                "kind": MERGED,
                "adapter": adapter.sha256,
                "logits": {"error": error, "change": float((wanted - plain).abs().max())},
                "dtype": str(stored).removeprefix("torch."),
            }
            write_text(target / CARD, model_card(facts, verdict=verdict, merged=True))
            write_manifest(target, facts)


def _facts(adapter: Adapter) -> dict[str, Any]:
    """The adapter's manifest without what is made anew, called by the adapter's name."""
    facts = {key: value for key, value in adapter.manifest.items() if key not in ("files", "sha256")}
    return {**facts, "name": adapter.name}


def _load(source: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", use_safetensors=True, trust_remote_code=False
    )


def _merge(base: Any, adapter: Adapter, tokens: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Logits with the adapter beside the base, and the model with it merged in, both in float32."""
    from peft import PeftModel

    try:
        joined = PeftModel.from_pretrained(base.float(), str(adapter.path))
        wanted = _logits(joined, tokens)
        return wanted, joined.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        raise AdapterError(
            f"peft cannot merge adapter {adapter.name!r}: {str(error).splitlines()[0]}",
            remedy='export it with format="peft"',
        ) from error


def _probe(vocabulary: int) -> torch.Tensor:
    """Tokens from all over the vocabulary, the same each time; shape (1, tokens)."""
    return ((torch.arange(_PROBE) * 7919 + 5) % vocabulary).unsqueeze(0)


def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits in float32, whatever the weights are stored in."""
    model.float().eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits.float()
    return logits


def _require_close(
    found: torch.Tensor, wanted: torch.Tensor, plain: torch.Tensor, stored: torch.dtype
) -> float:
    """The largest difference of logits; more than rounding is refused.

    In float32 it is measured against the logits. A narrower type rounds all weights, so there it only has to
    be less than half of what the adapter changes.
    """
    error, change = float((found - wanted).abs().max()), float((wanted - plain).abs().max())
    if change == 0.0:
        raise SilentNoOp("The adapter changes no logit of its base; there is nothing to merge.")
    limit = _TOLERANCE * float(wanted.abs().max()) if stored == torch.float32 else change / 2
    if not error <= limit:
        name = str(stored).removeprefix("torch.")
        raise SilentNoOp(
            f"The merged model's logits are off by {error:.3g} in {name}, where the adapter changes them by "
            f"{change:.3g}; export it in float32, or as a PEFT folder."
        )
    return error
