"""Turning logits into tokens, for a whole batch in which every row has its own settings.

A row's randomness is a pure function of (seed, position): no generator is shared, so what a row
samples does not depend on its batch mates or on the order of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from docendo.records import SamplingParams

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A uniform number in [0, 1) from a seed and a position (SplitMix64, Steele et al. 2014).

    Example:
        >>> uniform(1, 2) == uniform(1, 2) != uniform(1, 3)
        True
    """
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    for _ in range(2):
        z = (z + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return (z >> 11) / float(1 << 53)


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample `index` among the `n` samples of one request."""
    return (seed + index * 0xA24BAED4963EE407) & ((1 << 63) - 1)


class Draw(NamedTuple):
    """One sampling step: token ids and log-probabilities, both of length `rows`.

    `top` holds the likeliest tokens and their log-probabilities of the rows that asked for them.
    """

    tokens: list[int]
    logprobs: list[float]
    top: dict[int, tuple[tuple[int, float], ...]]


def draw(
    logits: torch.Tensor,
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    positions: Sequence[int],
    histories: Sequence[Sequence[int]],
    masks: torch.Tensor | None = None,
) -> Draw:
    """Samples one token per row.

    Args:
        logits: Shape (rows, vocabulary).
        params: Settings per row.
        seeds: Seed per row.
        positions: How many tokens the row has generated so far.
        histories: Prompt and generated tokens per row, read only where a repetition penalty is set.
        masks: What the grammar of each row allows next, shape (rows, vocabulary / 32), a bit per token.

    Returns:
        Tokens, and their log-probabilities under the model's own distribution (before penalty,
        temperature, filters and grammar). A log-probability is not finite where the logits were not.
    """
    norm, highest, likeliest = _summed(logits)
    if masks is None and all(p.greedy and p.repetition_penalty == 1.0 and not p.top_logprobs for p in params):
        return Draw(likeliest.tolist(), (highest - norm).tolist(), {})
    logits = logits.float()
    steered = logits
    penalised = [row for row, p in enumerate(params) if p.repetition_penalty != 1.0]
    if penalised:
        steered = logits.clone()
        for row in penalised:
            seen = torch.tensor(sorted(set(histories[row])), device=logits.device)
            values = steered[row, seen]
            penalty = params[row].repetition_penalty
            steered[row, seen] = torch.where(values > 0, values / penalty, values * penalty)

    if masks is not None:
        from docendo.agents._grammar import apply

        steered = logits.clone() if steered is logits else steered
        apply(steered, masks, [row for row, p in enumerate(params) if p.grammar is not None])

    tokens = torch.empty(len(params), dtype=torch.long, device=logits.device)
    groups: dict[str, list[int]] = {"greedy": [], "plain": [], "filtered": []}
    for row, p in enumerate(params):
        plain = p.top_k == 0 and p.top_p == 1.0 and p.min_p == 0.0
        groups["greedy" if p.greedy else "plain" if plain else "filtered"].append(row)
    if rows := groups["greedy"]:
        tokens[rows] = _take(steered, rows).argmax(dim=-1)
    if rows := groups["plain"]:
        tokens[rows] = _invert(
            _probabilities(steered, rows, params), _uniforms(rows, seeds, positions, logits.device)
        )
    if rows := groups["filtered"]:
        tokens[rows] = _filtered(steered, rows, params, _uniforms(rows, seeds, positions, logits.device))
    chosen = logits.gather(1, tokens[:, None])[:, 0] - norm
    return Draw(tokens.tolist(), chosen.tolist(), _top(logits, norm, params))


def _summed(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row the logarithm of the sum of exponentials, the highest logit, and its token, in float32."""
    parts = []
    # A few rows at a time stay in the processor's cache.
    for part in logits.split(8):
        wide = part.float()
        highest, token = wide.max(dim=-1)
        sums = (wide - highest[:, None]).exp_().sum(dim=-1)
        parts.append((highest + sums.log(), highest, token))
    norm, highest, token = (torch.cat(column) for column in zip(*parts, strict=True))
    return norm, highest, token


def _top(
    logits: torch.Tensor, norm: torch.Tensor, params: Sequence[SamplingParams]
) -> dict[int, tuple[tuple[int, float], ...]]:
    rows = [row for row, p in enumerate(params) if p.top_logprobs]
    if not rows:
        return {}
    most = min(max(params[row].top_logprobs for row in rows), logits.shape[-1])
    values, tokens = torch.topk(logits[rows], most, dim=-1)
    table = (values - norm[rows][:, None]).tolist()
    return {
        row: tuple(zip(ids, logprobs, strict=True))[: params[row].top_logprobs]
        for row, ids, logprobs in zip(rows, tokens.tolist(), table, strict=True)
    }


def _take(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return logits if len(rows) == len(logits) else logits[rows]


def _probabilities(logits: torch.Tensor, rows: list[int], params: Sequence[SamplingParams]) -> torch.Tensor:
    temperature = torch.tensor([params[row].temperature for row in rows], device=logits.device)[:, None]
    taken = _take(logits, rows)
    # With the largest at 0 a tiny temperature gives one-hot probabilities and no infinity over infinity.
    below = taken - taken.amax(dim=-1, keepdim=True)
    return torch.softmax(below / temperature.clamp(min=1e-30), dim=-1)


def _uniforms(
    rows: list[int], seeds: Sequence[int], positions: Sequence[int], device: torch.device
) -> torch.Tensor:
    return torch.tensor([uniform(seeds[row], positions[row]) for row in rows], device=device)[:, None]


def _invert(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution at `uniforms`; never a token of probability zero."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    index = torch.searchsorted(cumulative, uniforms * total, right=True)[:, 0]
    # Rounding can push the target to the very end; fall back to the last token that has any mass.
    last = (cumulative < total).sum(dim=-1)
    return torch.minimum(index, last)


def _filtered(
    logits: torch.Tensor, rows: list[int], params: Sequence[SamplingParams], uniforms: torch.Tensor
) -> torch.Tensor:
    """Applies top-k, then top-p, then min-p, as transformers orders them, on sorted probabilities."""
    vocabulary = logits.shape[-1]
    widths = [min(params[row].top_k or vocabulary, vocabulary) for row in rows]
    probabilities = _probabilities(logits, rows, params)
    # A full sort of the vocabulary is slow; rows with a small top-k need only their k best.
    ranked, order = torch.topk(probabilities, max(widths), dim=-1)
    device = logits.device
    rank = torch.arange(ranked.shape[-1], device=device)[None]
    ranked = ranked * (rank < torch.tensor(widths, device=device)[:, None])
    ranked = ranked / ranked.sum(dim=-1, keepdim=True)
    top_p = torch.tensor([params[row].top_p for row in rows], device=device)[:, None]
    before = ranked.cumsum(dim=-1) - ranked
    ranked = ranked * ((before < top_p) | (top_p >= 1.0))
    min_p = torch.tensor([params[row].min_p for row in rows], device=device)[:, None]
    ranked = ranked * (ranked >= min_p * ranked[:, :1])
    return order.gather(1, _invert(ranked, uniforms)[:, None])[:, 0]
