"""Merging, comparing and exporting adapters, against plain matrices, PEFT and the logits of a tiny model."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from docendo.agents import Engine, models
from docendo.distill import Adapter, TrainConfig, diff_adapters, export_adapter, merge_adapters, train
from docendo.distill.adapters import _weights
from docendo.distill.adapters._weights import read_weights
from docendo.errors import AdapterError, ConfigError, IntegrityError, SilentNoOp
from docendo.hashing import digest
from docendo.manifest import write_manifest
from docendo.memory import Artifacts, Blackboard, Database, Taint, TraceStore
from docendo.records import Author, Request, SamplingParams, Trace

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOKENS = torch.tensor([[5, 6, 7, 40, 41, 100]])
Make = Callable[..., Adapter]


@pytest.fixture(scope="session")
def fingerprint(tiny_model_dir: Path) -> str:
    return models.fingerprint(tiny_model_dir)


@pytest.fixture(scope="session")
def shapes(tiny_model_dir: Path) -> dict[str, tuple[int, int]]:
    """(in, out) of every linear layer but the head."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    }


@pytest.fixture
def make(tmp_path: Path, fingerprint: str, shapes: dict[str, tuple[int, int]], tiny_model_dir: Path) -> Make:
    """Writes random adapters of the tiny model as PEFT folders with a manifest."""

    def write(
        name: str, *, r: int = 4, layers: str = "layers.0.mlp", facts: Any = None, **options: Any
    ) -> Adapter:
        chosen = {layer: shape for layer, shape in shapes.items() if layers in layer}
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(int(digest(name)[:8], 16))
        tensors = {}
        for layer, (inputs, outputs) in chosen.items():
            key = f"base_model.model.{layer}.lora"
            tensors[f"{key}_A.weight"] = torch.randn(r, inputs, generator=generator) / inputs**0.5
            tensors[f"{key}_B.weight"] = torch.randn(outputs, r, generator=generator) * 0.2
        save_file(tensors, folder / "adapter_model.safetensors")
        config = LoraConfig(
            **{"r": r, "lora_alpha": 8, "target_modules": sorted(chosen), "task_type": "CAUSAL_LM", **options}
        )
        config.save_pretrained(folder)
        base = {
            "format": 1,
            "name": name,
            "created": "2026-01-01T00:00:00+00:00",
            "base": {"name": str(tiny_model_dir), "fingerprint": fingerprint},
            "parent": None,
            "method": {"name": "sft", "objective": [{"name": "cross_entropy", "weight": 1.0}]},
            "config": {"seed": 3, "lora_r": r, "lora_alpha": 8, "target_modules": "all-linear"},
            "metadata": {},
            "data": {"digest": digest(name), "items": 2, "examples": 2},
            "lineage": {"traces": [f"turn-{name}", "turn-all"], "posts": [f"post-{name}"]},
            "metrics": {"final_loss": len(name) / 10},
            "losses": [],
            "versions": {},
        }
        write_manifest(folder, {**base, **(facts or {})})
        return Adapter.open(folder)

    return write


