"""Objects that the demo is given, instead of finding them: masks and labels from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..data.panoptic import read_segment_index_map
from ..data.psg_json import invalid_positions, read_psg_json
from ..evaluation import read_predictions
from ..evaluation.formats import tells_images_by_position
from ..predictor import Objects
from ..scene_graph import FORMAT, SceneGraph


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
        raise FileNotFoundError(f"--masks: there is no file or folder {path}")
    text = path.read_bytes()
    if FORMAT.encode() in text:
        return lambda stem: _of_graph(path)
    if b'"thing_classes"' in text:
        return _of_psg(path, image_root or path.resolve().parent.parent / "coco")
    if tells_images_by_position(path):
        raise ValueError(f"--masks: {path} tells its images by their position; expected a file with image ids")
    predictions = dict(read_predictions(path, ()))
    by_number = {int(name): name for name in predictions if name.isdecimal()}

    def find(stem: str) -> Objects:
        name = by_number.get(int(stem), stem) if stem.isdecimal() else stem  # PSG's ids lack the zeros of file names
        if name not in predictions:
            raise ValueError(f"--masks: {path} has no image {stem!r}")
        found = predictions[name]
        if found.segment_map is None or found.segment_labels is None:
            assert found.masks is not None  # what is read from a file has them
            return found.masks, found.labels.tolist()
        numbers = np.unique(found.segment_map[found.segment_map > 0])  # not every query's mask, but the segments
        return found.segment_map[None] == numbers[:, None, None], found.segment_labels[numbers - 1].tolist()

    return find


def _of_graph(path: Path) -> Objects:
    if not path.is_file():
        raise ValueError(f"--masks: there is no file {path}")
    try:
        graph = SceneGraph.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--masks: {path}: {error}") from None
    return [obj.mask for obj in graph.objects], [obj.name for obj in graph.objects]


def _of_psg(path: Path, root: Path) -> Callable[[str], Objects]:
    content = read_psg_json(path)
    positions = {Path(str(x.get("file_name"))).stem: n for n, x in enumerate(content.records) if isinstance(x, dict)}

    def find(stem: str) -> Objects:
        if stem not in positions:
            raise ValueError(f"--masks: {path} has no image file {stem!r}")
        if invalid_positions(content, [positions[stem]]):
            raise ValueError(f"--masks: {path}, {stem!r}: the record has errors, see the command check")
        record = content.dataset_dict(positions[stem], root)
        label_map, _ = read_segment_index_map(record)
        numbers = np.unique(label_map[label_map > 0])
        classes = [record["segments_info"][n - 1]["category_id"] for n in numbers.tolist()]
        return label_map[None] == numbers[:, None, None], [content.vocabulary.object_classes[c] for c in classes]

    return find
