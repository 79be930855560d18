"""Every way in which a PSG data set is damaged in these tests, and what the user is told.

docs/robustness.md quotes some of the messages. {json}, {image} and {png} stand for paths, … at the end for the
image decoder's own words; the damaged image is '66', the second of three.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from usg_psg.data import encode_panoptic

from ..psg_files import IDS, content, quadrants, record, write_images, write_json

RECORD = "{json}, image_id '66', "
PHOTO, PNG = "{image} (image_id '66'): ", "{png} (image_id '66'): "


@dataclass(frozen=True)
class Case:
    """One kind of damage.

    Attributes:
        message: what the loader says first, and check_dataset says too. Of what it mends the loader says it
            with the policy "strict" only, of warnings never.
        edit: changes the record of image 66, before the file is written.
        rewrite: changes the text of the file.
        spoil: changes its files: called with the paths of the image and the panoptic PNG.
        kept: None if the image is removed by "fix", else its numbers of segments and relations there.
    """

    message: str
    edit: Callable[[dict], object] = lambda entry: None
    spoil: Callable[[Path, Path], object] = lambda image, png: None
    rewrite: Callable[[str], str] = lambda text: text
    kept: tuple[int, int] | None = None


def build(case: Case, folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the damaged data set; its JSON file, and the paths for the message."""
    entries = [record("5"), record("66"), record("7")]
    for entry in entries:
        write_images(folder, entry)
    image, png = (folder / entries[1][key] for key in ("file_name", "pan_seg_file_name"))
    case.edit(entries[1])
    case.spoil(image, png)
    path = write_json(folder, content(entries, []))
    path.write_text(case.rewrite(path.read_text()))
    return path, {"json": str(path), "image": str(image), "png": str(png)}


def cut(path: Path, part: float = 0.6) -> None:
    """Leave only the first part of a file."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])


def noise_png(path: Path, height: int = 48, width: int = 64) -> None:
    """A picture that compresses badly, so that its data can be cut."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="png")


def noise_jpeg(path: Path, height: int = 48, width: int = 64) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="jpeg")


def cut_jpeg(path: Path) -> None:
    noise_jpeg(path)
    cut(path)


def cut_png(path: Path) -> None:
    noise_png(path)
    cut(path)


def write_ids(png: Path, ids: list[int]) -> None:
    """The panoptic PNG with other ids of the four segments."""
    Image.fromarray(encode_panoptic(np.array([0, *ids])[quadrants(48, 64)])).save(png)


def _segment(i: int, **values) -> Callable[[dict], object]:
    return lambda entry: entry["segments_info"][i].update(values)


def _annotation(i: int, **values) -> Callable[[dict], object]:
    return lambda entry: entry["annotations"][i].update(values)


def _relation(row: object) -> Callable[[dict], object]:
    return lambda entry: entry["relations"].append(row)


def _vanished(entry: dict) -> None:
    entry["segments_info"].append({"id": 9, "category_id": 2, "iscrowd": 0, "isthing": 0, "area": 5})
    entry["annotations"].append({"bbox": [0, 0, 2, 2], "bbox_mode": 0, "category_id": 2})
    entry["relations"].append([0, 4, 1])


def _fifo(image: Path, png: Path) -> None:
    png.unlink()
    os.mkfifo(png)


IMAGES = {
    "missing_image": Case(PHOTO + "there is no such file", spoil=lambda i, p: i.unlink()),
    "missing_png": Case(PNG + "there is no such file", spoil=lambda i, p: p.unlink()),
    "empty_image": Case(
        PHOTO + "not a readable image (cannot identify image file '{image}')",
        spoil=lambda i, p: i.write_bytes(b""),
    ),
    "corrupt_png": Case(
        PNG + "not a readable image (cannot identify image file '{png}')",
        spoil=lambda i, p: p.write_bytes(b"no image at all"),
    ),
    "truncated_jpeg": Case(
        PHOTO + "not a readable image (image file is truncated…",
        spoil=lambda i, p: cut_jpeg(i),
    ),
    "truncated_png": Case(
        PNG + "not a readable image (image file is truncated…",
        spoil=lambda i, p: cut_png(p),
    ),
    "folder_as_image": Case(
        PHOTO + "not a readable image (not a regular file)",
        spoil=lambda i, p: (i.unlink(), i.mkdir()),
    ),
    "pipe_as_png": Case(PNG + "not a readable image (not a regular file)", spoil=_fifo),
    "image_size": Case(
        PHOTO + "the annotations say height x width 48 x 64, the image has 48 x 65",
        spoil=lambda i, p: noise_png(i, 48, 65),
    ),
    "png_size": Case(
        PNG + "the annotations say height x width 48 x 64, the panoptic PNG has 47 x 64",
        spoil=lambda i, p: noise_png(p, 47, 64),
    ),
    "png_mode": Case(
        PNG + "a panoptic PNG has three 8-bit colour channels (mode RGB), this one has mode L",
        spoil=lambda i, p: Image.new("L", (64, 48)).save(p),
    ),
}

