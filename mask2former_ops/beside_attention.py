"""The operators beside attention as callers use them: arguments are checked, and without a kernel PyTorch computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backends import resolve_backend
from .functional import check_shape
from .reference import (
    convnext_block_reference,
    least_certain_reference,
    linear_relu_reference,
    query_masks_reference,
    sample_logits_reference,
    sample_maps,
)
from .schemas import operators

HALF_DTYPES = (torch.bfloat16, torch.float16)
VECTOR = 8  # of their numbers in sixteen bytes
MAX_BLOCK_CHANNELS = 3072
MAX_QUERIES = 4096
MAX_NORM_CHANNELS = 1024
MANY_TOKENS = 4096  # fewer are summed up faster than the kernels of the sums start
FEATURE_BYTES = 16  # read at once


def _check_points(name: str, points: Tensor, letter: str, maps: int) -> None:
    if points.dim() != 3 or points.shape[0] != maps or points.shape[2] != 2:
        raise ValueError(f"{name} must have shape ({letter}={maps}, N, 2), got {tuple(points.shape)}")


@torch.no_grad()
def least_certain(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Of each map's candidates, those at which its bilinear value is nearest to zero.

    Args:
        logits: (M, h, w), floating point.
        candidates: (M, N, 2) float32, (x, y) in [0, 1], (0, 0) the outer corner of the top-left pixel. Beyond the
            centres of the outer pixels, the border is repeated.
        count: k, up to N.

    Returns:
        (M, k, 2) without gradient, in any order, which is the same in every run. Not a number counts as furthest.

    Raises:
        ValueError: shapes do not fit, or k is too large.
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape (M, h, w), got {tuple(logits.shape)}")
    _check_points("candidates", candidates, "M", len(logits))
    if not 0 <= count <= candidates.shape[1]:
        raise ValueError(f"count must be 0 to N={candidates.shape[1]}, got {count}")
    if not _has_kernel(logits) or logits.dtype == torch.float64:
        return least_certain_reference(logits, candidates, count)
    return operators.least_certain(logits.contiguous(), candidates.float().contiguous(), count)


@torch.no_grad()
def sample_features(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of all channels at points, interpolated in float32.

    Args:
        maps: (B, C, h, w), floating point; of any layout in memory, but those that are not channels last are copied
            for the compiled kernel, which takes numbers of channels that fill 16 bytes.
        points: (B, N, 2), (x, y) as for `sample_logits`.

    Returns:
        (B, C, N) without gradient, in autocast's type, if it is on, else in float32. From the compiled kernel the
        channels of a point are next to each other in memory, as matrix products like them just as well.

    Raises:
        ValueError: shapes do not fit.
    """
    if maps.dim() != 4:
        raise ValueError(f"maps must have shape (B, C, h, w), got {tuple(maps.shape)}")
    _check_points("points", points, "B", len(maps))
    kind = maps.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    fits = maps.dtype in (torch.float32, dtype) and maps.shape[1] * maps.element_size() % FEATURE_BYTES == 0
    if not (_has_kernel(maps) and fits):
        return sample_maps(maps.float(), points).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    return operators.sample_features(maps, points.float().contiguous()).transpose(1, 2).to(dtype)


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points.

    Args:
        logits: (M, h, w), floating point. The compiled kernels take float32; they sum the gradient by atomic
            additions, which `torch.use_deterministic_algorithms(True)` refuses, as it does PyTorch's.
        points: (M, N, 2), (x, y) in [0, 1], (0, 0) the outer corner of the top-left pixel. Beyond the centres of the
            outer pixels, the border is repeated.

    Returns:
        (M, N) in the type of `logits`.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape (M, h, w), got {tuple(logits.shape)}")
    _check_points("points", points, "M", len(logits))
    if not _has_kernel(logits) or logits.dtype != torch.float32 or points.requires_grad:
        return sample_logits_reference(logits, points)
    return operators.sample_logits(logits.contiguous(), points.float().contiguous())


@torch.no_grad()
def query_masks(
    logits: Tensor, weight: Tensor, padded_size: Sequence[int], image_size: Sequence[int], output_size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of all queries at the size of the photograph, and the query that each pixel goes to.

    Logits are resized bilinearly to the padded batch, of which the image is the top left; and the image, where it has
    another size than the output, once more. All sizes are (H, W) in pixels.

    Args:
        logits: (Q, h, w), which cover the padded batch; must be finite.
        weight: (Q,) factor of a query's mask probabilities; where it is not above 0, the query owns nothing.
        padded_size, image_size, output_size: of the batch, of the image in it, and of the original.

    Returns:
        masks: (Q, H, W) bool, where logits are not negative.
        owner: (H, W) int64 query of the highest weight times mask probability, the first of equal ones; Q where its
            mask does not cover the pixel, or no query has a weight.
        areas: (2, Q) int64 pixels of each mask, and those that the query owns.

    Raises:
        ValueError: shapes or sizes do not fit.

    Source: MaskFormer (Cheng et al. 2021), section 3.4.
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape (Q, h, w), got {tuple(logits.shape)}")
    check_shape("weight", weight, (len(logits),))
    if weight.device != logits.device:
        raise ValueError(f"weight must be on {logits.device} as logits are, got {weight.device}")
    for name, size in (("padded_size", padded_size), ("image_size", image_size), ("output_size", output_size)):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"{name} must be a positive (H, W), got {tuple(size)}")
    if 0 in logits.shape[1:]:
        raise ValueError(f"logits must have pixels, got {tuple(logits.shape)}")
    if any(image > padded for image, padded in zip(image_size, padded_size, strict=True)):
        raise ValueError(f"image_size must fit into {tuple(padded_size)}, got {tuple(image_size)}")
    call = (logits.float().contiguous(), weight.float().contiguous(), padded_size, image_size, output_size)
    compiled = _has_kernel(logits) and len(logits) <= MAX_QUERIES
    return operators.query_masks(*call) if compiled else query_masks_reference(*call)


