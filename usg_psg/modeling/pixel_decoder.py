"""Multi-scale deformable attention encoder with one top-down step to stride 4 (SPEC section 3).

Letters: B images, d channels, S positions of all levels together, L levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from mask2former_ops import MSDeformAttn, linear, linear_relu

from ..structures import PixelDecoderOutput
from ..utils.autocast import to_autocast_dtype
from .build import Region
from .layers import add_and_norm, sine_position, upsample


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a feed-forward network; residuals, LayerNorm after each."""

    def __init__(self, hidden_dim: int, ffn_dim: int, num_levels: int, num_heads: int, num_points: int, dropout: float):
        super().__init__()
        self.self_attn = MSDeformAttn(hidden_dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self,
        x: Tensor,
        value: Tensor,
        position: Tensor,
        reference_points: Tensor,
        shapes: list[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            x, value: (B, S, d), in float32 under autocast, and the same in the type of matrix products.
            position: (1, S, d) or (B, S, d).
            reference_points: (B, S, L, 2).
            shapes: (h, w) of the L levels.

        Returns:
            x and value of the next layer.
        """
        attended = self.self_attn(value + position, reference_points, value, shapes)
        x, value = add_and_norm(self.norm1, x, self.dropout(attended))
        hidden = self.dropout(linear_relu(value, self.linear1.weight, self.linear1.bias))
        return add_and_norm(self.norm2, x, self.dropout(linear(hidden, self.linear2.weight, self.linear2.bias)))


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Backbone features to mask features at stride 4 and three levels at strides 32, 16, 8.

    The structure, and therefore every parameter's shape, is that of Mask2Former's pixel decoder, so that published
    weights fit. As there, padding at the image border is not masked out: batches are padded with the mean colour.

    Args:
        input_shape: shapes of res2 (stride 4) to res5 (stride 32).
        hidden_dim: d, a multiple of 32 (GroupNorm with 32 groups) or else of 8 (then 8 groups).
        num_layers, num_heads, num_points, ffn_dim, dropout: of the deformable encoder.
    """

    ENCODER_LEVELS = ("res5", "res4", "res3")

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        hidden_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
    ):
        super().__init__()
        missing = {"res2", *self.ENCODER_LEVELS} - set(input_shape)
        if missing:
            raise ValueError(f"the backbone must give res2 to res5, it lacks {sorted(missing)}")
        self.channels = {name: input_shape[name].channels for name in ("res2", *self.ENCODER_LEVELS)}
        groups = 32 if hidden_dim % 32 == 0 and hidden_dim >= 128 else 8
        self.hidden_dim = hidden_dim
        projections = [nn.Conv2d(self.channels[name], hidden_dim, 1) for name in self.ENCODER_LEVELS]
        self.input_proj = nn.ModuleList(
            nn.Sequential(projection, nn.GroupNorm(groups, hidden_dim)) for projection in projections
        )
        self.level_embed = nn.Parameter(torch.randn(len(self.ENCODER_LEVELS), hidden_dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(hidden_dim, ffn_dim, len(self.ENCODER_LEVELS), num_heads, num_points, dropout)
            for _ in range(num_layers)
        )
        self.lateral = Conv2d(self.channels["res2"], hidden_dim, 1, bias=False, norm=nn.GroupNorm(groups, hidden_dim))
        self.output = Conv2d(
            hidden_dim,
            hidden_dim,
            3,
            padding=1,
            bias=False,
            norm=nn.GroupNorm(groups, hidden_dim),
            activation=F.relu,
        )
        self.mask_features = nn.Conv2d(hidden_dim, hidden_dim, 1)
        for convolution in projections:
            nn.init.xavier_uniform_(convolution.weight)
        for convolution in (self.lateral, self.output, self.mask_features):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # as Mask2Former's
        for convolution in (*projections, self.mask_features):
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments from MODEL.USG.PIXEL_DECODER."""
        node = cfg.MODEL.USG.PIXEL_DECODER
        return {
            "input_shape": input_shape,
            "hidden_dim": cfg.MODEL.USG.HIDDEN_DIM,
            "num_layers": node.NUM_LAYERS,
            "num_heads": node.NUM_HEADS,
            "num_points": node.NUM_POINTS,
            "ffn_dim": node.FFN_DIM,
            "dropout": node.DROPOUT,
        }

    def forward(self, features: dict[str, Tensor]) -> PixelDecoderOutput:
        """Encode the backbone's res2 to res5; ValueError if one has other channels than its output_shape says."""
        for name, channels in self.channels.items():
            if features[name].shape[1] != channels:
                given = f"the backbone gives {features[name].shape[1]} channels"
                raise ValueError(f"{name}: {given}, its output_shape says {channels}")
        x, value, position, reference_points, shapes = self._embed(features)
        for layer in self.layers:
            x, value = layer(x, value, position, reference_points, shapes)
        return self._maps(x, value, features["res2"], shapes)

    def regions(self) -> dict[str, list[Region]]:
        """What `compile_parts` compiles one by one, layers of the same code once."""
        layers: list[Region] = [(layer, "forward", ()) for layer in self.layers]
        return {"forward": [(self, "_embed", ()), *layers, (self, "_maps", ())]}

    def _embed(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[tuple[int, int]]]:
        """What the first layer takes; reference points (B, S, L, 2) of all images."""
        levels = [proj(features[name]) for proj, name in zip(self.input_proj, self.ENCODER_LEVELS, strict=True)]
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        position = to_autocast_dtype(self._positions(shapes, x))
        reference_points = self._reference_points(shapes, x.device)
        reference_points = reference_points[None, :, None].expand(x.shape[0], -1, len(shapes), -1)
        return x, to_autocast_dtype(x), position, reference_points.contiguous(), shapes

    def _maps(self, x: Tensor, value: Tensor, res2: Tensor, shapes: list[tuple[int, int]]) -> PixelDecoderOutput:
        """The levels of what the last layer gives, and the mask features."""
        sizes = [h * w for h, w in shapes]
        encoded = [
            part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(x.split(sizes, dim=1), shapes, strict=True)
        ]
        lateral = self.lateral(res2)
        finest = value.split(sizes, dim=1)[-1].transpose(1, 2).unflatten(2, shapes[-1])
        enlarged = upsample(finest, lateral.shape[-2:])
        mask_features = self.mask_features(self.output(lateral + enlarged))
        if mask_features.is_cuda:  # the matching reads all channels of a point, and compiled convolutions leave them so
            mask_features = mask_features.contiguous(memory_format=torch.channels_last)
        return PixelDecoderOutput(mask_features, encoded)

    def _positions(self, shapes: list[tuple[int, int]], x: Tensor) -> Tensor:
        """(1, S, d): sine code of the place plus the learned code of the level."""
        parts = [
            sine_position(h, w, self.hidden_dim, x.device).flatten(1).t() + embed
            for (h, w), embed in zip(shapes, self.level_embed, strict=True)
        ]
        return torch.cat(parts)[None].to(x.dtype)

    @staticmethod
    def _reference_points(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
        """(S, 2) centres (x, y) of all positions in [0, 1]."""
        centres = []
        for height, width in shapes:
            y, x = torch.meshgrid(
                (torch.arange(height, device=device) + 0.5) / height,
                (torch.arange(width, device=device) + 0.5) / width,
                indexing="ij",
            )
            centres.append(torch.stack([x, y], dim=-1).flatten(0, 1))
        return torch.cat(centres)
