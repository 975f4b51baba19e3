"""The registry of adapters: names, aliases with evidence, lineage, crashes, several processes, serving."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from docendo.agents import Engine, models
from docendo.distill import Adapter, AdapterRegistry, export_adapter, merge_adapters
from docendo.distill.adapters import _index, _store
from docendo.errors import AdapterError, ConfigError, IntegrityError, SilentNoOp, StorageError
from docendo.evals import EvalRecord, EvalResult, PairedComparison, compare
from docendo.hashing import digest
from docendo.manifest import write_manifest
from docendo.records import Request, SamplingParams

Make = Callable[..., Adapter]
BETTER = {"verdict": "better", "reason": "30 of 200 items more, interval 0.09 to 0.21"}
LAYER = "model.layers.0.mlp.down_proj"


def better(adapter: Adapter, over: Adapter | None = None, **more: Any) -> dict[str, Any]:
    """What a gate says of an adapter that beat another one, or the base model."""
    return {**BETTER, "adapter": adapter.sha256, "incumbent": over.sha256 if over else None, **more}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes small adapters of one layer (of the tiny model), as PEFT folders with a manifest."""

    def write(name: str, *, seed: str = "", fingerprint: str = "b" * 64, **facts: Any) -> Adapter:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        draw = torch.Generator().manual_seed(int(digest(seed or name)[:8], 16))
        key = f"base_model.model.{LAYER}.lora"
        tensors = {
            f"{key}_A.weight": torch.randn(2, 128, generator=draw),
            f"{key}_B.weight": torch.randn(64, 2, generator=draw),
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        LoraConfig(r=2, lora_alpha=4, target_modules=[LAYER], task_type="CAUSAL_LM").save_pretrained(folder)
        (folder / "README.md").write_text("card")
        plain = {
            "format": 1,
            "name": name,
            "created": "2026-01-01T00:00:00+00:00",
            "base": {"name": "tiny", "fingerprint": fingerprint},
            "parent": None,
            "method": {"name": "sft", "objective": [{"name": "kl", "weight": 0.5, "beta": 0.1}]},
            "config": {"seed": 3, "lora_r": 2, "lora_alpha": 4, "target_modules": [LAYER]},
            "metadata": {},
            "data": {"digest": digest(seed or name), "items": 2, "examples": 2},
            "lineage": {"traces": [f"turn-{name}"], "posts": []},
            "metrics": {"final_loss": 0.25},
            "losses": [[1, 0.25]],
            "versions": {},
        }
        write_manifest(folder, {**plain, **facts})
        return Adapter.open(folder)

    return write


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(tmp_path / "registry")


# --- adding and finding --------------------------------------------------------------------------


def test_an_added_adapter_is_found_by_name_and_sum(registry: AdapterRegistry, make: Make) -> None:
    one, two = make("one"), make("two")
    copy = registry.add(one, "student")
    assert (copy.name, copy.sha256) == ("student", one.sha256)
    assert copy.path.is_relative_to(registry.folder)
    registry.add(two.path, "student")
    assert registry.get("student").sha256 == two.sha256
    assert registry.get(one.sha256[:8]).sha256 == registry.resolve(one.sha256) == one.sha256
    rows = registry.list()
    assert [(row.name, row.sha256, row.newest) for row in rows] == [
        ("student", one.sha256, False),
        ("student", two.sha256, True),
    ]
    assert (rows[0].base, rows[0].method, rows[0].objective) == ("tiny", "sft", "0.5 kl(beta=0.1)")


def test_the_copy_does_not_depend_on_the_original(registry: AdapterRegistry, make: Make) -> None:
    one = make("one")
    registry.add(one, "student")
    for file in one.path.iterdir():
        file.unlink()
    assert registry.get("student").sha256 == one.sha256
    assert all(not file.stat().st_mode & 0o222 for file in registry.get("student").path.iterdir())


def test_adding_again_changes_nothing(registry: AdapterRegistry, make: Make) -> None:
    one = make("one")
    first = registry.add(one, "student")
    before = (registry.folder / "registry.json").read_bytes()
    assert registry.add(one, "student") == first == registry.add(first, "student")
    assert (registry.folder / "registry.json").read_bytes() == before
    registry.add(make("two"), "student")
    registry.add(one, "student")
    assert registry.get("student").sha256 != one.sha256  # it keeps its place


def test_settings_in_another_order_are_the_same_adapter(registry: AdapterRegistry, make: Make) -> None:
    """PEFT writes the set of layers in any order, so a repeated training gives another file."""
    one = make("one")
    registry.add(one, "student")
    file = one.path / "adapter_config.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(plain.items()))))
    facts = {key: value for key, value in one.manifest.items() if key not in ("files", "sha256")}
    write_manifest(one.path, {**facts, "created": "2027-01-01T00:00:00+00:00"})
    assert registry.add(one.path, "student").sha256 == one.sha256


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"lineage": {"traces": ["other"], "posts": []}}, "lineage"),
        ({"parent": "c" * 64}, "parent"),
        ({"fingerprint": "c" * 64}, "base"),
    ],
)
def test_the_same_weights_of_another_origin_are_refused(
    registry: AdapterRegistry, make: Make, facts: dict[str, Any], named: str
) -> None:
    registry.add(make("one", seed="s", lineage={"traces": ["t"], "posts": []}), "student")
    facts = {"lineage": {"traces": ["t"], "posts": []}, **facts}
    with pytest.raises(AdapterError, match=f"another {named}"):
        registry.add(make("two", seed="s", **facts), "student")