def convnext_block(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
) -> Tensor:
    """A block of a frozen ConvNeXt: x + fc2(GELU(fc1(LayerNorm(depthwise convolution(x))))).

    The compiled kernels, for bfloat16 and float16 on CUDA, have no gradient. In bfloat16 their GELU is the
    approximation by tanh, of a number that has not been rounded: for usual numbers nearer to the exact result than
    PyTorch's GELU of the rounded number.

    Args:
        x: (B, H, W, C), C a multiple of 8 up to 3072 for the compiled kernels.
        conv_weight: (7, 7, C).
        conv_bias, norm_weight, norm_bias: (C,).
        eps: of the LayerNorm.
        fc1_weight, fc1_bias: (D, C) and (D,).
        fc2_weight, fc2_bias: (C, D) and (C,), layer scale included.

    Returns:
        (B, H, W, C) in the type of `x`.
    """
    weights = (conv_weight, conv_bias, norm_weight, norm_bias, eps, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    channels = x.shape[-1]
    fits = x.dtype in HALF_DTYPES and channels % VECTOR == 0 and channels <= MAX_BLOCK_CHANNELS
    if not (_has_kernel(x) and fits):
        return convnext_block_reference(x, *weights)
    return operators.convnext_block(x.contiguous(), *weights)


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer with ReLU, as of a feed-forward network.

    In training in 16 bits on CUDA, with the compiled backend and K and D multiples of 8, the product does the ReLU, and
    one kernel gives its gradient and that of the bias: apart from products, the two passes read and write a
    transformer's largest tensors once, where PyTorch does it four times.

    Args:
        x: (..., N, K).
        weight, bias: (D, K) and (D,).

    Returns:
        (..., N, D), in autocast's type, if it is on, as of `torch.nn.functional.linear`.
    """
    casts = torch.is_autocast_enabled("cuda") and x.dtype != torch.float64  # as autocast does
    dtype = torch.get_autocast_dtype("cuda") if casts else x.dtype
    fits = dtype in HALF_DTYPES and not any(size % VECTOR for size in weight.shape)
    if not (_has_kernel(x) and fits and torch.is_grad_enabled()):
        return linear_relu_reference(x, weight, bias)
    x, weight, bias = (each.to(dtype).contiguous() for each in (x, weight, bias))
    return operators.linear_relu(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    """A linear layer of (N, K), whose bias has its gradient from `column_sums`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.addmm(bias, x, weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        wanted = ctx.needs_input_grad
        of_bias = operators.column_sums(grad) if wanted[2] else None
        return grad @ weight if wanted[0] else None, grad.t() @ x if wanted[1] else None, of_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`torch.nn.functional.linear`, in training in 16 bits on CUDA with a fast gradient of the bias.

    PyTorch sums (N, D) up over N at a tenth of the memory's speed. `torch.compile` makes such sums itself.

    Args:
        x: (..., K).
        weight, bias: (D, K) and (D,).

    Returns:
        (..., D), in autocast's type, if it is on.
    """
    casts, dtype = torch.is_autocast_enabled("cuda") and x.dtype != torch.float64, x.dtype  # as autocast does
    if casts:
        dtype = torch.get_autocast_dtype("cuda")
    fits = dtype in HALF_DTYPES and weight.shape[0] % VECTOR == 0 and x.numel() >= MANY_TOKENS * weight.shape[1]
    alike = casts or x.dtype == weight.dtype == bias.dtype  # others are PyTorch's to refuse
    if torch.compiler.is_compiling() or not (_has_kernel(x) and fits and alike and torch.is_grad_enabled()):
        return F.linear(x, weight, bias)
    x, weight, bias = (each.to(dtype) for each in (x, weight, bias))
    return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """LayerNorm of a residual sum, as it is and in the type of the matrix products that read it next.

    With x in float32 and y in 16 bits on CUDA, the compiled backend and D a multiple of 8 up to 1024, one kernel does
    it and one its gradients, in float32; the gradient of y is rounded to y's type.

    Args:
        x, y: (..., D).
        weight, bias: (D,).
        eps: is added to the variance.

    Returns:
        (..., D) as of `torch.nn.functional.layer_norm`, and the same in autocast's type, if it is on.

    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    channels, kind = x.shape[-1], x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    types = x.dtype == weight.dtype == bias.dtype == torch.float32 and y.dtype == dtype != torch.float32
    fits = types and x.shape == y.shape and channels % VECTOR == 0 and channels <= MAX_NORM_CHANNELS
    if not (_has_kernel(x) and fits):
        normal = F.layer_norm(x + y, (channels,), weight, bias, eps)
        return normal, normal.to(dtype) if torch.is_autocast_enabled(kind) else normal
    flat = (each.reshape(-1, channels).contiguous() for each in (x, y))
    normal, half, _, _ = operators.add_layer_norm(*flat, weight, bias, eps)
    return normal.view(x.shape), half.view(x.shape)


def _has_kernel(tensor: Tensor) -> bool:
    """Whether the operators beside attention are compiled for the tensor's device."""
    return tensor.is_cuda and resolve_backend("cuda") == "compiled"
