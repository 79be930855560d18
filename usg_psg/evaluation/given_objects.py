"""Objects that a model is given, instead of finding them: masks and labels from a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..data.panoptic import read_segment_index_map
from ..data.psg_json import invalid_positions, read_psg_json
from ..masks import Objects, encode_segments
from ..scene_graph import FORMAT, SceneGraph
from .formats import read_predictions, tells_images_by_position
from .formats.reading import parse_json

# Lists of images in a JSON file: of PSG, of this project's predictions, of COCO's; the keys of an image's id and PNG.
LISTS = {
    "data": ("", "pan_seg_file_name"),
    "images": ("image_id", "pan_seg_file_name"),
    "annotations": ("image_id", "file_name"),
}


def open_objects(path: Path, image_root: Path | None = None) -> Callable[[str], Objects]:
    """A function from the stem of an image's file name to masks and labels of its objects; the content tells the form.

    Args:
        path: a scene graph (JSON) of one image; a folder with one, STEM.json, for each image; a PSG file with panoptic
            PNGs, whose images are known by their files' stems; or a file of predictions, known by image ids, of which
            the segments are taken, or else the masks.
        image_root: folder of a PSG file's PNGs; None for ../coco beside the file's folder.

    Raises:
        FileNotFoundError, ValueError: if the file is missing or of another form, as does the function if it has no
            such image.
    """
    if path.is_dir():
        return lambda stem: _of_graph(path / f"{stem}.json")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}")
    text = path.read_bytes()
    if FORMAT.encode() in text:
        return lambda stem: _of_graph(path)
    if b'"thing_classes"' in text:
        return _of_psg(path, image_root or path.resolve().parent.parent / "coco")
    if tells_images_by_position(path):
        raise ValueError(f"{path} tells its images by their position; expected a file with image ids")
    predictions = {_without_zeros(name): found for name, found in read_predictions(path, ())}

    def find(stem: str) -> Objects:
        if _without_zeros(stem) not in predictions:
            raise ValueError(f"{path} has no image {stem!r}")
        found = predictions[_without_zeros(stem)]
        if found.segment_map is None or found.segment_labels is None:
            assert found.masks is not None  # what is read from a file has them
            return found.masks, found.labels.tolist()
        return _of_map(found.segment_map, found.segment_labels.tolist())  # not every query's mask, but the segments

    return find


def read_upload(files: Sequence[Path], stem: str, folder: Path) -> Objects:
    """Masks and labels of one image from files that a visitor brought, without a look at any other file.

    Args:
        files: one JSON file that `open_objects` takes, and the panoptic PNG that it names; only the name of the PNG
            counts, not the folders before it.
        stem: of the image's file name.
        folder: an empty one, for copies of the files.

    Raises:
        FileNotFoundError, ValueError: as `open_objects`, or if it is not one JSON file.
    """
    pngs = [file for file in files if file.suffix.lower() == ".png"]
    others = [file for file in files if file not in pngs]
    if len(others) != 1 or others[0].suffix.lower() != ".json":
        names = ", ".join(file.name for file in files)
        raise ValueError(f"expected one JSON file, beside it the panoptic PNG that it names, got {names}")
    path = folder / others[0].name
    content = parse_json(others[0].read_bytes(), f"{path.name} is not a complete JSON file")
    for key, (id_key, png_key) in LISTS.items():
        if isinstance(content, dict) and isinstance(content.get(key), list):
            content[key] = [_local(each, png_key) for each in content[key] if _may_be(each, id_key, stem)]
    path.write_text(json.dumps(content), encoding="utf-8")
    beside = path.with_suffix("")  # where COCO's results have them
    beside.mkdir()
    for png in pngs:
        shutil.copy(png, folder / png.name)
        shutil.copy(png, beside / png.name)
    return open_objects(path, folder)(stem)


def _local(record: Any, png_key: str) -> Any:
    """The record with the bare name of its PNG."""
    name = record.get(png_key) if isinstance(record, dict) else None
    return {**record, png_key: PurePosixPath(name).name} if isinstance(name, str) else record


def _may_be(record: Any, id_key: str, stem: str) -> bool:
    """Whether a record is of this image, or does not say."""
    if not isinstance(record, dict) or id_key not in record:
        return True
    return _without_zeros(str(record[id_key])) == _without_zeros(stem)


def _without_zeros(name: str) -> str:
    """PSG's ids lack the zeros before COCO's file names."""
    return (name.lstrip("0") or "0") if name.isdecimal() else name


def _of_map(label_map: np.ndarray, labels: Sequence[Any]) -> Objects:
    """Objects of a map that has n + 1 inside segment n; those without a pixel are left out."""
    numbers = np.unique(label_map[label_map > 0]).tolist()
    return encode_segments(label_map, numbers), [labels[number - 1] for number in numbers]


def _of_graph(path: Path) -> Objects:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        graph = SceneGraph.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return [obj.mask for obj in graph.objects], [obj.name for obj in graph.objects]


def _of_psg(path: Path, root: Path) -> Callable[[str], Objects]:
    content = read_psg_json(path)
    positions = {Path(str(x.get("file_name"))).stem: n for n, x in enumerate(content.records) if isinstance(x, dict)}

    def find(stem: str) -> Objects:
        if stem not in positions:
            raise ValueError(f"{path} has no image file {stem!r}")
        if invalid_positions(content, [positions[stem]]):
            raise ValueError(f"{path}, {stem!r}: the record has errors, see the command check")
        record = content.dataset_dict(positions[stem], root)
        label_map, _ = read_segment_index_map(record)
        names = content.vocabulary.object_classes
        return _of_map(label_map, [names[segment["category_id"]] for segment in record["segments_info"]])

    return find