def test_the_same_weights_with_another_scaling_are_refused(registry: AdapterRegistry, make: Make) -> None:
    one = make("one")
    registry.add(one, "student")
    file = one.path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 64}))
    write_manifest(one.path, {k: v for k, v in one.manifest.items() if k not in ("files", "sha256")})
    with pytest.raises(AdapterError, match="another settings"):
        registry.add(one.path, "student")


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", ".hidden", "a b", "a@b", "deadbeef01", "x" * 65, 3, None, "ä"]
)
def test_names_that_cannot_be_used_are_refused(registry: AdapterRegistry, make: Make, name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        registry.add(make("one"), name)
    assert not registry.folder.exists()


def test_what_is_not_there_is_one_clear_line(registry: AdapterRegistry, make: Make) -> None:
    assert registry.list() == ()
    with pytest.raises(AdapterError, match="no adapter 'student'"):
        registry.get("student")
    registry.add(make("one"), "student")
    for ref in ("teacher", "student@prod", "0" * 12):
        with pytest.raises(AdapterError, match="no adapter") as caught:
            registry.get(ref)
        assert "student" in str(caught.value)
    with pytest.raises(ConfigError):
        registry.get("student@")


def test_a_beginning_that_two_share_is_refused(registry: AdapterRegistry, monkeypatch: Any) -> None:
    index = _index.Index(
        names={
            name: (_index.Version(sha256=f"12345678{digit * 56}", added=""),)
            for name, digit in (("a", "0"), ("b", "1"))
        }
    )
    index.write(registry.folder)
    with pytest.raises(AdapterError, match="2 adapters begin with 12345678"):
        registry.resolve("12345678")
    assert registry.resolve("123456780") == index.names["a"][0].sha256


def test_other_folders_and_pickles_are_refused(tmp_path: Path, registry: AdapterRegistry, make: Make) -> None:
    with pytest.raises(AdapterError, match=r"no manifest\.json"):
        registry.add(tmp_path, "student")
    one = make("one")
    with pytest.raises(AdapterError, match="no registry"):
        AdapterRegistry(one.path).add(one, "student")
    (one.path / "optimizer.pt").write_bytes(b"x")
    facts = {key: value for key, value in one.manifest.items() if key not in ("files", "sha256")}
    write_manifest(one.path, facts)
    with pytest.raises(AdapterError, match=r"optimizer\.pt"):
        registry.add(one.path, "student")


def test_a_manifest_cannot_reach_out_of_its_folder(
    tmp_path: Path, registry: AdapterRegistry, make: Make
) -> None:
    from docendo.hashing import file_sha256

    one = make("one")
    secret = tmp_path / "made" / "secret.txt"
    secret.write_text("secret")
    manifest = json.loads((one.path / "manifest.json").read_text())
    manifest["files"]["../secret.txt"] = file_sha256(secret)
    manifest["sha256"] = digest({key: value for key, value in manifest.items() if key != "sha256"})
    (one.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AdapterError, match="leaves its folder"):
        registry.add(one.path, "student")
    with pytest.raises(AdapterError, match="leaves its folder"):
        export_adapter(one.path, tmp_path / "share" / "one")
    assert not (tmp_path / "share" / "secret.txt").exists()


def test_a_folder_of_something_else_is_not_replaced(
    tmp_path: Path, registry: AdapterRegistry, make: Make
) -> None:
    one, two = (registry.add(make(name), "student") for name in ("one", "two"))
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="something else"):
        registry.export(one.sha256, papers)
    with pytest.raises(ConfigError, match="something else"):
        registry.export(one.sha256, registry.folder)
    with pytest.raises(ConfigError, match="something else"):
        merge_adapters([one, two], output=papers)
    assert (papers / "thesis.txt").read_text() == "years of work"
    assert len(registry.list()) == 2
    assert Adapter.open(registry.export(one.sha256, tmp_path / "share")).sha256 == one.sha256
    assert Adapter.open(registry.export(two.sha256, tmp_path / "share")).sha256 == two.sha256


