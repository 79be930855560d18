"""Blocks that several parts of the model share.

Letters: B batch, N queries of an attention, S keys of an attention, d channels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.backends.cuda import cudnn_sdp_enabled
from torch.nn.attention import SDPBackend, sdpa_kernel

from mask2former_ops import add_layer_norm, linear, linear_relu

from ..utils.allowed import ABOVE_ZERO, BETWEEN_ZERO_AND_ONE, one_of
from ..utils.autocast import to_autocast_dtype

LOGIT_SCALES = one_of("learnable", "fixed")
TILE = 128  # keys of which cuDNN's attention takes gradients at a time
OTHERS_THAN_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
USUAL_ATTENTION = [*OTHERS_THAN_CUDNN, *[SDPBackend.CUDNN_ATTENTION] * cudnn_sdp_enabled()]  # PyTorch 2.4 leaves it off


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last one is linear."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        sizes = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) to (..., output_dim)."""
        layer: Any  # to mypy, the modules of a list are of no type
        for layer in self.layers[:-1]:
            x = linear_relu(x, layer.weight, layer.bias)
        return self.layers[-1](x)


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention on PyTorch's fused kernels.

    Parameters are laid out as in `torch.nn.MultiheadAttention` (stacked q, k, v projections), so that published
    weights fit; unlike it, a mask is shared by the heads instead of being repeated for each.
    """

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, N, d).
            key, value: (B, S, d).
            keep: (B, N, S) bool, True where a query may look; every row needs at least one True.

        Returns:
            (B, N, d).
        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if keep is None else keep[:, None]
        out = (attend_in_training if self.training else attend)(q, k, v, mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`F.scaled_dot_product_attention` without gradients.

    cuDNN takes 0.05 s and more to plan for every new size, in every thread. With masks, it then takes a third of the
    others' time, which is worth that where one image is asked for at a time; without, or for many images, it is not.
    """
    # Outside of recordings the whole model already goes without it, see `USGPar.forward`.
    has_cudnn = torch.compiler.is_compiling() or cudnn_sdp_enabled()
    if not k.is_cuda or not has_cudnn or (mask is not None and len(q) == 1):
        return F.scaled_dot_product_attention(q, k, v, mask)
    with sdpa_kernel(OTHERS_THAN_CUDNN):
        return F.scaled_dot_product_attention(q, k, v, mask)


