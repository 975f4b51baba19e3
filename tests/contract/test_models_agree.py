"""Every supported kind of model gives what transformers gives, however the engine runs it.

Tiny random models in float32. For each of them: a ragged batch, prompts in pieces, stored prefixes, one
row at a time, and other prompts' adapters in the same batch must all agree with `generate` on one unpadded
prompt: tokens equal, log-probabilities within 1e-4. The weights are wide, so that the likeliest token leads
by far more than rounding and equal tokens are no matter of luck.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from docendo.agents import Engine, _sharing
from docendo.errors import AdapterError
from docendo.records import Request, SamplingParams, ScoreRequest

# peft 0.21 reads a property that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CLOSE = 1e-4
TOKENS = 8
#: Shorter than most prompts, so that windows cut something off.
WINDOW = 8
SMALL = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
NARROW = {**GROUPED, "head_dim": 8}
MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
EXPERTS = {"num_experts_per_tok": 2}
#: Where the adapters are, if not on all linear layers: experts are none in transformers 5.
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TARGETS = {
    **dict.fromkeys(("mixtral", "qwen3_moe", "llama4_chunks", "gpt_oss_sinks", "phimoe_window"), ATTENTION),
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "llama3_rope": (
        "Llama",
        {
            **SMALL,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2_window": (
        "Qwen2",
        {**GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", NARROW),
    "gemma2": (
        "Gemma2",
        {
            **NARROW,
            "sliding_window": WINDOW,
            "layer_types": MIXED_LAYERS,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            **NARROW,
            "sliding_window": WINDOW,
            "layer_types": MIXED_LAYERS,
            "query_pre_attn_scalar": 8,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gpt_neox": ("GPTNeoX", SMALL),
    "phi": ("Phi", {**SMALL, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", {**GROUPED, "pad_token_id": 0, "sliding_window": None}),
    "phi3_window": ("Phi3", {**GROUPED, "pad_token_id": 0, "sliding_window": WINDOW}),
    "mistral_window": ("Mistral", {**NARROW, "sliding_window": WINDOW}),
    "granite": (
        "Granite",
        {**SMALL, "logits_scaling": 4.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7},
    ),
    "gpt2": (
        "GPT2",
        {
            "vocab_size": 259,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "initializer_range": 0.2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    # It takes a view of what attention returns, which has to lie together in memory.
    "afmoe": (
        "Afmoe",
        {
            **NARROW,
            **EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 24,
            "num_dense_layers": 1,
            "sliding_window": WINDOW,
            "layer_types": MIXED_LAYERS,
        },
    ),
    "mixtral": ("Mixtral", {**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3Moe",
        {**NARROW, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 24, "decoder_sparse_step": 1},
    ),
}
#: Models whose layers the packed loop does not know.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama4_chunks": (
        "Llama4Text",
        {
            **NARROW,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": WINDOW,
            "num_local_experts": 2,
            "interleave_moe_layer_step": 4,
        },
    ),
    "gpt_oss_sinks": (
        "GptOss",
        {**NARROW, **EXPERTS, "num_local_experts": 4, "sliding_window": WINDOW, "layer_types": MIXED_LAYERS},
    ),
    "phi3_longrope": (
        "Phi3",
        {
            **GROUPED,
            "pad_token_id": 0,
            "sliding_window": None,
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 32,
                "partial_rotary_factor": 1.0,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
            },
        },
    ),
    # Its window is in its mask alone, and longer than the engine's check of a new model.
    "phimoe_window": (
        "Phimoe",
        {
            **NARROW,
            **EXPERTS,
            "num_local_experts": 4,
            "sliding_window": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "bloom_alibi": (
        "Bloom",
        {
            "vocab_size": 259,
            "hidden_size": 32,
            "n_layer": 2,
            "n_head": 4,
            "initializer_range": 0.2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}


@pytest.fixture(autouse=True)
def _sharing_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models' keys and values are too few for rows to share them otherwise."""
    monkeypatch.setattr(_sharing, "LEAST_SHARED_BYTES", 1)