def changes(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The whole matrices scaling x B A in float64, straight from the files."""
    plain = json.loads((adapter.path / "adapter_config.json").read_text())
    tensors = load_file(adapter.path / "adapter_model.safetensors")
    scaling = plain["lora_alpha"] / (plain["r"] ** 0.5 if plain["use_rslora"] else plain["r"])
    return {
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): scaling
        * tensors[key.replace("lora_A", "lora_B")].double()
        @ a.double()
        for key, a in tensors.items()
        if "lora_A" in key
    }


def summed(*parts: tuple[float, Adapter]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for weight, adapter in parts:
        for layer, change in changes(adapter).items():
            found[layer] = found.get(layer, torch.zeros_like(change)) + weight * change
    return found


def require_changes(adapter: Adapter, expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    found = changes(adapter)
    assert found.keys() == expected.keys()
    for layer, change in expected.items():
        assert float((found[layer] - change).norm()) <= tolerance * float(change.norm()), layer


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def with_changes(folder: Path, added: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the base with changes added to its weights: no LoRA is involved."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for layer, change in added.items():
            model.get_submodule(layer).weight += change.float()
    return logits(model)


def with_peft(folder: Path, adapter: Adapter) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, str(adapter.path)))


# --- exact merges --------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "rslora"), [("cat", False), ("average", True)])
def test_an_exact_merge_gives_the_logits_of_the_weighted_sum(
    make: Make, tiny_model_dir: Path, tmp_path: Path, method: str, rslora: bool
) -> None:
    """Adapters of other ranks, other scalings and other layers, weights that do not sum to 1."""
    one, two = make("one", r=4, layers="", use_rslora=rslora), make("two", r=3, layers="mlp", lora_alpha=5)
    merged = merge_adapters([one, two], weights=[0.7, -0.4], method=method, output=tmp_path / "m")
    expected = summed((0.7, one), (-0.4, two))
    require_changes(merged, expected)
    assert merged.metrics["sum_error"] < 1e-6
    assert merged.metrics["rank"] == 7
    wanted = with_changes(tiny_model_dir, expected)
    torch.testing.assert_close(with_peft(tiny_model_dir, merged), wanted, rtol=1e-4, atol=1e-4)
    assert float((wanted - with_changes(tiny_model_dir, {})).abs().max()) > 0.05


def test_the_engine_serves_a_merge_like_the_sum(make: Make, tiny_model_dir: Path, tmp_path: Path) -> None:
    one, two = make("one", layers=""), make("two", layers="mlp")
    merged = merge_adapters([one, two], output=tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    expected = summed((0.5, one), (0.5, two))
    with torch.no_grad():
        for layer, change in expected.items():
            model.get_submodule(layer).weight += change.float()
        prompt = tuple(TOKENS[0].tolist())
        answer = model.generate(TOKENS, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    sampling = SamplingParams(max_tokens=12, ignore_eos=True)
    with Engine.load(tiny_model_dir, dtype="float32", device="cpu") as engine:
        assert engine.load_adapter("m", merged.path) == merged.sha256
        (found,) = engine.generate(Request(prompt=prompt, adapter="m", sampling=sampling)).completions
        (plain,) = engine.generate(Request(prompt=prompt, sampling=sampling)).completions
    assert list(found.token_ids) == answer[0, len(prompt) :].tolist()
    assert found.token_ids != plain.token_ids


def test_the_order_of_adapters_does_not_matter(make: Make, tmp_path: Path) -> None:
    one, two, three = make("one"), make("two"), make("three")
    for method in ("cat", "average"):
        forward = merge_adapters(
            [one, two, three], weights=[1, 2, 3], method=method, output=tmp_path / "f", name="m"
        )
        backward = merge_adapters(
            [three, two, one], weights=[3, 2, 1], method=method, output=tmp_path / "b", name="m"
        )
        assert forward.sha256 == backward.sha256
        for key in ("parents", "method", "config", "data", "lineage", "metrics"):
            assert forward.manifest[key] == backward.manifest[key]


def test_an_average_has_the_least_rank_that_holds_the_sum(make: Make, tmp_path: Path) -> None:
    """Here the second adapter is the first one times 3, so the sum has the rank of one."""
    one = make("one", r=4)
    two = make("two", r=4)
    tensors = load_file(one.path / "adapter_model.safetensors")
    save_file(
        {key: value * 3 if "lora_B" in key else value for key, value in tensors.items()},
        two.path / "adapter_model.safetensors",
    )
    write_manifest(two.path, {k: v for k, v in two.manifest.items() if k not in ("files", "sha256")})
    merged = merge_adapters([one, two.path], method="average", output=tmp_path / "m")
    assert merged.metrics["rank"] == 4
    assert merged.metrics["truncation_error"] == 0.0
    require_changes(merged, {layer: 2 * change for layer, change in changes(one).items()})


def test_what_a_rank_cuts_off_is_reported_as_the_singular_values_say(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    merged = merge_adapters([one, two], method="average", rank=3, output=tmp_path / "m")
    expected, cut, total = summed((0.5, one), (0.5, two)), 0.0, 0.0
    for change in expected.values():
        values = torch.linalg.svdvals(change)
        cut, total = cut + float((values[3:] ** 2).sum()), total + float((values**2).sum())
    assert merged.metrics["rank"] == 3
    assert merged.metrics["truncation_error"] == pytest.approx((cut / total) ** 0.5, rel=1e-6)
    assert merged.metrics["sum_error"] == pytest.approx(merged.metrics["truncation_error"], rel=1e-4)
    # Eckart and Young: no change of rank 3 is nearer, so what was written is as near as can be.
    distance = sum(float((changes(merged)[k] - v).norm()) ** 2 for k, v in expected.items())
    assert distance == pytest.approx(cut, rel=1e-4)


def test_a_merge_states_its_parts(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    merged = merge_adapters([two, one], weights=[2, 1], output=tmp_path / "both")
    facts = merged.manifest
    assert (merged.name, facts["parent"]) == ("both", None)
    assert dict(zip(facts["parents"], facts["method"]["weights"], strict=True)) == {
        one.sha256: 1.0,
        two.sha256: 2.0,
    }
    assert facts["lineage"] == {
        "traces": ["turn-all", "turn-one", "turn-two"],
        "posts": ["post-one", "post-two"],
    }
    assert facts["data"]["sources"] == sorted([digest("one"), digest("two")])
    card = (merged.path / "README.md").read_text()
    assert f"2 × `{two.sha256[:16]}`" in card
    assert "nothing was trained" in card
    assert "Loss" not in card


@pytest.mark.slow
def test_a_merge_can_be_trained_further(make: Make, tiny_model_dir: Path, tmp_path: Path) -> None:
    merged = merge_adapters([make("one", layers="", r=2), make("two", layers="", r=2)], output=tmp_path / "m")
    rows = [
        {
            "prompt": [{"role": "user", "content": "2 + 3"}],
            "completion": [{"role": "assistant", "content": "5"}],
        }
    ]
    config = TrainConfig(max_steps=1, lora_r=4, lora_alpha=4, dtype="float32", warmup_ratio=0)
    child = train(
        tiny_model_dir, rows, output=tmp_path / "child", config=config, parent=merged.path, quiet=True
    )
    assert child.manifest["parent"] == merged.sha256
    assert child.manifest["lineage"]["traces"] == merged.manifest["lineage"]["traces"]


def test_adapters_that_undo_each_other_are_a_silent_no_op(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    shutil.copy(one.path / "adapter_model.safetensors", two.path)
    tensors = load_file(one.path / "adapter_model.safetensors")
    flipped = {key: -value if "lora_B" in key else value for key, value in tensors.items()}
    save_file(flipped, two.path / "adapter_model.safetensors")
    write_manifest(two.path, {k: v for k, v in two.manifest.items() if k not in ("files", "sha256")})
    with pytest.raises(SilentNoOp, match="undo each other"):
        merge_adapters([one, two.path], output=tmp_path / "m")
    assert not (tmp_path / "m").exists()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ],
)
def test_adapters_that_are_no_plain_lora_are_refused(
    make: Make, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = make("one"), make("two", **options)
    with pytest.raises(AdapterError, match=named):
        merge_adapters([one, two], output=tmp_path / "m")
    with pytest.raises(AdapterError, match=named):
        diff_adapters(one, two)


def test_a_kind_of_adapter_that_is_not_known_is_refused(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    file = two.path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_something_new": True}))
    write_manifest(two.path, {k: v for k, v in two.manifest.items() if k not in ("files", "sha256")})
    with pytest.raises(AdapterError, match="use_something_new"):
        merge_adapters([one, two.path], output=tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, "weights"),
        ({"weights": "12"}, "weights"),
        ({"weights": [1.0, float("nan")]}, "weight"),
        ({"weights": [1.0, 0.0]}, "weight"),
        ({"weights": [1.0, True]}, "weight"),
        ({"method": "linear"}, "peft:linear"),
        ({"method": 1}, "method"),
        ({"rank": 4}, "rank"),
        ({"method": "average", "rank": 0}, "rank"),
        ({"method": "peft:ties"}, "density"),
        ({"method": "peft:ties", "density": 1.5}, "density"),
        ({"density": 0.5}, "density"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    make: Make, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        merge_adapters([make("one"), make("two")], output=tmp_path / "m", **options)
    assert "\n" not in str(caught.value)


def test_one_adapter_the_same_twice_and_another_base_are_refused(make: Make, tmp_path: Path) -> None:
    one = make("one")
    with pytest.raises(ConfigError, match="at least 2"):
        merge_adapters([one], output=tmp_path / "m")
    with pytest.raises(ConfigError, match="itself"):
        merge_adapters([one, one.path], output=tmp_path / "m")
    other = make("two", facts={"base": {"name": "other", "fingerprint": "f" * 64}})
    with pytest.raises(AdapterError, match="base model"):
        merge_adapters([one, other], output=tmp_path / "m")
    with pytest.raises(AdapterError, match="base model"):
        diff_adapters(one, other)


def test_damaged_weights_are_refused(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    file = two.path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="safetensors"):
        merge_adapters([one, two], output=tmp_path / "m")


# --- lineage and taint ---------------------------------------------------------------------------


def test_tainted_adapters_are_not_merged(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    for taint in (
        Taint(post="p", quarantined=False, traces=("turn-two",)),
        Taint(post="p", quarantined=True, adapters=(two.sha256,)),
    ):
        with pytest.raises(AdapterError, match="'two' learnt from what post p led to"):
            merge_adapters([one, two], output=tmp_path / "m", taint=[taint])
    merged = merge_adapters(
        [one, two], output=tmp_path / "m", taint=[Taint(post="p", quarantined=True, traces=("turn-x",))]
    )
    assert merged.descends_from(Taint(post="p", quarantined=False, traces=("turn-two",)))
    assert merged.descends_from(Taint(post="p", quarantined=False, adapters=(one.sha256,)))
    assert not merged.descends_from(Taint(post="p", quarantined=False, traces=("turn-x",)))


def test_an_unknown_origin_is_not_hidden_by_a_known_one(make: Make, tmp_path: Path) -> None:
    one, silent = make("one"), make("two", facts={"lineage": {"traces": [], "posts": []}})
    with pytest.raises(AdapterError, match="'two' does not name all turns"):
        merge_adapters([one, silent], output=tmp_path / "m")
    merged = merge_adapters([one, silent], output=tmp_path / "m", unknown_lineage=True)
    assert merged.manifest["lineage"]["unknown"] == [silent.sha256]
    assert merged.descends_from(Taint(post="p", quarantined=False, traces=("turn-one",)))
    with pytest.raises(AdapterError, match="names no turns that a part of it"):
        merged.descends_from(Taint(post="p", quarantined=False, traces=("turn-x",)))
    # A merge of it is as unsure.
    with pytest.raises(AdapterError, match="does not name all turns"):
        merge_adapters([merged, make("three")], output=tmp_path / "n")


def test_a_database_refuses_what_is_quarantined_and_records_the_merge(make: Make, tmp_path: Path) -> None:
    person, agent = Author(agent="ann", role="person"), Author(agent="a", role="student", model="m")
    one, two, three = make("one"), make("two"), make("three")
    with Database.open(tmp_path / "docendo.db") as database:
        board, artifacts = Blackboard(database), Artifacts(database)
        posts = []
        for adapter in (one, two, three):
            trace = Trace(
                id=f"turn-{adapter.name}",
                run="r",
                item="i",
                author=agent,
                messages=({"role": "user", "content": "?"},),
                completion="!",
            )
            TraceStore(database).add([trace])
            posts.append(board.post("answer", {"text": "!"}, author=agent, key=trace.id, traces=[trace.id]))
            artifacts.dataset(adapter.manifest["data"]["digest"], traces=[trace.id])
            artifacts.adapter(adapter.sha256, dataset=adapter.manifest["data"]["digest"])
        board.quarantine(posts[2].id, by=person, reason="wrong")
        with pytest.raises(AdapterError, match="'three' learnt from"):
            merge_adapters([one, three], output=tmp_path / "n", database=database)
        merged = merge_adapters([one, two], output=tmp_path / "m", database=database)
        for post in posts[:2]:
            assert merged.sha256 in board.taint(post.id).adapters
        assert merged.sha256 not in board.taint(posts[2].id).adapters
        assert artifacts.verify().ok


# --- PEFT's methods ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "cat", "svd", "ties", "dare_linear", "magnitude_prune_svd"])
def test_rslora_fails_the_check_of_every_method_of_peft(make: Make, tmp_path: Path, method: str) -> None:
    """peft applies rsLoRA's scaling once more: at rank 4 the change comes back twice as large."""
    one, two = make("one", use_rslora=True), make("two", use_rslora=True)
    options: dict[str, Any] = {"density": 0.5} if method not in ("linear", "cat", "svd") else {}
    with pytest.raises(AdapterError, match="off by 100 %"):
        merge_adapters([one, two], output=tmp_path / "m", method=f"peft:{method}", **options)
    assert not (tmp_path / "m").exists()


def test_one_rslora_among_plain_adapters_fails_the_check(make: Make, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="'two' alone, with weight 1"):
        merge_adapters(
            [make("one"), make("two", use_rslora=True)], output=tmp_path / "m", method="peft:linear"
        )


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_methods_that_promise_the_sum_give_it(make: Make, tmp_path: Path, method: str) -> None:
    one, two = make("one"), make("two", layers="up_proj", r=2)
    merged = merge_adapters([one, two], weights=[0.3, 0.6], output=tmp_path / "m", method=f"peft:{method}")
    require_changes(merged, summed((0.3, one), (0.6, two)), 1e-5)
    assert merged.metrics["sum_error"] < 1e-5


def test_methods_that_do_not_say_how_far_they_are_from_the_sum(make: Make, tmp_path: Path) -> None:
    """`linear` adds up A and B separately: expected from the matrices, with the cross terms."""
    one, two = make("one"), make("two")
    merged = merge_adapters([one, two], weights=[0.5, 0.5], output=tmp_path / "m", method="peft:linear")
    tensors = [load_file(each.path / "adapter_model.safetensors") for each in (one, two)]
    expected = {}
    for layer in changes(one):
        key = f"base_model.model.{layer}.lora"
        # Each side takes the square root of weight x scaling, 0.5 x 2.
        b, a = (sum(each[f"{key}_{side}.weight"].double() for each in tensors) for side in "BA")
        expected[layer] = b @ a
    require_changes(merged, expected, 1e-5)
    total = summed((0.5, one), (0.5, two))
    error = sum(float((expected[k] - total[k]).norm() ** 2) for k in total) / sum(
        float(v.norm() ** 2) for v in total.values()
    )
    assert merged.metrics["sum_error"] == pytest.approx(error**0.5, rel=1e-4)
    assert merged.metrics["sum_error"] > 0.5


@pytest.mark.slow
def test_random_pruning_follows_its_seed(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    torch.manual_seed(5)
    expected = float(torch.rand(()))
    torch.manual_seed(5)
    found = [
        merge_adapters(
            [one, two], output=tmp_path / f"m{n}", method="peft:dare_linear", density=0.5, seed=seed
        ).sha256
        for n, seed in enumerate((1, 1, 2))
    ]
    assert found[0] == found[1] != found[2]
    assert float(torch.rand(())) == expected


@pytest.mark.slow
def test_ties_of_peft_is_that_of_the_model(make: Make, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The same method called by hand on the real model, with the adapters that PEFT itself loads."""
    one, two = make("one"), make("two")
    merged = merge_adapters(
        [one, two], weights=[1.0, 1.0], output=tmp_path / "m", method="peft:ties", density=0.4
    )
    pair = sorted([one, two], key=lambda adapter: adapter.sha256)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    reference = PeftModel.from_pretrained(model, str(pair[0].path), adapter_name="a")
    reference.load_adapter(str(pair[1].path), adapter_name="b")
    reference.add_weighted_adapter(["a", "b"], [1.0, 1.0], "ab", combination_type="ties", density=0.4)
    reference.set_adapter("ab")
    torch.testing.assert_close(with_peft(tiny_model_dir, merged), logits(reference), rtol=1e-4, atol=1e-4)


# --- differences ---------------------------------------------------------------------------------


def test_differences_are_those_of_the_whole_matrices(make: Make) -> None:
    one = make("one", r=4, layers="layers.0", use_rslora=True)
    two = make("longer", r=3, facts={"metrics": {"final_loss": 0.5, "steps": 7}})
    found = diff_adapters(one, two)
    left, right = changes(one), changes(two)
    assert [layer.name for layer in found.layers] == sorted(left)
    for layer in found.layers:
        a, b = left[layer.name], right.get(layer.name, torch.zeros_like(left[layer.name]))
        assert layer.before == pytest.approx(float(a.norm()))
        assert layer.after == pytest.approx(float(b.norm()))
        assert layer.difference == pytest.approx(float((a - b).norm()))
        if layer.name in right:
            cosine = float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
            assert layer.cosine == pytest.approx(cosine, abs=1e-9)
        else:
            assert layer.cosine is None
    flat = [
        torch.cat([each.get(k, torch.zeros_like(v)).flatten() for k, v in left.items()])
        for each in (left, right)
    ]
    assert found.total.difference == pytest.approx(float((flat[0] - flat[1]).norm()))
    cosine = float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
    assert found.total.cosine == pytest.approx(cosine, abs=1e-9)
    assert found.settings["peft.r"] == (4, 3)
    assert found.settings["peft.use_rslora"] == (True, False)
    assert found.metrics == {"final_loss": (0.3, 0.5), "steps": (None, 7)}
    assert (found.traces.both, found.traces.before, found.traces.after) == (1, 1, 1)
    assert found.traces.share == pytest.approx(1 / 3)
    assert not found.same_data
    assert json.loads(json.dumps(found.to_json()))["total"]["cosine"] == found.total.cosine
    assert "all layers" in str(found)


def test_the_same_change_in_other_factors_differs_by_nothing(make: Make, tmp_path: Path) -> None:
    one, two = make("one"), make("two")
    cat = merge_adapters([one, two], output=tmp_path / "cat")
    average = merge_adapters([one, two], method="average", output=tmp_path / "average")
    found = diff_adapters(cat, average)
    assert found.total.difference < 1e-6 * found.total.before
    assert found.total.cosine == pytest.approx(1.0, abs=1e-9)
    assert diff_adapters(one, one).total.difference < 1e-12 * found.total.before
    assert found.same_data


@settings(max_examples=25, deadline=None)
@given(
    r=st.integers(1, 5),
    s=st.integers(1, 5),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_arithmetic_on_factors_is_that_on_matrices(
    r: int, s: int, inputs: int, outputs: int, seed: int
) -> None:
    """Also where the ranks are larger than the matrix."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    left, right = (random(r, inputs), random(outputs, r)), (random(s, inputs), random(outputs, s))
    a, b = left[1] @ left[0], right[1] @ right[0]
    assert _weights.inner(left, right) == pytest.approx(float((a * b).sum()), abs=1e-9)
    assert _weights.norm(left) == pytest.approx(float(a.norm()), abs=1e-9)
    assert _weights.distance(left, right) == pytest.approx(float((a - b).norm()), abs=1e-9)
    u, values, vt = _weights.singular(left)
    torch.testing.assert_close(u @ values.diag() @ vt, a)
    wanted = torch.linalg.svdvals(a)[: len(values)]
    torch.testing.assert_close(values[: len(wanted)], wanted, atol=1e-9, rtol=1e-9)


# --- export --------------------------------------------------------------------------------------


def test_an_export_is_a_peft_folder_with_a_new_card(make: Make, tiny_model_dir: Path, tmp_path: Path) -> None:
    one = make("one")
    verdict = {
        "verdict": "better",
        "reason": "12 more items",
        "before": 0.25,
        "after": 0.5,
        "after_interval": [0.4, 0.6],
        "n": 100,
    }
    path = export_adapter(one, tmp_path / "out", verdict=verdict)
    exported = Adapter.open(path)
    assert exported.sha256 == one.sha256
    card = (path / "README.md").read_text()
    assert "| after | 0.5 (0.4 to 0.6), n = 100 |" in card
    assert "| verdict of the promotion | better. 12 more items |" in card
    torch.testing.assert_close(with_peft(tiny_model_dir, exported), with_peft(tiny_model_dir, one))


@pytest.mark.parametrize("options", [{}, pytest.param({"use_rslora": True}, marks=pytest.mark.slow)])
def test_a_merged_model_has_the_logits_of_base_and_adapter(
    make: Make, tiny_model_dir: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    one = make("one", **options)
    path = export_adapter(one, tmp_path / "out", format="merged", dtype="float32")
    found = logits(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32))
    torch.testing.assert_close(found, with_changes(tiny_model_dir, changes(one)), rtol=1e-4, atol=1e-4)
    facts = json.loads((path / "manifest.json").read_text())
    assert facts["adapter"] == one.sha256
    assert facts["logits"]["error"] < 1e-4 < facts["logits"]["change"]
    assert str(tmp_path) not in (path / "config.json").read_text()
    # An ordinary model folder: the engine takes it.
    with Engine.load(path, dtype="float32", device="cpu") as engine:
        assert engine.fingerprint == models.fingerprint(path) != one.base


@pytest.mark.slow
def test_a_merged_model_in_bfloat16_says_what_rounding_costs(make: Make, tmp_path: Path) -> None:
    path = export_adapter(make("one"), tmp_path / "out", format="merged", dtype="bfloat16")
    facts = json.loads((path / "manifest.json").read_text())
    assert facts["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(path / "model.safetensors").values()} == {torch.bfloat16}
    assert 0 < facts["logits"]["error"] < facts["logits"]["change"] / 2


@pytest.mark.slow
def test_a_change_that_rounding_swallows_is_not_exported(make: Make, tmp_path: Path) -> None:
    tiny = make("one", lora_alpha=0.004)
    with pytest.raises(SilentNoOp, match="in bfloat16"):
        export_adapter(tiny, tmp_path / "out", format="merged", dtype="bfloat16")
    assert not (tmp_path / "out").exists()


def test_the_wrong_base_and_bad_arguments_are_refused(make: Make, tmp_path: Path) -> None:
    from docendo.agents import tiny_model

    other = tiny_model(tmp_path / "other", seed=1)
    one = make("one")
    with pytest.raises(AdapterError, match="base model"):
        export_adapter(one, tmp_path / "out", format="merged", model=other)
    with pytest.raises(ConfigError, match="format"):
        export_adapter(one, tmp_path / "out", format="onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dtype"):
        export_adapter(one, tmp_path / "out", dtype="int4")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_weights_are_read_in_float64_with_their_scaling(make: Make) -> None:
    found = read_weights(make("one", r=4, use_rslora=True), purpose="merged")
    assert (found.rank, found.scaling) == (4, 4.0)
    assert {a.dtype for a, _ in found.layers.values()} == {torch.float64}
