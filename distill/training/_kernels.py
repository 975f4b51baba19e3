"""Exact, faster forms of the layers that dominate LoRA training on a CPU.

PEFT runs a LoRA layer as nine operations with casts between precisions, and Transformers runs RMSNorm
and SwiGLU as chains of bfloat16 operations that each round and each keep an input for the backward
pass. Here each is one autograd function. `speed_up` changes a module only if it is known by class or by
its numbers on a probe, and leaves everything else as it is.
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F

_CHUNK, _SLICE = 128, 16
"""Rows of logits per matrix product, and per softmax: 16 x 49,152 floats are 3 MB and stay in the cache."""


class LoraLinear(torch.autograd.Function):
    """`x W^T + b + s (x A^T) B^T`, with A and B in float32 and products in the precision of `x`."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = flat @ low_a.t()
        out = F.linear(flat, weight, bias)
        out.addmm_(inner, low_b.t())
        ctx.save_for_backward(flat, weight, low_a, low_b, inner)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        flat, weight, low_a, low_b, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_inner = grad @ low_b
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_inner, low_a).view(ctx.shape)
        grad_a = (grad_inner.t() @ flat).float()
        grad_b = (grad.t() @ inner).float().mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None


class RmsNorm(torch.autograd.Function):
    """`w x / rms(x)` in float32 inside, with one rounding at the end."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, eps: float) -> Any:
        wide = x.float()
        inverse = (
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            .square_()
            .div_(x.shape[-1])
            .add_(eps)
            .rsqrt_()
        )
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight, inverse = ctx.saved_tensors
        normed = x.float() * inverse
        scaled = grad.float() * weight
        mean = torch.linalg.vecdot(scaled, normed).unsqueeze(-1).div_(x.shape[-1])
        return scaled.sub_(normed.mul_(mean)).mul_(inverse).to(x.dtype), None, None


class SwiGlu(torch.autograd.Function):
    """`silu(gate) * up`, in float32 inside."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any) -> Any:
        ctx.save_for_backward(gate, up)
        return F.silu(gate.float()).mul_(up).to(gate.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        gate, up = ctx.saved_tensors
        wide_gate, wide = gate.float(), grad.float()
        grad_up = (F.silu(wide_gate) * wide).to(up.dtype)
        grad_gate = torch.ops.aten.silu_backward(wide.mul_(up), wide_gate).to(gate.dtype)
        return grad_gate, grad_up


class LinearCrossEntropy(torch.autograd.Function):
    """Weighted sum of `-log softmax(h W^T)[label]` in float32; logits exist a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, labels: Any, weights: Any) -> Any:
        grad = torch.empty_like(hidden) if hidden.requires_grad else None
        losses = _label_losses(hidden, weight, bias, labels, weights, grad)
        ctx.save_for_backward(grad)
        return (losses * weights).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * upstream.to(grad.dtype), None, None, None, None


class PathLogprobs(torch.autograd.Function):
    """`log softmax(h W^T)[label]` of each label in float32; the logits are made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, labels: Any) -> Any:
        ctx.save_for_backward(hidden, weight, bias, labels)
        return -_label_losses(hidden, weight, bias, labels, None, None)

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        hidden, weight, bias, labels = ctx.saved_tensors
        grad = torch.empty_like(hidden)
        # The gradient of a weighted cross-entropy, because upstream is known by now.
        _label_losses(hidden, weight, bias, labels, -upstream.float(), grad)
        return grad, None, None, None


def _label_losses(hidden: Any, weight: Any, bias: Any, labels: Any, weights: Any, grad: Any) -> Any:
    """Cross-entropy of each label; `grad` is filled with the gradient of their weighted sum, if given."""
    losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
    for start in range(0, hidden.shape[0], _CHUNK):
        rows = slice(start, start + _CHUNK)
        logits = F.linear(hidden[rows], weight, bias)
        found, wanted = losses[rows].split(_SLICE), labels[rows].split(_SLICE)
        scales = weights[rows].split(_SLICE) if grad is not None else wanted
        for part, label, scale, loss in zip(logits.split(_SLICE), wanted, scales, found, strict=True):
            target = label.unsqueeze(1)
            wide = part.float()
            top = wide.amax(dim=-1, keepdim=True)
            picked = wide.gather(1, target) - top
            # For float32 models `wide` is `part` itself: its logits are not needed again.
            shares = wide.sub_(top).exp_()
            mass = shares.sum(dim=-1, keepdim=True)
            loss.copy_((mass.log() - picked).squeeze(1))
            if grad is not None:
                factor = scale.unsqueeze(1)
                shares.mul_(factor / mass).scatter_add_(1, target, -factor)
                part.copy_(shares)
        if grad is not None:
            torch.matmul(logits, weight, out=grad[rows])
    return losses


def speed_up(model: Any) -> dict[str, int]:
    """Replaces the forward of LoRA layers, RMS norms and SwiGLU blocks in place.

    Args:
        model: A `PeftModel` whose base is frozen.

    Returns:
        How many modules of each kind were replaced.
    """
    from peft.tuners.lora.layer import Linear as PeftLinear

    counts = {"lora": 0, "norm": 0, "swiglu": 0}
    for module in model.modules():
        if type(module) is PeftLinear and _is_plain_lora(module):
            module.forward = types.MethodType(_lora_forward, module)
            counts["lora"] += 1
        elif type(module).__name__.endswith("RMSNorm") and _is_rms_norm(module):
            module.forward = types.MethodType(_norm_forward, module)
            counts["norm"] += 1
        elif _is_swiglu(module):
            module.forward = types.MethodType(_swiglu_forward, module)
            counts["swiglu"] += 1
    return counts


def _is_plain_lora(module: Any) -> bool:
    names = list(module.active_adapters)
    if len(names) != 1 or names[0] not in module.lora_A or names[0] in module.lora_variant:
        return False
    name, base = names[0], module.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and isinstance(module.lora_dropout[name], torch.nn.Identity)
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
    )


def _lora_forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if self.disable_adapters or self.merged or args or kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    name, base = self.active_adapters[0], self.get_base_layer()
    a, b = self.lora_A[name].weight, self.lora_B[name].weight
    return LoraLinear.apply(x, base.weight, base.bias, a, b, self.scaling[name])


def _eps(module: Any) -> float | None:
    value = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(value) if isinstance(value, (int, float)) else None


def _is_rms_norm(module: Any) -> bool:
    # Variants exist (1 + w in Gemma), so the class name is not enough: the numbers decide.
    weight, eps = getattr(module, "weight", None), _eps(module)
    if weight is None or eps is None or weight.dim() != 1 or weight.requires_grad:
        return False
    probe = torch.linspace(-3, 2, 4 * weight.numel()).view(4, -1).to(weight)
    with torch.no_grad():
        expected = module(probe).float()
        return bool(torch.allclose(RmsNorm.apply(probe, weight, eps).float(), expected, rtol=2e-2, atol=1e-3))


def _norm_forward(self: Any, hidden_states: Any) -> Any:
    return RmsNorm.apply(hidden_states, self.weight, _eps(self))


def _is_swiglu(module: Any) -> bool:
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if not all(hasattr(module, part) for part in parts) or "MLP" not in type(module).__name__:
        return False
    # An MLP with anything besides these parts (dropout, a router) is left alone.
    if len(list(module.children())) != len(parts):
        return False
    probe = torch.linspace(-4, 4, 64)
    return bool(torch.allclose(module.act_fn(probe), F.silu(probe)))


def _swiglu_forward(self: Any, x: Any) -> Any:
    return self.down_proj(SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))
