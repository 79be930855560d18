"""Attention as callers use it: arguments are checked, and the backend that is in force computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import resolve_backend
from .deformops import ms_deform_attn_deformops
from .reference import (
    arithmetic_dtype,
    ms_deform_attn_reference,
    sampling_locations_from_offsets,
)
from .schemas import as_shape_list, check_level_start_index, flatten_shapes, operators
from .upstream import ms_deform_attn_upstream

MAX_LEVELS = MAX_POINTS = 8
MAX_HEAD_WIDTH = 128
VALUE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise ValueError, with the argument's name, for another shape."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")


def _check_arguments(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    points_name: str,
    points: Tensor,
    others: dict[str, Tensor],
) -> None:
    """Checks everything a kernel relies on, naming the argument that is wrong."""
    if value.dim() != 4:
        raise ValueError(f"value must have shape (N, S, M, D), got {tuple(value.shape)}")
    if value.dtype not in VALUE_DTYPES:
        raise ValueError(f"value must be float64, float32, bfloat16 or float16, got {value.dtype}")
    batch, tokens, heads, _ = value.shape
    levels = len(shapes)
    if points.dim() != 6 or points.shape[0] != batch or points.shape[2:4] != (heads, levels) or points.shape[5] != 2:
        expected = f"(N={batch}, Lq, M={heads}, L={levels}, P, 2)"
        raise ValueError(f"{points_name} must have shape {expected}, got {tuple(points.shape)}")
    expected_tokens = sum(height * width for height, width in shapes)
    if tokens != expected_tokens:
        raise ValueError(f"spatial_shapes {list(shapes)} add up to {expected_tokens} tokens, but value has S={tokens}")
    for name, tensor in {points_name: points, **others}.items():
        if tensor.device != value.device:
            raise ValueError(f"{name} must be on {value.device} as value is, got {tensor.device}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


def _supported(backend: str, value: Tensor, points: Tensor) -> bool:
    """Whether the backend covers these sizes and types; the PyTorch backend covers all."""
    width = value.shape[3]
    if backend == "deformops" and (value.dtype == torch.float64 or 0 in value.shape + points.shape):
        return False
    return (
        width % 4 == 0
        and 0 < width <= MAX_HEAD_WIDTH
        and points.shape[3] <= MAX_LEVELS
        and 0 < points.shape[4] <= MAX_POINTS
    )


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    level_start_index: Tensor | Sequence[int] | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention, Deformable DETR (arXiv 2010.04159) eq. 3 without the projections.

    Args:
        value: (N, S, M, D), float64, float32, bfloat16 or float16. The compiled kernels take D up to 128 that is a
            multiple of 4; for other widths, or more than 8 levels or points, the PyTorch backend runs.
        spatial_shapes: (L, 2) integers, (H, W) of each level. A tensor on a GPU costs a synchronisation. Under
            `torch.compile` a tensor fits into one graph on the compiled backend only; host integers always do.
        level_start_index: (L,) start of each level in S, or None; checked, since `spatial_shapes` implies it.
        sampling_locations: (N, Lq, M, L, P, 2), (x, y); 0 and 1 are the outer edges of the level, a sample beyond
            the last pixel's centre mixes with zeros. A location that is not finite counts as outside to the compiled
            kernels, and makes the result not a number with "deformops" and "pytorch".
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M * D) in the dtype of `value`. Half types are stored as such and computed in float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument.
    """
    backend = resolve_backend(value.device.type)
    if isinstance(spatial_shapes, Tensor) and torch.compiler.is_compiling() and backend == "compiled":
        return _traced_with_tensor_shapes(
            value, spatial_shapes, level_start_index, sampling_locations, attention_weights
        )
    shapes = as_shape_list(spatial_shapes)
    check_level_start_index(level_start_index, shapes)
    _check_arguments(value, shapes, "sampling_locations", sampling_locations, {"attention_weights": attention_weights})
    check_shape("attention_weights", attention_weights, tuple(sampling_locations.shape[:-1]))
    if backend == "pytorch" or not _supported(backend, value, sampling_locations):
        return ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)
    dtype = arithmetic_dtype(value.dtype)
    arguments = (sampling_locations.to(dtype).contiguous(), attention_weights.to(dtype).contiguous())
    if backend == "deformops":
        return ms_deform_attn_deformops(value, shapes, *arguments)
    if backend == "upstream":
        return ms_deform_attn_upstream(value, shapes, *arguments)
    return operators.ms_deform_attn(value.contiguous(), flatten_shapes(shapes), *arguments)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` with the softmax over levels and points, and the sum of reference point and offset, inside.

    Args:
        value: (N, S, M, D), as for `ms_deform_attn`, or the same as (N, S, M * D), which torch.compile never copies: in
            a network with convolutions, it lays tensors of four axes out as images.
        spatial_shapes: (L, 2) integers, (H, W) of each level.
        reference_points: (N, Lq, L, 2), (x, y) in [0, 1]; constants, the compiled backend gives no gradient.
        sampling_offsets: (N, Lq, M, L, P, 2), (x, y) in pixels of the level.
        attention_logits: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M * D) in the dtype of `value`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument.
    """
    shapes = as_shape_list(spatial_shapes)
    others = {"attention_logits": attention_logits, "reference_points": reference_points}
    given = value
    heads = sampling_offsets.shape[2] if sampling_offsets.dim() == 6 else 0
    if value.dim() == 3 and heads and value.shape[2] % heads == 0:
        value = value.unflatten(2, (heads, -1))
    _check_arguments(value, shapes, "sampling_offsets", sampling_offsets, others)
    batch, queries, heads, levels, points, _ = sampling_offsets.shape
    check_shape("attention_logits", attention_logits, (batch, queries, heads, levels, points))
    check_shape("reference_points", reference_points, (batch, queries, levels, 2))
    compiled = resolve_backend(value.device.type) == "compiled" and _supported("compiled", value, sampling_offsets)
    if not compiled or reference_points.requires_grad:
        locations = sampling_locations_from_offsets(reference_points, sampling_offsets, shapes)
        weights = attention_logits.flatten(-2).softmax(-1, dtype=locations.dtype).view_as(attention_logits)
        return ms_deform_attn(value, shapes, None, locations, weights)
    output, _ = operators.ms_deform_attn_fused(
        given.contiguous(),
        flatten_shapes(shapes),
        reference_points.to(arithmetic_dtype(value.dtype)).contiguous(),
        sampling_offsets.to(value.dtype).contiguous(),
        attention_logits.to(value.dtype).contiguous(),
    )
    return output


def _traced_with_tensor_shapes(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    if not _supported("compiled", value, sampling_locations):
        raise ValueError(
            "spatial_shapes must be host integers, not a tensor, for torch.compile with sizes that only the PyTorch "
            f"backend covers: value {tuple(value.shape)}, sampling_locations {tuple(sampling_locations.shape)}"
        )
    dtype = arithmetic_dtype(value.dtype)
    return operators.ms_deform_attn_tensor_shapes(
        value.contiguous(),
        spatial_shapes,
        level_start_index,
        sampling_locations.to(dtype).contiguous(),
        attention_weights.to(dtype).contiguous(),
    )
