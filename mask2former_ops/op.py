"""The operators: schemas, shapes for tracing, gradients, and the functions that check arguments and choose a backend.

Two operators exist in the `torch.library` namespace `mask2former_ops`. `ms_deform_attn` takes sampling locations and
attention weights; `ms_deform_attn_fused` takes what the layer's linear projections give (offsets and logits) and does
the rest in the kernel. Both take the levels' shapes as host integers, so that nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import NAMESPACE, resolve_backend
from .reference import arithmetic_dtype, ms_deform_attn_reference, sampling_locations_from_offsets

MAX_LEVELS = MAX_POINTS = 8
MAX_HEAD_WIDTH = 128
VALUE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_library = torch.library.Library(NAMESPACE, "DEF")
_library.define(
    "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights)"
    " -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations,"
    " Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "ms_deform_attn_fused(Tensor value, SymInt[] spatial_shapes, Tensor reference_points, Tensor sampling_offsets,"
    " Tensor attention_logits) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "ms_deform_attn_fused_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes,"
    " Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, Tensor log_sums)"
    " -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_ops = getattr(torch.ops, NAMESPACE)


def _output_like(value: Tensor, queries: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], queries.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake(f"{NAMESPACE}::ms_deform_attn", lib=_library)
def _(value, spatial_shapes, sampling_locations, attention_weights):
    return _output_like(value, sampling_locations)


@torch.library.register_fake(f"{NAMESPACE}::ms_deform_attn_backward", lib=_library)
def _(grad_output, value, spatial_shapes, sampling_locations, attention_weights):
    return tuple(x.new_empty(x.shape) for x in (value, sampling_locations, attention_weights))


@torch.library.register_fake(f"{NAMESPACE}::ms_deform_attn_fused", lib=_library)
def _(value, spatial_shapes, reference_points, sampling_offsets, attention_logits):
    return _output_like(value, sampling_offsets), reference_points.new_empty(attention_logits.shape[:3])


@torch.library.register_fake(f"{NAMESPACE}::ms_deform_attn_fused_backward", lib=_library)
def _(grad_output, value, spatial_shapes, reference_points, sampling_offsets, attention_logits, log_sums):
    return tuple(x.new_empty(x.shape) for x in (value, sampling_offsets, attention_logits))


def _save(ctx, inputs, output):
    value, ctx.spatial_shapes, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, sampling_locations, attention_weights)


def _backward(ctx, grad_output):
    value, locations, weights = ctx.saved_tensors
    grads = _ops.ms_deform_attn_backward(grad_output.contiguous(), value, ctx.spatial_shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


def _save_fused(ctx, inputs, output):
    value, ctx.spatial_shapes, reference_points, offsets, logits = inputs
    # The logarithms of the softmax's denominators spare the backward a pass over the logits.
    ctx.save_for_backward(value, reference_points, offsets, logits, output[1])
    ctx.set_materialize_grads(False)


def _backward_fused(ctx, grad_output, grad_log_sums):
    if grad_output is None:
        return None, None, None, None, None
    if ctx.needs_input_grad[2]:
        raise RuntimeError("ms_deform_attn_fused has no gradient for reference_points: use ms_deform_attn for that")
    value, reference_points, offsets, logits, log_sums = ctx.saved_tensors
    grads = _ops.ms_deform_attn_fused_backward(
        grad_output.contiguous(), value, ctx.spatial_shapes, reference_points, offsets, logits, log_sums
    )
    return grads[0], None, None, grads[1], grads[2]


def _refuse_second_order(ctx, *grads):
    raise RuntimeError(
        "ms_deform_attn has no second-order gradients in its compiled backend; "
        "mask2former_ops.set_backend('pytorch') has them"
    )


torch.library.register_autograd(f"{NAMESPACE}::ms_deform_attn", _backward, setup_context=_save, lib=_library)
torch.library.register_autograd(
    f"{NAMESPACE}::ms_deform_attn_fused", _backward_fused, setup_context=_save_fused, lib=_library
)
for _name in ("ms_deform_attn_backward", "ms_deform_attn_fused_backward"):
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _refuse_second_order, lib=_library)


def as_shape_list(spatial_shapes: Sequence[tuple[int, int]] | Tensor) -> list[tuple[int, int]]:
    """(H, W) of each level as host integers; a tensor on a GPU is copied, which waits for the device.

    Raises:
        ValueError: not L pairs of positive integers.
    """
    if isinstance(spatial_shapes, Tensor):
        if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2 or spatial_shapes.is_floating_point():
            raise ValueError(
                "spatial_shapes must be an integer tensor of shape (L, 2), "
                f"got {tuple(spatial_shapes.shape)} of {spatial_shapes.dtype}"
            )
        spatial_shapes = spatial_shapes.tolist()
    shapes = [tuple(shape) for shape in spatial_shapes]
    if not shapes or any(len(shape) != 2 or shape[0] < 1 or shape[1] < 1 for shape in shapes):
        raise ValueError(f"spatial_shapes must hold at least one pair of positive (H, W), got {shapes}")
    return shapes


def check_level_start_index(
    level_start_index: Tensor | Sequence[int] | None, shapes: Sequence[tuple[int, int]]
) -> None:
    """ValueError unless `level_start_index` is None or the running sum of H * W that `shapes` implies."""
    if level_start_index is None:
        return
    found = level_start_index.tolist() if isinstance(level_start_index, Tensor) else list(level_start_index)
    expected = [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]
    if found != expected:
        raise ValueError(f"level_start_index must be {expected} for spatial_shapes {list(shapes)}, got {found}")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
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


def _supported(value: Tensor, points: Tensor) -> bool:
    """Whether the compiled kernels cover these sizes; the PyTorch backend covers all."""
    width = value.shape[3]
    return (
        width % 4 == 0
        and 0 < width <= MAX_HEAD_WIDTH
        and points.shape[3] <= MAX_LEVELS
        and 0 < points.shape[4] <= MAX_POINTS
    )


def _flat(shapes: Sequence[tuple[int, int]]) -> list[int]:
    return [size for shape in shapes for size in shape]


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
            the last pixel's centre mixes with zeros, and a location that is not finite counts as outside.
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
    _check_shape("attention_weights", attention_weights, tuple(sampling_locations.shape[:-1]))
    if backend == "pytorch" or not _supported(value, sampling_locations):
        return ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)
    dtype = arithmetic_dtype(value.dtype)
    arguments = (sampling_locations.to(dtype).contiguous(), attention_weights.to(dtype).contiguous())
    if backend == "upstream":
        from .upstream import ms_deform_attn_upstream

        return ms_deform_attn_upstream(value, shapes, *arguments)
    return _ops.ms_deform_attn(value.contiguous(), _flat(shapes), *arguments)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` with the softmax over levels and points, and the sum of reference point and offset, inside.

    Args:
        value: (N, S, M, D), as for `ms_deform_attn`.
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
    _check_arguments(value, shapes, "sampling_offsets", sampling_offsets, others)
    batch, queries, heads, levels, points, _ = sampling_offsets.shape
    _check_shape("attention_logits", attention_logits, (batch, queries, heads, levels, points))
    _check_shape("reference_points", reference_points, (batch, queries, levels, 2))
    compiled = resolve_backend(value.device.type) == "compiled" and _supported(value, sampling_offsets)
    if not compiled or reference_points.requires_grad:
        locations = sampling_locations_from_offsets(reference_points, sampling_offsets, shapes)
        weights = attention_logits.flatten(-2).softmax(-1, dtype=locations.dtype).view_as(attention_logits)
        return ms_deform_attn(value, shapes, None, locations, weights)
    output, _ = _ops.ms_deform_attn_fused(
        value.contiguous(),
        _flat(shapes),
        reference_points.to(arithmetic_dtype(value.dtype)).contiguous(),
        sampling_offsets.to(value.dtype).contiguous(),
        attention_logits.to(value.dtype).contiguous(),
    )
    return output


# Under torch.compile the values of a tensor are unknown, so a tensor of shapes needs an operator that reads it when
# it runs. Outside of tracing, ms_deform_attn never comes here.
_library.define(
    "ms_deform_attn_tensor_shapes(Tensor value, Tensor spatial_shapes, Tensor? level_start_index,"
    " Tensor sampling_locations, Tensor attention_weights) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "ms_deform_attn_tensor_shapes_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes,"
    " Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _traced_with_tensor_shapes(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    if not _supported(value, sampling_locations):
        raise ValueError(
            "spatial_shapes must be host integers, not a tensor, for torch.compile with sizes that only the PyTorch "
            f"backend covers: value {tuple(value.shape)}, sampling_locations {tuple(sampling_locations.shape)}"
        )
    dtype = arithmetic_dtype(value.dtype)
    return _ops.ms_deform_attn_tensor_shapes(
        value.contiguous(),
        spatial_shapes,
        level_start_index,
        sampling_locations.to(dtype).contiguous(),
        attention_weights.to(dtype).contiguous(),
    )


@torch.library.impl(_library, "ms_deform_attn_tensor_shapes", "CompositeExplicitAutograd")
def _(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    shapes = as_shape_list(spatial_shapes)
    check_level_start_index(level_start_index, shapes)
    return _ops.ms_deform_attn(value, _flat(shapes), sampling_locations, attention_weights)


@torch.library.impl(_library, "ms_deform_attn_tensor_shapes_backward", "CompositeExplicitAutograd")
def _(grad_output, value, spatial_shapes, sampling_locations, attention_weights):
    shapes = _flat(as_shape_list(spatial_shapes))
    return _ops.ms_deform_attn_backward(grad_output, value, shapes, sampling_locations, attention_weights)


@torch.library.register_fake(f"{NAMESPACE}::ms_deform_attn_tensor_shapes", lib=_library)
def _(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    return _output_like(value, sampling_locations)


@torch.library.register_fake(f"{NAMESPACE}::ms_deform_attn_tensor_shapes_backward", lib=_library)
def _(grad_output, value, spatial_shapes, sampling_locations, attention_weights):
    return tuple(x.new_empty(x.shape) for x in (value, sampling_locations, attention_weights))


def _save_tensor_shapes(ctx, inputs, output):
    value, spatial_shapes, _, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, spatial_shapes, sampling_locations, attention_weights)


def _backward_tensor_shapes(ctx, grad_output):
    grads = _ops.ms_deform_attn_tensor_shapes_backward(grad_output.contiguous(), *ctx.saved_tensors)
    return grads[0], None, None, grads[1], grads[2]


torch.library.register_autograd(
    f"{NAMESPACE}::ms_deform_attn_tensor_shapes",
    _backward_tensor_shapes,
    setup_context=_save_tensor_shapes,
    lib=_library,
)
torch.library.register_autograd(
    f"{NAMESPACE}::ms_deform_attn_tensor_shapes_backward", _refuse_second_order, lib=_library
)
