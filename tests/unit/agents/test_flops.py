"""Estimated operations against what torch counts while it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from docendo.agents._flops import FlopsModel

TOKENS = 24
COMMON = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "num_hidden_layers": 3, "num_key_value_heads": 2},
    "gemma3_text": {
        **COMMON,
        "num_hidden_layers": 6,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "sliding_window": 8,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
    "mistral": {**COMMON, "num_hidden_layers": 2, "num_key_value_heads": 2, "sliding_window": 8},
    "gpt_neox": {**COMMON, "num_hidden_layers": 2},
    "gpt2": {
        "vocab_size": 300,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "eos_token_id": 0,
        "bos_token_id": 0,
    },
    "mixtral": {**COMMON, "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 4},
    "qwen2_moe": {
        **COMMON,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    },
}


def _model(kind: str) -> Any:
    # Eager, because torch counts neither fused attention nor grouped products on every processor.
    config = AutoConfig.for_model(kind, **MODELS[kind])
    config._experts_implementation = "eager"
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def _counted(model: Any, *, steps: int, head: bool = True) -> int:
    """What torch counts for a prompt that is computed in so many steps."""
    ids = torch.arange(TOKENS)[None] % 300
    cache = DynamicCache(config=model.config)
    run = model if head else model.base_model
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for part in ids.split(TOKENS // steps, dim=1):
            run(input_ids=part, past_key_values=cache, use_cache=True)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", MODELS)
def test_token_by_token_the_estimate_is_what_torch_counts(kind: str) -> None:
    model = _model(kind)
    flops = FlopsModel.from_model(model)
    counted = _counted(model, steps=TOKENS)
    assert flops.forward(TOKENS, 0, head_positions=TOKENS) == pytest.approx(counted, rel=0.002)
    one_by_one = sum(flops.forward(1, position) for position in range(TOKENS))
    assert one_by_one == flops.forward(TOKENS, 0, head_positions=TOKENS)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_masked_positions_do_not_count(kind: str) -> None:
    """At once, torch computes every pair of positions and throws half of them away."""
    model = _model(kind)
    flops = FlopsModel.from_model(model)
    sizes = sum(size for size, _ in flops.attention)
    seen = sum(size * sum(min(p + 1, w or p + 1) for p in range(TOKENS)) for size, w in flops.attention)
    thrown_away = 4 * (sizes * TOKENS**2 - seen)
    counted = _counted(model, steps=1)
    assert flops.forward(TOKENS, 0, head_positions=TOKENS) == pytest.approx(counted - thrown_away, rel=0.002)


def test_the_head_counts_only_where_it_is_applied() -> None:
    model = _model("llama")
    flops = FlopsModel.from_model(model)
    assert flops.head == 300 * 64
    counted = _counted(model, steps=TOKENS, head=False)
    assert flops.forward(TOKENS, 0, head_positions=0) == pytest.approx(counted, rel=0.002)


def test_tied_embeddings_are_a_head_and_no_body() -> None:
    config = AutoConfig.for_model("llama", **MODELS["llama"], tie_word_embeddings=True)
    tied = FlopsModel.from_model(AutoModelForCausalLM.from_config(config))
    assert tied == FlopsModel.from_model(_model("llama"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_costs_two_operations_a_weight() -> None:
    model = _model("llama")
    flops = FlopsModel.from_model(model)
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "down_proj"])).eval()
    weights = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    counted = _counted(adapted.get_base_model(), steps=TOKENS)
    estimate = flops.forward(TOKENS, 0, head_positions=TOKENS, adapter_weights=weights)
    assert estimate == pytest.approx(counted, rel=0.002)
    assert estimate > 1.05 * flops.forward(TOKENS, 0, head_positions=TOKENS)


@given(
    new=st.integers(0, 40),
    start=st.integers(0, 40),
    window=st.none() | st.integers(1, 30),
    cut=st.integers(0, 40),
)
def test_every_token_sees_itself_and_what_its_window_holds(
    new: int, start: int, window: int | None, cut: int
) -> None:
    flops = FlopsModel(body=0, head=0, attention=((1, window),))
    seen = sum(min(p + 1, window or p + 1) for p in range(start, start + new))
    assert flops.forward(new, start, head_positions=0) == 4 * seen
    cut = min(cut, new)  # chunks, or a prefix from the cache, add up to the same
    parts = (cut, start), (new - cut, start + cut)
    assert sum(flops.forward(n, s, head_positions=0) for n, s in parts) == 4 * seen


def test_a_window_that_is_switched_off() -> None:
    """Qwen 2 states a window that it does not use."""
    config = AutoConfig.for_model(
        "qwen2",
        **COMMON,
        num_hidden_layers=2,
        num_key_value_heads=2,
        sliding_window=8,
        use_sliding_window=False,
    )
    flops = FlopsModel.from_model(AutoModelForCausalLM.from_config(config))
    assert flops.attention == ((2 * 64, None),)


def test_the_size_of_the_default_model() -> None:
    """SmolLM2-135M has 134.5 M weights, 28.3 M of them in the embedding, which is its head as well."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        flops = FlopsModel.from_model(AutoModelForCausalLM.from_config(config))
    assert flops.head == 49152 * 576
    assert flops.body == 134_515_008 - flops.head - 61 * 576
    assert flops.attention == ((30 * 576, None),)
