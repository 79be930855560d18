"""The operators as PyTorch sees them: schemas, shapes for tracing, gradients. Kernels attach when a library is loaded.

The `torch.library` namespace `mask2former_ops` has two operators of attention. `ms_deform_attn` takes sampling
locations and attention weights; `ms_deform_attn_fused` takes the offsets and logits of the layer's linear projections
and does the rest in the kernel; its value may have heads and their channels on one axis. Both take the levels' shapes
as host integers, so that nothing waits for the device. The others have kernels for CUDA, and PyTorch's for other
devices; of them only `linear_relu`, `add_layer_norm` and, for its logits, `sample_logits` have a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .reference import (
    add_layer_norm_backward_reference,
    add_layer_norm_reference,
    column_sums_reference,
    convnext_block_reference,
    least_certain_reference,
    linear_relu_reference,
    query_masks_reference,
    relu_gradient_reference,
    sample_features_reference,
    sample_logits_backward_reference,
    sample_logits_reference,
)

NAMESPACE = "mask2former_ops"

_library = torch.library.Library(NAMESPACE, "DEF")
for _schema in (
    (
        "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights)"
        " -> Tensor"
    ),
    (
        "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations,"
        " Tensor attention_weights) -> (Tensor, Tensor, Tensor)"
    ),
    (
        "ms_deform_attn_fused(Tensor value, SymInt[] spatial_shapes, Tensor reference_points, Tensor sampling_offsets,"
        " Tensor attention_logits) -> (Tensor, Tensor)"
    ),
    (
        "ms_deform_attn_fused_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes,"
        " Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits, Tensor log_sums)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    "least_certain(Tensor logits, Tensor candidates, SymInt count) -> Tensor",
    (
        "query_masks(Tensor logits, Tensor weight, SymInt[] padded_size, SymInt[] image_size, SymInt[] output_size)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    (
        "convnext_block(Tensor x, Tensor conv_weight, Tensor conv_bias, Tensor norm_weight, Tensor norm_bias,"
        " float eps, Tensor fc1_weight, Tensor fc1_bias, Tensor fc2_weight, Tensor fc2_bias) -> Tensor"
    ),
    "linear_relu(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    "relu_gradient(Tensor grad_hidden, Tensor hidden) -> (Tensor, Tensor)",
    "column_sums(Tensor grad) -> Tensor",
    "add_layer_norm(Tensor x, Tensor y, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor, Tensor)",
    (
        "add_layer_norm_backward(Tensor? grad_out, Tensor? grad_half, Tensor total, Tensor statistics, Tensor weight,"
        " ScalarType dtype) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "sample_features(Tensor maps, Tensor points) -> Tensor",
    "sample_logits(Tensor logits, Tensor points) -> Tensor",
    "sample_logits_backward(Tensor grad_values, Tensor points, SymInt height, SymInt width) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
# What runs where no kernel is compiled; attention's own two have backends to choose from (functional.py).
_REFERENCES: dict[str, Callable] = {
    "linear_relu": linear_relu_reference,
    "relu_gradient": relu_gradient_reference,
    "column_sums": column_sums_reference,
    "add_layer_norm": add_layer_norm_reference,
    "add_layer_norm_backward": add_layer_norm_backward_reference,
    "sample_features": sample_features_reference,
    "sample_logits": sample_logits_reference,
    "sample_logits_backward": sample_logits_backward_reference,
    "least_certain": least_certain_reference,
    "query_masks": query_masks_reference,
    "convnext_block": convnext_block_reference,
}
for _name, _reference in _REFERENCES.items():
    torch.library.impl(_library, _name, "CompositeExplicitAutograd")(_reference)
operators = getattr(torch.ops, NAMESPACE)


@torch.library.register_fake(f"{NAMESPACE}::least_certain", lib=_library)
def _(logits, candidates, count):
    return candidates.new_empty(candidates.shape[0], count, 2)


@torch.library.register_fake(f"{NAMESPACE}::query_masks", lib=_library)
def _(logits, weight, padded_size, image_size, output_size):
    count = logits.shape[0]
    masks = logits.new_empty((count, *output_size), dtype=torch.bool)
    return masks, *(logits.new_empty(shape, dtype=torch.int64) for shape in (output_size, (2, count)))


@torch.library.register_fake(f"{NAMESPACE}::convnext_block", lib=_library)
def _(x, *_):
    return x.new_empty(x.shape)


@torch.library.register_fake(f"{NAMESPACE}::linear_relu", lib=_library)
def _(x, weight, bias):
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.register_fake(f"{NAMESPACE}::column_sums", lib=_library)
def _(grad):
    return grad.new_empty(grad.shape[1:])


@torch.library.register_fake(f"{NAMESPACE}::add_layer_norm", lib=_library)
def _(x, y, weight, bias, eps):
    return torch.empty_like(x), torch.empty_like(y), torch.empty_like(x), x.new_empty(x.shape[0], 2)


@torch.library.register_fake(f"{NAMESPACE}::add_layer_norm_backward", lib=_library)
def _(grad_out, grad_half, total, statistics, weight, dtype):
    of_weight = total.new_empty(total.shape[1:])
    return torch.empty_like(total), torch.empty_like(total, dtype=dtype), of_weight, torch.empty_like(of_weight)


@torch.library.register_fake(f"{NAMESPACE}::relu_gradient", lib=_library)
def _(grad_hidden, hidden):
    return grad_hidden.new_empty(grad_hidden.shape), grad_hidden.new_empty(grad_hidden.shape[1])


@torch.library.register_fake(f"{NAMESPACE}::sample_features", lib=_library)
def _(maps, points):
    return maps.new_empty(points.shape[0], points.shape[1], maps.shape[1])


@torch.library.register_fake(f"{NAMESPACE}::sample_logits", lib=_library)
def _(logits, points):
    return logits.new_empty(points.shape[:2])


@torch.library.register_fake(f"{NAMESPACE}::sample_logits_backward", lib=_library)
def _(grad_values, points, height, width):
    return grad_values.new_empty(points.shape[0], height, width)


def _output_like(value: Tensor, queries: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], queries.shape[1], math.prod(value.shape[2:]))


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
    grads = operators.ms_deform_attn_backward(grad_output.contiguous(), value, ctx.spatial_shapes, locations, weights)
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
    grads = operators.ms_deform_attn_fused_backward(
        grad_output.contiguous(), value, ctx.spatial_shapes, reference_points, offsets, logits, log_sums
    )
    return grads[0], None, None, grads[1], grads[2]


def _save_linear_relu(ctx, inputs, output):
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output)


def _backward_linear_relu(ctx, grad_hidden):
    x, weight, hidden = ctx.saved_tensors
    grad, grad_bias = operators.relu_gradient(grad_hidden.contiguous(), hidden)
    grad_x = grad @ weight if ctx.needs_input_grad[0] else None
    return grad_x, grad.t() @ x if ctx.needs_input_grad[1] else None, grad_bias


def _save_add_layer_norm(ctx, inputs, output):
    _, y, weight, _, _ = inputs
    _, _, total, statistics = output
    ctx.dtype = y.dtype
    ctx.save_for_backward(total, statistics, weight)
    ctx.mark_non_differentiable(total, statistics)  # kept for the gradients of the others
    ctx.set_materialize_grads(False)


def _backward_add_layer_norm(ctx, grad_out, grad_half, *_):
    if grad_out is None and grad_half is None:
        return None, None, None, None, None
    grads = (None if each is None else each.contiguous() for each in (grad_out, grad_half))
    return *operators.add_layer_norm_backward(*grads, *ctx.saved_tensors, ctx.dtype), None


def _save_points(ctx, inputs, output):
    logits, points = inputs
    ctx.size = logits.shape[1:]
    ctx.save_for_backward(points)


def _backward_logits(ctx, grad_values):
    if ctx.needs_input_grad[1]:
        raise RuntimeError("sample_logits has no gradient for points")
    return operators.sample_logits_backward(grad_values.contiguous(), *ctx.saved_tensors, *ctx.size), None


def _refuse_second_order(ctx, *grads):
    raise RuntimeError(
        "mask2former_ops has no second-order gradients in its compiled backend; "
        "mask2former_ops.set_backend('pytorch') has them"
    )


torch.library.register_autograd(f"{NAMESPACE}::ms_deform_attn", _backward, setup_context=_save, lib=_library)
torch.library.register_autograd(
    f"{NAMESPACE}::ms_deform_attn_fused", _backward_fused, setup_context=_save_fused, lib=_library
)
torch.library.register_autograd(
    f"{NAMESPACE}::linear_relu", _backward_linear_relu, setup_context=_save_linear_relu, lib=_library
)
torch.library.register_autograd(
    f"{NAMESPACE}::add_layer_norm", _backward_add_layer_norm, setup_context=_save_add_layer_norm, lib=_library
)
torch.library.register_autograd(
    f"{NAMESPACE}::sample_logits", _backward_logits, setup_context=_save_points, lib=_library
)
for _name in (
    "ms_deform_attn_backward",
    "ms_deform_attn_fused_backward",
    "relu_gradient",
    "column_sums",
    "add_layer_norm_backward",
    "sample_logits_backward",
):
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


def flatten_shapes(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The levels' shapes as the operators take them: H, W, H, W, ..."""
    return [size for shape in shapes for size in shape]


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


@torch.library.impl(_library, "ms_deform_attn_tensor_shapes", "CompositeExplicitAutograd")
def _(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    shapes = as_shape_list(spatial_shapes)
    check_level_start_index(level_start_index, shapes)
    return operators.ms_deform_attn(value, flatten_shapes(shapes), sampling_locations, attention_weights)


@torch.library.impl(_library, "ms_deform_attn_tensor_shapes_backward", "CompositeExplicitAutograd")
def _(grad_output, value, spatial_shapes, sampling_locations, attention_weights):
    shapes = flatten_shapes(as_shape_list(spatial_shapes))
    return operators.ms_deform_attn_backward(grad_output, value, shapes, sampling_locations, attention_weights)


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
    grads = operators.ms_deform_attn_tensor_shapes_backward(grad_output.contiguous(), *ctx.saved_tensors)
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
