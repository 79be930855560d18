"""The base of trainers that are built from a config."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..config import CfgNode
from ..evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from ..modeling import build_model
from ..solver import build_lr_scheduler
from ..utils import comm
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from .train_loop import TrainerBase

__all__ = ["DefaultTrainer"]

logger = logging.getLogger(__name__)


def _of_inner_trainer(name: str) -> property:
    return property(lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value))


class DefaultTrainer(TrainerBase):
    """Detectron2's without its constructor.

    A subclass's calls `TrainerBase.__init__` and sets cfg, start_iter, max_iter, checkpointer, scheduler and
    `_trainer`, which has model, data_loader, optimizer, `run_step`, `state_dict` and `load_state_dict`. It has class
    methods build_test_loader and build_evaluator, of a config and the name of a data set.
    """

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def __init__(self, cfg: CfgNode):
        raise NotImplementedError(
            "the bundled DefaultTrainer is a base class: its subclass builds model, optimizer and training loop"
        )

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR, or load only weights, from MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint names the last finished iteration

    def build_writers(self) -> list[EventWriter]:
        """Writers to the log, to metrics.json and to TensorBoard."""
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        metrics = JSONWriter(os.path.join(folder, "metrics.json"))
        return [CommonMetricPrinter(self.max_iter), metrics, TensorboardXWriter(folder)]

    def train(self) -> dict | None:
        """Train to SOLVER.MAX_ITER; returns the last evaluation where TEST.EXPECTED_RESULTS are given, else None."""
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
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None
    ) -> dict:
        """Evaluate a model on each data set of DATASETS.TEST; results by data set, or of the only one."""
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
