"""Registries of the parts that Detectron2 has none for, and the functions that build from them."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry
from torch import nn

from .layers import CosineLogits
from .open_vocab_head import OpenVocabularyHead

Region = tuple[nn.Module, str, tuple[int | None, ...]]
"""A piece of a part that is compiled by itself: a module, its method, and the axis of each of the method's first
arguments that is of other sizes at other levels. Parts may have `regions()`, which gives those of their methods by
name: layers of the same code are then compiled once."""

MASK_DECODER_REGISTRY = Registry("MASK_DECODER")
MASK_DECODER_REGISTRY.__doc__ = """
Modules with `forward(PixelDecoderOutput) -> MaskDecoderOutput`, built from (cfg); for MODEL.USG.MASK_PILOT also with
`num_queries` and `forward_given`, as `MaskDecoder` has them.
"""

RELATION_HEAD_REGISTRY = Registry("RELATION_HEAD")
RELATION_HEAD_REGISTRY.__doc__ = """
Modules with `propose(queries, priority)` and `decode(queries, proposals, pixel_features, predicate_text)` as
`RelationHead` documents them, built from (cfg, text_dim); for MODEL.USG.MASK_PILOT both also take `present`.
"""


def backbone_keys(cfg: CfgNode) -> CfgNode:
    """The section of a config that names the backbone's model: NAME, PRETRAINED, FREEZE."""
    return cfg.MODEL.TIMM if cfg.MODEL.BACKBONE.NAME == "TimmBackbone" else cfg.MODEL.CLIP


def parts_are_known(cfg: CfgNode) -> bool:
    """Whether every part of a model that a config names is registered."""
    usg = cfg.MODEL.USG
    named = (
        (META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE),
        (BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME),
        (SEM_SEG_HEADS_REGISTRY, usg.PIXEL_DECODER.NAME),
        (MASK_DECODER_REGISTRY, usg.MASK_DECODER.NAME),
        (RELATION_HEAD_REGISTRY, usg.RELATION_HEAD.NAME),
    )
    return all(name in registry for registry, name in named)


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The registered pixel decoder that MODEL.USG.PIXEL_DECODER.NAME names, from the backbone's output shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.USG.PIXEL_DECODER.NAME)(cfg, input_shape)


def build_mask_decoder(cfg: CfgNode) -> nn.Module:
    """The registered mask decoder that MODEL.USG.MASK_DECODER.NAME names."""
    return MASK_DECODER_REGISTRY.get(cfg.MODEL.USG.MASK_DECODER.NAME)(cfg)


def build_relation_head(cfg: CfgNode, text_dim: int) -> nn.Module:
    """The registered relation head that MODEL.USG.RELATION_HEAD.NAME names, for text embeddings of width text_dim."""
    return RELATION_HEAD_REGISTRY.get(cfg.MODEL.USG.RELATION_HEAD.NAME)(cfg, text_dim)


def build_class_head(cfg: CfgNode, text_dim: int) -> OpenVocabularyHead:
    """The object classifier of MODEL.USG.CLASS_HEAD, for text embeddings of width text_dim."""
    head = cfg.MODEL.USG.CLASS_HEAD
    logit_scale = CosineLogits(head.LOGIT_SCALE, head.SCALE_INIT, head.PRIOR_PROB)
    return OpenVocabularyHead(cfg.MODEL.USG.HIDDEN_DIM, text_dim, head.NUM_LAYERS, logit_scale)
