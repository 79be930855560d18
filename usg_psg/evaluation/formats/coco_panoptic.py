"""COCO's panoptic results: `panoptic.json` and `panoptic/*.png`, as panopticapi reads them.

`category_id` and `image_id` are those of psg.json, the latter as a number where it is one. Each annotation has a key
more, which COCO's tools ignore: its relations, as psg.json has them, between positions in segments_info. They keep the
scene graph on the panoptic map.

Source of the format: "Results format" of COCO's panoptic segmentation task.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...data.panoptic import decode_panoptic_png
from ..inputs import Prediction
from . import reading
from .writer import ImageSizes, PredictionWriter, file_stem, graph_on_map

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_NO_ROWS = np.zeros((0, 3), dtype=np.int64)


class COCOPanopticWriter(PredictionWriter):
    """Writes `panoptic.json`."""

    def _record(self, image_id: str, prediction: Prediction, masks: np.ndarray) -> dict:
        segment_map, labels, constrained, unconstrained = graph_on_map(prediction)
        name = f"{file_stem(image_id)}.png"
        self._save_map(f"panoptic/{name}", segment_map)
        record = {
            # COCO's ids are numbers, PSG's are texts of numbers.
            "image_id": int(image_id) if _NUMBER.fullmatch(image_id) else image_id,
            "file_name": name,
            "segments_info": [{"id": n + 1, "category_id": int(c)} for n, c in enumerate(labels)],
            "relations": constrained.tolist(),
        }
        if not np.array_equal(constrained, unconstrained):
            record["relations_ng"] = unconstrained.tolist()
        return record

    def _join(self, records: Iterator[tuple[str, dict]], images: ImageSizes) -> Path:
        path = self.folder / "panoptic.json"
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps({"annotations": [record for _, record in records]}), encoding="utf-8")
        os.replace(temporary, path)
        return path


def read_coco_panoptic(path: Path, content: dict) -> Iterator[tuple[str, Prediction]]:
    """Predictions of a parsed file of results, without relations where it has none; errors as in `read_predictions`.

    The PNGs are in the folder of the file's name, as panopticapi looks for them.
    """
    with reading.Reading(str(path)):
        annotations = reading.field(content, "annotations", list)
    for n, record in enumerate(annotations):
        with reading.Reading(f"{path}, annotations[{n}]"):
            if not isinstance(record, dict):
                raise ValueError(f"expected {reading.KINDS[dict]}, got {reading.shown(record)}")
            image_id = str(record["image_id"])
        with reading.Reading(f"{path}, image {image_id!r}"):
            prediction = _prediction(path.with_suffix(""), record, image_id)
        yield image_id, prediction


def _prediction(folder: Path, record: dict, image_id: str) -> Prediction:
    segments = reading.objects(record, "segments_info")
    ids = reading.segment_ids(segments)
    png = decode_panoptic_png(str(reading.inside(folder, reading.field(record, "file_name", str))))
    segment_map = reading.positions(png, ids)
    reading.require_listed(png, segment_map)
    reading.require_pixels(segment_map, ids)
    return reading.prediction_of_map(
        segment_map,
        reading.column(segments, "category_id", "segments_info"),
        reading.rows(record, "relations", 3) if "relations" in record else _NO_ROWS,
        image_id,
        reading.rows(record, "relations_ng", 3) if "relations_ng" in record else None,
    )
