"""Detectron2's default trainer around this project's step, with PSG's data and evaluator and SPEC's optimizer."""

from __future__ import annotations

import itertools
import json
import logging
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from ..config.checks import check_one_vocabulary, value_problems
from ..data import PSGDatasetMapper, PSGTrainLoader, build_psg_train_loader
from ..data.batch import Batch
from ..data.register_psg import get_vocabulary
from ..evaluation import NovelNames, SGDetEvaluator, TrainingTriplets
from ..evaluation.records import training_triplets
from ..modeling.compile import importing_compiler, missing_for_kernels, run_as_configured
from ..modeling.text_embeddings import configured_vocabulary, embed_vocabulary
from ..training_counts import TrainingCounts
from ..utils.files import write_whole
from ..vocabulary import Vocabulary
from .averaging import share_weights
from .checkpoint import USGCheckpointer
from .checkpoint_file import EMA_KEY, TRAINER_KEY
from .ema import ModelEMA
from .hooks import (
    BestCheckpointHook,
    CheckpointHook,
    LossLogHook,
    ShortHistoryHook,
    SkippedSamplesReport,
    StopHook,
    TimeIsUp,
    truncate_log,
)
from .launch import stop_signals
from .loggers import LOGGERS
from .optimizer import GradientClipper, build_optimizer
from .preflight import read_test_data
from .step_runner import NonFiniteReport, StepRunner
from .terminal import CountedBatches, ProgressHook, log_to_terminal, training_summary
from .training_record import TrainingRecord, warn_about_test_data

logger = logging.getLogger(__name__)

LOSS_LOG = "losses.jsonl"


