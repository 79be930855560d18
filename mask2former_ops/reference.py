"""The operators in plain PyTorch: the definitions that the compiled backends are tested against.

Shape shorthand in this package
    N: images, S: value tokens (sum of H_l * W_l over the levels), M: heads, D: channels of one head, d = M * D,
    Lq: queries, L: levels, P: sampling points of one head on one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MASK_PIXELS = 2**27  # pixels of query masks in float32 at once, half a gigabyte; large photographs have many times more


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which coordinates, weights and sums are held: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sampling_locations_from_offsets(
    reference_points: Tensor, sampling_offsets: Tensor, spatial_shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Adds offsets, which are in pixels of their level, to reference points, which are in [0, 1].

    Args:
        reference_points: (N, Lq, L, 2), (x, y).
        sampling_offsets: (N, Lq, M, L, P, 2), (x, y) in pixels of the level.
        spatial_shapes: (H, W) of each level.

    Returns:
        (N, Lq, M, L, P, 2) locations, (x, y), 0 and 1 being the outer edges of the level, in the arithmetic dtype.
    """
    dtype = arithmetic_dtype(sampling_offsets.dtype)
    # Filled on the device: a copy from the host could not be part of a CUDA graph.
    sizes = [1.0 / size for height, width in spatial_shapes for size in (width, height)]
    pixel = torch.cat([sampling_offsets.new_full((1,), size, dtype=dtype) for size in sizes]).view(-1, 2)
    return reference_points.to(dtype)[:, :, None, :, None] + sampling_offsets.to(dtype) * pixel[:, None]


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinear samples, Deformable DETR (arXiv 2010.04159) eq. 3 without the two projections.

    A sample at x in [0, 1] lies at pixel x * W - 0.5, and pixels outside the level count as zero, which is
    `grid_sample` with `align_corners=False` and zero padding. float16 and bfloat16 are computed in float32.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (H, W) of each level, in the order in which the levels are concatenated in S.
        sampling_locations: (N, Lq, M, L, P, 2), (x, y).
        attention_weights: (N, Lq, M, L, P).

    Returns:
        (N, Lq, M * D) in the dtype of `value`.
    """
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    dtype = arithmetic_dtype(value.dtype)
    maps = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)  # (N*M, D, S)
    # Queries last: the sum over points then runs along contiguous memory.
    grid = sampling_locations.to(dtype).permute(0, 2, 3, 4, 1, 5).flatten(0, 1) * 2 - 1  # (N*M, L, P, Lq, 2) in [-1, 1]
    weights = attention_weights.to(dtype).permute(0, 2, 3, 4, 1).flatten(0, 1)[:, None]  # (N*M, 1, L, P, Lq)

    output = maps.new_zeros(batch * heads, width, queries)
    levels = maps.split([height * width for height, width in spatial_shapes], dim=-1)
    for level, (level_map, shape) in enumerate(zip(levels, spatial_shapes, strict=True)):
        level_map = level_map.unflatten(-1, tuple(shape))
        samples = F.grid_sample(level_map, grid[:, level], "bilinear", "zeros", align_corners=False)
        output = output + (samples * weights[:, :, level]).sum(dim=2)
    return output.view(batch, heads * width, queries).transpose(1, 2).to(value.dtype)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of (B, c, h, w) maps at (B, N, 2) points, (x, y) in [0, 1]: (B, c, N).

    The half pixel at the border repeats the border: padding with zeros would make it look undecided.
    """
    grid = (2 * points - 1)[:, None].to(maps.dtype)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]


def sample_features_reference(maps: Tensor, points: Tensor) -> Tensor:
    """(B, N, C) values of (B, C, h, w) maps at (B, N, 2) points, channels last, in the type of `maps`."""
    return sample_maps(maps.to(arithmetic_dtype(maps.dtype)), points).transpose(1, 2).to(maps.dtype).contiguous()


def sample_logits_reference(logits: Tensor, points: Tensor) -> Tensor:
    """(M, N) values of (M, h, w) maps at (M, N, 2) points; see `sample_logits`."""
    return sample_maps(logits[:, None], points)[:, 0]


def sample_logits_backward_reference(grad_values: Tensor, points: Tensor, height: int, width: int) -> Tensor:
    """(M, height, width) gradient of `sample_logits` from (M, N) of its values."""
    grid = (2 * points - 1)[:, None].to(grad_values.dtype)
    logits = grad_values.new_zeros((len(points), 1, height, width))  # of which the shape matters
    bilinear, border, align_corners = 0, 1, False
    return torch.ops.aten.grid_sampler_2d_backward(
        grad_values[:, None, None], logits, grid, bilinear, border, align_corners, [True, False]
    )[0][:, 0]


