"""Weights of published FC-CLIP and Mask2Former checkpoints under this project's names.

A table of rules (`rules.py`) says for every published name where its weights go, or why they are left out.
Nothing is matched by chance: a name that no rule knows, a shape that does not fit, and a parameter of ours that should
have been filled but was not, are errors. No file is opened here; `foreign_checkpoint.py` reads and writes.

Letters: d channels, Q queries, L decoder layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..modeling.build import build_class_head, build_mask_decoder, build_pixel_decoder, build_relation_head
from ..modeling.mask_pilot import MaskPilot
from ..modeling.openclip import checkpoint_weights, register_project_models, weights_identity
from ..modeling.openclip_convnext import OpenCLIPConvNeXt
from ..modeling.text_embeddings import configured_embeddings
from ..modeling.timm_backbone import TimmBackbone
from ..utils.lazy_module import LazyModule
from .rules import NEW, NEW_MASK2FORMER, Rule, source_rules

if TYPE_CHECKING:
    import open_clip
    import timm
else:
    open_clip, timm = LazyModule("open_clip"), LazyModule("timm")

NUM_LEVELS = 3  # layer i of a published decoder attends to level i % 3, and so does ours
FCCLIP_CLIP = "convnext_large_d_320"  # its features are read and its text space is projected into
DDP_PREFIX = "module."
TARGET_BACKBONES = ("OpenCLIPConvNeXt", "TimmBackbone")  # which `target_model` builds
FOREIGN_HEADS, FOREIGN_POINTS = 8, 4  # of every published configuration; weights do not tell them


@dataclass
class Conversion:
    """Converted weights and the account of every name."""

    weights: dict[str, Tensor] = field(default_factory=dict)  # by our names
    used: list[tuple[str, str]] = field(default_factory=list)  # (published name, our name)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (published name, reason)
    new: list[tuple[str, str]] = field(default_factory=list)  # (our name, where it starts)
    record: dict = field(default_factory=dict)  # goes into the file, compared on loading, see `check_record`


def target_model(cfg: CfgNode) -> nn.ModuleDict:
    """The parts of USGPar that have parameters, under its names, on the meta device: shapes without memory.

    Raises:
        ValueError: for a backbone of another kind, or if MODEL.CLIP.NAME has no timm image tower.
    """
    if cfg.MODEL.BACKBONE.NAME not in TARGET_BACKBONES:
        raise ValueError(f"MODEL.BACKBONE.NAME: expected one of {TARGET_BACKBONES}, got {cfg.MODEL.BACKBONE.NAME!r}")
    register_project_models()
    clip = open_clip.get_model_config(cfg.MODEL.CLIP.NAME)
    if clip is None:
        raise ValueError(f"MODEL.CLIP.NAME {cfg.MODEL.CLIP.NAME!r} is not an OpenCLIP model")
    text_dim = clip["embed_dim"]
    if cfg.MODEL.USG.SENTENCE_ENCODER:
        text_dim = configured_embeddings(cfg, ["object"], ["{}"]).shape[1]
    with torch.device("meta"), checkpoint_weights():
        backbone = TimmBackbone(cfg, None) if cfg.MODEL.BACKBONE.NAME == "TimmBackbone" else _clip_backbone(cfg, clip)
        pilot = MaskPilot.from_config(cfg, text_dim)
        return nn.ModuleDict(
            {
                "backbone": backbone,
                "pixel_decoder": build_pixel_decoder(cfg, backbone.output_shape()),
                "mask_decoder": build_mask_decoder(cfg),
                "class_head": build_class_head(cfg, text_dim),
                "relation_head": build_relation_head(cfg, text_dim),
                **({} if pilot is None else {"mask_pilot": pilot}),
            }
        )


def _clip_backbone(cfg: CfgNode, clip: dict) -> OpenCLIPConvNeXt:
    timm_name = clip["vision_cfg"].get("timm_model_name")
    if timm_name is None:
        raise ValueError(f"MODEL.CLIP.NAME {cfg.MODEL.CLIP.NAME!r} is not an OpenCLIP model with a timm image tower")
    identity = weights_identity(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    trunk = timm.create_model(timm_name, num_classes=0)
    return OpenCLIPConvNeXt(trunk, freeze=cfg.MODEL.CLIP.FREEZE, weights_identity=identity)


def model_choices(model: nn.Module | Mapping[str, nn.Module]) -> dict[str, int | str]:
    """The settings that decide the meaning of converted weights, by key, read from a model or `target_model`."""
    parts: dict[str, Any] = dict(model.named_children() if isinstance(model, nn.Module) else model)
    pixel, mask = parts["pixel_decoder"], parts["mask_decoder"]
    attention, layer = pixel.layers[0].self_attn, mask.layers[0]
    return {
        f"{parts['backbone'].section}.NAME": parts["backbone"].weights_identity.get("model", ""),
        "MODEL.USG.HIDDEN_DIM": pixel.hidden_dim,
        "MODEL.USG.PIXEL_DECODER.NUM_LAYERS": len(pixel.layers),
        "MODEL.USG.PIXEL_DECODER.NUM_HEADS": attention.num_heads,
        "MODEL.USG.PIXEL_DECODER.NUM_POINTS": attention.num_points,
        "MODEL.USG.MASK_DECODER.NUM_LAYERS": len(mask.layers),
        "MODEL.USG.MASK_DECODER.NUM_QUERIES": mask.num_queries,
        "MODEL.USG.MASK_DECODER.NUM_HEADS": layer.self_attention.attention.num_heads,
        "MODEL.USG.MASK_DECODER.LAYER_ORDER": "cross_first" if layer.cross_first else "self_first",
    }


def choose_layers(available: int, wanted: int, layers: Sequence[int] | None = None) -> list[int]:
    """Which of the checkpoint's decoder layers become layers 0, 1, ... of ours; the first ones unless chosen.

    Raises:
        ValueError: if there are too few, or one would attend to another level than it was trained on.
    """
    chosen = _choose("layers", "decoder layers", "NUM_LAYERS", available, wanted, layers)
    for own, layer in enumerate(chosen):
        if layer % NUM_LEVELS != own % NUM_LEVELS:
            raise ValueError(
                f"layers: layer {layer} attends to level {layer % NUM_LEVELS}, "
                f"but layer {own} here to level {own % NUM_LEVELS}"
            )
    return chosen


def choose_queries(available: int, wanted: int, queries: str | Sequence[int] = "first") -> list[int]:
    """Which of the checkpoint's queries become queries 0, 1, ... of ours.

    Args:
        available: Q of the source.
        wanted: Q of ours.
        queries: "first", "spread" (evenly over all), or their numbers. Queries have no rank in the published models,
            so no choice of a part is better than another without data.

    Raises:
        ValueError: if there are too few or a number is out of range.
    """
    if isinstance(queries, str) and queries not in ("first", "spread"):
        raise ValueError(f"queries: expected first, spread or numbers, got {queries!r}")
    numbers = None if isinstance(queries, str) else queries
    chosen = _choose("queries", "queries", "NUM_QUERIES", available, wanted, numbers)
    return [i * available // wanted for i in range(wanted)] if queries == "spread" else chosen


def _choose(option: str, noun: str, key: str, available: int, wanted: int, numbers: Sequence[int] | None) -> list[int]:
    if numbers is None:
        if available < wanted:
            raise ValueError(f"the checkpoint has {available} {noun}, MASK_DECODER.{key} asks for {wanted}")
        return list(range(wanted))
    if len(numbers) != wanted:
        raise ValueError(f"{option}: expected {wanted} numbers (MASK_DECODER.{key}), got {len(numbers)}")
    if len(set(numbers)) != wanted or not all(0 <= number < available for number in numbers):
        raise ValueError(f"{option}: expected different numbers from 0 to {available - 1}, got {list(numbers)}")
    return list(numbers)


def convert(
    foreign: Mapping[str, Tensor],
    source: str,
    target: nn.ModuleDict,
    *,
    layers: Sequence[int] | None = None,
    queries: str | Sequence[int] = "first",
    with_backbone: bool = False,
) -> Conversion:
    """Weights of a published checkpoint for this project's model.

    Args:
        foreign: by its own names, with or without the prefix of DistributedDataParallel.
        source: "fcclip" or "mask2former".
        target: of `target_model`.
        layers, queries: see `choose_layers` and `choose_queries`.
        with_backbone: take over FC-CLIP's copy of the OpenCLIP trunk too.

    Returns:
        The conversion. Weights keep their values; they are float32.

    Raises:
        ValueError: names the key that no rule knows, that two rules know, whose shape does not fit, or that is missing.
    """
    foreign = without_ddp_prefix(foreign)
    matches = _match(foreign, source_rules(source, with_backbone))
    _check_sources(matches, foreign, with_backbone)
    choices = model_choices(target)
    _check_choices(choices, source)
    kept = {
        "decoder": choose_layers(
            _count_layers(matches, "decoder"), int(choices["MODEL.USG.MASK_DECODER.NUM_LAYERS"]), layers
        ),
        "encoder": list(range(int(choices["MODEL.USG.PIXEL_DECODER.NUM_LAYERS"]))),
    }
    shapes = {name: tuple(value.shape) for name, value in target.state_dict().items()}
    result = Conversion()
    rows: list[int] = []
    for name, (rule, match) in matches.items():
        own, reason = _place(rule, match, kept, shapes)
        if reason:
            result.left_out.append((name, reason))
            continue
        value = foreign[name]
        if rule.axis == "queries" and value.ndim == 2:
            rows = choose_queries(len(value), int(choices["MODEL.USG.MASK_DECODER.NUM_QUERIES"]), queries)
            value = value[rows]
        _check_place(name, value, own, shapes, result.weights)
        result.weights[own] = value.detach().to(torch.float32).clone()
        result.used.append((name, own))
    result.new = _account_for_new(shapes, result.weights, source, with_backbone)
    result.record = {"source": source, "layers": kept["decoder"], "queries": rows, **choices}
    return result


def without_ddp_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names in the model itself, before which DistributedDataParallel puts "module.".

    Raises:
        ValueError: if a name is there with and without the prefix.
    """
    bare = {name.removeprefix(DDP_PREFIX): value for name, value in weights.items()}
    if len(bare) < len(weights):
        twice = next(name for name in weights if f"{DDP_PREFIX}{name}" in weights)
        raise ValueError(f"{twice}: the checkpoint has this name and {DDP_PREFIX}{twice}")
    return bare


