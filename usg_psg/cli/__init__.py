"""The work of the commands: a module each, whose `run` takes the arguments that `usg_psg_cli` has read."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from detectron2.config import CfgNode

from ..config import build_cfg
from ..model_folder import model_config


def config_of(args: Namespace) -> CfgNode:
    """The config that --config-file or else --weights, the overrides and, where a program has it, --vocabulary make."""
    weights = getattr(args, "weights", None)
    if weights and not args.config_file:
        cfg = model_config(weights, args.opts, trust_imports=args.trust_imports)
    else:
        cfg = build_cfg(args.config_file, args.opts, trust_imports=args.trust_imports)
        cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    if getattr(args, "vocabulary", None):
        cfg.MODEL.USG.VOCABULARY = args.vocabulary
    return cfg


def image_root_of(json_file: Path, given: Path | None) -> Path:
    """The folder that paths in a PSG file start from: --image-root, or `coco` where OpenPSG has it.

    Raises:
        ValueError: if there is no such folder.
    """
    root = given or json_file.resolve().parent.parent / "coco"
    if not root.is_dir():
        raise ValueError(f"--image-root: there is no folder {root}{'' if given else ', the default'}")
    return root