# --- promotion -----------------------------------------------------------------------------------


def test_an_alias_moves_and_goes_back(registry: AdapterRegistry, make: Make) -> None:
    one, two, three = (registry.add(make(name), "student") for name in ("one", "two", "three"))
    for adapter, over in ((one, None), (two, one), (three, two)):
        registry.promote(adapter.sha256, "prod", verdict=better(adapter, over))
        assert registry.get("student@prod").sha256 == adapter.sha256
    assert registry.rollback("student@prod", reason="slow").sha256 == two.sha256
    assert registry.rollback("student@prod").sha256 == one.sha256
    with pytest.raises(AdapterError, match="first adapter"):
        registry.rollback("student@prod")
    registry.promote(three.sha256, "prod", verdict=better(three, one))
    assert registry.rollback("student@prod").sha256 == one.sha256
    history = registry.history("student@prod")
    assert [move.action for move in history] == [
        *["promote"] * 3,
        *["rollback"] * 2,
        "promote",
        "rollback",
    ]
    assert history[0].verdict == better(one)
    assert history[3].reason == "slow"
    assert [row.aliases for row in registry.list()] == [("student@prod",), (), ()]


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (None, "there is no verdict"),
        ({}, "there is no verdict"),
        ({"accuracy": 0.9}, "holds no verdict"),
        ({"verdict": "no effect shown", "reason": "p = 0.4"}, "'no effect shown': p = 0.4"),
        ({"verdict": "worse", "reason": "-3 items"}, "'worse'"),
        ({"verdict": "better"}, "has no reason"),
        (BETTER, "does not say which adapter was measured"),
        ({**BETTER, "adapter": "f" * 64}, "is about adapter ffffffffffff"),
    ],
)
def test_nothing_is_promoted_without_evidence(
    registry: AdapterRegistry, make: Make, verdict: Any, why: str
) -> None:
    registry.add(make("one"), "student")
    with pytest.raises(AdapterError, match=why):
        registry.promote("student", "prod", verdict=verdict)
    assert registry.history("student@prod") == ()
    with pytest.raises(ConfigError, match="reason"):
        registry.promote("student", "prod", verdict=verdict, force=True)
    move = registry.promote("student", "prod", verdict=verdict, force=True, reason="the first one")
    assert (move.forced, move.reason) == (True, "the first one")


def measured(
    before: Adapter | None, after: Adapter | None, *, model: str = "b" * 64, other: str = ""
) -> PairedComparison:
    """A comparison of two evaluations of 40 items, of which 20 went from wrong to right."""
    sides = []
    for name, adapter, right in (("before", before, 0), ("after", after, 20)):
        records = tuple(EvalRecord(item=str(n), question="", correct=n < right) for n in range(40))
        sides.append(
            EvalResult(
                name=name,
                task="demo",
                scorer="exact",
                records=records,
                model=other if other and name == "before" else model,
                adapter=adapter.sha256 if adapter else None,
            )
        )
    return compare(*sides)


