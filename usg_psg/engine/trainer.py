"""Detectron2's default trainer with PSG's mapper and evaluator and SPEC's optimizer."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from ..data import PSGDatasetMapper, get_psg_metadata
from ..evaluation import SGDetEvaluator
from ..modeling.usg_par import vocabulary_embeddings
from .checkpoint import USGCheckpointer
from .optimizer import build_optimizer

logger = logging.getLogger(__name__)


def adapt_to_machine(cfg: CfgNode) -> None:
    """Run on the CPU, in float32, where there is no GPU; says so once."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("no GPU is available: MODEL.DEVICE cpu, SOLVER.AMP.ENABLED False")
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.SOLVER.AMP.ENABLED = False


class Trainer(DefaultTrainer):
    """Trains and evaluates USGPar; every hook, writer and command line option is Detectron2's."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        if isinstance(self._trainer, AMPTrainer):
            if cfg.SOLVER.AMP.DTYPE not in ("bfloat16", "float16"):
                raise ValueError(f"SOLVER.AMP.DTYPE must be bfloat16 or float16, got {cfg.SOLVER.AMP.DTYPE!r}")
            self._trainer.precision = getattr(torch, cfg.SOLVER.AMP.DTYPE)
            if cfg.SOLVER.AMP.DTYPE == "bfloat16":
                # bfloat16 has float32's range: nothing to scale.
                self._trainer.grad_scaler = torch.amp.GradScaler("cuda", enabled=False)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Training batches of `PSGDatasetMapper`."""
        return build_detection_train_loader(cfg, mapper=PSGDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Images of a data set, one at a time, in order."""
        return build_detection_test_loader(cfg, dataset_name, mapper=PSGDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """`SGDetEvaluator` writing to OUTPUT_DIR/inference."""
        return SGDetEvaluator(
            dataset_name,
            output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"),
            task=cfg.TEST.TASK,
            export=cfg.TEST.USG.EXPORT,
            plots=cfg.TEST.USG.PLOTS,
            pictures=cfg.TEST.USG.PICTURES,
        )

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW as in SPEC section 14."""
        return build_optimizer(cfg, model)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Evaluate on DATASETS.TEST in the vocabulary of those data sets; the model gets its own back afterwards.

        Raises:
            ValueError: if the data sets of DATASETS.TEST do not share one vocabulary.
        """
        core = getattr(model, "module", model)
        own = (core.object_text, core.predicate_text, core.is_thing)
        if len({vocabulary_names(name) for name in cfg.DATASETS.TEST}) > 1:
            raise ValueError(f"DATASETS.TEST {cfg.DATASETS.TEST} have different vocabularies: evaluate them one by one")
        if vocabulary_names(cfg.DATASETS.TEST[0]) != vocabulary_names((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]):
            core.set_vocabulary(**vocabulary_embeddings(cfg, cfg.DATASETS.TEST[0]))
        try:
            return super().test(cfg, model, evaluators)
        finally:
            core.set_vocabulary(*own)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks, on this project's checkpointer."""
        self.checkpointer = USGCheckpointer(self.checkpointer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        return super().build_hooks()


def vocabulary_names(dataset_name: str) -> tuple:
    """Object and predicate names of a registered data set, to compare."""
    metadata = get_psg_metadata(dataset_name)
    return tuple(metadata.thing_classes), tuple(metadata.stuff_classes), tuple(metadata.predicate_classes)
