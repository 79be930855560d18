"""Residual sums with LayerNorm, and sums over tokens: the compiled kernels beside the definition in float64.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_ops import add_layer_norm, linear

from .cases import DEVICES, NEEDS_GPU, compiled, compiled_library, relative_error  # noqa: F401

OPERATORS = torch.ops.mask2former_ops
# Tokens and channels: of the decoders; one token; channels that fill no tile, or several, the last one in part; more
# tokens than the backward's warps
SHAPES = [(1600, 256), (1, 256), (37, 8), (65, 264), (9, 512), (130, 768), (11, 1024), (67201, 256)]
TOLERANCE = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


def random_call(shape: tuple[int, int], dtype: torch.dtype, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """x, y, weight, bias; and gradients of both results."""
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return (mean + std * torch.randn(sizes, generator=generator)).to(device)

    x, y = draw(*shape, std=2.0, mean=3.0), draw(*shape).to(dtype)
    arguments = [x, y, draw(shape[1], mean=1.0), draw(shape[1])]
    return [each.requires_grad_() for each in arguments], [draw(*shape), draw(*shape).to(dtype)]


def expected_of(arguments: list[Tensor], grads: list[Tensor | None]) -> list[Tensor]:
    """Result and gradients in float64."""
    x, y, weight, bias = (each.detach().cpu().double().requires_grad_() for each in arguments)
    out = F.layer_norm(x + y, x.shape[1:], weight, bias, 1e-5)
    grad = sum(each.cpu().double() for each in grads if each is not None)
    return [out.detach(), *torch.autograd.grad(out, (x, y, weight, bias), grad)]


@pytest.mark.parametrize("present", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_references_are_the_definition(shape, dtype, present):
    arguments, grads = random_call(shape, dtype, "cpu")
    grads = [grad if there else None for grad, there in zip(grads, present, strict=True)]
    check(arguments, grads, dtype)


@NEEDS_GPU
@pytest.mark.parametrize("present", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_are_the_definition(compiled, shape, dtype, present):  # noqa: F811
    arguments, grads = random_call(shape, dtype, "cuda")
    grads = [grad if there else None for grad, there in zip(grads, present, strict=True)]
    check(arguments, grads, dtype)


def check(arguments: list[Tensor], grads: list[Tensor | None], dtype: torch.dtype) -> None:
    out, half, total, _ = OPERATORS.add_layer_norm(*arguments, 1e-5)
    assert torch.equal(total, arguments[0] + arguments[1]) and torch.equal(half, out.to(dtype))
    there = [number for number, grad in enumerate(grads) if grad is not None]
    roots, given = [(out, half)[number] for number in there], [grads[number] for number in there]
    found = [out.detach(), *torch.autograd.grad(roots, arguments, given)]
    for number, (a, b) in enumerate(zip(found, expected_of(arguments, grads), strict=True)):
        tolerance = TOLERANCE[dtype] if number == 2 else 2e-5
        assert relative_error(a, b) <= tolerance, number
    assert [each.dtype for each in found[1:]] == [each.dtype for each in arguments]


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(compiled_library, device):  # noqa: F811
    arguments, grads = random_call((24, 16), torch.bfloat16, device)
    torch.library.opcheck(OPERATORS.add_layer_norm, (*arguments, 1e-5))
    _, _, total, statistics = (each.detach() for each in OPERATORS.add_layer_norm(*arguments, 1e-5))
    call = (*grads, total, statistics, arguments[2].detach(), torch.bfloat16)
    torch.library.opcheck(OPERATORS.add_layer_norm_backward, call)
    torch.library.opcheck(OPERATORS.column_sums, (grads[1],))


@NEEDS_GPU
def test_16_bits_take_the_kernel_and_others_do_not(compiled):  # noqa: F811
    (x, y, weight, bias), _ = random_call((40, 64), torch.bfloat16, "cuda")

    def is_fused(*arguments: Tensor) -> bool:
        (behind, _) = add_layer_norm(*arguments)[0].grad_fn.next_functions[0]
        return "add_layer_norm" in type(behind).__name__

    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = add_layer_norm(x.view(4, 10, 64), y.view(4, 10, 64), weight, bias)
        assert found[0].shape == found[1].shape == (4, 10, 64) and found[1].dtype == torch.bfloat16
        torch.testing.assert_close(found[0], F.layer_norm(x + y, (64,), weight, bias).view(4, 10, 64))
        assert is_fused(x, y, weight, bias)
        for given in ((x, y.float()), (x.bfloat16(), y), (x[:, :60], y[:, :60])):
            width = given[0].shape[1]
            assert not is_fused(*given, weight[:width], bias[:width])


def test_without_a_kernel_pytorch_runs():
    x, y, weight, bias = torch.randn(2, 5, 6), torch.randn(2, 5, 6), torch.randn(6), torch.randn(6)
    expected = F.layer_norm(x + y, (6,), weight, bias, 1e-3)
    found = add_layer_norm(x, y, weight, bias, 1e-3)
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = add_layer_norm(x, y.bfloat16(), weight, bias)
    assert found[0].dtype == torch.float32 and found[1].dtype == torch.bfloat16


@NEEDS_GPU
def test_direct_calls_are_checked(compiled):  # noqa: F811
    (x, y, weight, bias), _ = random_call((4, 16), torch.bfloat16, "cuda")
    for arguments, message in [
        ((x, y.float(), weight, bias), "y must be BFloat16 or Half"),
        ((x, y[:3], weight, bias), "y must be BFloat16 of shape"),
        ((x.double(), y, weight, bias), "x must be a contiguous matrix of Float"),
        ((x[:, :12], y[:, :12], weight[:12], bias[:12]), "contiguous matrix"),
        ((x, y, weight[:8], bias), "weight must have shape"),
        ((x, y, weight, bias.half()), "bias must be Float"),
    ]:
        with pytest.raises(ValueError, match=message):
            OPERATORS.add_layer_norm(*arguments, 1e-5)


@NEEDS_GPU
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(4096, 256), (134400, 96), (67201, 192), (5000, 2048), (1, 8)], ids=str)
def test_sums_over_tokens(compiled, shape, dtype):  # noqa: F811
    grad = (torch.randn(shape, device="cuda") + 0.3).to(dtype)  # 134400 times 0.3 is a number of float16
    assert relative_error(OPERATORS.column_sums(grad), grad.double().sum(0)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_a_linear_layer_is_that_of_pytorch(compiled_library, device):  # noqa: F811
    x = torch.randn(3, 4096, 16, device=device, requires_grad=True)
    weight, bias = (torch.randn(size, device=device, requires_grad=True) for size in ((24, 16), (24,)))
    grad = torch.randn(3, 4096, 24, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        found, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    assert ("_Linear" in type(found.grad_fn.next_functions[0][0]).__name__) == (device == "cuda")
    for a, b in zip(
        torch.autograd.grad(found, (x, weight, bias), grad.to(found.dtype)),
        torch.autograd.grad(expected, (x, weight, bias), grad.to(found.dtype)),
        strict=True,
    ):
        assert a.dtype == b.dtype and relative_error(a, b.double()) <= 8e-3


def test_the_sum_and_the_statistics_have_no_gradient():
    arguments, _ = random_call((4, 16), torch.bfloat16, "cpu")
    outputs = OPERATORS.add_layer_norm(*arguments, 1e-5)
    assert [each.requires_grad for each in outputs] == [True, True, False, False]