def attend_in_training(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`F.scaled_dot_product_attention` with finite gradients.

    Where half a tile of keys is left, as of the 1600 of a square image of 640 pixels, cuDNN's gradients are not finite
    for queries whose scores are all below -88, masked or not (https://github.com/pytorch/pytorch/issues/196678).
    Another tile's half of hidden keys mends that, and takes less time than the other kernels for masks.
    """
    if not k.is_cuda or k.shape[2] % TILE != TILE // 2:
        return F.scaled_dot_product_attention(q, k, v, mask)
    if mask is None:
        with sdpa_kernel(OTHERS_THAN_CUDNN):
            return F.scaled_dot_product_attention(q, k, v)
    more = 0, TILE // 2
    return F.scaled_dot_product_attention(q, F.pad(k, (0, 0, *more)), F.pad(v, (0, 0, *more)), F.pad(mask, more))


class AttentionBlock(nn.Module):
    """Attention, residual, LayerNorm; positions are added to queries and keys, not to values."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.attention = MultiheadAttention(embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        x_pos: Tensor | None = None,
        key: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """(B, N, d) attending to memory (B, S, d) by its key, which has positions, or to itself when memory is None."""
        query = to_autocast_dtype(x if x_pos is None else x + x_pos)
        if memory is None:
            attended = self.attention(query, query, x, keep)
        else:
            attended = self.attention(query, memory if key is None else key, memory, keep)
        return add_and_norm(self.norm, x, attended)[0]


def add_and_norm(norm: nn.LayerNorm, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`norm(x + y)`, as it is and in the type of matrix products."""
    return add_layer_norm(x, y, norm.weight, norm.bias, norm.eps)


def keep_present(present: Tensor) -> Tensor:
    """(B, N, N) bool for attention among N tokens, to those that are present (B, N); to all where none is."""
    return (present | ~present.any(dim=1, keepdim=True))[:, None].expand(-1, present.shape[1], -1)


class FeedForwardBlock(nn.Module):
    """Two linear layers with ReLU, residual, LayerNorm."""

    def __init__(self, embed_dim: int, hidden_dim: int):
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dim) to the same."""
        return add_and_norm(self.norm, x, self.linear2(linear_relu(x, self.linear1.weight, self.linear1.bias)))[0]


def sine_position(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of pixels counted from 1, scaled to (0, 2 pi) by size + 1e-6.

    Args:
        height, width: size of the map.
        dim: number of channels, a multiple of 4; the first half encodes y, the second x.

    Returns:
        (dim, height, width) float32.

    Source: DETR, appendix A.4, with the coordinates normalised. The 1e-6 and the order of the operations are those that
    published weights were trained with: the codes agree to the last bit.
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4, got {dim}")
    quarter = dim // 4
    wavelength = 10000.0 ** (torch.arange(quarter, device=device, dtype=torch.float32) / quarter)

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, device=device, dtype=torch.float32)
        # Divided by a tensor: of a number the device would take the reciprocal.
        position = position / (position[-1:] + 1e-6) * (2 * math.pi)
        angle = position / wavelength[:, None]  # (quarter, size)
        return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)

    y = encode(height)[:, :, None].expand(-1, -1, width)
    x = encode(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([y, x])


def flatten_level(feature: Tensor, level_embed: Tensor) -> tuple[Tensor, Tensor]:
    """What cross-attention looks at in a level of pixel features, in the type of matrix products.

    Args:
        feature: (B, d, h, w).
        level_embed: (d,).

    Returns:
        Memory (B, h * w, d), and keys, the same with `sine_position` added.
    """
    memory = to_autocast_dtype(feature.flatten(2).transpose(1, 2) + level_embed)
    channels, height, width = feature.shape[1:]
    position = sine_position(height, width, channels, feature.device)
    return memory, memory + position.to(memory.dtype).flatten(1).t()


class CosineLogits(nn.Module):
    """Turns cosines into logits: `scale * cosine + bias`, or the bare cosine.

    SPEC sections 5, 8 and 11 use the cosine itself as the logit, which confines every probability to
    [0.27, 0.73]; the learnable form starts at CLIP's temperature and at a small prior probability.

    Args:
        mode: "learnable" or "fixed" (scale 1, no bias).
        scale_init: initial scale, > 0.
        prior_prob: probability of a cosine of zero at the start, in (0, 1).
    """

    MAX_SCALE = 100.0  # CLIP's bound, which keeps half-precision logits finite

    def __init__(self, mode: str = "learnable", scale_init: float = 1 / 0.07, prior_prob: float = 0.01):
        super().__init__()
        LOGIT_SCALES.check("mode", mode)
        ABOVE_ZERO.check("scale_init", scale_init)
        BETWEEN_ZERO_AND_ONE.check("prior_prob", prior_prob)
        self.learnable = mode == "learnable"
        if self.learnable:
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale_init)))
            self.bias = nn.Parameter(torch.tensor(math.log(prior_prob / (1 - prior_prob))))

    def forward(self, cosine: Tensor) -> Tensor:
        """Logits of the same shape."""
        if not self.learnable:
            return cosine
        return cosine * self.log_scale.exp().clamp(max=self.MAX_SCALE) + self.bias


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of (B, c, H, W) maps to a size that is not smaller; channels-last maps stay so.

    Twice the size, which is what padding to the backbone's stride gives, is written as sums of shifted maps in their
    own type: their gradient is again such sums, and not a scattered addition.
    """
    if tuple(size) != (2 * x.shape[-2], 2 * x.shape[-1]):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    double = _doubled if torch.compiler.is_compiling() else _Double.apply
    return double(double(x.permute(0, 2, 3, 1), 1), 2).permute(0, 3, 1, 2)


def _doubled(x: Tensor, dim: int) -> Tensor:
    """Twice as many places along an axis, as torch.compile makes one kernel of."""
    last = x.shape[dim] - 1
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, last)], dim)
    after = torch.cat([x.narrow(dim, 1, last), x.narrow(dim, last, 1)], dim)
    return torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim + 1).flatten(dim, dim + 1)


class _Double(torch.autograd.Function):
    """`_doubled` in the fewest passes that PyTorch's own kernels allow: one for each half of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim, last = dim, x.shape[dim] - 1
        output = x.new_empty((*x.shape[:dim], 2 * x.shape[dim], *x.shape[dim + 1 :]))
        even, odd = output.unflatten(dim, (-1, 2)).unbind(dim + 1)
        even.narrow(dim, 0, 1).copy_(x.narrow(dim, 0, 1))
        odd.narrow(dim, last, 1).copy_(x.narrow(dim, last, 1))
        below, above = x.narrow(dim, 0, last), x.narrow(dim, 1, last)
        torch.lerp(above, below, 0.25, out=even.narrow(dim, 1, last))
        torch.lerp(below, above, 0.25, out=odd.narrow(dim, 0, last))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        dim, last = ctx.dim, grad.shape[ctx.dim] // 2 - 1
        even, odd = grad.unflatten(dim, (-1, 2)).unbind(dim + 1)
        found = (even + odd).mul_(0.75)
        for half, first in ((even, 0), (odd, last)):  # the outer place has itself as its neighbour
            found.narrow(dim, first, 1).add_(half.narrow(dim, first, 1), alpha=0.25)
        found.narrow(dim, 0, last).add_(even.narrow(dim, 1, last), alpha=0.25)
        found.narrow(dim, 1, last).add_(odd.narrow(dim, 0, last), alpha=0.25)
        return found, None


def downsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling (without antialiasing) of (B, c, H, W) maps to a size that is not larger.

    Where both sides shrink by the same even factor r, the samples lie in the middle of four pixels: their mean, read
    from every r-th row and column only and in the maps' own type, is the same thing at a fraction of the traffic.
    """
    factors = {x.shape[-2] / size[0], x.shape[-1] / size[1]}
    (factor,) = factors if len(factors) == 1 else (0.5,)
    if factor != int(factor) or int(factor) % 2:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    r = int(factor)
    a, b = slice(r // 2 - 1, None, r), slice(r // 2, None, r)
    return (x[..., a, a] + x[..., a, b] + x[..., b, a] + x[..., b, b]) * 0.25