RECORDS = {
    "missing_key": Case(RECORD + "height: the key is missing", lambda e: e.pop("height")),
    "repeated_key": Case(
        RECORD + "height: the key occurs more than once",
        rewrite=lambda text: text.replace('"image_id": "66"', '"height": 3, "image_id": "66"'),
    ),
    "surrogate": Case(
        RECORD + "file_name: expected text without lone surrogates, got 'a\\ud800.png'",
        lambda e: e.update(file_name="a\ud800.png"),
    ),
    "wrong_type": Case(RECORD + "width: expected int, got str", lambda e: e.update(width="64")),
    "segment_no_object": Case(
        RECORD + "segments_info[1]: expected an object, got int",
        lambda e: e["segments_info"].__setitem__(1, 5),
    ),
    "zero_size": Case(
        RECORD + "height: expected a positive number of pixels, got 0",
        lambda e: e.update(height=0),
    ),
    "absolute_path": Case(
        RECORD + "file_name: expected a path inside the data root, got '/etc/passwd'",
        lambda e: e.update(file_name="/etc/passwd"),
    ),
    "parent_path": Case(
        RECORD + "pan_seg_file_name: expected a path inside the data root, got 'a/../../b.png'",
        lambda e: e.update(pan_seg_file_name="a/../../b.png"),
    ),
    "negative_area": Case(
        RECORD + "segments_info[3].area: expected a number of pixels, got -1",
        _segment(3, area=-1),
    ),
    "infinite_area": Case(
        RECORD + "segments_info[3].area: expected a number of pixels, got inf",
        _segment(3, area=float("inf")),
    ),
    "segment_id": Case(
        RECORD + "segments_info[2].id: expected 1..16777215, got 16777216",
        _segment(2, id=256**3),
    ),
    "duplicate_segment_id": Case(
        RECORD + "segments_info[2].id: id 7 is already used by segments_info[1]",
        _segment(2, id=7),
    ),
    "category": Case(
        RECORD + "segments_info[0].category_id: expected 0..2, got 3",
        _segment(0, category_id=3),
    ),
    "isthing": Case(
        RECORD + "segments_info[3].isthing: 1 disagrees with category 'wall'",
        _segment(3, isthing=1),
    ),
    "isthing_text": Case(
        RECORD + "segments_info[3].isthing: expected 0, 1, false or true, got 'no'",
        _segment(3, isthing="no"),
    ),
    "iscrowd": Case(
        RECORD + "segments_info[3].iscrowd: expected 0 or 1, got 2",
        _segment(3, iscrowd=2),
    ),
    "annotations": Case(
        RECORD + "annotations: expected one per segment (4), got 3",
        lambda e: e["annotations"].pop(),
    ),
    "annotation_category": Case(
        RECORD + "annotations[0].category_id: 1 differs from its segment's 0",
        _annotation(0, category_id=1),
    ),
    "box": Case(
        RECORD + "annotations[0].bbox: expected four finite numbers, got [1, 2, 3, nan]",
        _annotation(0, bbox=[1, 2, 3, float("nan")]),
    ),
    "box_mode": Case(
        RECORD + "annotations[0].bbox_mode: expected 0 (x0, y0, x1, y1) or 1 (x, y, w, h), got 4",
        _annotation(0, bbox_mode=4),
    ),
    "relation_length": Case(
        RECORD + "relations[4]: expected [subject, object, predicate] as integers, got [0, 1]",
        _relation([0, 1]),
        kept=(4, 4),
    ),
    "relation_range": Case(
        RECORD + "relations[4]: subject 4 is no position in segments_info (0..3)",
        _relation([4, 0, 0]),
        kept=(4, 4),
    ),
    "relation_negative": Case(
        RECORD + "relations[4]: object -1 is no position in segments_info (0..3)",
        _relation([0, -1, 0]),
        kept=(4, 4),
    ),
    "predicate": Case(
        RECORD + "relations[4]: predicate 4 is out of range, expected 0..3",
        _relation([0, 1, 4]),
        kept=(4, 4),
    ),
    "duplicate_image_id": Case(
        "{json}, image_id '5', image_id: the image occurs more than once, as data[0] and data[1]",
        lambda e: e.update(image_id="5"),
    ),
}

