"""Mask2Former's pixel decoder and masked-attention decoder, restated from the papers on weights under published names.

Source: "Masked-attention Mask Transformer for Universal Image Segmentation" (arXiv 2112.01527, section 3.2 and the
appendix on the pixel decoder), "Deformable DETR" (arXiv 2010.04159, equation 3) and the names of the parameters.
Slow and explicit on purpose: no code is shared with the package.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS, POINTS, LEVELS = 8, 4, 3
Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def group_norm(w: Weights, name: str, x: Tensor, groups: int = 32) -> Tensor:
    """(B, d, H, W); statistics over the channels of a group and all pixels."""
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(dim=-1, keepdim=True)
    scaled = (centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()).view_as(x)
    return scaled * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def positions(height: int, width: int, dim: int) -> Tensor:
    """(H * W, dim): first the code of y, then that of x; sine and cosine of each frequency are neighbours."""
    table = torch.zeros(height, width, dim, dtype=torch.float64)
    half = dim // 2
    for row in range(height):
        for column in range(width):
            for offset, place in ((0, (row + 1) / (height + 1e-6)), (half, (column + 1) / (width + 1e-6))):
                for channel in range(0, half, 2):
                    angle = 2 * math.pi * place / 10000 ** (channel / half)
                    table[row, column, offset + channel] = math.sin(angle)
                    table[row, column, offset + channel + 1] = math.cos(angle)
    return table.flatten(0, 1)


def deformable_attention(
    w: Weights, name: str, query: Tensor, value: Tensor, reference: Tensor, shapes: list[tuple[int, int]]
) -> Tensor:
    """query, value (B, S, d) and reference (S, 2) in [0, 1] to (B, S, d)."""
    batch, count, dim = value.shape
    values = linear(w, f"{name}.value_proj", value).view(batch, count, HEADS, dim // HEADS)
    offsets = linear(w, f"{name}.sampling_offsets", query).view(batch, count, HEADS, LEVELS, POINTS, 2)
    weights = linear(w, f"{name}.attention_weights", query).view(batch, count, HEADS, LEVELS * POINTS).softmax(-1)
    weights = weights.view(batch, count, HEADS, LEVELS, POINTS)
    total, start = torch.zeros_like(values), 0
    for level, (height, width) in enumerate(shapes):
        for head in range(HEADS):
            image = values[:, start : start + height * width, head].transpose(1, 2).reshape(batch, -1, height, width)
            for point in range(POINTS):
                # Offsets are in pixels of the level that is looked at.
                place = reference + offsets[:, :, head, level, point] / torch.tensor([width, height])
                sampled = F.grid_sample(image, (2 * place - 1)[:, :, None], padding_mode="zeros", align_corners=False)
                total[:, :, head] += sampled[..., 0].transpose(1, 2) * weights[:, :, head, level, point, None]
        start += height * width
    return linear(w, f"{name}.output_proj", total.flatten(2))


def pixel_decoder(w: Weights, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Backbone features to mask features (B, d, H/4, W/4) and the levels of strides 32, 16, 8."""
    root = "sem_seg_head.pixel_decoder"
    tokens, codes, references, shapes = [], [], [], []
    for level, name in enumerate(("res5", "res4", "res3")):
        x = F.conv2d(features[name], w[f"{root}.input_proj.{level}.0.weight"], w[f"{root}.input_proj.{level}.0.bias"])
        x = group_norm(w, f"{root}.input_proj.{level}.1", x)
        height, width = x.shape[-2:]
        shapes.append((height, width))
        tokens.append(x.flatten(2).transpose(1, 2))
        codes.append(positions(height, width, x.shape[1]) + w[f"{root}.transformer.level_embed"][level])
        references.append(
            torch.tensor([((i % width + 0.5) / width, (i // width + 0.5) / height) for i in range(height * width)])
        )
    x, code, reference = torch.cat(tokens, 1), torch.cat(codes), torch.cat(references).double()
    layers = {name.split(".")[5] for name in w if name.startswith(f"{root}.transformer.encoder.layers.")}
    for i in range(len(layers)):
        name = f"{root}.transformer.encoder.layers.{i}"
        x = layer_norm(
            w,
            f"{name}.norm1",
            x + deformable_attention(w, f"{name}.self_attn", x + code, x, reference, shapes),
        )
        hidden = linear(w, f"{name}.linear1", x).clamp(min=0)
        x = layer_norm(w, f"{name}.norm2", x + linear(w, f"{name}.linear2", hidden))
    levels = [
        part.transpose(1, 2).reshape(len(x), -1, *shape)
        for part, shape in zip(x.split([h * w_ for h, w_ in shapes], dim=1), shapes, strict=True)
    ]
    lateral = group_norm(w, f"{root}.adapter_1.norm", F.conv2d(features["res2"], w[f"{root}.adapter_1.weight"]))
    upsampled = F.interpolate(levels[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
    merged = F.conv2d(lateral + upsampled, w[f"{root}.layer_1.weight"], padding=1)
    merged = group_norm(w, f"{root}.layer_1.norm", merged).clamp(min=0)
    return F.conv2d(merged, w[f"{root}.mask_features.weight"], w[f"{root}.mask_features.bias"]), levels


def attention(w: Weights, name: str, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
    """(B, N, d) with blocked (B, N, S), True where a query may not look."""
    dim = query.shape[-1]
    parts = []
    for index, x in enumerate((query, key, value)):
        rows = slice(index * dim, (index + 1) * dim)
        projected = x @ w[f"{name}.in_proj_weight"][rows].t() + w[f"{name}.in_proj_bias"][rows]
        parts.append(projected.view(*x.shape[:2], HEADS, dim // HEADS))
    q, k, v = parts
    logits = torch.einsum("bnhc,bshc->bhns", q, k) / math.sqrt(dim // HEADS)
    if blocked is not None:
        logits = logits.masked_fill(blocked[:, None], -torch.inf)
    out = torch.einsum("bhns,bshc->bnhc", logits.softmax(-1), v)
    return linear(w, f"{name}.out_proj", out.flatten(2))


def mask_decoder(w: Weights, mask_features: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor], int]:
    """Normalised queries (B, Q, d), mask logits (B, Q, H/4, W/4) of every prediction; how many masks were empty."""
    root = "sem_seg_head.predictor"
    batch, dim = levels[0].shape[:2]
    memory = [x.flatten(2).transpose(1, 2) + w[f"{root}.level_embed.weight"][i] for i, x in enumerate(levels)]
    codes = [positions(*x.shape[-2:], dim) for x in levels]
    x = w[f"{root}.query_feat.weight"].expand(batch, -1, -1)
    place = w[f"{root}.query_embed.weight"]
    queries, masks, num_empty = [], [], 0

    def predict() -> None:
        queries.append(layer_norm(w, f"{root}.decoder_norm", x))
        hidden = queries[-1]
        for number in range(3):
            hidden = linear(w, f"{root}.mask_embed.layers.{number}", hidden)
            hidden = hidden.clamp(min=0) if number < 2 else hidden
        masks.append(torch.einsum("bqd,bdhw->bqhw", hidden, mask_features))

    predict()
    num_layers = len({name.split(".")[3] for name in w if name.startswith(f"{root}.transformer_ffn_layers.")})
    for i in range(num_layers):
        level = i % LEVELS
        small = F.interpolate(masks[-1], size=levels[level].shape[-2:], mode="bilinear", align_corners=False)
        blocked = (small.sigmoid() < 0.5).flatten(2)
        empty = blocked.all(dim=-1)
        num_empty += int(empty.sum())
        blocked[empty] = False
        name = f"{root}.transformer_cross_attention_layers.{i}"
        keys = memory[level] + codes[level]
        attended = attention(w, f"{name}.multihead_attn", x + place, keys, memory[level], blocked)
        x = layer_norm(w, f"{name}.norm", x + attended)
        name = f"{root}.transformer_self_attention_layers.{i}"
        attended = attention(w, f"{name}.self_attn", x + place, x + place, x, None)
        x = layer_norm(w, f"{name}.norm", x + attended)
        name = f"{root}.transformer_ffn_layers.{i}"
        hidden = linear(w, f"{name}.linear1", x).clamp(min=0)
        x = layer_norm(w, f"{name}.norm", x + linear(w, f"{name}.linear2", hidden))
        predict()
    return queries, masks, num_empty
