"""SGBench's archive: `triplets.json` with categories, boxes and ranked triplets, and one TIFF layer per mask.

Files of this project carry a few keys more, which that package ignores, and then hold everything that the metrics read.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile  # which SGBench itself reads and writes with
from pycocotools import mask as coco_mask

from ...data.panoptic import decode_panoptic_png
from ...masks import encode_masks
from ...utils.files import write_whole
from ..inputs import Prediction
from .reading import column, field, integers, naming, objects, parse_json, records, rows
from .writer import ImageSizes, PredictionWriter, file_stem

VERSION = 1


class SGBenchWriter(PredictionWriter):
    """Writes `sgbench.zip`."""

    def _record(self, image_id: str, prediction: Prediction, masks: np.ndarray) -> dict:
        stem = file_stem(image_id)
        segment_map, labels, mask_segment = prediction.ensure_map(masks.shape[1:])
        mask_labels = prediction.labels
        if len(masks) == 0:
            # A TIFF needs a layer: an empty mask matches nothing.
            masks, mask_labels = np.zeros((1, *segment_map.shape), dtype=bool), np.zeros(1, dtype=np.int64)
        layers = masks.astype(np.uint8)
        tifffile.imwrite(self.folder / f"{stem}.tiff", layers, photometric="minisblack", compression="deflate")
        self._save_map(f"{stem}.png", segment_map)
        boxes = coco_mask.toBbox(encode_masks(masks)).astype(int)
        boxes[:, 2:] += boxes[:, :2]
        annotation = [{"category": int(c), "bbox": x.tolist()} for c, x in zip(mask_labels, boxes, strict=True)]
        own = {
            "num_masks": len(prediction.labels),
            "segment_map": f"{stem}.png",
            "segment_categories": labels.tolist(),
            "mask_segment": mask_segment.tolist(),
            "relations": prediction.triplets.tolist(),
            "pairs": None if prediction.pairs is None else prediction.pairs.tolist(),
        }
        if prediction.triplets_ng is not None:
            own["relations_ng"] = prediction.triplets_ng.tolist()
        return {
            "id": image_id,
            "seg_filename": f"{stem}.tiff",
            "annotation": annotation,
            "triplets": prediction.constrained.tolist(),
            "ng_triplets": prediction.unconstrained.tolist(),
            "usg_psg": own,
        }

    def _join(self, records: Iterator[tuple[str, dict]], images: ImageSizes) -> Path:
        def write(file: BinaryIO) -> None:
            entries = []
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # TIFF and PNG are compressed
                for _, record in records:
                    entries.append(record)
                    for name in (record["seg_filename"], record["usg_psg"]["segment_map"]):
                        archive.write(self.folder / name, name)
                        (self.folder / name).unlink()
                content = json.dumps({"version": VERSION, "images": entries})
                archive.writestr("triplets.json", content, compress_type=zipfile.ZIP_DEFLATED)

        path = self.folder / "sgbench.zip"
        write_whole(path, write)
        return path


def read_sgbench(path: Path) -> Iterator[tuple[str, Prediction]]:
    """Predictions of an archive; errors as in `read_predictions`."""
    with naming(str(path)):
        archive = zipfile.ZipFile(path)
    with archive:
        with naming(str(path)):
            if "triplets.json" not in archive.namelist():
                raise ValueError("not SGBench's archive, triplets.json is missing")
            with naming("triplets.json"):
                content = parse_json(_member(archive, "triplets.json").read(), "not a complete JSON file")
        for where, record in records(path, content, "images", "id", VERSION):
            with naming(where):
                prediction = _prediction(archive, record)
            yield prediction.image_id, prediction


def _member(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    try:
        return io.BytesIO(archive.read(name))
    except Exception as error:
        # Damaged archives are met with errors of many types.
        text = "there is no such member" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise ValueError(f"{name}: {text}") from error


def _prediction(archive: zipfile.ZipFile, record: dict) -> Prediction:
    masks = _layers(archive, field(record, "seg_filename", str))
    if "annotation" in record:
        labels = column(objects(record, "annotation"), "category", "annotation")
    else:  # as SGBench's README writes it
        labels = integers(field(record, "categories", list), "categories")
    image_id = str(record["id"])
    if record.get("usg_psg") is None:
        return Prediction(
            labels=labels,
            triplets=rows(record, "triplets", 3),
            masks=masks,
            triplets_ng=rows(record, "ng_triplets", 3) if record.get("ng_triplets") else None,
            image_id=image_id,
        )
    own = field(record, "usg_psg", dict)
    count, map_name = field(own, "num_masks", int), field(own, "segment_map", str)
    if not 0 <= count <= len(masks):
        raise ValueError(f"num_masks: expected 0 to {len(masks)}, got {count}")
    with naming(map_name):
        segment_map = decode_panoptic_png(_member(archive, map_name))
    return Prediction(
        labels=labels[:count],
        triplets=rows(own, "relations", 3),
        triplets_ng=rows(own, "relations_ng", 3) if "relations_ng" in own else None,
        masks=masks[:count],
        segment_map=segment_map,
        segment_labels=integers(field(own, "segment_categories", list), "segment_categories"),
        mask_segment=integers(field(own, "mask_segment", list), "mask_segment"),
        pairs=None if own["pairs"] is None else rows(own, "pairs", 2),
        image_id=image_id,
    )


def _layers(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """(N, H, W) bool of a TIFF."""
    file = _member(archive, name)
    try:
        layers = tifffile.imread(file)
    except Exception as error:
        # Damaged files are met with errors of many types.
        raise ValueError(f"{name}: not a readable TIFF ({error})") from error
    if layers.ndim != 3:
        raise ValueError(f"{name}: expected layers (N, H, W), got shape {layers.shape}")
    return layers != 0
