"""Training a small model from nothing, for worlds in which a student and a teacher cost a minute."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.checks import check_count, is_number
from docendo.errors import ConfigError, DataError, ModelFailure, ResumeError
from docendo.files import new_directory, require_writable, write_json
from docendo.hashing import derive_seed
from docendo.progress import progress, quiet_libraries
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

#: Rows are pairs of a prompt and a completion; only the completion is learnt.
Rows = Sequence[tuple[str, str]]
#: What a model was made with, beside its weights.
_MADE_WITH = "pretrain.json"
_SPECIAL = ("<|pad|>", "<|end|>")
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(Record):
    """How a small model is built and trained.

    Attributes:
        hidden: Width.
        layers: Number of layers.
        heads: Attention heads.
        context: Longest sequence, in characters.
        steps: Most steps; the learning rate falls linearly to zero over them.
        batch: Rows of a step.
        learning_rate: Highest learning rate of AdamW with betas 0.9 and 0.98, weight decay 0.05.
        warmup: Steps in which it rises.
        initializer_range: Standard deviation of the first weights. At this size the usual 0.02 leaves the
            model on a plateau for thousands of steps, where 0.08 to 0.1 learns within hundreds.
        every: Steps between two looks at whether to stop.
        seed: Of weights and rows.
    """

    hidden: int = 96
    layers: int = 3
    heads: int = 4
    context: int = 64
    steps: int = 2500
    batch: int = 96
    learning_rate: float = 2e-3
    warmup: int = 100
    initializer_range: float = 0.08
    every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("hidden", "layers", "heads", "context", "steps", "batch", "every"):
            check_count(name, getattr(self, name), 1)
        for name in ("warmup", "seed"):
            check_count(name, getattr(self, name), 0)
        if self.hidden % (2 * self.heads):
            raise ConfigError(f"hidden is {self.hidden}", expected=f"a multiple of {2 * self.heads}")
        for name in ("learning_rate", "initializer_range"):
            value = getattr(self, name)
            if not is_number(value) or value <= 0:
                raise ConfigError(f"{name} is {value!r}", expected="a number above 0")


def pretrain(
    rows: Callable[[np.random.Generator, int], Rows],
    *,
    alphabet: str,
    output: str | Path,
    config: PretrainConfig | None = None,
    stop: Callable[[Sampler, int], bool] | None = None,
    ends: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Trains a Llama of one token per character from nothing and saves it as a model folder.

    The tokenizer's chat template joins the messages' texts and adds nothing, so that an `Agent` without a
    system message says exactly its prompt. Without `ends` no end token is learnt: give agents `max_tokens`,
    or end completions with a character of the alphabet and give it as a stop string.

    Args:
        rows: Called as `rows(rng, batch)` before each step; returns as many (prompt, completion) pairs.
            Only the completion is learnt.
        alphabet: All characters that occur.
        output: Folder to write; it appears when the model is finished, and an existing one is replaced.
        config: Sizes and settings.
        stop: Called as `stop(sampler, step)` every `config.every` steps; training ends when it is true.
        ends: Whether the end token is learnt after each completion. Adapters are trained with it, so a model
            that is fine-tuned later should know it.
        resume: Return a model that is there already, if it was made with the same alphabet and config; `rows`
            and `stop` are functions and not compared. A training that was interrupted begins anew.
        quiet: Show no progress.

    Returns:
        The folder, for `Engine.load`.

    Raises:
        ConfigError: if the alphabet has a character twice.
        ResumeError: with `resume`, if the folder holds something else.
        DataError: if there is no row, or one is empty, too long, or has a character that the alphabet lacks.
        ModelFailure: if the loss is no number any more; nothing is written.
        StorageError: if the folder cannot be written, before the first step.

    Example:
        >>> import tempfile
        >>> def count(rng, batch):
        ...     return [(str(n), str((n + 1) % 10)) for n in rng.integers(0, 10, batch)]
        >>> settings = PretrainConfig(hidden=16, layers=1, heads=2, steps=2, batch=4)
        >>> folder = pretrain(count, alphabet="0123456789", output=Path(tempfile.mkdtemp()) / "next",
        ...                   config=settings, quiet=True)
        >>> (folder / "config.json").is_file()
        True
    """
    import numpy as np
    import torch

    config = config or PretrainConfig()
    if len(set(alphabet)) != len(alphabet) or not alphabet:
        raise ConfigError(f"the alphabet is {alphabet!r}", expected="each character once")
    identity = {"alphabet": alphabet, **config.to_json(), **({"ends": True} if ends else {})}
    if resume and Path(output).exists():
        _require_same(Path(output), identity)
        return Path(output)
    require_writable(Path(output).parent)
    coder = _Coder(alphabet, config.context, ends=ends)
    rng = np.random.default_rng(derive_seed("pretrain", config.seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", config.seed) % 2**31)
        model = _model(config, len(alphabet) + len(_SPECIAL))
    sampler = Sampler(model, coder)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / max(1, config.warmup), max(0.0, (config.steps - step) / max(1, config.steps))
        ),
    )
    model.train()
    with progress(f"train {Path(output).name}", total=config.steps, quiet=quiet) as bar:
        for step in range(1, config.steps + 1):
            ids, labels = coder.batch(rows(rng, config.batch))
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            looking = step % config.every == 0 or step == config.steps
            if looking and not math.isfinite(loss.item()):
                raise ModelFailure(f"the loss is {loss.item()} at step {step}; lower learning_rate")
            bar.advance(note=f"loss {loss.item():.3f}" if looking else "")
            if stop is not None and step % config.every == 0:
                model.eval()
                ended = stop(sampler, step)
                model.train()
                if ended:
                    break
    model.eval()
    with quiet_libraries(), new_directory(Path(output)) as target:
        write_json(target / _MADE_WITH, identity)
        model.save_pretrained(target)
        coder.tokenizer().save_pretrained(target)
    return Path(output)


