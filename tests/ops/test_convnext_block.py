"""The frozen ConvNeXt block: the compiled kernels beside the definition in float64, arguments, tracing, graphs.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_ops import convnext_block
from mask2former_ops.reference import convnext_block_reference

from .cases import DEVICES, NEEDS_GPU, compiled, compiled_library, relative_error  # noqa: F401

OPERATOR = torch.ops.mask2former_ops.convnext_block
# All widths of ConvNeXt-T, B, L and XXL, and others; sizes below the kernel's 7x7, odd, and of several strips
SHAPES = [
    (2, 1, 1, 96),
    (1, 1, 9, 128),
    (1, 9, 1, 192),
    (2, 5, 7, 8),
    (1, 20, 20, 1536),
    (3, 40, 40, 768),
    (1, 33, 47, 384),
    (2, 17, 30, 256),
    (1, 8, 16, 512),
    (1, 23, 24, 1024),
    (1, 6, 5, 3072),
    (16, 160, 160, 192),
]
TOLERANCE = {torch.bfloat16: 6e-3, torch.float16: 8e-4}


def random_block(channels: int, dtype: torch.dtype, device: str) -> tuple:
    """Weights such that all four layers matter in the output."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return (mean + std * torch.randn(shape, generator=generator)).to(device, dtype)

    hidden = 4 * channels
    return (
        draw(7, 7, channels, std=1 / 7),
        draw(channels, std=0.5),
        draw(channels, std=0.3, mean=1.0),
        draw(channels, std=0.3),
        1e-6,
        draw(hidden, channels, std=channels**-0.5),
        draw(hidden, std=0.5),
        draw(channels, hidden, std=hidden**-0.5),
        draw(channels, std=0.5),
    )