class Case(NamedTuple):
    """A model on disk and what transformers and PEFT make of the prompts, by adapter name."""

    folder: Path
    adapters: dict[str, Path]
    wanted: dict[str | None, list[tuple[list[int], list[float]]]]


def build(name: str) -> Any:
    family, settings = {**MODELS, **OTHERS}[name]
    config: PreTrainedConfig = getattr(transformers, f"{family}Config")(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).float().eval()


def prompts() -> list[tuple[int, ...]]:
    """Lengths from one token to many windows; the last three share a beginning."""
    draw = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 259) for _ in range(count))

    shared = ids(100)
    return [*(ids(count) for count in (1, 5, 17, 64)), *(shared + ids(count) for count in (3, 20, 7))]


def by_transformers(model: Any, prompt: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities; nothing ends a completion."""
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = out.sequences[0, len(prompt) :].tolist()
    tables = [torch.log_softmax(step[0].float(), dim=-1) for step in out.logits]
    return tokens, [float(table[token]) for table, token in zip(tables, tokens, strict=True)]


def ask(prompt: tuple[int, ...], adapter: str | None = None) -> Request:
    return Request(
        prompt=prompt, adapter=adapter, sampling=SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    )


@pytest.fixture(scope="module")
def case(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Makes a model, PEFT adapters for it, and the answers they should give; once per model."""
    made: dict[str, Case] = {}
    names = ("first", "second")

    def make(name: str) -> Case:
        if name in made:
            return made[name]
        root = tmp_path_factory.mktemp(name)
        model = build(name)
        model.save_pretrained(root / "model")
        AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(root / "model")
        wanted = {None: [by_transformers(model, prompt) for prompt in prompts()]}
        for seed, adapter in enumerate(names if name not in ("gpt2", "afmoe") else ()):
            torch.manual_seed(seed)
            layers = TARGETS.get(name, "all-linear")
            config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=layers)
            peft = get_peft_model(build(name), config)
            for key, parameter in peft.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter, std=0.2)
            peft.save_pretrained(root / adapter)
            loaded = PeftModel.from_pretrained(build(name), root / adapter).eval()
            wanted[adapter] = [by_transformers(loaded, prompt) for prompt in prompts()]
        made[name] = Case(root / "model", {key: root / key for key in wanted if key}, wanted)
        return made[name]

    return make


@pytest.fixture
def engines(case: Callable[..., Case]) -> Iterator[Callable[..., Engine]]:
    """Loads engines with all adapters, and closes them after the test."""
    made: list[Engine] = []

    def load(name: str, **options: Any) -> Engine:
        engine = Engine.load(case(name).folder, dtype="float32", device="cpu", **options)
        made.append(engine)
        for adapter, folder in case(name).adapters.items():
            engine.load_adapter(adapter, folder)
        return engine

    yield load
    for engine in made:
        engine.close()


def at_once(engine: Engine, requests: list[Request]) -> list[Any]:
    with engine.paused():
        futures = [engine.submit(request) for request in requests]
    return [future.result(60) for future in futures]


