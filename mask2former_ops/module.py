"""MSDeformAttn: the multi-scale deformable attention layer of Deformable DETR around the op."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .beside_attention import linear
from .functional import ms_deform_attn_fused
from .schemas import as_shape_list, check_level_start_index


class MSDeformAttn(nn.Module):
    """Each query attends to a few sampled points of every level (arXiv 2010.04159, section 4.1).

    Args:
        embed_dim: width d of queries and values; a multiple of `num_heads`.
        num_levels: feature levels L.
        num_heads: attention heads M.
        num_points: sampling points P of one head on one level.

    Parameter names and shapes are those of the published Deformable DETR and Mask2Former checkpoints:
    `sampling_offsets` [M*L*P*2, d], `attention_weights` [M*L*P, d], `value_proj` [d, d], `output_proj` [d, d].
    """

    def __init__(self, embed_dim: int = 256, num_levels: int = 3, num_heads: int = 8, num_points: int = 4):
        super().__init__()
        for name, number in (
            ("num_levels", num_levels),
            ("num_heads", num_heads),
            ("num_points", num_points),
        ):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a positive multiple of num_heads={num_heads}, got {embed_dim}")
        self.embed_dim = embed_dim
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Heads start out looking in M directions, point k at distance k + 1 pixels; all weights start equal."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)  # onto the unit square
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]  # (M, 1, P, 2)
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value_input: Tensor,
        spatial_shapes: Sequence[tuple[int, int]] | Tensor,
        level_start_index: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attends from `query` to `value_input` around `reference_points`.

        Args:
            query: (N, Lq, d).
            reference_points: (N, Lq, L, 2), (x, y) in [0, 1]; (0, 0) is the top-left and (1, 1) the bottom-right
                corner of the level, padding included.
            value_input: (N, S, d), the levels flattened row by row and concatenated.
            spatial_shapes: (H, W) of each level. Host integers are best: a tensor on a GPU costs a synchronisation.
            level_start_index: (L,) offset of each level in S, checked if given; it follows from `spatial_shapes`.
            padding_mask: (N, S) bool, True where `value_input` is padding, which then counts as zero.

        Returns:
            (N, Lq, d).

        Raises:
            ValueError: a shape does not fit; the message names the argument.
        """
        shapes = as_shape_list(spatial_shapes)
        self._check(query, reference_points, value_input, shapes, padding_mask)
        check_level_start_index(level_start_index, shapes)
        grouped = (self.num_heads, self.num_levels, self.num_points)
        value = _project(self.value_proj, value_input)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        offsets = _project(self.sampling_offsets, query).unflatten(-1, (*grouped, 2))
        logits = _project(self.attention_weights, query).unflatten(-1, grouped)

        attended = ms_deform_attn_fused(value, shapes, reference_points, offsets, logits)
        return _project(self.output_proj, attended)

    def _check(
        self,
        query: Tensor,
        reference_points: Tensor,
        value_input: Tensor,
        shapes: list[tuple[int, int]],
        padding_mask: Tensor | None,
    ) -> None:
        batch, queries = query.shape[:2]
        tokens = sum(height * width for height, width in shapes)
        expected = {
            "query": (query, (batch, queries, self.embed_dim)),
            "reference_points": (reference_points, (batch, queries, self.num_levels, 2)),
            "value_input": (value_input, (batch, tokens, self.embed_dim)),
        }
        if padding_mask is not None:
            expected["padding_mask"] = (padding_mask, (batch, tokens))
        if len(shapes) != self.num_levels:
            raise ValueError(f"spatial_shapes must hold {self.num_levels} levels, got {len(shapes)}")
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)} (spatial_shapes {shapes})")

    def extra_repr(self) -> str:
        """Sizes, for `print(module)`."""
        return f"levels={self.num_levels}, heads={self.num_heads}, points={self.num_points}"


def _project(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
