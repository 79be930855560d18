"""Dataset dicts of a split against predictions: what an evaluator and the scoring of files share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..data.annotation import annotation_arrays, read_annotation
from ..data.psg_index import PSGIndex
from ..data.psg_json import PSGFile, check_vocabulary, select_split
from ..training_counts import TrainingCounts
from ..vocabulary import Vocabulary
from .formats import tells_images_by_position
from .frequency_baseline import TrainingTriplets
from .inputs import GroundTruth, Prediction
from .sgdet_metrics import SGDetMetrics

logger = logging.getLogger(__name__)


def ground_truth(record: dict) -> GroundTruth:
    """The annotation in the mapper's dict, or of a dataset dict, whose panoptic PNG is then read; errors as there."""
    labels, relations, label_map, is_crowd = record.get("annotation") or read_annotation(record)
    return GroundTruth(labels, relations, label_map, is_crowd, str(record["image_id"]))


def images_with_relations(records: Iterable[dict]) -> dict[str, tuple[int, int]]:
    """(height, width) of the annotated images that have relations, by id, in order."""
    return {str(x["image_id"]): (x["height"], x["width"]) for x in records if len(x["relations"])}


def records_of_file(path: Path | str, records: Sequence[dict]) -> Sequence[dict]:
    """The dataset dicts that a predictions file is scored on: all, or those with relations where it has no others."""
    return [record for record in records if len(record["relations"])] if tells_images_by_position(path) else records


def score_predictions(
    metrics: SGDetMetrics,
    records: Sequence[dict],
    predictions: Iterable[tuple[str, Prediction]],
    file: str = "predictions",
) -> SGDetMetrics:
    """Count every image of a split into `metrics`, which is returned.

    Args:
        records: dataset dicts of the split, see `load_psg_json`.
        predictions: image_id and prediction, in any order; images without one count as missing.
        file: of the predictions, named in errors.

    Raises:
        ValueError: for an image that the split lacks, a second prediction, or one that does not fit its annotation.
    """
    remaining = {str(record["image_id"]): record for record in records}
    known = set(remaining)
    for image_id, prediction in predictions:
        if image_id not in known:
            raise ValueError(f"{file}, image {image_id!r}: the annotated split has no such image")
        if image_id not in remaining:
            raise ValueError(f"{file}, image {image_id!r}: there is a second prediction")
        gt = ground_truth(remaining.pop(image_id))
        try:
            metrics.update(gt, prediction)
        except ValueError as error:
            raise ValueError(f"{file}, {error}") from error
    count_missing(metrics, remaining.values())
    return metrics


def count_missing(metrics: SGDetMetrics, records: Iterable[dict]) -> None:
    """Count images that nobody predicted anything for, with a warning that says how many."""
    records = list(records)
    if records:
        logger.warning("%d annotated images have no prediction: they count as images without relations", len(records))
    for record in records:
        labels, triplets, is_crowd = annotation_arrays(record)
        metrics.update_missing(triplets, labels, is_crowd)


def training_triplets(records: Iterable[dict], vocabulary: Vocabulary) -> TrainingTriplets | None:
    """Relations of dataset dicts, e.g. of the training split; None if there are none."""
    counts = TrainingCounts.of_dataset(records, vocabulary).triplets
    return None if counts is None or not len(counts.triplets) else TrainingTriplets.of(counts)


def training_triplets_of_file(
    content: PSGFile | PSGIndex, vocabulary: Vocabulary, scored: str
) -> TrainingTriplets | None:
    """Relations of a PSG file's training images, without those of "val" where that split is scored.

    Returns:
        None, with a warning that says which metrics are left out, if the file has no relations outside its test split.

    Raises:
        ValueError: if the file's names are not the vocabulary's, or a training image has a problem.
    """
    check_vocabulary(content, vocabulary)
    chosen = select_split(content.image_ids, content.test_image_ids, "train" if scored == "val" else "trainval")
    for problem in (problem for i in chosen for problem in content.validate_record(i)):
        if problem.is_error:
            raise ValueError(problem.describe(content.path))
    records = (content.dataset_dict(i, Path()) for i in chosen)
    found = training_triplets(records, vocabulary)
    if found is None:
        logger.warning("%s has no training relations: zR and the frequency baseline are left out", content.path)
    return found