def agree(results: list[Any], wanted: list[tuple[list[int], list[float]]]) -> None:
    for result, (tokens, logprobs) in zip(results, wanted, strict=True):
        completion = result.completions[0]
        assert list(completion.token_ids) == tokens
        assert completion.logprobs == pytest.approx(logprobs, abs=CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_base_agrees_however_it_is_run(
    name: str,
    engines: Callable[..., Engine],
    case: Callable[..., Case],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = case(name).wanted[None]
    engine, alone = engines(name), engines(name, max_rows=1, prefix_tokens=0)
    asked = [ask(prompt) for prompt in prompts()]
    agree(at_once(engine, asked), wanted)
    agree([alone.generate(one) for one in asked], wanted)
    # Again, from stored prefixes, with the first tokens of the answer in the prompt.
    later = [ask(prompt + tuple(tokens[:3])) for prompt, (tokens, _) in zip(prompts(), wanted, strict=True)]
    for result, (tokens, logprobs) in zip(at_once(engine, later), wanted, strict=True):
        assert list(result.completions[0].token_ids[: TOKENS - 3]) == tokens[3:]
        assert result.completions[0].logprobs[: TOKENS - 3] == pytest.approx(logprobs[3:], abs=CLOSE)
        assert result.usage.cached_tokens or result.usage.prompt_tokens < 30
    # In pieces of 16 tokens, among rows that are being decoded.
    pieces = engines(name, prefix_tokens=0)
    for limit in ("PREFILL_TOKENS", "MIXED_TOKENS"):
        monkeypatch.setattr(f"docendo.agents._loop.{limit}", 16)
    agree(at_once(pieces, asked), wanted)
    assert not any(record.name == "docendo.engine" for record in caplog.records), "it fell back"


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("gpt2", "afmoe")])
def test_adapters_agree_with_peft_mixed_and_alone(
    name: str, engines: Callable[..., Engine], case: Callable[..., Case]
) -> None:
    engine, wanted = engines(name), case(name).wanted
    for _ in range(2):  # the second time from stored prefixes
        rows = [(adapter, number) for number in range(len(prompts())) for adapter in wanted]
        results = at_once(engine, [ask(prompts()[number], adapter) for adapter, number in rows])
        agree(results, [wanted[adapter][number] for adapter, number in rows])
    alone = engines(name, max_rows=1, prefix_tokens=0)
    for adapter, answers in wanted.items():
        agree([alone.generate(ask(prompts()[-1], adapter))], answers[-1:])
    texts = [[tokens for tokens, _ in answers] for answers in wanted.values()]
    assert texts[0] != texts[1] != texts[2] != texts[0], "the adapters are too weak for this test"


@pytest.mark.parametrize("name", ["gemma3", "gpt_neox", "mixtral"])
def test_scores_agree_with_the_models_own_logits(
    name: str, engines: Callable[..., Engine], case: Callable[..., Case]
) -> None:
    model, engine = build(name), engines(name)
    prompt, completion = prompts()[2], prompts()[3]
    with torch.inference_mode():
        table = torch.log_softmax(model(torch.tensor([prompt + completion])).logits[0], dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    wanted = [float(table[place, token]) for place, token in zip(places, completion, strict=True)]
    assert engine.score(ScoreRequest(prompt=prompt, completion=completion)).logprobs == pytest.approx(
        wanted, abs=CLOSE
    )


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_run_with_generate_and_it_is_said_once(
    name: str, engines: Callable[..., Engine], case: Callable[..., Case], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="docendo.engine"):
        engine = engines(name)
        for adapter, wanted in case(name).wanted.items():
            agree(at_once(engine, [ask(prompt, adapter) for prompt in prompts()]), wanted)
    said = [record.getMessage() for record in caplog.records if record.name == "docendo.engine"]
    assert len(said) == 1
    assert "`generate`" in said[0]


def test_a_model_that_keeps_its_own_attention_is_never_packed(
    engines: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """Logits of fresh weights are alike whatever the mask is; so it does not take them for a proof."""
    config = transformers.BloomConfig(vocab_size=259, hidden_size=32, n_layer=2, n_head=4)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    with Engine(model, engines("bloom_alibi").tokenizer):
        assert caplog.text.count("is run with `generate`") == 2


def test_linear_layers_of_another_kind_take_no_adapter(
    engines: Callable[..., Engine], case: Callable[..., Case], tmp_path: Path
) -> None:
    """GPT-2's layers are convolutions: an adapter on them is refused, not dropped."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(build("gpt2"), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="c_attn"):
        engines("gpt2").load_adapter("adapter", tmp_path / "adapter")
