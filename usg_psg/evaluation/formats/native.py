"""This project's format: `predictions.json`, similar to COCO's panoptic one, with `panoptic/*.png`.

It holds everything that the metrics read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...masks import check_rles, encode_masks
from ...utils.files import write_whole
from ..inputs import Prediction
from .reading import column, naming, objects, positions, read_map, records, rows, shown
from .writer import ImageSizes, PredictionWriter, file_stem

FORMAT = "usg_psg_predictions"
VERSION = 1


class JSONWriter(PredictionWriter):
    """Writes `predictions.json`."""

    def _record(self, image_id: str, prediction: Prediction, masks: np.ndarray) -> dict:
        name = f"panoptic/{file_stem(image_id)}.png"
        segment_map, labels, mask_segment = prediction.ensure_map(masks.shape[1:])
        self._save_map(name, segment_map)
        scores = [None] * len(masks) if prediction.mask_scores is None else [float(x) for x in prediction.mask_scores]
        columns = (prediction.labels.tolist(), scores, mask_segment.tolist(), encode_masks(masks))
        record: dict[str, Any] = {
            "image_id": image_id,
            "height": segment_map.shape[0],
            "width": segment_map.shape[1],
            "pan_seg_file_name": name,
            "segments_info": [{"id": n + 1, "category_id": int(c)} for n, c in enumerate(labels)],
            "instances": [
                {"category_id": label, "score": score, "segment_id": segment + 1, "segmentation": rle}
                for label, score, segment, rle in zip(*columns, strict=True)
            ],
            "relations": prediction.triplets.tolist(),
        }
        if prediction.triplets_ng is not None:
            record["relations_ng"] = prediction.triplets_ng.tolist()
        if prediction.pairs is not None:
            record["pairs"] = prediction.pairs.tolist()
        return record

    def _join(self, records: Iterator[tuple[str, dict]], images: ImageSizes) -> Path:
        def write(file: BinaryIO) -> None:
            file.write((json.dumps({"format": FORMAT, "version": VERSION})[:-1] + ', "images": [').encode())
            for n, (_, record) in enumerate(records):
                file.write(((",\n" if n else "\n") + json.dumps(record)).encode())
            file.write(b"\n]}\n")

        path = self.folder / "predictions.json"
        write_whole(path, write)
        return path


def read_native(path: Path, content: dict) -> Iterator[tuple[str, Prediction]]:
    """Predictions of a parsed `predictions.json`; errors as in `read_predictions`."""
    for where, record in records(path, content, "images", "image_id", VERSION):
        with naming(where):
            prediction = _prediction(path.parent, record)
        yield prediction.image_id, prediction


def _prediction(folder: Path, record: dict) -> Prediction:
    instances = objects(record, "instances")
    return Prediction(
        labels=column(instances, "category_id", "instances"),
        triplets=rows(record, "relations", 3),
        masks=check_rles([x["segmentation"] for x in instances], "segmentation of instances"),
        triplets_ng=rows(record, "relations_ng", 3) if "relations_ng" in record else None,
        mask_scores=_scores(instances),
        pairs=rows(record, "pairs", 2) if "pairs" in record else None,
        image_id=str(record["image_id"]),
        **(_map(folder, record, instances) if "pan_seg_file_name" in record else {}),
    )


def _scores(instances: list[dict]) -> np.ndarray | None:
    """(n,) float64; None where a score is missing."""
    scores = [instance.get("score") for instance in instances]
    if None in scores:
        return None
    if not all(isinstance(score, int | float) for score in scores):
        raise ValueError(f"score of instances: expected numbers, got {shown(scores)}")
    return np.array(scores)


def _map(folder: Path, record: dict, instances: list[dict]) -> dict[str, Any]:
    segment_map, ids, labels = read_map(folder, record, all_shown=False)
    size = (record["height"], record["width"])
    if segment_map.shape != size:
        raise ValueError(f"pan_seg_file_name: expected a PNG of {size[0]} x {size[1]}, got {segment_map.shape}")
    segment_of_mask = column(instances, "segment_id", "instances")
    mask_segment = positions(segment_of_mask, ids)
    unknown = segment_of_mask[(mask_segment == 0) & (segment_of_mask != 0)]
    if len(unknown):
        raise ValueError(f"segment_id: expected 0 or an id of segments_info, got {unknown[0]}")
    return {"segment_map": segment_map, "segment_labels": labels, "mask_segment": mask_segment - 1}
