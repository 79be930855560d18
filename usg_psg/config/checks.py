"""Find the errors of a configuration before a data set, an image or a weight is read.

The table of keys (`defaults.py`) has each value's range; rules across keys are here. `value_problems` looks at values
alone, `check_config` also at the data sets, files, GPUs and OpenCLIP models that they name.
Every problem of the values is reported, not only the first.

Letters: Q queries, K pairs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from ..data.mirrored_names import SidedNames
from ..data.register_psg import check_dataset_files, get_vocabulary
from ..modeling.build import MASK_DECODER_REGISTRY, RELATION_HEAD_REGISTRY
from ..modeling.openclip import check_openclip, takes_checkpoint_weights
from ..modeling.text_embeddings import check_sentence_encoder, check_vocabulary
from ..modeling.timm_models import check_timm
from ..utils.suggestions import did_you_mean
from ..vocabulary import Vocabulary
from .defaults import KEYS
from .files import leaves

REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.USG.PIXEL_DECODER.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.USG.MASK_DECODER.NAME": MASK_DECODER_REGISTRY,
    "MODEL.USG.RELATION_HEAD.NAME": RELATION_HEAD_REGISTRY,
}


def value_problems(cfg: CfgNode) -> list[str]:
    """Values that no key may have, or that do not go together; "KEY: expected ..., got ..." each."""
    values = dict(leaves(cfg))
    problems = []
    for key, registry in REGISTRIES.items():
        known = [name for name, _ in registry]
        if values[key] not in known:
            problems.append(f"{key}: there is no {values[key]!r}{did_you_mean(values[key], known)}")
    for key in dict.fromkeys([*KEYS, *values]):
        value = values[key]
        allowed = KEYS[key].allowed if key in KEYS else None
        if allowed and (error := allowed.error(key, value)):
            problems.append(error)
        elif not all(map(_is_usable, value if isinstance(value, list | tuple) else [value])):
            problems.append(f"{key}: expected finite numbers, whole ones below 2^31, got {value}")
    return problems + _model_problems(cfg.MODEL) + _run_problems(cfg)


def _is_usable(value: object) -> bool:
    """False for numbers that no key can mean: infinite ones, NaN, and whole ones that counters cannot hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < 2**31


def check_config(cfg: CfgNode, *, train: bool = False, evaluate: bool = False, world_size: int = 1) -> None:
    """Refuse a configuration that cannot work; its weights are looked at by `engine/preflight.py`.

    Args:
        cfg: the config.
        train, evaluate: whether DATASETS.TRAIN and DATASETS.TEST are going to be read.
        world_size: processes of the run.

    Raises:
        ValueError, FileNotFoundError: with every problem of the values, or else the first of what they name.
    """
    problems = value_problems(cfg)
    if train:
        problems += _batch_problems(cfg, world_size)
    if problems:
        raise ValueError("; ".join(problems))
    _check_device(cfg.MODEL.DEVICE)
    most = max(16, 4 * (os.cpu_count() or 1))
    if cfg.DATALOADER.NUM_WORKERS > most:
        raise ValueError(
            f"DATALOADER.NUM_WORKERS: expected at most {most} for each training process, "
            f"as this machine has {os.cpu_count()} cores, got {cfg.DATALOADER.NUM_WORKERS}"
        )
    check_openclip(cfg.MODEL.CLIP.NAME, "" if takes_checkpoint_weights() else cfg.MODEL.CLIP.PRETRAINED)
    if cfg.MODEL.BACKBONE.NAME == "TimmBackbone":
        check_timm(cfg.MODEL.TIMM.NAME, "" if takes_checkpoint_weights() else cfg.MODEL.TIMM.PRETRAINED)
    if cfg.MODEL.USG.SENTENCE_ENCODER and not takes_checkpoint_weights():
        check_sentence_encoder()
    _check_templates(cfg)
    _check_datasets(cfg, train, evaluate)


def _model_problems(model: CfgNode) -> list[str]:
    usg, problems = model.USG, []
    width = usg.HIDDEN_DIM
    parts = {
        "PIXEL_DECODER": usg.PIXEL_DECODER,
        "MASK_DECODER": usg.MASK_DECODER,
        "RELATION_HEAD": usg.RELATION_HEAD,
        "RELATION_HEAD.RPC": usg.RELATION_HEAD.RPC,
    }
    for name, part in parts.items():
        if part.NUM_HEADS >= 1 and width % part.NUM_HEADS:
            problems.append(
                f"MODEL.USG.{name}.NUM_HEADS: expected a divisor of MODEL.USG.HIDDEN_DIM {width}, got {part.NUM_HEADS}"
            )
    queries, pairs = usg.MASK_DECODER.NUM_QUERIES, usg.RELATION_HEAD.RPC.NUM_PAIRS
    most = queries * (queries - 1)
    if queries >= 2 and not 1 <= pairs <= most:
        problems.append(
            f"MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS: expected 1 to {most} "
            f"(MODEL.USG.MASK_DECODER.NUM_QUERIES {queries} make no more pairs), got {pairs}"
        )
    if usg.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED and not (model.CLIP.FREEZE and model.CLIP.PRETRAINED):
        problems.append(
            "MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED: needs CLIP's own weights, that is MODEL.CLIP.PRETRAINED and "
            f"MODEL.CLIP.FREEZE True, got {model.CLIP.PRETRAINED!r} and {model.CLIP.FREEZE}"
        )
    return problems


