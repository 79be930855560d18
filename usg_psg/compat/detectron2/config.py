"""Configuration: nodes with `_BASE_` inheritance, Detectron2's default values, and `@configurable`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

__all__ = ["CfgNode", "configurable", "get_cfg"]


class CfgNode(_CfgNode):
    """fvcore's config node, which also checks the version of the configs that it reads."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", self.VERSION)
        if version != self.VERSION:
            raise ValueError(f"{cfg_filename}: VERSION must be {self.VERSION}, got {version}")
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    return _DEFAULTS.clone()


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor (`@configurable`) or function (`@configurable(from_config=f)`) be called with a config, too.

    Keyword arguments of the call that `from_config` does not take win over those that it returned.
    """
    if init_func is None:
        return functools.partial(_configurable, of_call=lambda args: (from_config, args))
    return _configurable(init_func, of_call=lambda args: (getattr(type(args[0]), "from_config", None), args[1:]))


def _configurable(function: Callable, of_call: Callable[[tuple], tuple[Callable, tuple]]) -> Callable:
    """`of_call` gives, for the positional arguments of a call, its `from_config` and those but self."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from_config, given = of_call(args)
        if isinstance(given[0] if given else kwargs.get("cfg"), _CfgNode):
            parameters = inspect.signature(from_config).parameters
            takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
            accepted = {key: value for key, value in kwargs.items() if takes_all or key in parameters}
            others = {key: value for key, value in kwargs.items() if key not in accepted}
            args = args[: len(args) - len(given)]
            kwargs = {**from_config(*given, **accepted), **others}
        return function(*args, **kwargs)

    return wrapped


# fmt: off
_DEFAULTS = CfgNode({
    "VERSION": 2, "OUTPUT_DIR": "./output", "CUDNN_BENCHMARK": False, "VIS_PERIOD": 0, "GLOBAL": {"HACK": 1.0},
    "SEED": -1,  # below 0: a random one
    "FLOAT32_PRECISION": "",  # "" keeps torch's own; or highest, high, medium
    "MODEL": {
        "DEVICE": "cuda", "META_ARCHITECTURE": "GeneralizedRCNN", "WEIGHTS": "", "MASK_ON": False,
        "PIXEL_MEAN": [103.530, 116.280, 123.675], "PIXEL_STD": [1.0, 1.0, 1.0],
        "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
        "SEM_SEG_HEAD": {
            "NAME": "SemSegFPNHead", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "IGNORE_VALUE": 255, "NUM_CLASSES": 54,
            "CONVS_DIM": 128, "COMMON_STRIDE": 4, "NORM": "GN", "LOSS_WEIGHT": 1.0,
        },
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": (800,), "MIN_SIZE_TRAIN_SAMPLING": "choice", "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333, "RANDOM_FLIP": "horizontal", "FORMAT": "BGR",
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]}, "MASK_FORMAT": "polygon",
    },
    "DATASETS": {"TRAIN": (), "TEST": ()},
    "DATALOADER": {
        "NUM_WORKERS": 4, "ASPECT_RATIO_GROUPING": True, "SAMPLER_TRAIN": "TrainingSampler", "REPEAT_THRESHOLD": 0.0,
        "REPEAT_SQRT": True, "FILTER_EMPTY_ANNOTATIONS": True,
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR", "MAX_ITER": 40000, "BASE_LR": 0.001, "BASE_LR_END": 0.0,
        "MOMENTUM": 0.9, "NESTEROV": False, "WEIGHT_DECAY": 0.0001, "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": None, "BIAS_LR_FACTOR": 1.0, "GAMMA": 0.1, "STEPS": (30000,), "NUM_DECAYS": 3,
        "WARMUP_FACTOR": 1.0 / 1000, "WARMUP_ITERS": 1000, "WARMUP_METHOD": "linear", "RESCALE_INTERVAL": False,
        "CHECKPOINT_PERIOD": 5000, "IMS_PER_BATCH": 16, "REFERENCE_WORLD_SIZE": 0, "AMP": {"ENABLED": False},
        "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
    },
    "TEST": {
        "EXPECTED_RESULTS": [], "EVAL_PERIOD": 0, "DETECTIONS_PER_IMAGE": 100,
        "AUG": {
            "ENABLED": False, "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200), "MAX_SIZE": 4000,
            "FLIP": True,
        },
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
    },
})
# fmt: on
