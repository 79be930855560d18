"""A PSG data set of random samples on disk, and the model's output for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image

from usg_psg.data import encode_panoptic, register_psg
from usg_psg.evaluation import GroundTruth, Prediction

from .samples import NUM_CLASSES, NUM_PREDICATES, random_ground_truth, random_prediction

NUM_THINGS = 3


def write_dataset(root: Path, num_images: int, seed: int = 0) -> tuple[Path, dict[str, tuple]]:
    """psg/psg.json and coco/panoptic_train2017/*.png; every image is in the test split.

    The second image has no relations. Ids are not in order and one has a slash.

    Returns:
        Path of psg.json; (GroundTruth, Prediction) by image id.
    """
    rng = np.random.default_rng(seed)
    samples, data = {}, []
    for n in range(num_images):
        image_id = "folder/7" if n == 3 else str(1000 - n)
        gt = random_ground_truth(rng, num_triplets=0 if n == 1 else None)
        gt.is_crowd = rng.random(len(gt.labels)) < 0.2
        gt.image_id = image_id
        samples[image_id] = (gt, with_map(random_prediction(rng, gt), gt, rng))
        data.append(_record(root, n, gt))
    content = {
        "data": data,
        "thing_classes": [f"thing{n}" for n in range(NUM_THINGS)],
        "stuff_classes": [f"stuff{n}" for n in range(NUM_CLASSES - NUM_THINGS)],
        "predicate_classes": [f"predicate{n}" for n in range(NUM_PREDICATES)],
        "test_image_ids": list(samples),
    }
    path = root / "psg" / "psg.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path, samples


def _record(root: Path, n: int, gt: GroundTruth) -> dict:
    ids = np.array([0, *(300 * (np.arange(len(gt.labels)) + 1) + n)])
    name = f"panoptic_train2017/{n}.png"
    path = root / "coco" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(encode_panoptic(ids[gt.label_map])).save(path)
    segments, annotations = [], []
    for position, label in enumerate(gt.labels.tolist()):
        rows, columns = np.nonzero(gt.label_map == position + 1)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        annotations.append({"bbox": box, "bbox_mode": 0, "category_id": label})
        segments.append(
            {
                "id": int(ids[position + 1]),
                "category_id": label,
                "isthing": int(label < NUM_THINGS),
                "iscrowd": int(gt.is_crowd[position]),
                "area": len(rows),
            }
        )
    return {
        "image_id": gt.image_id,
        "file_name": f"train2017/{n}.jpg",
        "pan_seg_file_name": name,
        "height": gt.label_map.shape[0],
        "width": gt.label_map.shape[1],
        "segments_info": segments,
        "annotations": annotations,
        "relations": gt.triplets.tolist(),
    }


def with_map(prediction: Prediction, gt: GroundTruth, rng: np.random.Generator) -> Prediction:
    """The prediction with a panoptic map and pair proposals, as the model gives them."""
    prediction.ensure_map(gt.label_map.shape)
    prediction.mask_scores = rng.random(len(prediction.labels))
    prediction.pairs = prediction.constrained[:, :2]
    return prediction


def model_output(prediction: Prediction) -> dict:
    """The same as tensors in the form of `USGPar.forward`."""
    instances = Instances(prediction.masks.shape[1:])
    instances.pred_masks = torch.from_numpy(prediction.masks)
    instances.pred_classes = torch.from_numpy(prediction.labels)
    instances.scores = torch.from_numpy(prediction.mask_scores).float()
    instances.segment_ids = torch.from_numpy(prediction.mask_segment + 1)
    segments = [
        {"id": n + 1, "category_id": int(c), "isthing": bool(c < NUM_THINGS), "score": 1.0}
        for n, c in enumerate(prediction.segment_labels)
    ]
    rows, pairs = torch.from_numpy(prediction.triplets), torch.from_numpy(prediction.pairs)
    score = torch.linspace(1, 0.1, len(rows)) if len(rows) else torch.zeros(0)
    return {
        "instances": instances,
        "panoptic_seg": (torch.from_numpy(prediction.segment_map.astype(np.int32)), segments),
        "relations": {"subject": rows[:, 0], "object": rows[:, 1], "predicate": rows[:, 2], "score": score},
        "pairs": {"subject": pairs[:, 0], "object": pairs[:, 1], "score": torch.ones(len(pairs))},
    }


def register(name: str, json_file: Path) -> None:
    register_psg(name, json_file, json_file.parent.parent / "coco", "test")
