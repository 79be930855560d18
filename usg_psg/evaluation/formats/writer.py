"""Writing predictions image by image, from one process or several: the part that all formats share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from ...data.panoptic import encode_panoptic
from ..inputs import Prediction

# (height, width) of each image of a split that has relations, by image_id, in the order of psg.json.
ImageSizes = Mapping[str, tuple[int, int]]


class PredictionWriter:
    """Writes images at once into `folder` and one JSON line per image; `finish` joins the lines of all processes."""

    def __init__(self, folder: Path, rank: int = 0):
        self.folder = folder
        self.rank = rank
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = open(self._part(rank), "w", encoding="utf-8")

    def _part(self, rank: int) -> Path:
        return self.folder / f".part{rank}.jsonl"

    def add(self, image_id: str, prediction: Prediction) -> None:
        """Write one image; its prediction must have masks."""
        masks = prediction.decoded_masks()
        prediction.ensure_map(masks.shape[1:])
        self._lines.write(
            json.dumps({"image_id": image_id, "record": self._record(image_id, prediction, masks)}) + "\n"
        )

    def close(self) -> None:
        """No image follows on this process."""
        self._lines.close()

    def finish(self, num_processes: int, images: ImageSizes) -> Path:
        """Join the files of all processes, on one of them, after every one has closed; returns the path to read.

        Args:
            num_processes: how many wrote.
            images: every image of the split that has relations.
        """
        path = self._join(self._records(num_processes), images)
        for rank in range(num_processes):
            self._part(rank).unlink()
        return path

    def _records(self, num_processes: int) -> Iterator[tuple[str, dict]]:
        for rank in range(num_processes):
            with open(self._part(rank), encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line)
                    yield entry["image_id"], entry["record"]

    def _record(self, image_id: str, prediction: Prediction, masks: np.ndarray) -> dict:
        """The file's entry for an image: a prediction that has a map, and its masks (N, H, W)."""
        raise NotImplementedError

    def _join(self, records: Iterator[tuple[str, dict]], images: ImageSizes) -> Path:
        raise NotImplementedError

    def _save_map(self, name: str, ids: np.ndarray) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(encode_panoptic(ids)).save(path)


def file_stem(image_id: str) -> str:
    """The image id as a file name, whatever characters it has."""
    return quote(image_id, safe="")


def graph_on_map(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Map (H, W), classes (S,) and both rankings (R, 3) of a prediction with a map; segments without pixels go."""
    assert prediction.segment_map is not None and prediction.segment_labels is not None, "ensure_map comes first"
    count = len(prediction.segment_labels)
    kept = np.flatnonzero(np.bincount(prediction.segment_map.ravel(), minlength=count + 1)[1:])
    position = np.full(count, -1)
    position[kept] = np.arange(len(kept))
    rankings = []
    for rows in prediction.segment_triplets():
        ends = position[rows[:, :2]]
        rankings.append(np.concatenate([ends, rows[:, 2:]], axis=1)[(ends >= 0).all(axis=1)])
    segment_map = np.append(0, position + 1)[prediction.segment_map]
    return segment_map, prediction.segment_labels[kept], rankings[0], rankings[1]