def _run_problems(cfg: CfgNode) -> list[str]:
    problems = []
    piloted = cfg.MODEL.USG.MASK_PILOT.ENABLED
    if piloted and cfg.MODEL.USG.LOSS.REDUCTION != "per_target":
        problems.append("MODEL.USG.MASK_PILOT.ENABLED: needs MODEL.USG.LOSS.REDUCTION 'per_target'")
    if piloted and cfg.MODEL.USG.LOSS.PAIR_POS_WEIGHT == 0:
        problems.append("MODEL.USG.MASK_PILOT.ENABLED: needs a MODEL.USG.LOSS.PAIR_POS_WEIGHT above 0, got 0")
    if cfg.TEST.USG.PREDCLS_QUERIES == "given" and not piloted:
        problems.append(
            "TEST.USG.PREDCLS_QUERIES: 'given' needs MODEL.USG.MASK_PILOT.ENABLED True, in training, too, got False"
        )
    if "graphs" in cfg.MODEL.USG.COMPILE and cfg.SOLVER.ACCUMULATION_STEPS > 1:
        problems.append("MODEL.USG.COMPILE: 'graphs' keeps no gradients between batches; 'kernels' accumulates")
    if cfg.INPUT.USG.MIN_SCALE > cfg.INPUT.USG.MAX_SCALE:
        problems.append(f"INPUT.USG.MIN_SCALE {cfg.INPUT.USG.MIN_SCALE} is above MAX_SCALE {cfg.INPUT.USG.MAX_SCALE}")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not sizes or min(sizes) < 1 or (cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2):
        problems.append(f"INPUT.MIN_SIZE_TRAIN: expected sizes in pixels, two of them for a range, got {sizes}")
    return problems


def _batch_problems(cfg: CfgNode, world_size: int) -> list[str]:
    """Images of a step that cannot be dealt out evenly."""
    solver, images = cfg.SOLVER, cfg.SOLVER.IMS_PER_BATCH
    if reference := solver.REFERENCE_WORLD_SIZE:
        if reference < 0 or images % reference:
            return [f"SOLVER.IMS_PER_BATCH {images}: expected a multiple of SOLVER.REFERENCE_WORLD_SIZE {reference}"]
        images = images // reference * world_size
    parts = world_size * max(solver.ACCUMULATION_STEPS, 1)
    if images % parts:
        return [
            f"SOLVER.IMS_PER_BATCH {images}: expected a multiple of {parts}, "
            f"{world_size} processes times SOLVER.ACCUMULATION_STEPS {solver.ACCUMULATION_STEPS}"
        ]
    return []


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "cpu", "mps"):  # "meta", for one, computes nothing
        raise ValueError(f"MODEL.DEVICE: expected cuda, cuda:N or cpu, got {name!r}")
    present = torch.cuda.device_count()
    if device.type == "cuda" and device.index is not None and 0 < present <= device.index:
        raise ValueError(f"MODEL.DEVICE: {name}, but this machine has {present} GPUs, cuda:0 to cuda:{present - 1}")


def _check_templates(cfg: CfgNode) -> None:
    for key in ("OBJECT_TEMPLATES", "PREDICATE_TEMPLATES"):
        try:
            check_vocabulary(["name"], cfg.MODEL.CLIP[key])
        except ValueError as error:
            raise ValueError(f"MODEL.CLIP.{key}: {error}") from None


def _check_datasets(cfg: CfgNode, train: bool, evaluate: bool) -> None:
    """Names, files, and vocabularies that belong together."""
    for key, wanted in (("TRAIN", train), ("TEST", evaluate)):
        names = cfg.DATASETS[key]
        if not wanted:
            continue
        for name in names:
            _check_registered(f"DATASETS.{key}", name)
            check_dataset_files(name)
        check_one_vocabulary(f"DATASETS.{key}", names)
        if cfg.MODEL.USG.VOCABULARY:
            file = Vocabulary.read(cfg.MODEL.USG.VOCABULARY)
            for name in names:
                file.check_covers(name, get_vocabulary(name))
    if train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN: expected a data set, such as ('psg_train',), got none")
    if train and cfg.INPUT.RANDOM_FLIP == "horizontal":
        SidedNames(get_vocabulary(cfg.DATASETS.TRAIN[0]))
    if evaluate and not train and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: expected a data set, such as ('psg_test',), got none")


def _check_registered(key: str, name: str) -> None:
    known = DatasetCatalog.list()
    if name not in known:
        psg = [each for each in known if "psg" in each]
        near = did_you_mean(name, known) or f"; registered are {', '.join(psg)}"
        raise ValueError(f"{key}: there is no data set {name!r}{near}")


def check_one_vocabulary(key: str, names: Sequence[str]) -> None:
    """Raise ValueError unless the data sets, which are used together, have the same categories and predicates."""
    for name in names[1:]:
        if get_vocabulary(name) != get_vocabulary(names[0]):
            raise ValueError(f"{key}: {names[0]!r} and {name!r} have different names: use them one by one")