def check_record(record: Mapping, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse to load a conversion into a USGPar that lacks a place for its weights or would read them differently.

    Raises:
        ValueError: names the configuration keys that differ, or else the parameter that does not fit.
    """
    hint = f"the checkpoint was converted from {record['source']} for another recipe, convert it again for this one"
    present = model_choices(model)
    wrong = [f"{key} {value!r}, converted for {record.get(key)!r}" for key, value in present.items()
             if record.get(key) != value]  # fmt: skip
    if wrong:
        raise ValueError(f"{hint}: {'; '.join(wrong)}")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, value in weights.items():
        if tuple(value.shape) != shapes.get(name):
            raise ValueError(f"{hint}: {name} is {tuple(value.shape)}, the model's {shapes.get(name)}")


def _match(foreign: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, tuple[Rule, re.Match]]:
    """The one rule of every name."""
    compiled = [(rule, re.compile(rule.pattern)) for rule in rules]
    found = {}
    for name in foreign:
        hits = [(rule, match) for rule, pattern in compiled if (match := pattern.fullmatch(name))]
        if not hits:
            raise ValueError(f"{name}: no rule knows this name; is it a checkpoint of another model?")
        if len(hits) > 1:
            raise ValueError(f"{name}: rules {[rule.pattern for rule, _ in hits]} both match")
        found[name] = hits[0]
    return found


def _check_sources(
    matches: Mapping[str, tuple[Rule, re.Match]], foreign: Mapping[str, Tensor], with_backbone: bool
) -> None:
    """Raise ValueError for faults that the rules cannot see, as they look at one name at a time."""
    counts = {name: value.shape[0] for name, (rule, _) in matches.items()
              if rule.axis == "queries" and (value := foreign[name]).ndim}  # fmt: skip
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"queries: expected as many features as embeddings, got {listed}")
    if with_backbone and not any(rule.target.startswith("backbone.") for rule, _ in matches.values()):
        raise ValueError(
            "--with-backbone: the checkpoint has no weights of the backbone; without the option, "
            "MODEL.CLIP.PRETRAINED gives them"
        )


def _count_layers(matches: Mapping[str, tuple[Rule, re.Match]], axis: str) -> int:
    numbers = {int(match["layer"]) for rule, match in matches.values() if rule.axis == axis}
    return max(numbers, default=-1) + 1


def _check_choices(choices: Mapping[str, int | str], source: str) -> None:
    """Raise ValueError for a recipe that differs where the shapes of the weights do not tell."""
    expected: dict[str, int | str] = {
        "MODEL.USG.PIXEL_DECODER.NUM_HEADS": FOREIGN_HEADS,
        "MODEL.USG.PIXEL_DECODER.NUM_POINTS": FOREIGN_POINTS,
        "MODEL.USG.MASK_DECODER.NUM_HEADS": FOREIGN_HEADS,
    }
    if source == "fcclip":
        expected["MODEL.CLIP.NAME"] = FCCLIP_CLIP
    for key, value in expected.items():
        if choices.get(key) != value:
            raise ValueError(f"{key}: the published weights belong to {value}, the recipe says {choices.get(key)}")


def _place(
    rule: Rule, match: re.Match, kept: Mapping[str, Sequence[int]], shapes: Mapping[str, tuple]
) -> tuple[str, str]:
    """Our name for weights, and the reason why they are left out, "" if they are not."""
    if not rule.target:
        return "", rule.reason
    own = match.expand(rule.target)
    if rule.axis in kept:
        number = int(match["layer"])
        if number not in kept[rule.axis]:
            return "", f"{rule.axis} layer {number} is not among those chosen"
        own = re.sub(r"\.layers\.\d+\.", f".layers.{kept[rule.axis].index(number)}.", own, count=1)
    return own, "" if own in shapes else rule.absent


def _check_place(name: str, value: Tensor, own: str, shapes: Mapping[str, tuple], weights: Mapping) -> None:
    if own in weights:
        raise ValueError(f"{name}: {own} was filled by another name already")
    if own not in shapes:
        raise ValueError(f"{name}: the model of the recipe has no {own}")
    if tuple(value.shape) != shapes[own]:
        raise ValueError(f"{name}: shape {tuple(value.shape)} does not fit {own}, which is {shapes[own]}")


def _account_for_new(
    shapes: Mapping[str, tuple], weights: Mapping[str, Tensor], source: str, with_backbone: bool
) -> list[tuple[str, str]]:
    allowed = dict(NEW) if source == "fcclip" else {**NEW, **NEW_MASK2FORMER}
    if with_backbone:
        allowed.pop(r"backbone\..+")
    new = []
    for own in shapes:
        if own in weights:
            continue
        start = next((text for pattern, text in allowed.items() if re.fullmatch(pattern, own)), None)
        if start is None:
            raise ValueError(f"{own}: the checkpoint has no weights for it; is it complete, and a {source} checkpoint?")
        new.append((own, start))
    return new
