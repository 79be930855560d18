"""Two linear layers with ReLU between them, whose passes go over the hidden features as seldom as they can."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import resolve_backend
from .schemas import operators

DTYPES = (torch.bfloat16, torch.float16)
VECTOR = 8  # numbers in sixteen bytes


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = operators.linear_relu(x, weight1, bias1)
        ctx.save_for_backward(x, hidden, weight1, weight2)
        return F.linear(hidden, weight2, bias2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, hidden, weight1, weight2 = ctx.saved_tensors
        grad_before, grad_bias1 = operators.relu_gradient(grad @ weight2, hidden)
        return grad_before @ weight1, grad_before.t() @ x, grad_bias1, grad.t() @ hidden, grad.sum(0)


def feed_forward(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """A feed-forward network: linear2(ReLU(linear1(x))).

    In training in 16 bits on CUDA, with the compiled backend and sizes that are multiples of 8, the ReLU is part of the
    product in front of it, and one kernel gives its gradient and that of the first bias. Apart from the products, the
    hidden features, the largest tensors of a transformer, are passed over once, not four times.

    Args:
        x: (..., N, K).
        weight1, bias1: (D, K) and (D,).
        weight2, bias2: (C, D) and (C,).

    Returns:
        (..., N, C), in autocast's type, if it is on, as of `torch.nn.functional.linear`.
    """
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    fits = dtype in DTYPES and not any(size % VECTOR for size in (*weight1.shape, *weight2.shape))
    if not (x.is_cuda and fits and torch.is_grad_enabled() and resolve_backend("cuda") == "compiled"):
        return F.linear(F.relu(F.linear(x, weight1, bias1)), weight2, bias2)
    arguments = [each.to(dtype).contiguous() for each in (x, weight1, bias1, weight2, bias2)]
    tokens = arguments[0].flatten(0, -2)
    return _FeedForward.apply(tokens, *arguments[1:]).unflatten(0, x.shape[:-1])
