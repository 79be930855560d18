"""The table of configuration keys: default, meaning, source and allowed values of each.

The defaults of a config, its checks (`checks.py`) and docs/configuration.md (`reference.py`) all come from it. Allowed
values that a constructor checks, too, are imported from there; nothing below this room imports it.
"""

from __future__ import annotations

import copy

from detectron2.config import CfgNode

from ..data.psg_json import POLICIES
from ..data.psg_mapper import AUGMENTATIONS, FLIPS
from ..data.train_loader import SAMPLERS
from ..modeling.compile import MODES
from ..modeling.mask_pilot import PREDCLS_QUERIES
from ..structures import TASKS
from ..utils.allowed import (
    ABOVE_ZERO,
    BELOW_ONE,
    ONE_OR_MORE,
    ZERO_OR_MORE,
    ZERO_TO_ONE,
    Allowed,
    one_of,
)
from ..utils.autocast import DTYPES
from .files import set_leaf
from .key import KEPT, Key
from .model_keys import MODEL_SECTIONS


def _only_false(reason: str) -> Allowed:
    return Allowed(f"False, as {reason}", lambda value: not value)


def _is_multiplier(entry: object) -> bool:
    return (
        isinstance(entry, list | tuple)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and not ZERO_OR_MORE.error("", entry[1])
    )


MULTIPLIERS = Allowed("pairs of a module's name and a factor of 0 or more", lambda x: all(map(_is_multiplier, x)))
# The trainer's own choices.
TRACKERS = Allowed(
    "a list of 'wandb', 'mlflow', 'trackio', each once",
    lambda x: isinstance(x, list | tuple) and len(set(x)) == len(x) and set(x) <= {"wandb", "mlflow", "trackio"},
)
OPTIMIZERS = one_of("ADAMW")
CLIP_TYPES = one_of("full_model", "norm", "value")
AMP_DTYPES = one_of("bfloat16", "float16")

