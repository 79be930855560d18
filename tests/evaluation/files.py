"""Prediction files of a data set of random samples: written, read, and scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from usg_psg.data import load_psg_json
from usg_psg.evaluation import SGDetMetrics, SGDetResults, open_writer, read_predictions
from usg_psg.evaluation.records import images_with_relations, records_of_file, score_predictions

from .dataset import NUM_THINGS, write_dataset
from .samples import NUM_CLASSES, NUM_PREDICATES, random_triplets

IS_THING = [n < NUM_THINGS for n in range(NUM_CLASSES)]


def make_dataset(root: Path) -> tuple[Path, dict, list[dict]]:
    """psg.json of seven images, one without relations; (annotation, prediction) by image id; the dataset dicts."""
    json_file, samples = write_dataset(root, 7)
    return json_file, samples, list(load_psg_json(json_file, root / "coco", "test"))


def rank_apart(samples: dict) -> dict:
    """The same predictions with other triplets in the ranking without graph constraint."""
    rng = np.random.default_rng(0)
    found = {}
    for image_id, (gt, prediction) in samples.items():
        rows = np.concatenate([random_triplets(rng, 6, len(prediction.labels)), prediction.triplets[::-2]])
        found[image_id] = gt, replace(prediction, triplets_ng=rows)
    return found


def core_results(samples: dict) -> SGDetResults:
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    for gt, prediction in samples.values():
        metrics.update(gt, prediction)
    return metrics.compute()


def export(name: str, folder: Path, samples: dict, records: list[dict]) -> Path:
    """Written by two processes, as in a distributed run."""
    writers = [open_writer(name, folder, rank) for rank in range(2)]
    for n, (image_id, (_, prediction)) in enumerate(samples.items()):
        writers[n % 2].add(image_id, prediction)
    for writer in writers:
        writer.close()
    return writers[0].finish(2, images_with_relations(records))


def read_results(path: Path, records: list[dict]) -> SGDetResults:
    scored = records_of_file(path, records)
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    return score_predictions(metrics, scored, read_predictions(path, images_with_relations(records))).compute()
