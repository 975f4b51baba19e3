"""Linear layers as the engine runs them: packed where that pays, and one product where they read one input.

oneDNN reorders a plain bfloat16 weight at every call. Done once, a product of 64 rows takes four fifths of
the time and one of 16 rows three fifths, bit for bit the same (`docs/decisions`). The operators are those
that torch's own compiler uses for frozen weights. Queries, keys and values, or gate and up, are computed
together: a step's products are so small that their number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

#: Rows of a product for which oneDNN chooses its order. Of 1 to 1,024 rows none is slower with it than with
#: none given, and those below 100 take 4 to 7 % less.
_ROWS = 32


class Matrix:
    """A weight (out, in) of small products, packed on request."""

    def __init__(self, weight: torch.Tensor, *, packed: bool, bias: torch.Tensor | None = None) -> None:
        """`packed` is for weights on the CPU in bfloat16; only then is there a bias, and no gate with it."""
        self._bias = bias
        self._weight = _packed_weight(weight) if packed else weight.t().contiguous()
        self._packed = packed

    def times(self, inputs: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (tokens, in) to (tokens, out), multiplied by a gate of that shape."""
        if not self._packed:
            product = inputs @ self._weight
            return product if gate is None else product.mul_(gate)
        if gate is None:
            return _pointwise(inputs, self._weight, self._bias)
        return _binary()(inputs, gate, self._weight, None, "mul")

    def onto(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Adds the product to `output`, which may be overwritten, and returns the sum."""
        if not self._packed:
            return output.addmm_(inputs, self._weight)
        return _binary()(inputs, output, self._weight, None, "add")


def _packed_weight(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return packed


@cache
def _unary() -> Any:
    # Looking an operator up at each of some hundred calls of a step takes longer than some of them.
    return torch.ops.mkldnn._linear_pointwise.default


@cache
def _binary() -> Any:
    return torch.ops.mkldnn._linear_pointwise.binary


def _pointwise(inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product: torch.Tensor = _unary()(inputs, packed, bias, "none", [], "")
    return product


class PackedLinear(nn.Module):
    """A linear layer with a packed weight; the plain one is not kept."""

    def __init__(self, linear: nn.Linear) -> None:
        """Packs a layer on the CPU in bfloat16."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.device = linear.weight.dtype, linear.weight.device
        self.bias = linear.bias
        self._packed = _packed_weight(linear.weight.detach())

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight."""
        return self.in_features * self.out_features * self.dtype.itemsize

    @property
    def weight(self) -> torch.Tensor:
        """The plain weight, unpacked at each call."""
        return self._packed.to_dense()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps (..., in) to (..., out)."""
        return _pointwise(inputs, self._packed, self.bias)


class JointLinear(nn.Module):
    """Linear layers that read the same input, computed together when the first of them is called.

    Attributes:
        names: The layers' names in the model.
        widths: How many features each of them gives.
        product: The layer that computes all of them, in that order.
    """

    def __init__(self, names: Sequence[str], layers: Sequence[nn.Linear]) -> None:
        """Joins layers, which are not needed any more."""
        super().__init__()
        self.names, self.widths = tuple(names), [layer.out_features for layer in layers]
        first = layers[0]
        joined = nn.Linear(
            first.in_features, sum(self.widths), bias=False, device="meta", dtype=first.weight.dtype
        )
        joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
        if any(layer.bias is not None for layer in layers):
            biases = [
                layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
                for layer in layers
            ]
            joined.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
        self.product: nn.Module = joined
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}

    def take(self, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """The output of one of the layers. Nothing is kept once all of them have been called."""
        if inputs is not self._input or number not in self._outputs:
            self._input = inputs
            self._outputs = dict(enumerate(self.product(inputs).split(self.widths, dim=-1)))
        output = self._outputs.pop(number)
        if not self._outputs:
            self._input = None
        return output


class JointPart(nn.Module):
    """One of the layers of a `JointLinear`, in the place of the plain one."""

    def __init__(self, joint: JointLinear, number: int, layer: nn.Linear) -> None:
        """Stands for layer `number` of `joint`."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype, self.device = layer.weight.dtype, layer.weight.device
        self.joint, self.number = joint, number

    @property
    def weight(self) -> torch.Tensor:
        """The layer's own weight; some models read it."""
        weights: torch.Tensor = self.joint.product.weight
        return weights.split(self.joint.widths)[self.number]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps (..., in) to (..., out)."""
        return self.joint.take(self.number, inputs)


def join_linears(model: nn.Module, groups: Iterable[tuple[str, ...]]) -> None:
    """Joins the named linear layers of each group, which read the same input."""
    for names in groups:
        layers = [model.get_submodule(name) for name in names]
        # Layers of other classes, such as quantised ones, have a reason to be what they are.
        if any(type(layer) is not nn.Linear for layer in layers):
            continue
        if len({(layer.in_features, layer.weight.dtype, layer.weight.device) for layer in layers}) > 1:
            continue
        joint = JointLinear(names, layers)
        for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
            model.set_submodule(name, JointPart(joint, number, layer))


def pack_linears(model: nn.Module) -> None:
    """Packs the linear layers of a model on the CPU in bfloat16; others stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and (packed := _packed(module)) is not None:
            model.set_submodule(name, packed)


def _packed(linear: nn.Linear) -> PackedLinear | None:
    """The packed layer, if there is one on this machine and it gives the same numbers up to rounding."""
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return None
    probe = torch.linspace(-1, 1, 2 * linear.in_features, dtype=weight.dtype).view(2, -1)
    try:
        packed = PackedLinear(linear)
        same = torch.allclose(packed(probe).float(), linear(probe).float(), rtol=0.02, atol=0.02)
        return packed if same and _small_products_agree() else None
    except (AttributeError, NotImplementedError, RuntimeError):
        return None


@cache
def _small_products_agree() -> bool:
    """Whether packed products with a gate and onto an output give the same numbers as plain ones."""
    few = torch.linspace(0, 1, 256, dtype=torch.bfloat16).view(16, 16)  # no sum that cancels
    plain, packed = (Matrix(few, packed=packed) for packed in (False, True))
    expected = plain.onto(plain.times(few, few), few.clone())
    return torch.allclose(
        packed.onto(packed.times(few, few), few).float(), expected.float(), rtol=0.02, atol=0.02
    )
