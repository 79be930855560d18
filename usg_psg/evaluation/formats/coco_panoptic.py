"""COCO's panoptic results: `panoptic.json` and `panoptic/*.png`, as panopticapi reads them.

`category_id` and `image_id` are those of psg.json, the latter as a number where it is one. Each annotation has a key
more, which COCO's tools ignore: its relations, as psg.json has them, between positions in segments_info. They keep the
scene graph on the panoptic map.

Source of the format: "Results format" of COCO's panoptic segmentation task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...utils.files import write_json
from ..inputs import Prediction
from . import reading
from .writer import ImageSizes, PredictionWriter, file_stem, graph_on_map

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


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
        write_json(path, {"annotations": [record for _, record in records]}, indent=None)
        return path


def read_coco_panoptic(path: Path, content: dict) -> Iterator[tuple[str, Prediction]]:
    """Predictions of a parsed file of results, without relations where it has none; errors as in `read_predictions`.

    The PNGs are in the folder of the file's name, as panopticapi looks for them.
    """
    for where, record in reading.records(path, content, "annotations", "image_id"):
        with reading.naming(where):
            image_id = str(record["image_id"])
            segment_map, _, labels = reading.read_map(path.with_suffix(""), record, "file_name")
            triplets = reading.rows(record, "relations", 3) if "relations" in record else np.zeros((0, 3), np.int64)
            triplets_ng = reading.rows(record, "relations_ng", 3) if "relations_ng" in record else None
            prediction = reading.prediction_of_map(segment_map, labels, triplets, image_id, triplets_ng)
        yield image_id, prediction
