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


def least_certain_reference(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Of each map's candidates, the `count` at which its bilinear value is nearest to zero; see `least_certain`."""
    grid = (2 * candidates - 1)[:, None].to(logits.dtype)
    values = F.grid_sample(logits[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    chosen = values[:, 0, 0].abs().topk(count, dim=1, largest=False).indices
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
