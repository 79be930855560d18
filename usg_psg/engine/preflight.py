"""Checks of a run before it reads a data set or builds a model."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..config.checks import check_config
from ..data.register_psg import get_vocabulary
from ..evaluation.records import ground_truth
from ..evaluation.report import results_to_dict
from ..evaluation.sgdet_metrics import SGDetMetrics
from ..images import check_image
from ..pretrained.convert import TARGET_BACKBONES, target_model
from ..utils.suggestions import did_you_mean
from .checkpoint import complete_weights
from .checkpoint_file import check_suffix, read_checkpoint, require_trainer_state
from .loggers import LOGGERS

SCHEMES = ("http://", "https://")


def check_run(
    cfg: CfgNode, *, train: bool = False, evaluate: bool = False, world_size: int = 1, resume: bool = False
) -> None:
    """Refuse a run that cannot work: for its configuration, for files that this names, or for weights that do not fit.

    Args:
        cfg: the config.
        train, evaluate: whether DATASETS.TRAIN and DATASETS.TEST are going to be read.
        world_size: processes of the run.
        resume: go on from OUTPUT_DIR's checkpoint, if it has one, and not from MODEL.WEIGHTS.

    Raises:
        ValueError, FileNotFoundError: in one line.
    """
    check_config(cfg, train=train, evaluate=evaluate, world_size=world_size)
    if train:
        _check_best_metric(cfg)
        for name in cfg.LOGGERS:
            LOGGERS[name](cfg)  # says what is not installed
    path = weights_path(cfg, resume)
    if path:
        checkpoint = read_checkpoint(path, mmap=True)
        if train and resume and last_checkpoint(cfg).is_file():
            require_trainer_state(path, checkpoint)
        if _has_known_parts(cfg):
            # On the meta device: shapes cost neither memory nor time, and tensors stay in the file.
            complete_weights(path, checkpoint, target_model(cfg))
    elif evaluate and not (train or cfg.MODEL.WEIGHTS or cfg.TEST.USG.ALLOW_RANDOM_WEIGHTS):
        raise ValueError(
            "MODEL.WEIGHTS: expected a checkpoint to evaluate, got none; TEST.USG.ALLOW_RANDOM_WEIGHTS True evaluates "
            "random weights"
        )


def weights_path(cfg: CfgNode, resume: bool = False) -> str:
    """The file of weights that a run starts from; "" if there is none, or it is an address and no path.

    Raises:
        FileNotFoundError, ValueError: if it is not there, or an address or a format that cannot be read.
    """
    key, weights = "MODEL.WEIGHTS", cfg.MODEL.WEIGHTS
    last = last_checkpoint(cfg)
    if resume and last.is_file():
        key, weights = str(last), str(last.parent / last.read_text(encoding="utf-8").strip())
    if "://" in weights:
        if not weights.startswith(SCHEMES):
            raise ValueError(f"{key}: expected a file, or an address {' or '.join(SCHEMES)}, got {weights!r}")
        check_suffix(urlsplit(weights).path)
        return ""
    if not weights:
        return ""
    path = Path(weights)
    if not path.is_file():
        beside = [f.name for f in path.parent.glob("*") if f.suffix in (".pth", ".pt", ".safetensors")]
        near = did_you_mean(path.name, beside) if path.parent.is_dir() else f"; there is no folder {path.parent}"
        raise FileNotFoundError(f"{key}: there is no file {path.absolute()}{near}")
    return weights


def last_checkpoint(cfg: CfgNode) -> Path:
    """The file that names the checkpoint which a resumed run goes on from; it may not be there."""
    return Path(cfg.OUTPUT_DIR) / "last_checkpoint"


def read_test_data(cfg: CfgNode) -> dict[str, int]:
    """Read DATASETS.TEST, records and pictures, and raise what its evaluation would after hours of training.

    Returns:
        the number of images of each data set.
    """
    images = {}
    for name in cfg.DATASETS.TEST:
        records = DatasetCatalog.get(name)
        for record in records:
            check_image(record["file_name"], (record["height"], record["width"]), str(record["image_id"]))
            ground_truth(record)
        images[name] = len(records)
    return images


def _check_best_metric(cfg: CfgNode) -> None:
    metric, names = cfg.SOLVER.BEST_METRIC, cfg.DATASETS.TEST
    if not metric or not names:
        return
    vocabulary = get_vocabulary(names[0])
    is_thing = vocabulary.is_thing
    given = SGDetMetrics(len(vocabulary.predicate_classes), is_thing if cfg.TEST.TASK == "sgdet" else None).compute()
    known = [f"{part}/{key}" for part, values in results_to_dict(given, cfg.TEST.TASK).items() for key in values]
    # As `BestCheckpointHook` looks for it; with several data sets, their names come first.
    ends = [metric.removeprefix(f"{name}/") for name in (*names, "")]
    if not any(key == end or key.endswith(f"/{end}") for key in known for end in ends):
        raise ValueError(
            f"SOLVER.BEST_METRIC: no evaluation gives {metric!r} (TEST.TASK {cfg.TEST.TASK})"
            f"{did_you_mean(metric, known, limit=1)}; '' keeps no best checkpoint"
        )


def _has_known_parts(cfg: CfgNode) -> bool:
    """Whether `target_model` knows the parts; weights of others are checked when they are loaded."""
    return cfg.MODEL.META_ARCHITECTURE == "USGPar" and cfg.MODEL.BACKBONE.NAME in TARGET_BACKBONES
