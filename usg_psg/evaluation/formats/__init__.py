"""Prediction files of any model, one module per format; docs/evaluation.md describes them.

| name | written | read |
| --- | --- | --- |
| "json" | `predictions.json` of this project | yes |
| "sgbench" | `sgbench.zip` for the PyPI package of that name | yes |
| "openpsg" | `submission/` of the PSG challenge | yes |
| "coco_panoptic" | `panoptic.json` for panopticapi | yes |
| | `results.pkl` of OpenPSG's, HiLo's and Pair-Net's `tools/test.py` | only read |
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..inputs import Prediction
from .coco_panoptic import COCOPanopticWriter, read_coco_panoptic
from .native import FORMAT, JSONWriter, read_native
from .reading import naming, parse_json
from .results_pickle import read_results_pickle
from .sgbench import SGBenchWriter, read_sgbench
from .stored_results import PICKLE_START
from .submission import OpenPSGWriter, read_submission
from .writer import PredictionWriter

EXPORT_FORMATS = {
    "json": JSONWriter,
    "sgbench": SGBenchWriter,
    "openpsg": OpenPSGWriter,
    "coco_panoptic": COCOPanopticWriter,
}


def open_writer(name: str, folder: Path | str, rank: int = 0) -> PredictionWriter:
    """A writer of one of `EXPORT_FORMATS`; ValueError for another name."""
    if name not in EXPORT_FORMATS:
        raise ValueError(f"name: expected one of {', '.join(EXPORT_FORMATS)}, got {name!r}")
    return EXPORT_FORMATS[name](Path(folder), rank)


def read_predictions(path: Path | str, image_ids: Iterable[str]) -> Iterator[tuple[str, Prediction]]:
    """Image ids and predictions of a file of one of the formats above, one at a time; the content tells the format.

    Args:
        path: the file, or a submission's folder.
        image_ids: every annotated image of the split that has relations, in the order of psg.json; a submission and a
            results.pkl tell their images by the position among them.

    Raises:
        FileNotFoundError: if the file, or an image it names, is missing.
        ValueError: for an unknown format, or values that are missing or wrong; names file, image and field.
    """
    path = _file(path)
    with naming(str(path)):
        is_pickle = _starts_with(path, PICKLE_START)
        is_archive = not is_pickle and zipfile.is_zipfile(path)
        content = None
        if not (is_pickle or is_archive):
            content = parse_json(path.read_bytes(), "neither an archive, nor a pickle, nor a complete JSON file")
    if is_pickle:
        yield from read_results_pickle(path, list(image_ids))
    elif is_archive:
        yield from read_sgbench(path)
    elif isinstance(content, list):
        yield from read_submission(path, content, list(image_ids))
    elif isinstance(content, dict) and content.get("format") == FORMAT:
        yield from read_native(path, content)
    elif isinstance(content, dict) and "annotations" in content:
        yield from read_coco_panoptic(path, content)
    elif isinstance(content, dict) and "images" in content:
        raise ValueError(f"{path}: expected masks; SGBench's JSON without archive has boxes only")
    else:
        raise ValueError(
            f"{path}: expected this project's JSON (format {FORMAT!r}), COCO's panoptic results, SGBench's archive, "
            "OpenPSG's relation.json or results.pkl"
        )


def tells_images_by_position(path: Path | str) -> bool:
    """Whether a file has entries for images with relations only, and no ids: a submission or a results.pkl."""
    path = _file(path)
    return _starts_with(path, PICKLE_START) or _starts_with(path, b"[")


def _starts_with(path: Path, start: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith(start)


def _file(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        path = path / "relation.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no predictions file {path}")
    return path
