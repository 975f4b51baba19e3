"""Linear layers whose weights lie in the order in which the processor's kernels read them.

oneDNN reorders a plain bfloat16 weight at every call. Done once, a product of 64 rows takes four fifths of
the time and one of 16 rows three fifths, bit for bit the same (`docs/decisions`). The operators are those
that torch's own compiler uses for frozen weights.
"""

from __future__ import annotations

import torch
from torch import nn


class PackedLinear(nn.Module):
    """A linear layer with a packed weight; the plain one is not kept."""

    def __init__(self, linear: nn.Linear) -> None:
        """Packs a layer on the CPU in bfloat16."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.device = linear.weight.dtype, linear.weight.device
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    @property
    def weight(self) -> torch.Tensor:
        """The plain weight, unpacked at each call."""
        return self._packed.to_dense()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps (..., in) to (..., out)."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self.bias, "none", [], ""
        )
        return output


def pack_linears(model: nn.Module) -> None:
    """Packs the linear layers of a model on the CPU in bfloat16; others stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, module in list(model.named_modules()):
        # Layers of other classes, such as quantised ones, have a reason to be what they are.
        if type(module) is nn.Linear and (packed := _packed(module)) is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed)


def _packed(linear: nn.Linear) -> PackedLinear | None:
    """The packed layer, if there is one on this machine and it gives the same numbers."""
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return None
    probe = torch.linspace(-1, 1, 2 * linear.in_features, dtype=weight.dtype).view(2, -1)
    try:
        packed = PackedLinear(linear)
        same = torch.allclose(packed(probe).float(), linear(probe).float(), rtol=0.02, atol=0.02)
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    return packed if same else None