MENDED = {
    "self_relation": Case(
        RECORD + "relations[4]: segment 2 is related to itself",
        _relation([2, 2, 0]),
        kept=(4, 4),
    ),
    "duplicate_relation": Case(
        RECORD + "relations[4]: the same as relations[0]",
        _relation([0, 3, 0]),
        kept=(4, 4),
    ),
    "unlisted_ids": Case(
        PNG + "segments_info lacks the ids 8, 9 of the panoptic PNG",
        lambda e: (
            [e["segments_info"].pop(), e["segments_info"].pop(), e.update(annotations=e["annotations"][:2])]
            + [e.update(relations=[[1, 0, 1]])]
        ),
        lambda i, p: write_ids(p, [*IDS[:2], 9, 8]),
        kept=(2, 1),
    ),
    "ids_without_pixels": Case(
        PNG + "the panoptic PNG lacks the ids 9 of segments_info",
        _vanished,
        kept=(4, 4),
    ),
}

WARNINGS = {
    "no_relations": Case(
        RECORD + "relations: the image has no relation",
        lambda e: e["relations"].clear(),
        kept=(4, 0),
    ),
    "no_segments": Case(
        RECORD + "segments_info: the image has no segment",
        lambda e: e.update(segments_info=[], annotations=[], relations=[]),
        lambda i, p: write_ids(p, [0, 0, 0, 0]),
        kept=(0, 0),
    ),
    "area_differs": Case(
        PNG + "the file says 3 pixels, the panoptic PNG has 660",
        _segment(0, area=3),
        kept=(4, 4),
    ),
    "zero_area": Case(
        PNG + "the file says 0 pixels, the panoptic PNG has 660",
        _segment(0, area=0),
        kept=(4, 4),
    ),
    "box_outside": Case(
        RECORD + "annotations[0].bbox: expected a box inside height x width 48 x 64, got [40, 2, 65, 9]",
        _annotation(0, bbox=[40, 2, 65, 9]),
        kept=(4, 4),
    ),
    "gray_image": Case(
        PHOTO + "colour mode L, read as RGB",
        spoil=lambda i, p: Image.new("L", (64, 48)).save(i, format="jpeg"),
        kept=(4, 4),
    ),
    "cmyk_image": Case(
        PHOTO + "colour mode CMYK, read as RGB",
        spoil=lambda i, p: Image.new("CMYK", (64, 48)).save(i, format="jpeg"),
        kept=(4, 4),
    ),
    "rotated_image": Case(PHOTO + "EXIF orientation 6", spoil=lambda i, p: _turned(i), kept=(4, 4)),
    "link": Case(
        PHOTO + "a symbolic link leads out of the data root",
        spoil=lambda i, p: _linked(i),
        kept=(4, 4),
    ),
}


def _turned(image: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(image, format="jpeg", exif=exif)


def _linked(image: Path) -> None:
    """Move the image beside the data set's folder and link to it."""
    outside = image.parents[1].with_name(image.parents[1].name + "_outside.png")
    image.rename(outside)
    image.symlink_to(outside)


def _whole() -> dict:
    return content([record("5")], [])


# Damage to the file as a whole: its content, and the message.
FILES = {
    "truncated_json": (
        json.dumps(_whole())[:500],
        "{json}: not a complete JSON file (Expecting ',' delimiter: line 1 column 501 (char 500))",
    ),
    "no_psg": (
        json.dumps({"images": []}),
        "{json}: not a PSG file, the key 'data' is missing",
    ),
    "no_names": (
        json.dumps({**_whole(), "stuff_classes": [1]}),
        "{json}, stuff_classes: expected a list of names",
    ),
    "repeated_key": (
        json.dumps(_whole())[:-1] + ', "stuff_classes": []}',
        "{json}: the key 'stuff_classes' occurs more than once",
    ),
    "empty_name": (
        json.dumps({**_whole(), "thing_classes": ["person", " "]}),
        "{json}, thing_classes[1]: expected a name, got ' '",
    ),
    "surrogate_name": (
        json.dumps({**_whole(), "predicate_classes": ["on", "\ud800"]}),
        "{json}, predicate_classes[1]: expected a name, got '\\ud800'",
    ),
    "repeated_name": (
        json.dumps({**_whole(), "stuff_classes": ["wall", "Person"]}),
        "{json}, stuff_classes[1]: the name 'Person' is taken by thing_classes[0]",
    ),
    "test_image_type": (
        json.dumps(content([record("5"), record("6")], [6.0])),
        "{json}, test_image_ids[0]: expected an image_id, that is text or a whole number, got 6.0",
    ),
    "test_image_form": (  # it would be trained on
        json.dumps(content([record("5"), record("6")], ["006"])),
        "{json}, test_image_ids: '006' and image_id '6' differ in form only; write both the same way",
    ),
    "unknown_test_image": (  # an error of the split test, a warning with the others
        json.dumps(content([record("5"), record("6")], ["6", "8"])),
        "{json}, image_id '8', test_image_ids: there is no image of this id in data",
    ),
}
