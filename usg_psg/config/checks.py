"""What is wrong with a configuration, found before a data set, an image or a weight is read.

`value_problems` looks at the values alone; `check_config` also at what they name: data sets, files, GPUs, OpenCLIP
models. Every problem is reported, not only the first.

Letters: Q queries, K pairs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from ..data.mirrored_names import SidedNames
from ..data.register_psg import check_dataset_files, get_vocabulary
from ..modeling.build import MASK_DECODER_REGISTRY, RELATION_HEAD_REGISTRY
from ..modeling.compile import MODES
from ..modeling.openclip import check_openclip
from ..modeling.text_embeddings import check_vocabulary
from ..utils.suggestions import did_you_mean
from ..vocabulary import Vocabulary
from .files import leaves

CHOICES: dict[str, tuple[str, ...]] = {
    "DATALOADER.BAD_SAMPLES": ("error", "skip", "strict"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
    "INPUT.USG.AUGMENTATION": ("lsj", "shortest_edge"),
    "MODEL.CLIP.FROZEN_DTYPE": ("bfloat16", "float16", "float32"),
    "MODEL.USG.CLASS_HEAD.LOGIT_SCALE": ("learnable", "fixed"),
    "MODEL.USG.COMPILE": MODES,
    "MODEL.USG.LOSS.REDUCTION": ("per_target", "mean"),
    "MODEL.USG.MATCHER.NAME": ("hungarian", "fixed"),
    "MODEL.USG.MASK_DECODER.LAYER_ORDER": ("self_first", "cross_first"),
    "MODEL.USG.RELATION_HEAD.PREDICATE.LOGIT_SCALE": ("learnable", "fixed"),
    "MODEL.USG.RELATION_HEAD.QUERY_FORM": ("concat", "embedded"),
    "MODEL.USG.RELATION_HEAD.RPC.LOGIT_SCALE": ("learnable", "fixed"),
    "SOLVER.AMP.DTYPE": ("bfloat16", "float16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model", "norm", "value"),
    "SOLVER.OPTIMIZER": ("ADAMW",),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "TEST.TASK": ("sgdet", "predcls"),
    "TEST.USG.COMPILE": MODES,
    "TEST.USG.DTYPE": ("float32", "bfloat16", "float16"),
    "TEST.USG.EXPORT": ("", "json", "sgbench", "openpsg", "coco_panoptic"),
}
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.USG.PIXEL_DECODER.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.USG.MASK_DECODER.NAME": MASK_DECODER_REGISTRY,
    "MODEL.USG.RELATION_HEAD.NAME": RELATION_HEAD_REGISTRY,
}

Range = tuple[str, Callable[[float], bool]]  # in words, and the test
ONE_OR_MORE: Range = ("1 or more", lambda x: x >= 1)
ZERO_OR_MORE: Range = ("0 or more", lambda x: x >= 0)
ABOVE_ZERO: Range = ("a number above 0", lambda x: x > 0)
ZERO_TO_ONE: Range = ("a number from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE: Range = ("a number from 0 to below 1", lambda x: 0 <= x < 1)
BETWEEN: Range = ("a number between 0 and 1", lambda x: 0 < x < 1)
# Keys end with these; the first end that fits counts.
RANGES: dict[str, Range] = {
    "RELATION_HEAD.NUM_LAYERS": ZERO_OR_MORE,
    "RPC.NUM_LAYERS": ZERO_OR_MORE,
    "LOSS.NUM_POINTS": ZERO_OR_MORE,
    ".NUM_LAYERS": ONE_OR_MORE,
    ".NUM_HEADS": ONE_OR_MORE,
    ".FFN_DIM": ONE_OR_MORE,
    "PIXEL_DECODER.NUM_POINTS": ONE_OR_MORE,
    "MASK_DECODER.NUM_QUERIES": ("2 or more", lambda x: x >= 2),
    "PIXEL_DECODER.DROPOUT": BELOW_ONE,
    ".SCALE_INIT": ABOVE_ZERO,
    ".PRIOR_PROB": BETWEEN,
    "CLIP_ENSEMBLE.ALPHA": ZERO_TO_ONE,
    "CLIP_ENSEMBLE.BETA": ZERO_TO_ONE,
    "USG.LOSS.OVERSAMPLE_RATIO": ("a number from 1", lambda x: x >= 1),
    "USG.LOSS.IMPORTANCE_RATIO": ZERO_TO_ONE,
    "_WEIGHT": ZERO_OR_MORE,
    "_COST": ZERO_OR_MORE,
    "INPUT.USG.IMAGE_SIZE": ONE_OR_MORE,
    "INPUT.USG.MIN_SCALE": ABOVE_ZERO,
    "INPUT.USG.MAX_SCALE": ABOVE_ZERO,
    "INPUT.MIN_SIZE_TEST": ONE_OR_MORE,
    "INPUT.MAX_SIZE_TEST": ONE_OR_MORE,
    "INPUT.MAX_SIZE_TRAIN": ONE_OR_MORE,
    "DATALOADER.NUM_WORKERS": ZERO_OR_MORE,
    "DATALOADER.REPEAT_THRESHOLD": ZERO_OR_MORE,
    "LOSS.PREDICATE_BALANCE_BETA": BELOW_ONE,
    "PREDICATE_LOGIT_ADJUSTMENT": ZERO_OR_MORE,
    "SOLVER.IMS_PER_BATCH": ONE_OR_MORE,
    "SOLVER.ACCUMULATION_STEPS": ONE_OR_MORE,
    "SOLVER.MAX_ITER": ONE_OR_MORE,
    "SOLVER.BASE_LR": ABOVE_ZERO,
    "SOLVER.BACKBONE_MULTIPLIER": ZERO_OR_MORE,
    "SOLVER.WEIGHT_DECAY": ZERO_OR_MORE,
    "SOLVER.WEIGHT_DECAY_NORM": ZERO_OR_MORE,
    "SOLVER.WEIGHT_DECAY_EMBED": ZERO_OR_MORE,
    "SOLVER.WARMUP_ITERS": ZERO_OR_MORE,
    "SOLVER.WARMUP_FACTOR": ZERO_TO_ONE,
    "SOLVER.CHECKPOINTS_TO_KEEP": ZERO_OR_MORE,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": ABOVE_ZERO,
    "SOLVER.EMA.DECAY": BELOW_ONE,
    "TEST.USG.OBJECT_THRESHOLD": ZERO_TO_ONE,
    "TEST.USG.OVERLAP_THRESHOLD": ZERO_TO_ONE,
    "TEST.USG.RELATIONS_PER_IMAGE": ONE_OR_MORE,
    "TEST.USG.PICTURES": ZERO_OR_MORE,
}
STRIDE = 32  # of the backbone's coarsest features
GROUPS = 8  # channels come in multiples of it: group normalisation, and sines and cosines of two coordinates


def value_problems(cfg: CfgNode) -> list[str]:
    """Values that no key may have, or that do not go together; "KEY: expected ..., got ..." each."""
    values = dict(leaves(cfg))
    problems = []
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            shown = ", ".join(repr(choice) for choice in choices)
            problems.append(f"{key}: expected {shown}, got {values[key]!r}")
    for key, registry in REGISTRIES.items():
        known = [name for name, _ in registry]
        if values[key] not in known:
            problems.append(f"{key}: there is no {values[key]!r}{did_you_mean(values[key], known)}")
    for key, value in values.items():
        words, fits = next((each for end, each in RANGES.items() if key.endswith(end)), ("", None))
        if fits and isinstance(value, int | float) and not (math.isfinite(value) and fits(value)):
            problems.append(f"{key}: expected {words}, got {value}")
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
    check_openclip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    _check_templates(cfg)
    _check_datasets(cfg, train, evaluate)


def _model_problems(model: CfgNode) -> list[str]:
    usg, problems = model.USG, []
    width = usg.HIDDEN_DIM
    if width < 1 or width % GROUPS:
        problems.append(f"MODEL.USG.HIDDEN_DIM: expected a multiple of {GROUPS}, got {width}")
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
    levels = usg.RELATION_HEAD.FEATURE_LEVELS
    if not levels or not set(levels) <= {0, 1, 2}:
        problems.append(
            f"MODEL.USG.RELATION_HEAD.FEATURE_LEVELS: expected some of 0 (stride 32), 1 (16), 2 (8), got {levels}"
        )
    divisibility = usg.SIZE_DIVISIBILITY
    if divisibility != -1 and (divisibility < 1 or divisibility % STRIDE):
        problems.append(f"MODEL.USG.SIZE_DIVISIBILITY: expected -1 or a multiple of {STRIDE}, got {divisibility}")
    if usg.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED and not (model.CLIP.FREEZE and model.CLIP.PRETRAINED):
        problems.append(
            "MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED: needs CLIP's own weights, that is MODEL.CLIP.PRETRAINED and "
            f"MODEL.CLIP.FREEZE True, got {model.CLIP.PRETRAINED!r} and {model.CLIP.FREEZE}"
        )
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        numbers = model[key]
        if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (key == "PIXEL_STD" and min(numbers) <= 0):
            more = " above 0" if key == "PIXEL_STD" else ""
            problems.append(f"MODEL.{key}: expected three numbers{more}, got {numbers}")
    return problems


def _run_problems(cfg: CfgNode) -> list[str]:
    problems = []
    if "graphs" in cfg.MODEL.USG.COMPILE and cfg.SOLVER.ACCUMULATION_STEPS > 1:
        problems.append("MODEL.USG.COMPILE: 'graphs' keeps no gradients between batches; 'kernels' accumulates")
    if cfg.INPUT.USG.MIN_SCALE > cfg.INPUT.USG.MAX_SCALE:
        problems.append(f"INPUT.USG.MIN_SCALE {cfg.INPUT.USG.MIN_SCALE} is above MAX_SCALE {cfg.INPUT.USG.MAX_SCALE}")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not sizes or min(sizes) < 1 or (cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2):
        problems.append(f"INPUT.MIN_SIZE_TRAIN: expected sizes in pixels, two of them for a range, got {sizes}")
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        problems.append("DATALOADER.ASPECT_RATIO_GROUPING: expected False, as batches keep the order of the run")
    if cfg.TEST.PRECISE_BN.ENABLED:
        problems.append("TEST.PRECISE_BN.ENABLED: expected False, as the trained parts have no batch normalisation")
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
        _check_one_vocabulary(f"DATASETS.{key}", names)
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


def _check_one_vocabulary(key: str, names: Sequence[str]) -> None:
    """Category numbers of data sets that are used together must mean the same."""
    for name in names[1:]:
        if get_vocabulary(name) != get_vocabulary(names[0]):
            raise ValueError(f"{key}: {names[0]!r} and {name!r} have different names: use them one by one")