def test_a_paired_comparison_is_evidence(registry: AdapterRegistry, make: Make) -> None:
    found = measured(None, registry.add(make("one"), "student"))
    move = registry.promote("student", "student@prod", verdict=found)
    assert not move.forced
    assert PairedComparison.from_json(move.verdict or {}) == found
    assert registry.lineage("student").adapters[0].verdict == move.verdict
    card = (registry.export("student@prod", registry.folder.parent / "out") / "README.md").read_text()
    low, high = found.interval
    assert f"| difference | 0.5 ({low:.4g} to {high:.4g}), n = 40 |" in card


def test_a_comparison_is_evidence_for_the_weights_that_it_measured_alone(
    registry: AdapterRegistry, make: Make
) -> None:
    """Whatever else was compared, and over whom, says nothing of the adapter that is to be promoted."""
    one, two, three = (registry.add(make(name), "student") for name in ("one", "two", "three"))
    refused = [
        (measured(one, two), "is about adapter"),
        (measured(None, None), "which adapter was measured"),
        (measured(None, None, model=""), "which adapter was measured"),
        (measured(None, three, model=""), "what the adapter was compared with"),
        (measured(three, three), "with itself"),
        (measured(one, three, model="c" * 64), "measured on the base model cccccccccccc"),
        (measured(one, three, other="c" * 64), "'before' was measured on the base model cccccccccccc"),
    ]
    for found, why in refused:
        with pytest.raises(AdapterError, match=why):
            registry.promote(three.sha256, "prod", verdict=found)
    assert registry.history("student@prod") == ()
    registry.promote(one.sha256, "prod", verdict=measured(None, one))
    for found in (measured(None, three), measured(two, three)):
        with pytest.raises(AdapterError, match=f"student@prod points to {one.sha256[:12]}"):
            registry.promote(three.sha256, "prod", verdict=found)
    assert registry.promote(three.sha256, "prod", verdict=measured(one, three)).sha256 == three.sha256


def test_a_win_over_another_than_the_alias_points_to_is_no_evidence(
    registry: AdapterRegistry, make: Make
) -> None:
    """Two candidates that both beat the first: the later one has not beaten the earlier one."""
    one, two, three = make("one"), make("two"), make("three")
    for adapter in (one, two, three):
        registry.add(adapter, "student")
    registry.promote(one.sha256, "student@prod", verdict=better(one))
    registry.promote(two.sha256, "student@prod", verdict=better(two, one))
    with pytest.raises(AdapterError, match=f"over {one.sha256[:12]}, and student@prod points to"):
        registry.promote(three.sha256, "student@prod", verdict=better(three, one))
    with pytest.raises(AdapterError, match="over the base model"):
        registry.promote(three.sha256, "student@prod", verdict=better(three))
    assert registry.get("student@prod").sha256 == two.sha256
    again = registry.promote(two.sha256, "student@prod", verdict=better(two, one))
    assert again == registry.history("student@prod")[-1]
    assert registry.promote(
        three.sha256, "student@prod", verdict=better(three, one), force=True, reason="by hand"
    ).forced


def test_the_same_promotion_twice_is_recorded_once(registry: AdapterRegistry, make: Make) -> None:
    one, two = registry.add(make("one"), "student"), registry.add(make("two"), "student")
    registry.promote(one.sha256, "prod", verdict=better(one))
    assert registry.promote(two.sha256, "prod", verdict=better(two, one)) == registry.promote(
        "student", "prod", verdict=better(two, one)
    )
    # Better evidence for what is there already is a new record, and no step to go back to.
    registry.promote("student", "prod", verdict=better(two, one, reason="more items"))
    assert len(registry.history("student@prod")) == 3
    assert registry.rollback("student@prod").sha256 == one.sha256