SECTIONS: dict[str, dict[str, Key]] = {
    "": {
        "IMPORTS": Key(
            [],
            "modules that register your own parts and data sets (docs/extending.md)",
        ),
        "CUDNN_BENCHMARK": Key(KEPT, "let cuDNN choose the fastest kernels; runs may differ"),
        "FLOAT32_PRECISION": Key(
            KEPT,
            '`torch.set_float32_matmul_precision`; "" for PyTorch\'s own',
            allowed=one_of("", "highest", "high", "medium"),
        ),
        "LOGGERS": Key(
            [],
            "experiment trackers besides TensorBoard (docs/training.md)",
            allowed=TRACKERS,
        ),
        "OUTPUT_DIR": Key(KEPT, "folder of checkpoints, logs and results"),
        "SEED": Key(KEPT, "seed of all random numbers; below 0: a new one for each run"),
        "VERSION": Key(KEPT, "version of the config's format; recipes say 2"),
    },
    "INPUT": {
        "FORMAT": Key(
            "RGB", "order of the channels, which OpenCLIP's weights expect", "OpenCLIP", one_of("RGB", "BGR")
        ),
        "MIN_SIZE_TEST": Key(480, "shorter side of an image outside training, pixels", allowed=ONE_OR_MORE),
        "MAX_SIZE_TEST": Key(800, "upper limit of its longer side, pixels", allowed=ONE_OR_MORE),
        "MAX_SIZE_TRAIN": Key(KEPT, 'upper limit of the longer side with "shortest_edge", pixels', allowed=ONE_OR_MORE),
        "MIN_SIZE_TRAIN": Key(KEPT, 'lengths of the shorter side to choose from with "shortest_edge", pixels'),
        "MIN_SIZE_TRAIN_SAMPLING": Key(
            KEPT, '"choice": one of them; "range": any length between two', allowed=one_of("choice", "range")
        ),
        "RANDOM_FLIP": Key(
            KEPT,
            'mirrors half of the images; "horizontal" exchanges names of sides ("left of", "right of")',
            allowed=FLIPS,
        ),
    },
    "INPUT.USG": {
        "AUGMENTATION": Key(
            "lsj",
            '"lsj": scale jitter, then crop or pad to a square; "shortest_edge": Detectron2\'s usual resize',
            "Mask2Former",
            AUGMENTATIONS,
        ),
        "IMAGE_SIZE": Key(640, 'side of the square of "lsj", pixels', allowed=ONE_OR_MORE),
        "MIN_SCALE": Key(0.5, 'smallest scale of "lsj"; 1 fits the image into the square', allowed=ABOVE_ZERO),
        "MAX_SCALE": Key(1.5, 'largest scale of "lsj"', allowed=ABOVE_ZERO),
    },
    "DATALOADER": {
        "FILTER_EMPTY_ANNOTATIONS": Key(False, "leave images without segments out of training"),
        "ASPECT_RATIO_GROUPING": Key(
            False,
            "batches of images of one orientation",
            allowed=_only_false("batches keep the order of the run"),
        ),
        "SAMPLER_TRAIN": Key(
            "TrainingSampler",
            '"RepeatFactorTrainingSampler" repeats images by max(1, sqrt(REPEAT_THRESHOLD / f)), '
            "f: fraction of images with their rarest predicate",
            "Detectron2; LVIS",
            SAMPLERS,
        ),
        "BAD_SAMPLES": Key(
            "error",
            'on faulty data: "error" stops at what cannot be mended; "skip" leaves out such images; '
            '"strict" mends nothing (docs/robustness.md)',
            allowed=POLICIES,
        ),
        "NUM_WORKERS": Key(KEPT, "processes that load data, for each training process", allowed=ZERO_OR_MORE),
        "REPEAT_SQRT": Key(KEPT, "take the root in `DATALOADER.SAMPLER_TRAIN`"),
        "REPEAT_THRESHOLD": Key(
            KEPT,
            "of `DATALOADER.SAMPLER_TRAIN`; predicates in a smaller fraction of images are rare",
            allowed=ZERO_OR_MORE,
        ),
    },
    "DATASETS": {
        "TEST": Key(KEPT, "registered data sets to evaluate on, of one vocabulary"),
        "TRAIN": Key(KEPT, "registered data sets to train on"),
    },
    **MODEL_SECTIONS,
    "SOLVER": {
        "OPTIMIZER": Key("ADAMW", "AdamW, the only one", "SPEC 14", OPTIMIZERS),
        "BASE_LR": Key(0.001, "learning rate after the warmup", "SPEC 14", ABOVE_ZERO),
        "WEIGHT_DECAY": Key(0.01, "of linear and convolution weights", "SPEC 14", ZERO_OR_MORE),
        "WEIGHT_DECAY_NORM": Key(0.0, "of normalisation layers", "Mask2Former", ZERO_OR_MORE),
        "WEIGHT_DECAY_EMBED": Key(0.0, "of learned embeddings, logit scales and biases", "Mask2Former", ZERO_OR_MORE),
        "BACKBONE_MULTIPLIER": Key(
            0.01,
            "of the learning rate, for a trained backbone; one of random weights needs 1",
            "Mask2Former",
            ZERO_OR_MORE,
        ),
        "MULTIPLIERS": Key(
            [],
            "of the learning rate, such as [['pixel_decoder', 0.1]]; the longest name that fits counts",
            allowed=MULTIPLIERS,
        ),
        "LR_SCHEDULER_NAME": Key("WarmupCosineLR", "one of Detectron2's schedules", "SPEC 14"),
        "WARMUP_ITERS": Key(1000, "steps of linear warmup", "SPEC 14", ZERO_OR_MORE),
        "WARMUP_FACTOR": Key(0.001, "of the learning rate at the first step", allowed=ZERO_TO_ONE),
        "ACCUMULATION_STEPS": Key(
            1,
            "parts in which a step's images pass the model; same gradients",
            allowed=ONE_OR_MORE,
        ),
        "CHECKPOINTS_TO_KEEP": Key(3, "newest periodic checkpoints kept; 0: all", allowed=ZERO_OR_MORE),
        "BEST_METRIC": Key("sgdet/single/R@50", 'its highest value makes model_best.pth; "": none does'),
        "CHECKPOINT_PERIOD": Key(KEPT, "steps between checkpoints; 0: one at the end"),
        "IMS_PER_BATCH": Key(KEPT, "images per step, of all processes together", allowed=ONE_OR_MORE),
        "MAX_ITER": Key(KEPT, "steps of training", allowed=ONE_OR_MORE),
        "REFERENCE_WORLD_SIZE": Key(
            KEPT,
            "processes that batch, learning rate and schedule are for; another number scales them; 0: never",
        ),
        "WARMUP_METHOD": Key(
            KEPT,
            "the learning rate rises, or stays at the first step's",
            allowed=one_of("linear", "constant"),
        ),
    },
    "SOLVER.AMP": {
        "ENABLED": Key(True, "mixed precision on a GPU", "SPEC 14"),
        "DTYPE": Key("bfloat16", 'of mixed precision; or "float16", which scales the loss', allowed=AMP_DTYPES),
    },
    "SOLVER.CLIP_GRADIENTS": {
        "ENABLED": Key(True, "clip gradients", "SPEC 14"),
        "CLIP_TYPE": Key(
            "full_model",
            '"full_model" clips the norm of all gradients together, "norm" that of each parameter, "value" each entry',
            "Mask2Former",
            CLIP_TYPES,
        ),
        "CLIP_VALUE": Key(1.0, "largest norm, or entry", "SPEC 14", ABOVE_ZERO),
        "NORM_TYPE": Key(2.0, "order of the norm"),
    },
    "SOLVER.EMA": {
        "ENABLED": Key(False, "evaluate with the moving average of the trained weights"),
        "DECAY": Key(
            0.9998,
            "part of the average that a step keeps; after n steps at most (1 + n) / (10 + n)",
            allowed=BELOW_ONE,
        ),
    },
    "TEST": {
        "TASK": Key("sgdet", '"sgdet": from the image alone; "predcls": masks and labels are given', allowed=TASKS),
        "EVAL_PERIOD": Key(KEPT, "steps between evaluations; 0: one at the end"),
        "EXPECTED_RESULTS": Key(KEPT, "[[task, metric, value, tolerance], ...] that an evaluation must reach"),
    },
    "TEST.USG": {
        "PREDCLS_QUERIES": Key(
            "matched",
            'of given objects; "matched": learned ones, which the matcher chooses; "given": made of class and mask, '
            "for models trained with MASK_PILOT",
            allowed=PREDCLS_QUERIES,
        ),
        "OBJECT_THRESHOLD": Key(
            0.1, "minimum score for a query to own pixels of the panoptic map", allowed=ZERO_TO_ONE
        ),
        "OVERLAP_THRESHOLD": Key(0.5, "fraction of its own mask that a segment must keep there", allowed=ZERO_TO_ONE),
        "RELATIONS_PER_IMAGE": Key(100, "relations kept with, and without, graph constraint", allowed=ONE_OR_MORE),
        "PREDICATE_LOGIT_ADJUSTMENT": Key(
            0.0,
            "tau of logit adjustment after training, by the counts in the checkpoint; not with the one in the loss",
            "arXiv 2007.07314",
            ZERO_OR_MORE,
        ),
        "TRIPLET_PRIOR": Key(
            0.0,
            "w of a factor (share of the training pairs of these classes with this predicate + 0.001)^w of each score",
            "arXiv 1711.06640",
            ZERO_OR_MORE,
        ),
        "DTYPE": Key("float32", "arithmetic of inference on a GPU", allowed=DTYPES),
        "COMPILE": Key("none", "as MODEL.USG.COMPILE, outside training, for images of one size", allowed=MODES),
        "ALLOW_RANDOM_WEIGHTS": Key(False, "evaluate without MODEL.WEIGHTS"),
        "EXPORT": Key(
            "",
            "also write the predictions, in this format",
            allowed=one_of("", "json", "sgbench", "openpsg", "coco_panoptic"),
        ),
        "FREQUENCY_BASELINE": Key(
            False,
            "also report zero-shot recall and the frequency baseline",
        ),
        "PLOTS": Key(False, "also draw recalls and the confusion among predicates"),
        "PICTURES": Key(0, "also draw this many of the worst images", allowed=ZERO_OR_MORE),
    },
    "TEST.PRECISE_BN": {
        "ENABLED": Key(
            KEPT,
            "recompute statistics of batch normalisation before an evaluation",
            allowed=_only_false("it uses those of training"),
        ),
    },
}
KEYS = {f"{section}.{name}".lstrip("."): key for section, keys in SECTIONS.items() for name, key in keys.items()}


def add_usg_config(cfg: CfgNode) -> None:
    """Add this project's keys to a Detectron2 config, and set its defaults of Detectron2's own."""
    for key, entry in KEYS.items():
        if entry.default is not KEPT:
            set_leaf(cfg, key, copy.deepcopy(entry.default))