def least_certain_reference(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Of each map's candidates, the `count` at which its bilinear value is nearest to zero; see `least_certain`."""
    chosen = sample_logits_reference(logits, candidates).abs().topk(count, dim=1, largest=False).indices
    return candidates.gather(1, chosen[..., None].expand(-1, -1, 2))


def convnext_block_reference(
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
    """A block of a ConvNeXt (arXiv 2201.03545, figure 4) without layer scale; see `convnext_block`."""
    weight = conv_weight.permute(2, 0, 1)[:, None]
    convolved = F.conv2d(x.permute(0, 3, 1, 2), weight, conv_bias, padding="same", groups=x.shape[3])
    normed = F.layer_norm(convolved.permute(0, 2, 3, 1), x.shape[3:], norm_weight, norm_bias, eps)
    hidden = F.gelu(F.linear(normed.contiguous(), fc1_weight, fc1_bias))
    return x + F.linear(hidden, fc2_weight, fc2_bias)


def linear_relu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer with ReLU: (..., K), (D, K) and (D,) to (..., D)."""
    return F.relu(F.linear(x, weight, bias))


def relu_gradient_reference(grad_hidden: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient before a ReLU from that behind it and its result, (M, D) each, and the sum over M, (D,)."""
    grad = grad_hidden.masked_fill(hidden <= 0, 0)
    return grad, grad.sum(0)


def column_sums_reference(grad: Tensor) -> Tensor:
    """Sum over M of (M, D)."""
    return grad.sum(0)


def add_layer_norm_reference(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LayerNorm of x + y, (M, D) each, in the types of x and of y; the sum; and mean and 1 / deviation, (M, 2)."""
    total = x + y
    normal, mean, rstd = torch.native_layer_norm(total, x.shape[1:], weight, bias, eps)
    return normal, normal.to(y.dtype, copy=True), total, torch.cat([mean, rstd], 1)


def add_layer_norm_backward_reference(
    grad_out: Tensor | None,
    grad_half: Tensor | None,
    total: Tensor,
    statistics: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, y (of `dtype`), weight and bias, from those of the results, of which one may be missing."""
    given = [each.to(total.dtype) for each in (grad_out, grad_half) if each is not None]
    grad = given[0] if len(given) == 1 else given[0] + given[1]
    mean, rstd = statistics.split(1, 1)
    normal = (total - mean) * rstd
    weighted = grad * weight
    grad_x = rstd * (weighted - weighted.mean(1, True) - normal * (weighted * normal).mean(1, True))
    return grad_x, grad_x.to(dtype, copy=True), (grad * normal).sum(0), grad.sum(0)


def resize_masks(
    logits: Tensor, padded_size: Sequence[int], image_size: Sequence[int], output_size: Sequence[int]
) -> Tensor:
    """Mask logits (Q, h, w), which cover the padded batch, at the size of the original image; all sizes are (H, W)."""
    full = F.interpolate(logits[None], size=tuple(padded_size), mode="bilinear", align_corners=False)
    full = full[..., : image_size[0], : image_size[1]]
    if tuple(full.shape[-2:]) != tuple(output_size):
        full = F.interpolate(full, size=tuple(output_size), mode="bilinear", align_corners=False)
    return full[0]


def query_masks_reference(
    logits: Tensor, weight: Tensor, padded_size: Sequence[int], image_size: Sequence[int], output_size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks, owners of pixels, and areas, of some queries at a time; see `query_masks`."""
    count, (height, width) = len(logits), output_size
    masks = logits.new_empty((count, height, width), dtype=torch.bool)
    best = logits.new_zeros((height, width))
    owner = torch.full((height, width), count, device=logits.device)
    at_once = max(MASK_PIXELS // max(height * width, 1), 1)
    parts = [slice(first, first + at_once) for first in range(0, count, at_once)]
    for part in parts:
        full = resize_masks(logits[part], padded_size, image_size, output_size)
        torch.ge(full, 0, out=masks[part])
        value, place = full.sigmoid_().mul_(weight[part, None, None]).max(dim=0)
        covered = masks[part].gather(0, place[None])[0]
        owner = torch.where(value > best, place.add_(part.start).masked_fill_(~covered, count), owner)
        best = torch.maximum(best, value)
    queries = torch.arange(count, device=logits.device)[:, None, None]
    areas = [torch.stack([x.flatten(1).sum(dim=1) for x in (masks[part], owner == queries[part])]) for part in parts]
    return masks, owner, torch.cat(areas, dim=1) if areas else owner.new_zeros((2, 0))
