"""A tiny random model, for tests: real code paths of transformers and PEFT in milliseconds."""

from __future__ import annotations

from pathlib import Path

from docendo.errors import ConfigError
from docendo.files import new_directory

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")


def tiny_model(
    path: str | Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    context: int = 2048,
    chat: bool = True,
) -> Path:
    """Saves a random Llama model with a byte-level tokenizer and returns its folder.

    It has learnt nothing: its text is noise, but the same noise for the same arguments. The tokenizer
    has one token per UTF-8 byte, so it takes any text and loses nothing, and three special tokens:
    `<|pad|>`, `<|im_start|>` and the end of a turn, `<|im_end|>`.

    Args:
        path: Folder to write; an existing one is replaced.
        seed: Seed of the weights. The global random state is left alone.
        hidden: Width; must be a multiple of twice `heads`.
        layers: Number of layers.
        heads: Attention heads, an even number; two share one key-value head, as in larger models.
        context: Longest sequence.
        chat: Whether the tokenizer gets a chat template (ChatML); without one it is like a base model.

    Raises:
        ConfigError: if a size is not usable.

    Example:
        >>> import tempfile
        >>> folder = tiny_model(Path(tempfile.mkdtemp()) / "tiny", hidden=16, layers=1)
        >>> sorted(file.name for file in folder.glob("*.safetensors"))
        ['model.safetensors']
    """
    if heads < 2 or heads % 2:
        raise ConfigError(f"heads is {heads}", expected="an even number, at least 2")
    if hidden < 2 * heads or hidden % (2 * heads):
        raise ConfigError(f"hidden is {hidden}", expected=f"a multiple of twice heads, {2 * heads}")
    if layers < 1 or context < 1:
        raise ConfigError(f"layers is {layers} and context is {context}", expected="at least 1 each")

    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_SPECIAL[0],
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[2],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = _CHAT_TEMPLATE

    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=context,
        # Wider than the usual 0.02, which makes logits so flat that the likeliest token is a rounding matter.
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with new_directory(Path(path)) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        for file in target.iterdir():
            file.chmod(0o644)
    return Path(path)
