"""The usual training program: set-up, the base of trainers."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ..config import CfgNode
from ..evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from ..modeling import build_model
from ..solver import LRScheduler, build_lr_scheduler
from ..utils import comm
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.logger import setup_logger
from .train_loop import TrainerBase

__all__ = ["DefaultTrainer", "default_setup", "default_writers"]

logger = logging.getLogger(__name__)


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Set up logging to OUTPUT_DIR, log machine, arguments and config, save the config there, seed, set precisions.

    Args:
        args: the command line, for the log; `eval_only` leaves cuDNN's benchmark mode alone.
    """
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR or None, distributed_rank=rank, name=name)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", _environment())
    logger.info("Command line arguments: %s", args)
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(cfg.dump())
        logger.info("Full config, saved to %s:\n%s", path, cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


def _environment() -> str:
    rows = [f"platform {platform.platform()}", "Python " + sys.version.replace("\n", "")]
    rows += [f"{name} {import_module(name).__version__}" for name in ("detectron2", "torch", "torchvision", "numpy")]
    rows.append(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    rows += [f"GPU {index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return "\n".join(rows)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to metrics.json and to TensorBoard, in a folder that is made if missing."""
    os.makedirs(output_dir, exist_ok=True)
    metrics = JSONWriter(os.path.join(output_dir, "metrics.json"))
    return [CommonMetricPrinter(max_iter), metrics, TensorboardXWriter(output_dir)]


def _of_inner_trainer(name: str) -> property:
    return property(lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value))


class DefaultTrainer(TrainerBase):
    """Base class of trainers that are built from a config.

    A subclass's constructor calls `TrainerBase.__init__` and sets cfg, start_iter, max_iter, checkpointer, scheduler
    and `_trainer`, which has model, data_loader, optimizer, `run_step`, `state_dict` and `load_state_dict`. It has
    class methods build_test_loader and build_evaluator, of a config and the name of a data set.

    Args:
        cfg: the config.
    """

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def __init__(self, cfg: CfgNode):
        raise NotImplementedError(
            "the bundled DefaultTrainer is a base class: its subclass builds model, optimizer and training loop"
        )

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR, or load only weights, from MODEL.WEIGHTS.

        Args:
            resume: False never looks for a checkpoint.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint names the last finished iteration

    def build_writers(self) -> list[EventWriter]:
        """`default_writers` to OUTPUT_DIR."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict | None:
        """Train from start_iter to SOLVER.MAX_ITER.

        Returns:
            the last evaluation's results where TEST.EXPECTED_RESULTS are given and met, else None.
        """
        super().train(self.start_iter, self.max_iter)
        if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
            return None
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model of MODEL.META_ARCHITECTURE."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """`solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None
    ) -> dict:
        """Evaluate a model on each data set of DATASETS.TEST.

        Args:
            evaluators: one per data set; None asks `build_evaluator`.

        Returns:
            results by data set; of the only one, if there is one only.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        results = {}
        for name, evaluator in zip(names, evaluators or [None] * len(names), strict=True):
            loader = cls.build_test_loader(cfg, name)
            results[name] = inference_on_dataset(model, loader, evaluator or cls.build_evaluator(cfg, name))
            if comm.is_main_process():
                logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Keep the batch size per process when their number is not SOLVER.REFERENCE_WORLD_SIZE.

        Batch size and learning rate are multiplied by the ratio of the numbers, all iteration counts divided by it.

        Args:
            num_workers: processes of the job.

        Returns:
            a changed copy; cfg itself if nothing is to change or REFERENCE_WORLD_SIZE is 0.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference != 0:
            raise AssertionError(f"SOLVER.IMS_PER_BATCH must be a multiple of REFERENCE_WORLD_SIZE {reference}")
        ratio = num_workers / reference
        scaled = cfg.clone()
        scaled.defrost()
        solver = scaled.SOLVER
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * ratio)
        solver.BASE_LR = solver.BASE_LR * ratio
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = round(solver[key] / ratio)
        solver.STEPS = tuple(round(step / ratio) for step in solver.STEPS)
        scaled.TEST.EVAL_PERIOD = round(scaled.TEST.EVAL_PERIOD / ratio)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logger.info("config scaled from %d to %d processes:\n%s", reference, num_workers, solver)
        if cfg.is_frozen():
            scaled.freeze()
        return scaled
