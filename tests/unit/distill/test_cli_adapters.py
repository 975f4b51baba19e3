"""`docendo adapters`: what it prints, JSON, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from docendo.agents import models
from docendo.cli import main
from docendo.distill import Adapter, AdapterRegistry
from docendo.hashing import digest
from docendo.manifest import write_manifest

LAYER = "model.layers.0.mlp.down_proj"


def made(folder: Path, fingerprint: str = "b" * 64, base: str = "tiny", **options: Any) -> Adapter:
    """A random adapter of one layer of the tiny model."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(int(digest(folder.name)[:8], 16))
    key = f"base_model.model.{LAYER}.lora"
    save_file(
        {
            f"{key}_A.weight": torch.randn(2, 128, generator=draw),
            f"{key}_B.weight": torch.randn(64, 2, generator=draw),
        },
        folder / "adapter_model.safetensors",
    )
    settings = {"r": 2, "lora_alpha": 4, "target_modules": [LAYER], "task_type": "CAUSAL_LM", **options}
    LoraConfig(**settings).save_pretrained(folder)
    facts = {
        "format": 1,
        "name": folder.name,
        "created": "2026-01-01T00:00:00+00:00",
        "base": {"name": base, "fingerprint": fingerprint},
        "parent": None,
        "method": {"name": "sft"},
        "config": {"seed": 3, "lora_r": 2, "lora_alpha": 4, "target_modules": [LAYER]},
        "metadata": {},
        "data": {"digest": digest(folder.name), "items": 2, "examples": 2},
        "lineage": {"traces": [f"turn-{folder.name}"], "posts": []},
        "metrics": {"final_loss": 0.25},
        "losses": [],
        "versions": {},
    }
    write_manifest(folder, facts)
    return Adapter.open(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two adapters in it."""
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "one")
    made(tmp_path / "two")
    return tmp_path


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry of three adapters, which errors leave as it is."""
    folder = tmp_path_factory.mktemp("filled")
    registry = AdapterRegistry(folder / "registry")
    for name, options in (("student", {}), ("other", {}), ("dora", {"use_dora": True})):
        registry.add(made(folder / name, **options), name)
    (folder / "one").symlink_to(folder / "student")
    return folder


def run(*args: str) -> int:
    return main(["adapters", *args])


def test_an_adapter_from_adding_to_rolling_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert capsys.readouterr().out == "No adapters in registry.\n"
    one, two = Adapter.open("one"), Adapter.open("two")
    assert run("add", "one", "student") == run("add", "two", "student") == 0
    assert f"student {two.sha256[:12]} in registry" in capsys.readouterr().out
    said = {"verdict": "better", "reason": "30 more items", "adapter": two.sha256, "incumbent": one.sha256}
    Path("verdict.json").write_text(json.dumps(said))
    assert run("promote", one.sha256[:10], "prod", "--force", "--reason", "the first one") == 0
    assert run("promote", "student", "prod", "--verdict", "verdict.json") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith(f"promote student@prod to {one.sha256[:12]}, forced: the first one")
    assert out[1].endswith(f"promote student@prod to {two.sha256[:12]}, better")
    assert run("rollback", "student@prod", "--reason", "slow", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == one.sha256
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "sha256", "aliases", "base", "method", "added"]
    assert lines[1].split()[:5] == ["student", one.sha256[:12], "prod", "tiny", "sft"]
    assert lines[2].split()[2] == "-"
    assert run("show", "student@prod") == 0
    out = capsys.readouterr().out
    assert one.sha256 in out
    assert "final_loss = 0.25" in out
    assert out.count("history") == 3
    assert run("show", "student@prod", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [move["action"] for move in shown["history"]] == ["promote", "promote", "rollback"]
    assert shown["lineage"]["adapters"][0]["data"] == digest("one")


@pytest.mark.parametrize("command", [["list"], ["show", "student"], ["rollback", "student@prod"]])
def test_a_file_is_no_registry(here: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("x")
    assert run(*command, "--in", "file") == 2
    assert "file is a file; expected the folder of a registry" in capsys.readouterr().err


def test_merge_and_diff(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", "one", "long")
    run("add", "two", "short")
    capsys.readouterr()
    assert run("merge", "long", "short", "--name", "both", "--weights", "0.25,0.75") == 0
    assert "sum error" in capsys.readouterr().out
    assert run("merge", "long", "short", "--name", "cut", "--method", "average", "--rank", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["truncation_error"] > 0
    assert run("diff", "long", "both", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["peft.r"] == [2, 4]
    assert [layer["name"] for layer in found["layers"]] == [LAYER]
    assert run("diff", "long", "short") == 0
    assert "turns 0 common, 1 only before, 1 only after" in capsys.readouterr().out
    assert run("list", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["both", "cut", "long", "short"]


def test_export_as_peft_and_as_a_model(
    here: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(here / "real", models.fingerprint(tiny_model_dir))
    run("add", "real", "student")
    capsys.readouterr()
    assert run("export", "student", "share/peft") == 0
    assert capsys.readouterr().out == "share/peft\n"
    assert Adapter.open("share/peft").name == "student"
    options = ("--format", "merged", "--model", str(tiny_model_dir), "--dtype", "float32", "--json")
    assert run("export", "student", "share/model", *options) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "merged"
    assert models.fingerprint("share/model") != models.fingerprint(tiny_model_dir)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "teacher"), "there is no adapter 'teacher'"),
        (("show", "a/b"), "the adapter's name is 'a/b'"),
        (("add", "nowhere", "x"), "has no manifest.json"),
        (("add", "one", "a@b"), "the name is 'a@b'"),
        (("promote", "student", "prod"), "there is no verdict"),
        (("promote", "student", "prod", "--force"), "no reason"),
        (("promote", "student", "prod", "--verdict", "none.json"), "none.json cannot be read"),
        (("promote", "student", "prod", "--verdict", "one/README"), "cannot be read"),
        (("rollback", "student@prod"), "there is no alias student@prod"),
        (("rollback", "student"), "names no adapter"),
        (("merge", "student", "--name", "x"), "at least 2"),
        (("merge", "student", "student", "--name", "x"), "merged with itself"),
        (("merge", "student", "other", "--name", "x", "--weights", "a,b"), "--weights"),
        (("merge", "student", "dora", "--name", "x"), "use_dora"),
        (("merge", "student", "other", "--name", "x", "--database", "none.db"), "no database"),
        (("diff", "student", "none"), "there is no adapter 'none'"),
        (("export", "student", "out", "--format", "onnx"), "format is 'onnx'"),
        (("export", "student", "out", "--format", "merged", "--model", "./none"), "does not exist"),
    ],
)
def test_errors_are_one_line(
    filled: Path,
    args: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(filled)
    assert run(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_damage_is_said_beside_the_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", "one", "student")
    (file,) = Path("registry").rglob("adapter_config.json")
    file.chmod(0o644)
    file.write_text("{}")
    capsys.readouterr()
    assert run("list") == 0
    out, err = capsys.readouterr()
    assert "damaged" in out
    assert "adapter_config.json does not match" in err
    assert run("show", "student") == 1
    assert "error (integrity)" in capsys.readouterr().err


def test_help_has_an_example_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name in ("add", "list", "show", "diff", "promote", "rollback", "merge", "export"):
        assert f"\n  {name} " in out
        assert run(name, "--help") == 0
        assert "Example: docendo " in capsys.readouterr().out


def test_listing_imports_no_heavy_library(here: Path) -> None:
    run("add", "one", "student")
    script = (
        "import sys\nfrom docendo.cli import main\ncode = main(['adapters', 'list'])\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "student" in done.stdout
