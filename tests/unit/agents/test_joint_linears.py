"""Linear layers that read one input are one product, and give what they gave before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from docendo.agents import Engine
from docendo.agents._linear import JointPart, Matrix, PackedLinear, join_linears, pack_linears


class Three(nn.Module):
    """Three readers of one input, one of them with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Linear(32, 48, bias=False),
            nn.Linear(32, 16),
            nn.Linear(32, 16, bias=False),
        )

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [self.c(inputs), self.a(inputs), self.b(inputs)]


@pytest.fixture
def layers() -> Three:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Three().requires_grad_(False)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_joined_layers_give_the_same(layers: Three, dtype: torch.dtype, limit: float) -> None:
    layers.to(dtype)
    inputs = torch.linspace(-1, 1, 5 * 32, dtype=dtype).view(1, 5, 32)
    expected, weights = layers(inputs), [layer.weight for layer in (layers.a, layers.b, layers.c)]
    join_linears(layers, [("a", "b", "c")])
    pack_linears(layers)
    for found, wanted in zip(layers(inputs), expected, strict=True):
        assert torch.allclose(found.float(), wanted.float(), atol=limit)
    for part, weight in zip((layers.a, layers.b, layers.c), weights, strict=True):
        assert isinstance(part, JointPart)
        assert torch.equal(part.weight, weight)
    assert layers.a.joint is layers.c.joint


def test_nothing_is_kept_and_nothing_stale_is_given(layers: Three) -> None:
    join_linears(layers, [("a", "b", "c")])
    joint = layers.a.joint
    ones = torch.ones(1, 2, 32)
    first = layers.a(ones)
    layers.b(ones)
    # The same tensor with other numbers, as after a pass that broke off: a layer never gives an output twice.
    ones.mul_(2)
    assert torch.allclose(layers.a(ones), 2 * first, atol=1e-5)
    other = torch.full((1, 2, 32), 3.0)
    assert torch.allclose(layers.a(other), 3 * first, atol=1e-5)
    layers.b(other), layers.c(other)
    assert joint._input is None
    assert not joint._outputs


def test_layers_of_different_inputs_or_kinds_stay(layers: Three) -> None:
    layers.b = nn.Linear(16, 16)
    join_linears(layers, [("a", "b")])
    assert type(layers.a) is nn.Linear
    layers.c = nn.Bilinear(32, 32, 16)
    join_linears(layers, [("a", "c")])
    assert type(layers.a) is nn.Linear


def test_an_engine_joins_what_reads_one_input(engine: Engine) -> None:
    joined = {module.joint.names for module in engine._model.modules() if isinstance(module, JointPart)}
    assert {tuple(name.rpartition(".")[2] for name in names) for names in joined} == {
        ("q_proj", "k_proj", "v_proj"),
        ("gate_proj", "up_proj"),
    }
    assert len(joined) == 4


@pytest.mark.parametrize("packed", [False, True])
def test_small_products(layers: Three, packed: bool) -> None:
    layers.to(torch.bfloat16)
    pack_linears(layers)
    if packed and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor does not multiply bfloat16")
    assert not packed or isinstance(layers.a, PackedLinear)
    inputs, weight = torch.linspace(-1, 1, 96).view(3, 32).bfloat16(), torch.linspace(-1, 1, 512).view(16, 32)
    gate, output = (torch.arange(48).view(3, 16) % 2).bfloat16(), torch.ones(3, 16, dtype=torch.bfloat16)
    matrix = Matrix(weight.bfloat16(), packed=packed)
    plain = inputs.float() @ weight.t()
    assert torch.allclose(matrix.times(inputs).float(), plain, atol=0.1)
    assert torch.allclose(matrix.times(inputs, gate).float(), plain * gate.float(), atol=0.1)
    assert torch.allclose(matrix.onto(inputs, output).float(), plain + 1, atol=0.1)