def adapt_to_machine(cfg: CfgNode) -> None:
    """Run on the CPU, in float32, without a GPU, and compile nothing without a compiler; says so once."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("no GPU is available: MODEL.DEVICE cpu, SOLVER.AMP.ENABLED False")
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.SOLVER.AMP.ENABLED = False
        cfg.MODEL.USG.COMPILE = cfg.TEST.USG.COMPILE = "none"
    for name, node in (("MODEL", cfg.MODEL.USG), ("TEST", cfg.TEST.USG)):
        if "kernels" in node.COMPILE and (missing := missing_for_kernels()):
            wanted, node.COMPILE = node.COMPILE, "graphs" if "graphs" in node.COMPILE else "none"
            logger.warning("no %s: %s.USG.COMPILE is %s in place of %s", missing, name, node.COMPILE, wanted)


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """dtype of mixed precision; None for float32."""
    return getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None


class Trainer(DefaultTrainer):
    """Detectron2's trainer around `StepRunner`: USGPar's losses, exact resumption, and checkpoints that are kept.

    Subclasses may replace the same methods as Detectron2's: `build_model`, `build_optimizer`, `build_train_loader`,
    `build_hooks`, ... ValueError for a setting that this trainer does not have.
    """

    recipe = ""  # file of the config, for the summary at the terminal

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)  # DefaultTrainer's own builds a loop without exact resumption
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        if problems := value_problems(cfg):
            raise ValueError("; ".join(problems))
        model: Any = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model.set_training_counts(TrainingCounts.of_dataset(loader.dataset, get_vocabulary(cfg.DATASETS.TRAIN[0])))
        if comm.get_world_size() > 1:
            share_weights(model)  # before the moving average starts from them
        self.ema = ModelEMA(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self._trainer = StepRunner(
            model,
            loader,
            optimizer,
            clipper=GradientClipper.from_config(cfg),
            accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
            autocast_dtype=autocast_dtype(cfg),
            ema=self.ema,
            on_nonfinite=self._keep_for_inspection,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        trained_on = TrainingRecord.from_config(cfg)
        warn_about_test_data(trained_on, cfg)
        parts: dict[str, Any] = {} if self.ema is None else {EMA_KEY: self.ema}
        parts[TRAINER_KEY] = weakref.proxy(self)
        self.checkpointer = USGCheckpointer(model, cfg.OUTPUT_DIR, trained_on=trained_on, cfg=cfg, **parts)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.stop: StopHook | None = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR if asked to, or load only weights, from MODEL.WEIGHTS."""
        resumed = resume and self.checkpointer.has_checkpoint()
        super().resume_or_load(resume)
        if self.ema is not None and not (resumed and self.ema.restored):
            if resumed:
                logger.warning("the checkpoint has no moving average of the weights, one starts from its last ones")
            self.ema.reset()
        if resume and comm.is_main_process():
            # Also where a run died before its first checkpoint and starts again.
            for name in ("metrics.json", LOSS_LOG):
                truncate_log(Path(self.cfg.OUTPUT_DIR) / name, self.start_iter)

    def train(self) -> Any:
        """Make all remaining steps, with the hooks around them, and return the last evaluation's results."""
        if comm.is_main_process():
            images = read_test_data(self.cfg)
            log_to_terminal(training_summary(self, self.recipe, images))
        try:
            with nullcontext() if self.stop is None else stop_signals(self.stop.on_signal):
                results = super().train()
        except TimeIsUp:
            results = self._last_eval_results
        finally:
            self._trainer.close()
        log_to_terminal(f"finished; the last checkpoint is {Path(self.cfg.OUTPUT_DIR) / 'model_final.pth'}")
        return results

    def build_hooks(self) -> list[HookBase]:
        """Timer, schedule, loss log, checkpoints, evaluation, best checkpoint, writers, orderly stop: in this order."""
        cfg = self.cfg
        # The account of images that were left out first, so that it is given even if another hook fails at the end.
        skipped = SkippedSamplesReport(self._trainer.data_loader.skipped_samples)
        built: list[HookBase] = [skipped, hooks.IterationTimer(), hooks.LRScheduler(), ShortHistoryHook()]
        checkpoints = None
        if comm.is_main_process():
            checkpoints = CheckpointHook(
                self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINTS_TO_KEEP
            )
            # The log before the checkpoint, so that it is never behind; that before the evaluation, so that one that
            # fails can be repeated.
            built += [LossLogHook(Path(cfg.OUTPUT_DIR) / LOSS_LOG), checkpoints]
        self.stop = stop = StopHook(checkpoints)

        def evaluate() -> dict:
            try:
                with nullcontext() if self.ema is None else self.ema.applied(), stop.evaluation():
                    self._last_eval_results = self.test(cfg, self.model)
            except (SystemExit, ChildProcessError):
                stop.save_in_evaluation()
                raise
            return self._last_eval_results

        built.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate))
        if comm.is_main_process():
            if cfg.SOLVER.BEST_METRIC:
                built.append(BestCheckpointHook(self.checkpointer, cfg.SOLVER.BEST_METRIC))
            built += [ProgressHook(), hooks.PeriodicWriter(self.build_writers(), period=20)]
        built.append(stop)
        return built

    def build_writers(self) -> list[EventWriter]:
        """The engine's own writers and those of LOGGERS."""
        return [*super().build_writers(), *(LOGGERS[name](self.cfg) for name in self.cfg.LOGGERS)]

    def _keep_for_inspection(self, report: NonFiniteReport | None) -> None:
        """Save the state from which a step gave a loss that is not finite, and the report."""
        if report is None:
            return
        self.checkpointer.save("nonfinite", tag=False, iteration=self.iter)
        path = Path(self.cfg.OUTPUT_DIR) / "nonfinite.json"
        write_whole(path, lambda file: file.write(json.dumps(asdict(report), indent=1).encode()))
        logger.error("%s; state and report: %s", report, path.with_name("nonfinite.{pth,json}"))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model, whose parts run as the config says."""
        with importing_compiler(cfg.MODEL.USG.COMPILE):
            model = super().build_model(cfg)
        return run_as_configured(model, cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> PSGTrainLoader:
        """Training batches of `PSGDatasetMapper`."""
        return build_psg_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Images of a data set, one at a time, in order."""
        mapper = PSGDatasetMapper(cfg, is_train=False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper, collate_fn=Batch)
        return CountedBatches(loader, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """`SGDetEvaluator` writing to OUTPUT_DIR/inference."""
        test = cfg.TEST.USG
        return SGDetEvaluator(
            dataset_name,
            output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"),
            task=cfg.TEST.TASK,
            training=training_relations(cfg.DATASETS.TRAIN, dataset_name) if test.FREQUENCY_BASELINE else None,
            novel=novel_names(cfg.DATASETS.TRAIN, dataset_name),
            export=test.EXPORT,
            keep_worst=test.PICTURES,
            draw=partial(_draw_evaluation, plots=test.PLOTS) if test.PLOTS or test.PICTURES else None,
        )

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW as in SPEC section 14."""
        return build_optimizer(cfg, model)

    @classmethod
    def test(cls, cfg: CfgNode, model: Any, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Evaluate on DATASETS.TEST, in the one vocabulary of those data sets; the model gets its own back after it."""
        if not cfg.DATASETS.TEST:
            return {}
        own = model.vocabulary
        check_one_vocabulary("DATASETS.TEST", cfg.DATASETS.TEST)
        if get_vocabulary(cfg.DATASETS.TEST[0]) != get_vocabulary((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]):
            model.set_vocabulary(embed_vocabulary(cfg, configured_vocabulary(cfg, cfg.DATASETS.TEST[0])))
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        for name, evaluator in zip(cfg.DATASETS.TEST, evaluators, strict=True):
            if isinstance(evaluator, SGDetEvaluator) and evaluator.predicate_frequency is None:
                evaluator.predicate_frequency = relation_counts(model.training_counts, get_vocabulary(name))
        try:
            return super().test(cfg, model, evaluators)
        finally:
            model.set_vocabulary(own)


def _draw_evaluation(evaluator: SGDetEvaluator, plots: bool) -> None:
    # Only now: matplotlib takes a second and memory in every process, and few of them ever draw.
    import_module("usg_psg.visualization").draw_evaluation(evaluator, plots)


def relation_counts(counts: TrainingCounts | None, vocabulary: Vocabulary) -> np.ndarray | None:
    """(P,) int64 relations of the training data of each predicate; None if the data lacked one, or is not known."""
    names = vocabulary.predicate_classes
    if counts is None or not set(names) <= set(counts.names):
        return None
    return np.array(counts.aligned(counts.relations, names, 0), dtype=np.int64)


def novel_names(train: Sequence[str], test: str) -> NovelNames | None:
    """Names of a test set that the training data sets lack; None if they lack none, or are not there to tell."""
    try:
        return NovelNames.of(get_vocabulary(train[0]), get_vocabulary(test)) if train else None
    except FileNotFoundError as error:
        logger.info("names that training lacked are not told apart: %s", error)
        return None


def training_relations(train: Sequence[str], test: str) -> TrainingTriplets | None:
    """Relations of the training data sets, in the vocabulary of a test set; None, with a warning, if there are none."""
    missing = f"DATASETS.TRAIN {tuple(train)} has no relations in the vocabulary of {test}"
    try:
        if train and all(get_vocabulary(name) == get_vocabulary(test) for name in train):
            records = itertools.chain.from_iterable(DatasetCatalog.get(name) for name in train)
            found = training_triplets(records, get_vocabulary(test))
            if found is not None:
                return found
    except (FileNotFoundError, ValueError) as error:
        missing = str(error)
    logger.warning("zR and the frequency baseline are left out: %s", missing)
    return None
