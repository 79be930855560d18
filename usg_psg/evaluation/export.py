"""Predictions to files, image by image: this project's JSON, SGBench's archive, OpenPSG's submission.

Formats (details in docs/evaluation.md):

- "json": `predictions.json`, COCO-panoptic-like, with `panoptic/*.png`. Holds everything that the metrics read.
- "sgbench": `sgbench.zip` for the PyPI package of that name, with a few keys of this project that it ignores.
- "openpsg": `submission/` of the PSG challenge. Holds the panoptic map and the ranking with graph constraint only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, TiffImagePlugin

from ..data.panoptic import encode_panoptic
from .matching import encode_masks
from .scene import Prediction

JSON_FORMAT = "usg_psg_predictions"
JSON_VERSION = 1
SGBENCH_VERSION = 1
OPENPSG_INSTANCE_OFFSET = 1000
_IMAGE_DESCRIPTION = 270  # TIFF tag


class PredictionWriter:
    """Writes pictures at once and one JSON line per image; `finish` joins the lines of all processes.

    Args:
        folder: where everything goes; made if missing.
        rank: number of this process.
    """

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
        record = self._record(image_id, prediction, masks, *prediction.ensure_map(masks.shape[1:]))
        self._lines.write(json.dumps({"image_id": image_id, "record": record}) + "\n")

    def close(self) -> None:
        """No image follows on this process."""
        self._lines.close()

    def finish(self, num_processes: int, image_ids: Sequence[str]) -> Path:
        """Join what the processes wrote; call on one of them, after every one has closed.

        Args:
            num_processes: how many wrote.
            image_ids: every image of the split that has relations, in the order of psg.json.

        Returns:
            What to give to `read_predictions`.
        """
        path = self._join(self._records(num_processes), list(image_ids))
        for rank in range(num_processes):
            self._part(rank).unlink()
        return path

    def _records(self, num_processes: int) -> Iterator[tuple[str, dict]]:
        for rank in range(num_processes):
            with open(self._part(rank), encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line)
                    yield entry["image_id"], entry["record"]

    def _record(
        self, image_id: str, prediction: Prediction, masks: np.ndarray, segment_map: np.ndarray, labels: np.ndarray
    ) -> dict:
        """What the file says of an image: of masks (N, H, W), and of the map's segments with their labels."""
        raise NotImplementedError

    def _join(self, records: Iterator[tuple[str, dict]], image_ids: list[str]) -> Path:
        raise NotImplementedError

    def _save_map(self, name: str, label_map: np.ndarray) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(encode_panoptic(label_map)).save(path)


class JSONWriter(PredictionWriter):
    """This project's format."""

    def _record(
        self, image_id: str, prediction: Prediction, masks: np.ndarray, segment_map: np.ndarray, labels: np.ndarray
    ) -> dict:
        name = f"panoptic/{file_stem(image_id)}.png"
        self._save_map(name, segment_map)
        scores = [None] * len(masks) if prediction.mask_scores is None else [float(x) for x in prediction.mask_scores]
        columns = (prediction.labels.tolist(), scores, prediction.segments_of_masks().tolist(), encode_masks(masks))
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

    def _join(self, records: Iterator[tuple[str, dict]], image_ids: list[str]) -> Path:
        path = self.folder / "predictions.json"
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps({"format": JSON_FORMAT, "version": JSON_VERSION})[:-1] + ', "images": [')
            for n, (_, record) in enumerate(records):
                file.write((",\n" if n else "\n") + json.dumps(record))
            file.write("\n]}\n")
        os.replace(temporary, path)
        return path


class SGBenchWriter(PredictionWriter):
    """SGBench's archive: one TIFF layer per mask, `triplets.json` with categories, boxes and ranked triplets."""

    def _record(
        self, image_id: str, prediction: Prediction, masks: np.ndarray, segment_map: np.ndarray, labels: np.ndarray
    ) -> dict:
        stem = file_stem(image_id)
        mask_labels = prediction.labels
        if len(masks) == 0:
            # A TIFF needs a layer: an empty mask matches nothing.
            masks, mask_labels = np.zeros((1, *segment_map.shape), dtype=bool), np.zeros(1, dtype=np.int64)
        _save_layers(self.folder / f"{stem}.tiff", masks)
        self._save_map(f"{stem}.png", segment_map)
        annotation = [{"category": int(c), "bbox": box} for c, box in zip(mask_labels, _boxes(masks), strict=True)]
        return {
            "id": image_id,
            "seg_filename": f"{stem}.tiff",
            "annotation": annotation,
            "triplets": prediction.constrained.tolist(),
            "ng_triplets": prediction.unconstrained.tolist(),
            "usg_psg": {
                "num_masks": len(prediction.labels),
                "segment_map": f"{stem}.png",
                "segment_categories": labels.tolist(),
                "mask_segment": prediction.segments_of_masks().tolist(),
                "relations": prediction.triplets.tolist(),
                "pairs": None if prediction.pairs is None else prediction.pairs.tolist(),
            },
        }

    def _join(self, records: Iterator[tuple[str, dict]], image_ids: list[str]) -> Path:
        path = self.folder / "sgbench.zip"
        temporary = path.with_name(path.name + ".tmp")
        images = []
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:  # TIFF and PNG are compressed
            for _, record in records:
                images.append(record)
                for name in (record["seg_filename"], record["usg_psg"]["segment_map"]):
                    archive.write(self.folder / name, name)
                    (self.folder / name).unlink()
            content = json.dumps({"version": SGBENCH_VERSION, "images": images})
            archive.writestr("triplets.json", content, compress_type=zipfile.ZIP_DEFLATED)
        os.replace(temporary, path)
        return path