def test_an_alias_belongs_to_a_name_of_the_adapter(registry: AdapterRegistry, make: Make) -> None:
    one = registry.add(make("one"), "student")
    with pytest.raises(AdapterError, match="not registered as 'tutor'"):
        registry.promote(one.sha256, "tutor@prod", verdict=better(one))
    registry.fork("student", "tutor")
    with pytest.raises(AdapterError, match="has the names student, tutor"):
        registry.promote(one.sha256, "prod", verdict=better(one))
    registry.promote(one.sha256, "tutor@prod", verdict=better(one))
    assert [row.aliases for row in registry.list()] == [(), ("tutor@prod",)]
    with pytest.raises(ConfigError, match="JSON"):
        registry.promote("student", "prod", verdict={**BETTER, "x": float("nan")})
    with pytest.raises(ConfigError, match="verdict is"):
        registry.promote("student", "prod", verdict="better")  # type: ignore[arg-type]


# --- lineage, forks, removal ---------------------------------------------------------------------


def test_a_lineage_goes_up_to_the_base(registry: AdapterRegistry, make: Make) -> None:
    first = registry.add(make("first", parent="e" * 64), "student")
    second = registry.add(make("second", parent=first.sha256), "student")
    other = registry.add(make("other"), "tutor")
    both = registry.add(make("both", parents=[second.sha256, other.sha256]), "both")
    registry.promote(second.sha256, "prod", verdict=better(second))
    found = registry.lineage("both")
    assert [one.sha256 for one in found.adapters] == [
        both.sha256, second.sha256, other.sha256, first.sha256, "e" * 64,
    ]  # fmt: skip
    assert found.base == {"name": "tiny", "fingerprint": "b" * 64}
    assert not found.complete
    assert not found.adapters[-1].registered
    child = found.adapters[1]
    assert (child.names, child.parents) == (("student",), (first.sha256,))
    assert (child.data, child.method, child.seed) == (digest("second"), "sft", 3)
    assert (child.objective, child.metrics) == ("0.5 kl(beta=0.1)", {"final_loss": 0.25})
    assert child.verdict == better(second)
    assert str(found).splitlines()[-1] == "base tiny bbbbbbbbbbbb"
    assert registry.lineage("tutor").complete


def test_a_fork_starts_a_name_of_its_own(registry: AdapterRegistry, make: Make) -> None:
    one, two = make("one"), make("two")
    registry.add(one, "student")
    forked = registry.fork("student", "tutor")
    assert (forked.name, forked.sha256) == ("tutor", one.sha256)
    registry.add(two, "tutor")
    assert registry.get("student").sha256 == one.sha256
    assert _index.Index.read(registry.folder).forks == {"tutor": {"name": "student", "sha256": one.sha256}}
    with pytest.raises(AdapterError, match="taken"):
        registry.fork("student", "tutor")
    assert len(list((registry.folder / "objects").iterdir())) == 2


def test_what_is_needed_is_not_removed(registry: AdapterRegistry, make: Make) -> None:
    parent = registry.add(make("parent"), "student")
    child = registry.add(make("child", parent=parent.sha256), "tutor")
    with pytest.raises(AdapterError, match=r"'tutor' .* descends from it"):
        registry.remove("student")
    registry.promote("tutor", "prod", verdict=better(child))
    with pytest.raises(AdapterError, match="tutor@prod points to it"):
        registry.remove("tutor")
    newer = registry.add(make("newer"), "tutor")
    registry.promote("tutor", "prod", verdict=better(newer, child))
    with pytest.raises(AdapterError, match="can be rolled back to it"):
        registry.remove(child.sha256)
    with pytest.raises(AdapterError, match="2 adapters"):
        registry.remove("tutor")
    assert {row.sha256 for row in registry.list()} == {parent.sha256, child.sha256, newer.sha256}


def test_a_removed_adapter_is_gone_and_can_come_back(registry: AdapterRegistry, make: Make) -> None:
    one = make("one")
    registry.add(one, "student")
    registry.fork("student", "tutor")
    assert registry.remove("tutor") == one.sha256
    assert registry.get("student").sha256 == one.sha256  # another name had it
    registry.remove(one.sha256)
    assert registry.list() == ()
    assert list((registry.folder / "objects").iterdir()) == []
    assert registry.add(one, "student").sha256 == one.sha256


# --- damage, crashes, several writers ------------------------------------------------------------


