"""SGDet metrics in Detectron2 evaluation runs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.register_psg import get_psg_metadata, get_vocabulary
from ..structures import TASKS
from ..utils.program import TERMINAL
from .formats import PredictionWriter, open_writer
from .frequency_baseline import TrainingTriplets
from .inputs import GroundTruth, Prediction
from .matching import Overlap
from .novel_names import NovelNames
from .records import count_missing, ground_truth, images_with_relations
from .report import format_main, format_summary, results_to_dict, save_results
from .sgdet_metrics import KS, SGDetMetrics, SGDetResults
from .worst_images import WorstImages

logger = logging.getLogger(__name__)


class SGDetEvaluator(DatasetEvaluator):
    """Recall of relations under every protocol, and panoptic quality, of a model's predictions.

    Only integer counts are kept; several processes give the same numbers as one, to the last digit.

    Args:
        dataset_name: a registered PSG data set.
        output_dir: for `sgdet_<dataset>.json` and folders named by their content and the data set; None writes nothing.
        task: "sgdet", or "predcls" if the model was given masks and labels, whose panoptic quality is left out.
        ks, predicate_frequency: as of `SGDetMetrics`.
        training: for zero-shot recall and the frequency baseline, which are left out without it.
        export: one of `EXPORT_FORMATS`: also write the predictions; needs output_dir.
        novel: names that the model was not trained on, see `SGDetMetrics`.
        keep_worst: keep so many of the worst images in `worst`, annotation and prediction as scene graphs.
        draw: called with this evaluator on the main process at the end, e.g. `visualization.draw_evaluation`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        task: str = "sgdet",
        ks: Sequence[int] = KS,
        predicate_frequency: np.ndarray | None = None,
        training: TrainingTriplets | None = None,
        novel: NovelNames | None = None,
        export: str = "",
        keep_worst: int = 0,
        draw: Callable[[SGDetEvaluator], object] | None = None,
    ):
        TASKS.check("task", task)
        if export and not output_dir:
            raise ValueError("output_dir: expected a folder, as predictions are to be written, got none")
        if keep_worst < 0:
            raise ValueError(f"keep_worst: expected 0 or more, got {keep_worst}")
        self.dataset_name, self.output_dir, self.task = dataset_name, output_dir, task
        self.ks, self.predicate_frequency, self.training = tuple(ks), predicate_frequency, training
        self.novel = novel
        self.export, self.keep_worst, self.draw = export, keep_worst, draw
        self.results: SGDetResults | None = None
        self._writer: PredictionWriter | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._metrics: SGDetMetrics | None = None
        self.worst: WorstImages | None = None
        self._processed: set[str] = set()
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    @cached_property
    def images(self) -> dict[str, dict]:
        """The records of the data set by image_id."""
        return {str(x["image_id"]): x for x in DatasetCatalog.get(self.dataset_name)}

    def _path(self, name: str) -> Path:
        assert self.output_dir, "the constructor refuses files without a folder"
        return Path(self.output_dir) / name

    def _start(self) -> SGDetMetrics:
        # Not in the constructor: no file is opened before an evaluation begins.
        if self.export and self._writer is None:
            self._writer = open_writer(self.export, self._path(f"predictions_{self.dataset_name}"), comm.get_rank())
        if self.keep_worst:
            self.worst = WorstImages(self.keep_worst, get_vocabulary(self.dataset_name))
        return self._new_metrics()

    def _new_metrics(self) -> SGDetMetrics:
        vocabulary = get_vocabulary(self.dataset_name)
        return SGDetMetrics(
            len(vocabulary.predicate_classes),
            is_thing=vocabulary.is_thing if self.task == "sgdet" else None,
            ks=self.ks,
            predicate_frequency=self.predicate_frequency,
            training=self.training,
            baseline=self.training is not None,
            baseline_scores=self.task == "sgdet",
            novel=self.novel,
        )

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count a batch of the mapper's dicts ("image_id" and, where present, "annotation" are read) and the model's.

        Raises:
            ValueError: for an image that the data set lacks, or that was processed before.
        """
        if self._metrics is None:
            self._metrics = self._start()
        for entry, output in zip(inputs, outputs, strict=True):
            image_id = str(entry["image_id"])
            if "annotation" not in entry and image_id not in self.images:
                raise ValueError(f"image_id: {image_id!r} is not in the data set {self.dataset_name!r}")
            if image_id in self._processed:
                raise ValueError(f"image_id: {image_id!r} was evaluated before; samplers must not repeat images")
            self._processed.add(image_id)
            gt = ground_truth(entry if "annotation" in entry else self.images[image_id])
            prediction = prediction_from_output(output, gt, with_masks=self._writer is not None)
            match = self._metrics.update(gt, prediction)
            if self.worst is not None:
                self.worst.add(match, output)
            if self._writer is not None:
                self._writer.add(image_id, prediction)

    def evaluate(self) -> OrderedDict | None:
        """Merge the processes' counts; images that nobody processed count as ones without prediction, with a warning.

        Returns:
            On the main process {task: {"single/R@50": percent, ...}, "panoptic": {"PQ": percent, ...}}, None on others.

        Raises:
            ValueError: if two processes evaluated the same image, or one that the data set lacks.
        """
        metrics = self._metrics if self._metrics is not None else self._start()
        if self._writer is not None:
            self._writer.close()
        gathered = comm.gather((metrics, self._processed), dst=0)
        kept = comm.gather(self.worst, dst=0)
        if not comm.is_main_process():
            return None
        if self._writer is not None:
            images = images_with_relations(self.images.values())
            logger.info("predictions are in %s", self._writer.finish(comm.get_world_size(), images))
            self._writer = None
        total, processed = self._start_merged(gathered)
        if unknown := processed - self.images.keys():
            raise ValueError(f"image_id: {min(unknown)!r} is not in the data set {self.dataset_name!r}")
        count_missing(total, (x for image_id, x in self.images.items() if image_id not in processed))
        self.results = total.compute()
        metadata = get_psg_metadata(self.dataset_name)
        logger.info("%s", format_main(self.results, self.task, self.dataset_name), extra=TERMINAL)
        logger.info("%s on %s\n%s", self.task, self.dataset_name, format_summary(self.results))
        if self.output_dir:
            path = self._path(f"{self.task}_{self.dataset_name}.json")
            save_results(path, self.results, self.task, self.dataset_name, metadata.predicate_classes)
            logger.info("every number is in %s", path, extra=TERMINAL)
        if self.worst is not None:
            for other in kept[1:]:
                self.worst.merge(other)
        if self.draw is not None:
            self.draw(self)
        return results_to_dict(self.results, self.task)

    def _start_merged(self, gathered: list[tuple[SGDetMetrics, set[str]]]) -> tuple[SGDetMetrics, set[str]]:
        total = self._new_metrics()
        processed: set[str] = set()
        for part, ids in gathered:
            if processed & ids:
                raise ValueError(f"image_id: {min(processed & ids)!r} was evaluated by two processes")
            processed |= ids
            total.merge(part)
        return total, processed


def prediction_from_output(output: dict, gt: GroundTruth, with_masks: bool = False) -> Prediction:
    """The model's output of one image, see `USGPar.forward`, as arrays.

    Masks on a GPU stay there, and only their overlap with the annotation comes over, unless with_masks.
    """
    instances = output["instances"]
    relations = output["relations"]
    masks = instances.pred_masks
    panoptic, segments_info = output["panoptic_seg"]
    ids = np.array([s["id"] for s in segments_info], dtype=np.int64)
    position = np.full(int(ids.max(initial=0)) + 1, -1, dtype=np.int64)
    position[ids] = np.arange(len(ids))
    pairs = output.get("pairs")
    on_device = masks.is_cuda and masks.shape[1:] == gt.label_map.shape
    return Prediction(
        labels=_numpy(instances.pred_classes),
        triplets=_stack(relations, ("subject", "object", "predicate")),
        masks=_numpy(masks) if with_masks or not on_device else None,
        triplet_scores=_numpy(relations["score"]),
        mask_scores=_numpy(instances.scores),
        segment_map=(position + 1).astype(np.int32).take(_numpy(panoptic)),
        segment_labels=np.array([s["category_id"] for s in segments_info], dtype=np.int64),
        mask_segment=position[_numpy(instances.segment_ids)],
        pairs=None if pairs is None else _stack(pairs, ("subject", "object")),
        overlap=tensor_overlap(masks, gt) if on_device else None,
        image_id=gt.image_id,
    )


def tensor_overlap(masks: torch.Tensor, gt: GroundTruth) -> Overlap:
    """`mask_overlap` on the device that holds the masks, (N, H, W) bool; only the counts come to the host."""
    # Counts stay below 2^24, so float32 sums of zeros and ones are exact, in TF32 too.
    gt_map = torch.from_numpy(gt.label_map.astype(np.int32)).to(masks.device).flatten()
    segments = gt_map[None] == torch.arange(1, len(gt.labels) + 1, device=masks.device)[:, None]
    flat = masks.flatten(1)
    intersection = flat.float() @ segments.float().T
    return Overlap(_numpy(intersection).astype(np.int64), _numpy(flat.sum(dim=1)), _numpy(segments.sum(dim=1)))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _stack(columns: dict[str, torch.Tensor], names: Sequence[str]) -> np.ndarray:
    return np.stack([_numpy(columns[name]).astype(np.int64) for name in names], axis=1)
