"""Recordings under autocast cast the weights of products at once, and no others."""

import copy

import pytest
import torch
from torch import nn

from usg_psg.modeling.cuda_graphs import GraphedFunction
from usg_psg.modeling.layers import MultiheadAttention


class Scaled(nn.Linear):
    """Computes with its weight in float32 before the product, as derived layers may."""

    def forward(self, x):
        assert self.weight.dtype == torch.float32
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


class OfProducts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scaled, self.norm = nn.Linear(8, 8), Scaled(8, 8), nn.LayerNorm(8)
        self.convolution = nn.Conv2d(8, 8, 1)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.attention = MultiheadAttention(8, 2)
        self.types = set()

    def forward(self, x):
        self.types.add((self.linear.weight.dtype, self.frozen.weight.dtype, self.norm.weight.dtype))
        y = self.scaled(self.norm(self.frozen(self.linear(x).relu())))
        y = y + self.convolution(y.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        return self.attention(y, y, y).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_products_are_cast_together(device, recorder, dtype):
    torch.manual_seed(0)
    part = OfProducts().to(device)
    other = copy.deepcopy(part)
    function, steps = GraphedFunction(part.forward, part, recorder_type=recorder), {}
    for call, module in ((function, part), (other, other)):
        steps[module] = []
        for step in range(3):
            x = torch.linspace(-1, 1, 64, device=device).reshape(2, 4, 8) * (step + 1)
            with torch.autocast(device, dtype=dtype):
                out = call(x)
            (out.square().sum() * 4).backward()
            assert all(p.grad.dtype == torch.float32 for p in module.parameters() if p.requires_grad)
            grads = [p.grad.clone() for p in module.parameters() if p.requires_grad]
            steps[module].append([out.detach().clone(), *grads])
            with torch.no_grad():
                for p in module.parameters():
                    p += 0.125  # in place: the recording sees it
                    p.grad = None
    torch.testing.assert_close(steps[part], steps[other], rtol=0.02, atol=0.02)
    assert part.types == {(dtype, torch.float32, torch.float32)}
    assert part.linear.weight.dtype == torch.float32
    part.types.clear()
    function(x)
    assert part.types == {(torch.float32,) * 3}, "without autocast all is computed in float32"


class Tied(nn.Module):
    """A weight that is not of products alone, and one that is computed in float32 before the product."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(8, 8), nn.utils.weight_norm(nn.Linear(8, 8, bias=False))
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.embedding.weight

    def forward(self, x):
        assert self.linear.weight_v.dtype == torch.float32
        return self.embedding.weight, self.linear(self.tied(x)).float()


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_are_not_of_products_alone_are_not_cast(device, recorder):
    part = Tied().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        read, out = GraphedFunction(part.forward, part, recorder_type=recorder)(torch.ones(2, 8, device=device))
    assert read.dtype == torch.float32
    (read.sum() + out.sum()).backward()
    assert all(p.grad.dtype == torch.float32 for p in part.parameters())