def _require_same(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / _MADE_WITH
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != identity:
        raise ResumeError(
            f"{folder} holds no model made with these settings",
            expected=f"a {_MADE_WITH} that says the same",
            remedy="remove it, or choose another folder",
        )


class Sampler:
    """Answers many prompts of one length at once, while a model is being trained."""

    def __init__(self, model: LlamaForCausalLM, coder: _Coder) -> None:
        self._model, self._coder = model, coder

    def __call__(
        self, prompts: Sequence[str], *, length: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Continues each prompt by `length` characters.

        Args:
            prompts: Texts of one length.
            length: Characters to write.
            temperature: 0 for the likeliest character.
            seed: Seed of the samples.

        Raises:
            DataError: if the prompts have several lengths.
        """
        import torch

        if len({len(prompt) for prompt in prompts}) != 1 or not prompts[0]:
            raise DataError("the prompts have several lengths or none", expected="texts of one length")
        ids = torch.tensor([self._coder.encode(prompt) for prompt in prompts])
        generator = torch.Generator().manual_seed(seed)
        cache, written, new = None, [], ids
        with torch.inference_mode():
            for _ in range(length):
                out = self._model(input_ids=new, past_key_values=cache, use_cache=True)
                cache, logits = out.past_key_values, out.logits[:, -1].float()
                logits[:, : len(_SPECIAL)] = -torch.inf
                if temperature:
                    chances = torch.softmax(logits / temperature, dim=-1)
                    new = torch.multinomial(chances, 1, generator=generator)
                else:
                    new = logits.argmax(-1, keepdim=True)
                written.append(new)
        return [self._coder.decode(row) for row in torch.cat(written, dim=1).tolist()]


class _Coder:
    """One token for each character."""

    def __init__(self, alphabet: str, context: int, *, ends: bool = False) -> None:
        self.alphabet, self.context = alphabet, context
        self._end = [_SPECIAL.index("<|end|>")] if ends else []
        self._ids = {character: n for n, character in enumerate(alphabet, start=len(_SPECIAL))}

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise DataError(
                f"{text!r} has the character {error.args[0]!r}", expected=f"one of {self.alphabet!r}"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.alphabet[number - len(_SPECIAL)] for number in ids)

    def batch(self, rows: Rows) -> tuple[Any, Any]:
        """Padded token ids and labels, -100 where nothing is learnt."""
        import torch

        longest = max((len(prompt) + len(completion) for prompt, completion in rows), default=0)
        if not longest:
            raise DataError("there is no row to learn from", expected="pairs of a prompt and a completion")
        width = longest + len(self._end)
        if width > self.context:
            raise DataError(
                f"a row has {longest} characters", expected=f"at most {self.context - len(self._end)}"
            )
        ids, labels = [], []
        for prompt, completion in rows:
            if not completion:
                raise DataError(f"the completion of {prompt!r} is empty", expected="a character at least")
            text = self.encode(prompt + completion) + self._end
            padding = width - len(text)
            ids.append(text + [0] * padding)
            labels.append([-100] * len(prompt) + text[len(prompt) :] + [-100] * padding)
        return torch.tensor(ids), torch.tensor(labels)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {token: n for n, token in enumerate(_SPECIAL)} | self._ids
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[0]))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token=_SPECIAL[0],
            eos_token=_SPECIAL[1],
            model_max_length=self.context,
            clean_up_tokenization_spaces=False,
        )
        tokenizer.chat_template = _TEMPLATE
        return tokenizer


def _model(config: PretrainConfig, vocabulary: int) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.hidden,
            intermediate_size=3 * config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            initializer_range=config.initializer_range,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            dtype="float32",
        )
    )
