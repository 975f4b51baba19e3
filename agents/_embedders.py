"""Embedders for memories: an engine's own hidden states, and small sentence models."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from docendo.agents import _models as models
from docendo.errors import ConfigError, ModelNotFound
from docendo.hashing import digest
from docendo.records import Origin

if TYPE_CHECKING:
    import numpy as np

    from docendo.agents._engine import Engine

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

_BATCH = 32
_ROLE = Origin(role="embedder")


class EngineEmbedder:
    """Mean hidden states of the model that an engine runs anyway, batched with all its other requests.

    A language model is not trained to make alike texts alike; a sentence model usually retrieves better. It
    costs no second model.

    Example:
        >>> memory = VectorMemory(board, EngineEmbedder(engine))  # doctest: +SKIP
    """

    def __init__(
        self,
        engine: Engine,
        *,
        adapter: str | None = None,
        most_tokens: int = 512,
        origin: Origin = _ROLE,
    ) -> None:
        """Prepares an embedder; swapping the adapter afterwards needs a new one.

        Args:
            engine: The engine.
            adapter: Name of a loaded adapter, or None for the base model.
            most_tokens: How many tokens of a text count, from the first.
            origin: Who asks, for the ledger.
        """
        if most_tokens < 1:
            raise ConfigError(f"most_tokens is {most_tokens}", expected="at least 1")
        self.engine, self.adapter, self.most_tokens, self.origin = engine, adapter, most_tokens, origin
        self.fingerprint = digest(
            "mean hidden state",
            engine.fingerprint,
            engine.adapter_hash(adapter),
            most_tokens,
            str(engine.dtype),
        )[:16]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text."""
        import numpy as np

        waiting = [
            self.engine.submit_embedding(
                text, adapter=self.adapter, origin=self.origin, most_tokens=self.most_tokens
            )
            for text in texts
        ]
        return np.array([one.result() for one in waiting], dtype=np.float32)


class SentenceEmbedder:
    """A sentence-transformers encoder whose vector of a text is the mean of its hidden states.

    Example:
        >>> embedder = SentenceEmbedder.load("all-minilm-l6-v2")  # doctest: +SKIP
        >>> embedder.embed(["carry the one"]).shape  # doctest: +SKIP
        (1, 384)
    """

    def __init__(self, model: Any, tokenizer: Any, *, fingerprint: str, most_tokens: int = 256) -> None:
        self.model, self.tokenizer, self.fingerprint = model.eval(), tokenizer, fingerprint
        self.most_tokens = most_tokens
        self._lock = threading.Lock()

    @classmethod
    def load(cls, model: str | Path = "all-minilm-l6-v2", *, most_tokens: int = 256) -> Self:
        """Loads a model by catalogue name, local folder or hub id.

        Args:
            model: An encoder whose sentence vector is the mean over its tokens.
            most_tokens: How many tokens of a text count; the model of the catalogue was made for 256.

        Raises:
            ModelNotFound: if there is no such model, or it cannot be loaded as an encoder.
            ConfigError: if its files ask for something else than the mean.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        source = models.resolve(str(model))
        _check_pooling(source)
        try:
            transformers_logging.disable_progress_bar()
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            loaded = AutoModel.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelNotFound(
                f"cannot load {str(model)!r} as an encoder: {reason}", remedy="use all-minilm-l6-v2"
            ) from error
        made_of = digest("sentence mean", models.fingerprint(source), most_tokens)[:16]
        return cls(loaded, tokenizer, fingerprint=made_of, most_tokens=most_tokens)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text; texts are batched by length."""
        import numpy as np

        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        rows: list[Any] = [None] * len(texts)
        with self._lock, torch.inference_mode():
            for start in range(0, len(by_length), _BATCH):
                chosen = by_length[start : start + _BATCH]
                for number, row in zip(chosen, self._pooled([texts[n] for n in chosen]), strict=True):
                    rows[number] = row
        return np.array(rows, dtype=np.float32)

    def _pooled(self, texts: Sequence[str]) -> list[list[float]]:
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.most_tokens, return_tensors="pt"
        )
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
        mean: list[list[float]] = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).tolist()
        return mean


def _check_pooling(source: Path) -> None:
    """Other poolings would give vectors that mean nothing, without an error."""
    file = source / "1_Pooling" / "config.json"
    if not file.is_file():
        return
    modes = json.loads(file.read_text(encoding="utf-8"))
    chosen = [name for name, on in modes.items() if name.startswith("pooling_mode_") and on is True]
    if chosen != ["pooling_mode_mean_tokens"]:
        raise ConfigError(
            f"{source} pools by {', '.join(chosen) or 'nothing'}", expected="pooling_mode_mean_tokens"
        )
