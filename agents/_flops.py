"""Estimated floating-point operations of a model's forward passes.

A multiplication and an addition are two operations. Per token, every weight of a matrix product costs two
(Kaplan et al., arXiv 2001.08361, section 2.1), and attention to a context of c tokens costs
4 x layers x heads x head size x c, for queries times keys and for weights times values (PaLM, appendix B of
arXiv 2204.02311, which has 12 because it counts training). Embeddings, norms and activations are left out.

It is the work that a request needs, not what a batch happens to compute: neither padding nor masked positions
count, nor the other adapters of the batch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

#: What configurations call the number of experts of a layer, and how many of them a token is sent to.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopsModel:
    """What the operations of one model depend on.

    Attributes:
        body: Weights of the body's matrix products that a token passes: of a mixture of experts, those of the
            experts that it is sent to.
        head: Weights of the vocabulary head.
        attention: Per kind of layer: heads x head size x number of layers, and how many tokens they see at
            most (None: all).

    Example:
        >>> model = FlopsModel(body=1000, head=500, attention=((10, None),))
        >>> model.forward(1, 0)  # 2 x (1000 + 500) + 4 x 10
        3040
    """

    body: int
    head: int
    attention: tuple[tuple[int, int | None], ...]

    @classmethod
    def from_model(cls, model: Any) -> Self:
        """Counts the weights of a `transformers` causal language model."""
        config = model.config.get_text_config()
        experts = _first(config, _EXPERTS, 1)
        share = _first(config, _CHOSEN, experts) / experts
        head = model.get_output_embeddings()
        body = 0.0
        for name, module in model.named_modules():
            if module is not head:
                body += _weights(module) * (share if "experts" in name.split(".") else 1)
        return cls(
            body=round(body),
            head=0 if head is None else head.weight.numel(),
            attention=_attention(config),
        )

    def forward(
        self, new_tokens: int, context_start: int, *, head_positions: int = 1, adapter_weights: int = 0
    ) -> int:
        """Operations of computing new tokens behind others whose keys and values are at hand.

        Whether they are computed at once or one by one makes no difference, so that the sum over a request
        can be taken at its end.

        Args:
            new_tokens: How many tokens are computed.
            context_start: How many come before them.
            head_positions: How many of them go through the vocabulary head.
            adapter_weights: Number of LoRA weights, of A and B together.
        """
        attended = sum(size * _seen(new_tokens, context_start, window) for size, window in self.attention)
        linear = new_tokens * (self.body + adapter_weights) + head_positions * self.head
        return 2 * linear + 4 * attended


def _seen(new: int, start: int, window: int | None) -> int:
    """How many tokens the new ones see, each itself and those before it, summed over the new ones."""
    growing = new if window is None else min(max(window - start, 0), new)
    return growing * start + growing * (growing + 1) // 2 + (new - growing) * (window or 0)


def _weights(module: nn.Module) -> int:
    """Weights of the matrix products in a module itself, without its children's."""
    if isinstance(module, nn.Embedding):
        return 0
    if isinstance(module, nn.Linear):  # the weights of a quantised layer are packed
        return module.in_features * module.out_features
    return sum(weight.numel() for weight in module.parameters(recurse=False) if weight.ndim > 1)


def _first(config: Any, names: tuple[str, ...], default: int) -> int:
    return next((value for name in names if (value := getattr(config, name, None))), default)


def _attention(config: Any) -> tuple[tuple[int, int | None], ...]:
    heads = config.num_attention_heads
    size = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    # Linear attention looks at a state of fixed size, through weights that are counted already.
    layers = Counter(kind for kind in kinds if kind != "linear_attention")
    limits = {"sliding_attention": window, "chunked_attention": getattr(config, "attention_chunk_size", None)}
    return tuple((size * count, limits.get(kind)) for kind, count in sorted(layers.items()))