def random_input(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (0.3 + torch.randn(shape, generator=generator)).to(device, dtype)


def restated(x: Tensor, taps: Tensor, conv_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2) -> Tensor:
    """In float64, the convolution as a sum over shifted maps."""
    x, taps = x.double(), taps.double()
    padded = F.pad(x, (0, 0, 3, 3, 3, 3))
    height, width = x.shape[1:3]
    convolved = conv_bias.double()
    for row in range(7):
        for column in range(7):
            convolved = convolved + padded[:, row : row + height, column : column + width] * taps[row, column]
    centred = convolved - convolved.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    hidden = (normed * norm_weight.double() + norm_bias.double()) @ w1.double().t() + b1.double()
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + gelu @ w2.double().t() + b2.double()


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_the_definition(shape):
    x, weights = random_input(shape, torch.float32, "cpu"), random_block(shape[-1], torch.float32, "cpu")
    assert relative_error(convnext_block(x, *weights), restated(x, *weights)) < 1e-5


@NEEDS_GPU
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers(compiled, shape, dtype):  # noqa: F811
    """The error is that of storing in 16 bits, and not above that of PyTorch's own layers; input stays as it was."""
    x, weights = random_input(shape, dtype, "cuda"), random_block(shape[-1], dtype, "cuda")
    before = x.clone()
    found = OPERATOR(x, *weights)
    assert torch.equal(x, before) and found.dtype == dtype and found.is_contiguous()
    expected = torch.cat([restated(image[None], *weights) for image in x])
    error = relative_error(found, expected)
    assert error < TOLERANCE[dtype]
    assert error < 1.3 * relative_error(convnext_block_reference(x, *weights), expected)
    assert ((found.double() - expected).abs() <= 0.05 * expected.abs().max()).all(), "no pixel is left out"


@NEEDS_GPU
def test_float32_runs_in_pytorch(compiled):  # noqa: F811
    x, weights = random_input((1, 9, 9, 16), torch.float32, "cuda"), random_block(16, torch.float32, "cuda")
    assert relative_error(convnext_block(x, *weights), restated(x, *weights)) < 1e-3


@NEEDS_GPU
def test_direct_calls_of_the_operator_are_checked(compiled):  # noqa: F811
    x, weights = random_input((1, 9, 9, 16), torch.bfloat16, "cuda"), random_block(16, torch.bfloat16, "cuda")
    for call, message in (
        ((x[0], *weights), "x must have shape"),
        ((x.float(), *weights), "conv_weight must be Float"),
        ((x[..., :12].contiguous(), *weights), "multiple of 8 channels"),
        ((x.transpose(1, 2)[:, :5], *weights), "x must be contiguous"),
        ((x, weights[0][:5], *weights[1:]), r"conv_weight must have shape \[7, 7, 16\]"),
        ((x, *weights[:-1], weights[-1].cpu()), "fc2_bias must be BFloat16 on cuda:0"),
    ):
        with pytest.raises(ValueError, match=message):
            OPERATOR(*call)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_and_one_graph(compiled_library, device):  # noqa: F811
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x, weights = random_input((2, 9, 10, 16), dtype, device), random_block(16, dtype, device)
    torch.library.opcheck(OPERATOR, (x, *weights))
    traced = torch.compile(lambda x: OPERATOR(x * 2, *weights).sin(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(x), OPERATOR(x * 2, *weights).sin())


@NEEDS_GPU
def test_inductor_and_a_cuda_graph_can_hold_it(compiled):  # noqa: F811
    x, weights = random_input((2, 20, 20, 64), torch.bfloat16, "cuda"), random_block(64, torch.bfloat16, "cuda")

    def three(x: Tensor) -> Tensor:
        for _ in range(3):
            x = convnext_block(x.permute(0, 3, 1, 2).permute(0, 2, 3, 1).contiguous(), *weights)
        return x

    expected = three(x)
    torch.testing.assert_close(torch.compile(three, fullgraph=True)(x), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = three(x)
    x.copy_(x.flip(0))
    graph.replay()
    torch.testing.assert_close(found, expected.flip(0))


@NEEDS_GPU
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_product_bias_and_input_are_rounded_once(compiled, dtype):  # noqa: F811
    """LayerNorm gives 0 and GELU 8, so that all sums are multiples of 1/64, which float32 holds."""
    generator = torch.Generator().manual_seed(2)

    def sixty_fourths(*shape: int) -> Tensor:
        return (torch.randint(-256, 257, shape, generator=generator) / 64).to("cuda", dtype)

    x, weights = sixty_fourths(1, 3, 5, 64), random_block(64, dtype, "cuda")
    zeros, eights = torch.zeros_like(weights[2]), torch.full_like(weights[6], 8)
    w2, b2 = sixty_fourths(64, 256), sixty_fourths(64)
    product = 8 * w2.double().sum(1) + b2.double()
    expected = (x.double() + product).to(dtype)
    assert not torch.equal(x + product.to(dtype), expected), "to round twice would not show"
    assert torch.equal(OPERATOR(x, *weights[:2], zeros, zeros, *weights[4:6], eights, w2, b2), expected)


@NEEDS_GPU
def test_timing_leaves_the_bits(compiled, monkeypatch):  # noqa: F811
    """Calls before, during and after it, in a graph and not; both products have at least 4 million numbers."""
    monkeypatch.setenv("USG_PSG_OPS_TIME_PRODUCTS", "0")
    # A size of this test alone: what is decided stays decided.
    x, weights = random_input((4, 100, 120, 96), torch.bfloat16, "cuda"), random_block(96, torch.bfloat16, "cuda")
    expected = OPERATOR(x, *weights)
    assert torch.equal(OPERATOR(x, *weights), expected)
    monkeypatch.delenv("USG_PSG_OPS_TIME_PRODUCTS")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = OPERATOR(x, *weights)
    graph.replay()
    assert torch.equal(found, expected)
    for _ in range(3):
        assert torch.equal(OPERATOR(x, *weights), expected)


@NEEDS_GPU
def test_the_third_call_of_a_size_times_its_products(compiled):  # noqa: F811
    """Other weights do not count. The size is of this test alone."""
    x = random_input((4, 104, 120, 96), torch.bfloat16, "cuda")
    first, second = (random_block(96, torch.bfloat16, "cuda") for _ in range(2))
    kernels = []
    for weights in (first, second, second, first, first, first):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            OPERATOR(x, *weights)
            torch.cuda.synchronize()
        kernels.append(len(profile.events()))
    assert kernels[4] > 2 * kernels[0] and max(kernels[:4] + kernels[5:]) < 2 * kernels[0], kernels


@NEEDS_GPU
@pytest.mark.parametrize("timed", ["0", "1"])
def test_the_first_call_of_a_process_can_be_captured(compiled, timed):  # noqa: F811
    """And gives the bits of the next ones, which are not."""
    code = """
import torch
from mask2former_ops import convnext_block
from tests.ops.test_convnext_block import random_block, random_input
x, weights = random_input((4, 96, 120, 96), torch.bfloat16, "cuda"), random_block(96, torch.bfloat16, "cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    found = convnext_block(x, *weights)
graph.replay()
assert found.isfinite().all()
for _ in range(3):  # the last one by time
    assert torch.equal(found, convnext_block(x, *weights))
"""
    environment = {"USG_PSG_OPS_BACKEND": "compiled", "USG_PSG_OPS_JIT": "1", "USG_PSG_OPS_TIME_PRODUCTS": timed}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@NEEDS_GPU
@pytest.mark.parametrize("timed", ["0", "1"])
def test_processes_can_share_a_gpu(compiled, timed):  # noqa: F811
    """Products in clusters of 2x4 thread blocks, which cuBLASLt proposes for these sizes, ended some after seconds."""
    code = """
import time
import torch
from mask2former_ops import convnext_block
from tests.ops.test_convnext_block import random_block, random_input
calls = [((16, 80, 80, 384), 384), ((16, 40, 40, 768), 768)]
calls = [(random_input(s, torch.bfloat16, "cuda"), random_block(c, torch.bfloat16, "cuda")) for s, c in calls]
end = time.monotonic() + 10
while time.monotonic() < end:
    for x, weights in calls:
        for _ in range(16):
            convnext_block(x, *weights)
    torch.cuda.synchronize()
"""
    environment = {"USG_PSG_OPS_BACKEND": "compiled", "USG_PSG_OPS_JIT": "1", "USG_PSG_OPS_TIME_PRODUCTS": timed}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(errors)