def damage(file: Path) -> None:
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md"])
def test_damage_is_noticed_and_adding_again_mends_it(
    registry: AdapterRegistry, make: Make, name: str
) -> None:
    one = make("one")
    path = registry.add(one, "student").path
    damage(path / name)
    with pytest.raises(IntegrityError, match=name):
        registry.get("student")
    with pytest.raises(IntegrityError):
        registry.promote("student", "prod", verdict=BETTER)
    assert name in registry.list()[0].problem
    registry.add(one, "student")
    assert registry.get("student").sha256 == one.sha256
    assert registry.list()[0].problem == ""


def test_a_swapped_folder_and_a_damaged_index_are_noticed(registry: AdapterRegistry, make: Make) -> None:
    one, two = (registry.add(make(name), name) for name in ("one", "two"))
    three = make("three")
    spare = one.path.with_name("spare")
    one.path.rename(spare)
    two.path.rename(one.path)
    with pytest.raises(IntegrityError, match="holds the adapter"):
        registry.get("one")
    with pytest.raises(IntegrityError, match="missing"):
        registry.get("two")
    file = registry.folder / "registry.json"
    file.write_text(file.read_text().replace('"one"', '"uno"'))
    for read in (registry.list, lambda: registry.get("two"), lambda: registry.add(three, "x")):
        with pytest.raises(IntegrityError, match=r"registry\.json is damaged"):
            read()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"sha256": 1}', "\xff"])
def test_an_index_of_another_shape_is_damage(registry: AdapterRegistry, text: str) -> None:
    registry.folder.mkdir()
    (registry.folder / "registry.json").write_text(text, encoding="latin-1")
    with pytest.raises(IntegrityError, match="damaged"):
        registry.list()