class OpenPSGWriter(PredictionWriter):
    """The PSG challenge's layout: `submission/relation.json` and `submission/panseg/<position>.png`.

    Images are told apart by their position among the annotated images that have relations, categories and predicates
    count from 1, and the colours of the PNG are permuted.

    Source of the layout: OpenPSG tools/grade.py at 34b2a89.
    """

    def _record(
        self, image_id: str, prediction: Prediction, masks: np.ndarray, segment_map: np.ndarray, labels: np.ndarray
    ) -> dict:
        ids = openpsg_segment_ids(labels)
        # A value that no segment has, for pixels without segment: ids stay below C + 1000 S.
        table = np.concatenate([[2**24 - 1], ids])
        name = f"parts/{file_stem(image_id)}.png"
        (self.folder / "parts").mkdir(exist_ok=True)
        colours = openpsg_colours()[encode_panoptic(table[segment_map])]
        Image.fromarray(colours).save(self.folder / name)
        rows = prediction.segment_triplets()[0]
        return {
            "png": name,
            "relations": (rows + np.array([0, 0, 1])).tolist(),
            "segments_info": [{"category_id": int(c) + 1, "id": int(i)} for c, i in zip(labels, ids, strict=True)],
            "size": list(segment_map.shape),
        }

    def _join(self, records: Iterator[tuple[str, dict]], image_ids: list[str]) -> Path:
        submission = self.folder / "submission"
        (submission / "panseg").mkdir(parents=True, exist_ok=True)
        found = dict(records)
        entries = []
        for position, image_id in enumerate(image_ids):
            target = submission / "panseg" / f"{position}.png"
            record = found.get(image_id)
            if record is None:
                # Positions are the only names there are, so an image without prediction takes one too.
                Image.new("RGB", (1, 1)).save(target)
                record = {"relations": [], "segments_info": []}
            else:
                os.replace(self.folder / record["png"], target)
            entries.append(
                {
                    "relations": record["relations"],
                    "segments_info": record["segments_info"],
                    "pan_seg_file_name": f"{position}.png",
                }
            )
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        (submission / "relation.json").write_text(json.dumps(entries), encoding="utf-8")
        return submission


EXPORT_FORMATS = {"json": JSONWriter, "sgbench": SGBenchWriter, "openpsg": OpenPSGWriter}


def open_writer(name: str, folder: Path | str, rank: int = 0) -> PredictionWriter:
    """A writer of one of `EXPORT_FORMATS`.

    Raises:
        ValueError: for an unknown format.
    """
    if name not in EXPORT_FORMATS:
        raise ValueError(f"name: expected one of {', '.join(EXPORT_FORMATS)}, got {name!r}")
    return EXPORT_FORMATS[name](Path(folder), rank)


def file_stem(image_id: str) -> str:
    """The image id as a file name, whatever characters it has."""
    return quote(image_id, safe="")


def openpsg_segment_ids(labels: np.ndarray) -> np.ndarray:
    """Ids of the challenge's PNG: category plus 1000 times the number of earlier segments of that category."""
    earlier = [int((labels[:n] == c).sum()) for n, c in enumerate(labels)]
    return labels + OPENPSG_INSTANCE_OFFSET * np.array(earlier, dtype=np.int64)


def openpsg_colours() -> np.ndarray:
    """(256,) uint8: the byte that the challenge's PNG stores for each byte of an id, a fixed permutation."""
    return np.array(random.Random(321).sample(range(256), 256), dtype=np.uint8)


def _save_layers(path: Path, masks: np.ndarray) -> None:
    layers = [Image.fromarray(mask.astype(np.uint8)) for mask in masks]
    info = TiffImagePlugin.ImageFileDirectory_v2()
    # Without it, tifffile, which SGBench reads with, drops the first axis of a single layer.
    info[_IMAGE_DESCRIPTION] = json.dumps({"shape": list(masks.shape)})
    layers[0].save(
        path, format="TIFF", save_all=True, append_images=layers[1:], compression="tiff_adobe_deflate", tiffinfo=info
    )


def _boxes(masks: np.ndarray) -> list[list[int]]:
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
        else:
            boxes.append([0, 0, 0, 0])
    return boxes
