"""One training from rows to an adapter folder, whatever the method.

A method says how rows become a trainer; everything else is done here once: what the adapter is made of,
whether there is one already, seeds, progress, the check that something was learnt, and the folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from docendo.agents import models
from docendo.checks import is_number
from docendo.distill.adapters._adapter import CARD, WEIGHTS, Adapter, model_card, require_replaceable
from docendo.distill.datasets._lineage import data_digest, lineage, record_dataset
from docendo.distill.training._arguments import is_first
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._fit import fit
from docendo.distill.training._method import Materials, Method
from docendo.distill.training._models import base_name, load_peft, released, require_shape, save_peft, seeded
from docendo.distill.training._resume import checkpoints_of, holding, interrupted, keep
from docendo.errors import ConfigError, DataError
from docendo.files import new_directory, require_writable, write_text
from docendo.manifest import MANIFEST, write_manifest
from docendo.memory import Artifacts, Database
from docendo.progress import quiet_libraries, say


def run_job(
    model: str | Path,
    dataset: Iterable[Mapping[str, Any]],
    method: Method,
    *,
    output: str | Path,
    config: TrainConfig,
    parent: str | Path | None = None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    database: Database | None = None,
    quiet: bool = False,
) -> Adapter:
    """Trains an adapter by a method; arguments and errors as in `docendo.distill.train`."""
    output = Path(output)
    name = name or output.name
    source = models.resolve(model)
    fingerprint = models.fingerprint(source)
    rows = [_row(number, row) for number, row in enumerate(dataset)]
    _require_json(metadata or {})
    if not rows:
        raise DataError(
            "the dataset is empty", expected="at least one row", remedy="build it with sft_dataset"
        )
    older = Adapter.open(parent) if parent is not None else None
    if older is not None:
        older.require_base(fingerprint)
        require_shape(older, config)
    identity = {
        "base": {"name": base_name(model), "fingerprint": fingerprint},
        "parent": older.sha256 if older else None,
        "method": dict(method.identity()),
        "config": config.identity(),
    }
    made_of, made_from = data_digest(rows), lineage(rows, older.manifest if older else None)
    kept = checkpoints_of(output, {**identity, "data": made_of}, config)
    identity["metadata"] = dict(metadata or {})
    if resume and (output / MANIFEST).is_file():
        finished = Adapter.open(output)
        # What the rows come from may differ where what they say does not; taint has to know.
        if _same(finished, identity, made_of) and finished.manifest.get("lineage") == made_from:
            if is_first():
                _record(database, rows, finished.manifest)
                kept.clear()  # a process was killed when it had just finished
            return finished
    quiet = quiet or not is_first()
    if is_first():
        require_replaceable(output)
        require_writable(output)
    with (
        holding(kept, config, resume=resume),
        released() as held,
        tempfile.TemporaryDirectory() as scratch,
        seeded(config.seed),
    ):
        checkpoint = kept.newest() if resume else None
        materials = Materials(
            rows=rows,
            config=config,
            model=load_peft(source, config, older),
            tokenizer=AutoTokenizer.from_pretrained(source, trust_remote_code=False),
            source=source,
            scratch=Path(scratch),
            parent=older,
        )
        held.append(materials.model)
        with quiet_libraries():
            built = method.build(materials)
        held.extend(built.models)
        try:
            if built.data["too_long"] and not quiet:
                say(
                    f"{built.data['too_long']} of {len(rows)} examples have more than {config.max_length} "
                    "tokens and are left out."
                )
            keep(built.trainer, kept, config)
            trained = fit(materials.model, built, config, checkpoint, title=f"train {name}", quiet=quiet)
        except KeyboardInterrupt:
            kept.tell(interrupted(built.trainer, kept))
            raise
        finally:
            built.close()
        facts = {
            "format": 1,
            "name": name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **identity,
            "data": {
                "digest": made_of,
                "items": len({row.get("item", index) for index, row in enumerate(rows)}),
                **built.data,
            },
            "lineage": made_from,
            "metrics": {**trained.metrics, **built.facts},
            "losses": trained.losses,
            "curves": trained.curves,
            "versions": {
                package: importlib.metadata.version(package)
                for package in ("docendo", "torch", "transformers", "peft")
            },
        }
        if is_first():
            with new_directory(output) as folder:
                save_peft(materials.model, folder, base_name(model), trained.weights)
                write_text(folder / CARD, model_card(facts))
                _record(database, rows, write_manifest(folder, facts))
            kept.clear()
        built.trainer.accelerator.wait_for_everyone()
    return Adapter.open(output)


def _record(database: Database | None, rows: list[dict[str, Any]], manifest: Mapping[str, Any]) -> None:
    """Records data set and adapter, before anybody can load it."""
    if database is None:
        return
    with database.transaction():
        Artifacts(database).adapter(
            manifest["files"][WEIGHTS],
            dataset=record_dataset(database, rows),
            parent=manifest["parent"],
            name=manifest["name"],
            base=manifest["base"]["fingerprint"],
        )


def _row(number: int, row: object) -> dict[str, Any]:
    """A row of the dataset that its digest can be made of; the method checks the rest."""
    if not isinstance(row, Mapping):
        raise DataError(f"row {number} of the dataset is {row!r}"[:200], expected="a mapping with a prompt")
    weight = row.get("weight", 1.0)
    if not is_number(weight):
        raise DataError(f"row {number} has the weight {weight!r}", expected="a finite number, 0 or more")
    return dict(row)


def _require_json(metadata: Mapping[str, Any]) -> None:
    """Refuses facts that the manifest cannot hold, before the training and not after it."""
    for key, value in metadata.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metadata.{key} is {value!r} ({error})", expected="JSON values") from None


def _same(adapter: Adapter, identity: Mapping[str, Any], made_of: str) -> bool:
    kept = adapter.manifest
    wanted = json.loads(json.dumps(identity))
    return kept["data"]["digest"] == made_of and all(kept.get(key) == value for key, value in wanted.items())