@pytest.mark.parametrize("when", ["before the copy appears", "before the index is written"])
def test_a_crash_leaves_the_registry_as_it_was(
    registry: AdapterRegistry, make: Make, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed for good: no exception handler runs."""
    registry.add(make("one"), "student")
    two = make("two")
    before = registry.list()
    target = (
        "docendo.distill.adapters._store.Adapter.open"
        if when == "before the copy appears"
        else "docendo.distill.adapters._index.Index.write"
    )
    module, _, attribute = target.rpartition(".")
    script = (
        "import os, sys, importlib\n"
        "from docendo.distill import Adapter, AdapterRegistry\n"
        f"registry, two = AdapterRegistry({str(registry.folder)!r}), {str(two.path)!r}\n"
        f"owner, name, attribute = importlib.import_module({module.rpartition('.')[0]!r}), "
        f"{module.rpartition('.')[2]!r}, {attribute!r}\n"
        "calls = []\n"
        "real = getattr(getattr(owner, name), attribute)\n"
        "def stop(*args, **options):\n"
        "    if attribute == 'write' or '.objects' in str(args) or '/objects/.' in str(args):\n"
        "        os._exit(9)\n"
        "    return real(*args, **options)\n"
        "setattr(getattr(owner, name), attribute, stop)\n"
        "registry.add(two, 'student')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert registry.list() == before
    leftovers = {file.name for file in (registry.folder / "objects").iterdir()} - {before[0].sha256}
    assert len(leftovers) == 1
    assert registry.add(two, "student").sha256 == two.sha256
    assert {file.name for file in (registry.folder / "objects").iterdir()} == {before[0].sha256, two.sha256}


def test_writers_of_several_processes_lose_nothing(registry: AdapterRegistry, make: Make) -> None:
    adapters = [make(f"a{n}") for n in range(6)]
    script = (
        "import sys\nfrom docendo.distill import AdapterRegistry\n"
        "registry = AdapterRegistry(sys.argv[1])\n"
        "for path in sys.argv[2:]:\n"
        "    adapter = registry.add(path, 'student')\n"
        "    registry.promote(adapter.sha256, 'prod', force=True, reason=path)\n"
    )
    commands = [
        [sys.executable, "-c", script, str(registry.folder), *(str(one.path) for one in adapters[start::2])]
        for start in (0, 1)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert {row.sha256 for row in registry.list()} == {one.sha256 for one in adapters}
    assert len(registry.history("student@prod")) == 6


def test_threads_share_a_registry(registry: AdapterRegistry, make: Make) -> None:
    adapters = [make(f"a{n}") for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: registry.add(one, "student"), adapters))
    assert {row.sha256 for row in registry.list()} == {one.sha256 for one in adapters}


def test_a_writer_that_holds_the_lock_is_named(
    registry: AdapterRegistry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("one")
    monkeypatch.setattr(_index, "BUSY_SECONDS", 0.05)
    with _index.locked(registry.folder), pytest.raises(StorageError, match="another process"):
        registry.add(one, "student")
    assert registry.add(one, "student").sha256 == one.sha256


def test_a_full_disk_leaves_nothing(
    registry: AdapterRegistry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    one = make("one")
    with monkeypatch.context() as patch:
        patch.setattr(_store.shutil, "copyfile", full)
        with pytest.raises(StorageError, match="No space left"):
            registry.add(one, "student")
    assert list((registry.folder / "objects").iterdir()) == []
    assert registry.list() == ()
    assert registry.add(one, "student").sha256 == one.sha256


# --- the engine ----------------------------------------------------------------------------------


def test_an_alias_is_served_and_swapped_while_requests_run(
    registry: AdapterRegistry, make: Make, tiny_model_dir: Path
) -> None:
    """Requests that run keep their weights and finish; later ones get the new adapter."""
    fingerprint = models.fingerprint(tiny_model_dir)
    one, two = (registry.add(make(name, fingerprint=fingerprint), "student") for name in ("one", "two"))
    request = Request(
        prompt="2 + 3", adapter="student", sampling=SamplingParams(max_tokens=64, ignore_eos=True)
    )
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        expected = {}
        for adapter, over in ((two, None), (one, two)):
            registry.promote(adapter.sha256, "prod", verdict=better(adapter, over))
            assert registry.serve(engine, "student@prod", as_="student").sha256 == adapter.sha256
            assert engine.adapter_hash("student") == adapter.sha256
            expected[adapter.sha256] = engine.generate(request).text
        assert expected[one.sha256] != expected[two.sha256]
        running = engine.stream(request)
        text = next(running).text  # it runs
        waiting = [engine.submit(request) for _ in range(3)]
        registry.rollback("student@prod")
        registry.serve(engine, "student@prod", as_="student")
        assert engine.generate(request).text == expected[two.sha256]
        assert text + "".join(chunk.text for chunk in running) == expected[one.sha256]
        assert {future.result().text for future in waiting} == {expected[one.sha256]}


def test_an_adapter_of_another_base_or_damaged_is_not_served(
    registry: AdapterRegistry, make: Make, tiny_model_dir: Path
) -> None:
    fingerprint = models.fingerprint(tiny_model_dir)
    good = registry.add(make("good", fingerprint=fingerprint), "student")
    registry.add(make("other"), "other")
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        registry.serve(engine, "student")
        with pytest.raises(AdapterError, match="base model"):
            registry.serve(engine, "other", as_="student")
        damage(good.path / "adapter_model.safetensors")
        with pytest.raises(IntegrityError):
            registry.serve(engine, "student")
        assert engine.adapters() == {"student": good.sha256}


def test_an_engine_that_serves_other_weights_is_found_out(
    registry: AdapterRegistry, make: Make, tiny_model_dir: Path
) -> None:
    fingerprint = models.fingerprint(tiny_model_dir)
    registry.add(make("one", fingerprint=fingerprint), "student")
    wrong = make("two", fingerprint=fingerprint)

    class Wrong(Engine):
        def load_adapter(self, name: str, path: str | Path) -> str:
            return super().load_adapter(name, wrong.path)

    with Wrong.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        with pytest.raises(SilentNoOp, match="it was dropped"):
            registry.serve(engine, "student")
        assert engine.adapters() == {}


def test_merges_and_differences_by_name(registry: AdapterRegistry, make: Make) -> None:
    one, two = registry.add(make("one"), "long"), registry.add(make("two"), "short")
    merged = registry.merge(["long", "short"], name="both", weights=[0.25, 0.75])
    assert registry.get("both") == merged
    assert merged.path.is_relative_to(registry.folder)
    assert set(registry.lineage("both").adapters[0].parents) == {one.sha256, two.sha256}
    assert registry.lineage("both").turns == 2
    with pytest.raises(AdapterError, match="descends from it"):
        registry.remove("long")
    assert registry.diff("long", "both").before == "long"
