"""Names and shapes of the published checkpoints, and random weights under them.

Source of the numbers: the state dicts of the public FC-CLIP ConvNeXt-L and Mask2Former R50 COCO-panoptic models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
CONVNEXT_L = ((3, 192), (3, 384), (27, 768), (3, 1536))
RESNET50 = ((3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048))


def _pair(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _pixel_decoder(channels: tuple[int, ...], d: int, ffn: int, layers: int) -> Shapes:
    """channels: of res2 to res5."""
    root, found = "sem_seg_head.pixel_decoder", {}
    for level, width in enumerate(channels[:0:-1]):
        found |= _pair(f"{root}.input_proj.{level}.0", d, width, 1, 1) | _pair(f"{root}.input_proj.{level}.1", d)
    found[f"{root}.transformer.level_embed"] = (3, d)
    for i in range(layers):
        layer = f"{root}.transformer.encoder.layers.{i}"
        found |= _pair(f"{layer}.self_attn.sampling_offsets", 192, d)
        found |= _pair(f"{layer}.self_attn.attention_weights", 96, d)
        found |= _pair(f"{layer}.self_attn.value_proj", d, d) | _pair(f"{layer}.self_attn.output_proj", d, d)
        found |= _pair(f"{layer}.norm1", d) | _pair(f"{layer}.norm2", d)
        found |= _pair(f"{layer}.linear1", ffn, d) | _pair(f"{layer}.linear2", d, ffn)
    found |= _pair(f"{root}.mask_features", d, d, 1, 1)
    found |= {f"{root}.adapter_1.weight": (d, channels[0], 1, 1), f"{root}.layer_1.weight": (d, d, 3, 3)}
    return found | _pair(f"{root}.adapter_1.norm", d) | _pair(f"{root}.layer_1.norm", d)


def _predictor(d: int, ffn: int, layers: int, queries: int) -> Shapes:
    root, found = "sem_seg_head.predictor", {}
    for i in range(layers):
        for kind, attention in (("self", "self_attn"), ("cross", "multihead_attn")):
            layer = f"{root}.transformer_{kind}_attention_layers.{i}"
            found[f"{layer}.{attention}.in_proj_weight"] = (3 * d, d)
            found[f"{layer}.{attention}.in_proj_bias"] = (3 * d,)
            found |= _pair(f"{layer}.{attention}.out_proj", d, d) | _pair(f"{layer}.norm", d)
        layer = f"{root}.transformer_ffn_layers.{i}"
        found |= _pair(f"{layer}.linear1", ffn, d) | _pair(f"{layer}.linear2", d, ffn) | _pair(f"{layer}.norm", d)
    found |= _pair(f"{root}.decoder_norm", d)
    found |= {f"{root}.query_feat.weight": (queries, d), f"{root}.query_embed.weight": (queries, d)}
    found[f"{root}.level_embed.weight"] = (3, d)
    for number in range(3):
        found |= _pair(f"{root}.mask_embed.layers.{number}", d, d)
    return found


def _convnext_clip() -> Shapes:
    root, found = "backbone.clip_model.visual", {}
    found |= _pair(f"{root}.trunk.stem.0", 192, 3, 4, 4) | _pair(f"{root}.trunk.stem.1", 192)
    before = 192
    for stage, (depth, width) in enumerate(CONVNEXT_L):
        if stage:
            place = f"{root}.trunk.stages.{stage}.downsample"
            found |= _pair(f"{place}.0", before) | _pair(f"{place}.1", width, before, 2, 2)
        for i in range(depth):
            block = f"{root}.trunk.stages.{stage}.blocks.{i}"
            found[f"{block}.gamma"] = (width,)
            found |= _pair(f"{block}.conv_dw", width, 1, 7, 7) | _pair(f"{block}.norm", width)
            found |= _pair(f"{block}.mlp.fc1", 4 * width, width) | _pair(f"{block}.mlp.fc2", width, 4 * width)
        before = width
    found |= _pair(f"{root}.trunk.head.norm", 1536) | _pair(f"{root}.head.mlp.fc1", 1536, 1536)
    found[f"{root}.head.mlp.fc2.weight"] = (768, 1536)
    return found


def _text_tower() -> Shapes:
    root = "backbone.clip_model"
    found: Shapes = {
        f"{root}.positional_embedding": (77, 768),
        f"{root}.text_projection": (768, 768),
        f"{root}.logit_scale": (),
        f"{root}.token_embedding.weight": (49408, 768),
    }
    for i in range(16):
        block = f"{root}.transformer.resblocks.{i}"
        found |= _pair(f"{block}.ln_1", 768) | _pair(f"{block}.ln_2", 768)
        found |= {f"{block}.attn.in_proj_weight": (2304, 768), f"{block}.attn.in_proj_bias": (2304,)}
        found |= _pair(f"{block}.attn.out_proj", 768, 768)
        found |= _pair(f"{block}.mlp.c_fc", 3072, 768) | _pair(f"{block}.mlp.c_proj", 768, 3072)
    return found | _pair(f"{root}.ln_final", 768)


def _resnet50() -> Shapes:
    def unit(name: str, *shape: int) -> Shapes:
        norms = {f"{name}.norm.{x}": shape[:1] for x in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.weight": shape, **norms}

    found, before = unit("backbone.stem.conv1", 64, 3, 7, 7), 64
    for stage, (depth, inner, width) in enumerate(RESNET50):
        for i in range(depth):
            block = f"backbone.res{stage + 2}.{i}"
            if i == 0:
                found |= unit(f"{block}.shortcut", width, before, 1, 1)
            found |= unit(f"{block}.conv1", inner, before, 1, 1) | unit(f"{block}.conv2", inner, inner, 3, 3)
            found |= unit(f"{block}.conv3", width, inner, 1, 1)
            before = width
    return found


def fcclip_shapes(d: int = 256, layers: int = 9, queries: int = 250, backbone: bool = True, ffn: int = 2048) -> Shapes:
    """FC-CLIP ConvNeXt-L; other sizes make smaller files of the same form."""
    found = {**_convnext_clip(), **_text_tower()} if backbone else {}
    found |= _pixel_decoder((192, 384, 768, 1536), d, ffn // 2, 6) | _predictor(d, ffn, layers, queries)
    root = "sem_seg_head.predictor"
    found[f"{root}.logit_scale"] = ()
    found |= _pair(f"{root}._mask_pooling_proj.0", d) | _pair(f"{root}._mask_pooling_proj.1", d, d)
    for number, width in enumerate((d, d, 768)):
        found |= _pair(f"{root}.class_embed.layers.{number}", width, d)
    return found


def mask2former_shapes(d: int = 256, layers: int = 9, queries: int = 100, ffn: int = 2048) -> Shapes:
    """Mask2Former R50."""
    found = _resnet50() | _pixel_decoder((256, 512, 1024, 2048), d, ffn // 2, 6) | _predictor(d, ffn, layers, queries)
    return found | _pair("sem_seg_head.predictor.class_embed", 134, d)


def meta_weights(shapes: Shapes) -> dict[str, Tensor]:
    """Weights without memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def random_weights(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights that keep activations near 1, with every bias and normalisation off its default."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator, dtype=dtype)
        if name.endswith("sampling_offsets.bias"):
            value = value * 3  # pixels
        elif len(shape) == 1:
            value = value * 0.2 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif len(shape) > 1 and "embed.weight" not in name and "query_feat" not in name and "level_embed" not in name:
            value = value / math.sqrt(math.prod(shape[1:]))
        weights[name] = value
    return weights
