"""Rules for every parameter of a published FC-CLIP or Mask2Former checkpoint; `convert.py` applies them.

Source of the names: state dicts of the public models, bytedance/fc-clip (fcclip_convnext_large_eval_coco.yaml) and
facebookresearch/Mask2Former (configs/coco/panoptic-segmentation).
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCES = ("fcclip", "mask2former")


@dataclass(frozen=True)
class Rule:
    """Where the published names that `pattern` matches completely go."""

    pattern: str  # a group named "layer" counts layers
    target: str = ""  # our name, a template for `Match.expand`; "" leaves the weights out
    reason: str = ""  # why they are left out
    absent: str = ""  # why they are left out where the recipe's model has no such parameter; "" makes that an error
    axis: str = ""  # choice of the weights: "decoder" and "encoder" layers (group "layer"), "queries" (rows)


_PIXEL = r"sem_seg_head\.pixel_decoder\."
_PREDICTOR = r"sem_seg_head\.predictor\."
_LAYER = r"(?P<layer>\d+)\."
_ATTENTION = r"(?P<name>in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)"
_PARAMETER = r"(?P<name>weight|bias)"
_CONV = r"(?P<name>weight|norm\.weight|norm\.bias)"

# Shared by Mask2Former and FC-CLIP: the deformable encoder, the top-down step and the masked-attention decoder.
_SHARED = (
    Rule(_PIXEL + r"transformer\.level_embed", "pixel_decoder.level_embed"),
    Rule(
        _PIXEL + r"transformer\.encoder\.layers\." + _LAYER + r"(?P<part>"
        r"self_attn\.(?:sampling_offsets|attention_weights|value_proj|output_proj)|norm[12]|linear[12])\." + _PARAMETER,
        r"pixel_decoder.layers.\g<layer>.\g<part>.\g<name>",
        axis="encoder",
    ),
    Rule(_PIXEL + r"layer_1\." + _CONV, r"pixel_decoder.output.\g<name>"),
    Rule(_PIXEL + r"mask_features\." + _PARAMETER, r"pixel_decoder.mask_features.\g<name>"),
    Rule(
        _PREDICTOR + r"transformer_self_attention_layers\." + _LAYER + r"self_attn\." + _ATTENTION,
        r"mask_decoder.layers.\g<layer>.self_attention.attention.\g<name>",
        axis="decoder",
    ),
    Rule(
        _PREDICTOR + r"transformer_cross_attention_layers\." + _LAYER + r"multihead_attn\." + _ATTENTION,
        r"mask_decoder.layers.\g<layer>.cross_attention.attention.\g<name>",
        axis="decoder",
    ),
    Rule(
        _PREDICTOR + r"transformer_(?P<kind>self|cross)_attention_layers\." + _LAYER + r"norm\." + _PARAMETER,
        r"mask_decoder.layers.\g<layer>.\g<kind>_attention.norm.\g<name>",
        axis="decoder",
    ),
    Rule(
        _PREDICTOR + r"transformer_ffn_layers\." + _LAYER + r"(?P<part>linear1|linear2|norm)\." + _PARAMETER,
        r"mask_decoder.layers.\g<layer>.ffn.\g<part>.\g<name>",
        axis="decoder",
    ),
    Rule(_PREDICTOR + r"decoder_norm\." + _PARAMETER, r"mask_decoder.decoder_norm.\g<name>"),
    # Checkpoints of Mask2Former's first version call the features static_query.
    Rule(_PREDICTOR + r"(?:query_feat|static_query)\.weight", "mask_decoder.query_feat.weight", axis="queries"),
    Rule(_PREDICTOR + r"query_embed\.weight", "mask_decoder.query_embed.weight", axis="queries"),
    Rule(_PREDICTOR + r"level_embed\.weight", "mask_decoder.level_embed.weight"),
    Rule(
        _PREDICTOR + r"mask_embed\.layers\.(?P<number>\d+)\." + _PARAMETER,
        r"mask_decoder.mask_embed.layers.\g<number>.\g<name>",
    ),
    Rule(r"criterion\.empty_weight", reason="class weights of a softmax loss, which is no parameter"),
)

_CLIP = r"backbone\.clip_model\."
_TRUNK = _CLIP + r"visual\.trunk\.(?P<name>(?:stem|stages)\..+)"
_FCCLIP = (
    Rule(_PIXEL + r"input_proj\.(?P<level>\d)\.(?P<part>[01])\." + _PARAMETER,
         r"pixel_decoder.input_proj.\g<level>.\g<part>.\g<name>"),
    Rule(_PIXEL + r"adapter_1\." + _CONV, r"pixel_decoder.lateral.\g<name>"),
    Rule(_PREDICTOR + r"class_embed\.layers\.(?P<number>\d+)\." + _PARAMETER,
         r"class_head.projection.layers.\g<number>.\g<name>"),
    Rule(_PREDICTOR + r"logit_scale", "class_head.logit_scale.log_scale",
         absent="MODEL.USG.CLASS_HEAD.LOGIT_SCALE is 'fixed'"),
    Rule(_PREDICTOR + r"_mask_pooling_proj\.[01]\.(?:weight|bias)",
         reason="mask-pooled features: the class head here reads the query alone"),
    Rule(r"void_embedding\.weight",
         reason="the void class of a softmax: unmatched queries here have an all-zero target"),
    Rule(_CLIP + r"visual\.(?:trunk\.head\.norm|head\.mlp\.fc[12])\.(?:weight|bias)",
         reason="image projection of CLIP, which the model does not use"),
    Rule(_CLIP + r"(?:positional_embedding|text_projection|logit_scale|token_embedding\.weight|"
         r"ln_final\.(?:weight|bias)|transformer\.resblocks\.\d+\..+)",
         reason="text tower: embeddings are computed from MODEL.CLIP"),
)  # fmt: skip
_FCCLIP_TRUNK = Rule(_TRUNK, r"backbone.trunk.\g<name>")
_FCCLIP_NO_TRUNK = Rule(_TRUNK, reason="frozen OpenCLIP weights, which MODEL.CLIP.PRETRAINED loads")

_OTHER_BACKBONE = "reads the features of another backbone"
_MASK2FORMER = (
    Rule(_PIXEL + r"input_proj\.\d\.[01]\.(?:weight|bias)", reason=_OTHER_BACKBONE),
    Rule(_PIXEL + r"adapter_1\.(?:weight|norm\.weight|norm\.bias)", reason=_OTHER_BACKBONE),
    Rule(_PREDICTOR + r"class_embed\.(?:weight|bias)", reason="classifier of a closed vocabulary"),
    Rule(r"backbone\..+", reason="another backbone"),
)
# Parameters of ours that a source is not expected to fill, and where they start instead.
_RECIPE = "as the recipe initialises it"
NEW = {
    r"relation_head\..+": _RECIPE,
    r"mask_pilot\..+": _RECIPE,
    r"class_head\.logit_scale\.bias": _RECIPE,
    r"backbone\..+": "from MODEL.CLIP.PRETRAINED",
}
NEW_MASK2FORMER = {r"class_head\..+": _RECIPE, r"pixel_decoder\.(?:input_proj|lateral)\..+": _RECIPE}


def source_rules(source: str, with_backbone: bool = False) -> tuple[Rule, ...]:
    """The table of a source, "fcclip" or "mask2former".

    Raises:
        ValueError: for another source, or a backbone that the source does not share with this project.
    """
    if source == "fcclip":
        return (*_SHARED, *_FCCLIP, _FCCLIP_TRUNK if with_backbone else _FCCLIP_NO_TRUNK)
    if source != "mask2former":
        raise ValueError(f"source: expected one of {', '.join(SOURCES)}, got {source!r}")
    if with_backbone:
        raise ValueError("a Mask2Former checkpoint has no OpenCLIP backbone; only FC-CLIP's can be taken over")
    return (*_SHARED, *_MASK2FORMER)
