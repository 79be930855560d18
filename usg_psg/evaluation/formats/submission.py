"""The PSG challenge's submission: `submission/relation.json` and `submission/panseg/<position>.png`.

Images are told apart by their position among the annotated images that have relations. Categories and predicates count
from 1; a pixel's id is R + 256 G + 65536 B. Masks do not overlap, and a pair has one predicate.

Source of the layout: OpenPSG tools/grade.py at 34b2a89, `save_results` and `load_results`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...data.panoptic import encode_panoptic
from ..inputs import Prediction
from . import reading
from .writer import ImageSizes, PredictionWriter, file_stem, graph_on_map

# OpenPSG's panoptic evaluation takes this id for "no segment": the number of PSG's classes.
VOID_ID = 133
# OpenPSG writes this row where it found no relation; its grader cannot read an empty list.
NO_RELATION = [0, 0, 0]
NO_PREDICTION_KEY = "no_prediction"


class OpenPSGWriter(PredictionWriter):
    """Writes the folder `submission`."""

    def _record(self, image_id: str, prediction: Prediction, masks: np.ndarray) -> dict:
        segment_map, labels, constrained, _ = graph_on_map(prediction)
        name = f"parts/{file_stem(image_id)}.png"
        self._save_map(name, segment_map + VOID_ID)
        return {
            "png": name,
            "relations": (constrained + np.array([0, 0, 1])).tolist() or [NO_RELATION],
            "segments_info": [{"category_id": int(c) + 1, "id": VOID_ID + 1 + n} for n, c in enumerate(labels)],
        }

    def _join(self, records: Iterator[tuple[str, dict]], images: ImageSizes) -> Path:
        submission = self.folder / "submission"
        (submission / "panseg").mkdir(parents=True, exist_ok=True)
        found = dict(records)
        entries = []
        for position, (image_id, size) in enumerate(images.items()):
            record = found.get(image_id)
            target = submission / "panseg" / f"{position}.png"
            if record is not None and record["segments_info"]:
                os.replace(self.folder / record.pop("png"), target)
                entry = record
            else:
                entry = _save_nothing(target, size)
            entries.append({**entry, "pan_seg_file_name": target.name})
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        (submission / "relation.json").write_text(json.dumps(entries), encoding="utf-8")
        return submission


def _save_nothing(target: Path, size: tuple[int, int]) -> dict:
    """The entry of an image without prediction.

    Positions are the only names there are, so the image takes one, and OpenPSG's loader needs a segment and a relation
    in each. The segment has the class after the last, which matches nothing and is left out of panoptic quality.
    """
    Image.fromarray(encode_panoptic(np.full(size, VOID_ID))).save(target)
    segment = {"category_id": VOID_ID + 1, "id": VOID_ID}
    return {"relations": [NO_RELATION], "segments_info": [segment], NO_PREDICTION_KEY: True}


def read_submission(path: Path, entries: list, image_ids: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
    """Predictions of a parsed `relation.json`; errors as in `read_predictions`.

    `save_results` leaves out the images that its model has no result for, but counts them in the PNGs' names: where
    entries are missing, these names tell the images.
    """
    if len(entries) > len(image_ids):
        raise ValueError(
            f"{path}: expected at most one entry for each of the {len(image_ids)} annotated images with relations, got "
            f"{len(entries)}"
        )
    complete = len(entries) == len(image_ids)
    for n, record in enumerate(entries):
        with reading.naming(f"{path}, image {image_ids[n]!r}" if complete else f"{path}, entry {n}"):
            if not isinstance(record, dict):
                raise ValueError(f"expected {reading.KINDS[dict]}, got {reading.shown(record)}")
            image_id = image_ids[n if complete else _position(record, len(entries), len(image_ids))]
        with reading.naming(f"{path}, image {image_id!r}"):
            if record.get(NO_PREDICTION_KEY) is True or not reading.objects(record, "segments_info"):
                continue
            prediction = _prediction(path.parent, record, image_id)
        yield image_id, prediction


def _position(record: dict, num_entries: int, num_images: int) -> int:
    name = reading.field(record, "pan_seg_file_name", str)
    position = name.removesuffix(".png")
    if not (position.isascii() and position.isdigit()) or int(position) >= num_images:
        raise ValueError(
            f"pan_seg_file_name: there are {num_entries} entries for {num_images} annotated images with relations, so "
            f"expected 0.png to {num_images - 1}.png, the position of the image, got {name!r}"
        )
    return int(position)


def _prediction(folder: Path, record: dict, image_id: str) -> Prediction:
    segment_map, _, labels = reading.read_map(folder / "panseg", record, least=0, all_listed=False)
    if labels.min() < 1:
        raise ValueError(f"category_id of segments_info: expected categories from 1, got {labels.min()}")
    triplets = reading.rows(record, "relations", 3)
    if triplets.tolist() == [NO_RELATION]:
        triplets = triplets[:0]
    if triplets[:, 2].min(initial=1) < 1:
        raise ValueError(
            f"relations: expected predicates from 1, or the one row {NO_RELATION} for no relation, got "
            f"{triplets[triplets[:, 2] < 1][0].tolist()}"
        )
    return reading.prediction_of_map(segment_map, labels - 1, triplets - np.array([0, 0, 1]), image_id)
