"""A linear layer with ReLU in training: the compiled kernels beside the definition in float64, tracing, graphs.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_ops import linear_relu

from .cases import DEVICES, NEEDS_GPU, compiled, compiled_library, relative_error  # noqa: F401

OPERATORS = torch.ops.mask2former_ops
# Tokens, channels in and out: of the pixel decoder, of the mask decoder, odd numbers of tokens, one token
SHAPES = [(2100, 256, 1024), (400, 256, 2048), (37, 64, 136), (1, 8, 256), (33600, 256, 1024)]
TOLERANCE = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


def random_call(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
    """x, weight, bias; and a gradient of the result."""
    tokens, channels, hidden = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(sizes, generator=generator)).to(device, dtype)

    call = draw(tokens, channels), draw(hidden, channels, std=channels**-0.5), draw(hidden, std=0.5)
    return [x.requires_grad_() for x in call], draw(tokens, hidden)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.linear(x, weight, bias))


def with_gradients(function, arguments: list[Tensor], grad: Tensor) -> list[Tensor]:
    output = function(*arguments)
    return [output.detach(), *torch.autograd.grad(output, arguments, grad)]


def test_gradients_are_those_of_the_definition():
    arguments, _ = random_call((5, 8, 16), torch.float64, "cpu")
    assert torch.autograd.gradcheck(OPERATORS.linear_relu, arguments)
    with pytest.raises(RuntimeError, match="no second-order gradients"):
        torch.autograd.gradgradcheck(OPERATORS.linear_relu, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(compiled_library, device):  # noqa: F811
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    arguments, grad = random_call((24, 16, 40), dtype, device)
    torch.library.opcheck(OPERATORS.linear_relu, arguments)
    torch.library.opcheck(OPERATORS.relu_gradient, (grad, OPERATORS.linear_relu(*arguments).detach()))


def test_without_a_kernel_pytorch_runs():
    arguments, grad = random_call((24, 16, 128), torch.float32, "cpu")
    for ours, theirs in zip(*(with_gradients(f, arguments, grad) for f in (linear_relu, plain)), strict=True):
        assert torch.equal(ours, theirs)


@NEEDS_GPU
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers(compiled, shape, dtype):  # noqa: F811
    """Errors are those of storing in 16 bits, and not above those of PyTorch's own layers."""
    arguments, grad = random_call(shape, dtype, "cuda")
    expected = with_gradients(plain, [x.detach().double().requires_grad_() for x in arguments], grad.double())
    found, pytorchs = (with_gradients(f, arguments, grad) for f in (linear_relu, plain))
    for ours, theirs, right in zip(found, pytorchs, expected, strict=True):
        assert ours.dtype == dtype and ours.shape == right.shape
        assert relative_error(ours, right) < max(1.3 * relative_error(theirs, right), TOLERANCE[dtype])


@NEEDS_GPU
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 8), (33, 264), (7, 1024), (5000, 40), (134400, 1024)])
def test_gradient_of_the_relu(compiled, shape, dtype):  # noqa: F811
    """Of all, zeros and numbers that are none among them, in memory that begins anywhere."""
    generator = torch.Generator().manual_seed(0)
    grad, hidden = (torch.randn(shape[0] * shape[1] + 1, generator=generator).to("cuda", dtype) for _ in range(2))
    grad, hidden = grad[1:].view(shape), hidden[1:].view(shape).relu()
    hidden[0, 0] = torch.nan
    found, total = OPERATORS.relu_gradient(grad, hidden)
    expected = grad.masked_fill(hidden <= 0, 0)
    assert torch.equal(found, expected) and found[0, 0] == grad[0, 0]
    torch.testing.assert_close(total, expected.double().sum(0).to(dtype), rtol=1e-2, atol=1e-2)


@NEEDS_GPU
@pytest.mark.parametrize("place", ["x", "weight", "bias"])
def test_what_is_no_number_stays_none(compiled, place):  # noqa: F811
    """As behind PyTorch's ReLU, so that a loss that is not finite ends a training."""
    arguments = dict(zip(("x", "weight", "bias"), random_call((40, 64, 128), torch.bfloat16, "cuda")[0], strict=True))
    arguments[place] = arguments[place].detach().index_fill(0, torch.tensor([3], device="cuda"), torch.nan)
    found, expected = (f(**arguments).isnan() for f in (linear_relu, plain))
    assert expected.any() and torch.equal(found, expected)


@NEEDS_GPU
def test_two_calls_give_the_same_bits(compiled):  # noqa: F811
    arguments, grad = random_call(SHAPES[0], torch.bfloat16, "cuda")
    first, second = (with_gradients(linear_relu, arguments, grad) for _ in range(2))
    assert all(map(torch.equal, first, second))


@NEEDS_GPU
def test_autocast_and_more_axes(compiled):  # noqa: F811
    arguments, grad = random_call((60, 16, 128), torch.float32, "cuda")
    arguments[0] = arguments[0].detach().view(3, 20, 16).requires_grad_()
    grad = grad.view(3, 20, 128).bfloat16()
    with torch.autocast("cuda", torch.bfloat16):
        found, pytorchs = (with_gradients(f, arguments, grad) for f in (linear_relu, plain))
    expected = with_gradients(plain, [x.detach().double().requires_grad_() for x in arguments], grad.double())
    assert found[0].dtype == torch.bfloat16 and found[0].shape == (3, 20, 128)
    for ours, theirs, right in zip(found, pytorchs, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert relative_error(ours, right) < 1.3 * relative_error(theirs, right)


@NEEDS_GPU
def test_without_gradients_it_is_pytorchs(compiled):  # noqa: F811
    arguments, _ = random_call(SHAPES[2], torch.bfloat16, "cuda")
    with torch.no_grad():
        assert torch.equal(linear_relu(*arguments), plain(*arguments))


@NEEDS_GPU
def test_direct_calls_are_checked(compiled):  # noqa: F811
    (x, weight, bias), _ = random_call((24, 16, 40), torch.bfloat16, "cuda")
    hidden = OPERATORS.linear_relu(x, weight, bias).detach()
    for call, message in (
        ((OPERATORS.linear_relu, x[:, :8], weight, bias), "x must be a contiguous matrix"),
        ((OPERATORS.linear_relu, x, weight[:, :8].contiguous(), bias), r"weight must have shape \[40, 16\]"),
        ((OPERATORS.linear_relu, x, weight, bias.cpu()), "bias must be"),
        ((OPERATORS.linear_relu, x.float(), weight.float(), bias.float()), "BFloat16 or Half"),
        ((OPERATORS.relu_gradient, hidden, hidden[:4]), r"hidden must have shape \[24, 40\]"),
        ((OPERATORS.relu_gradient, hidden[:, :12].contiguous(), hidden[:, :12].contiguous()), "multiple of 8 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            call[0](*(each.detach() for each in call[1:]))


@NEEDS_GPU
def test_inductor_and_a_cuda_graph_can_hold_it(compiled):  # noqa: F811
    arguments, grad = random_call((64, 16, 128), torch.bfloat16, "cuda")
    expected = with_gradients(linear_relu, arguments, grad)
    traced = torch.compile(linear_relu, fullgraph=True)
    for ours, right in zip(with_gradients(traced, arguments, grad), expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=2e-2, atol=2e-2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = with_gradients(linear_relu, arguments, grad)
    with torch.no_grad():
        arguments[0].copy_(arguments[0].flip(0))
        grad.copy_(grad.flip(0))
    graph.replay()
    torch.testing.assert_close(found[:2], [x.flip(0) for x in expected[:2]])
