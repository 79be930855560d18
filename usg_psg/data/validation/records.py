"""The rules for PSG records: one small function each, which yields every problem it finds.

`MENDED` and `WARNINGS` say how severe a kind of problem is; loader, index, check, repair and statistics all read them.
No image is opened here; `images.py` does that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TypeGuard

from ...utils.unique_keys import RepeatedKeys
from ...vocabulary import NAME_KEYS, Vocabulary

# Kinds that the loader mends without guessing and counts, in the words behind the count; the policy "strict" refuses
# them. Kinds in neither table are errors, which the loader refuses.
MENDED = {
    "self_relation": "relations of a segment to itself, dropped",
    "duplicate_relation": "repeated relations, which count once in training",
    "unlisted_ids_png": "images whose panoptic PNG has ids that no segment lists, taken as unlabelled",
    "ids_without_pixels_png": "images with segments without a pixel, dropped with their relations",
}
# Kinds worth knowing of data that are used as they are.
WARNINGS = frozenset(
    (
        *("area_differs", "box_outside", "colour_mode", "empty_split", "exif_orientation", "link"),
        *("no_first_segment", "no_relations", "no_segments"),
    )
)

MAX_SEGMENT_ID = 256**3 - 1  # what three PNG channels hold
MAX_NAMES = 5  # images that a message names
MAX_SIDE = 2**31 - 1  # what a PNG's header holds
MANY_RELATIONS = 100  # of 901 between segments of COCO photographs, 31 % have the first one at an end
MAX_NUMBER = 2**53  # up to here every integer is also a float

IMAGE_KEYS = ("file_name", "pan_seg_file_name")
_RECORD_TYPES: dict[str, type | tuple[type, ...]] = {
    "image_id": (str, int),
    "file_name": str,
    "pan_seg_file_name": str,
    "height": int,
    "width": int,
    "segments_info": list,
    "annotations": list,
    "relations": list,
}
_SEGMENT_KEYS = ("id", "category_id", "isthing", "iscrowd", "area")
_ANNOTATION_KEYS = ("bbox", "bbox_mode", "category_id")


Finding = tuple[str, str, str]  # kind, field and message of a `Problem`


@dataclass(frozen=True)
class Problem:
    """One violated rule."""

    kind: str  # name of the rule, for counting
    image_id: str  # "" if the file as a whole is meant
    field: str  # where, for example "relations[3]"; "" if the message says all
    message: str  # what was expected and what was found
    file: str = ""  # path of the image file that is meant, "" for the PSG file

    @property
    def severity(self) -> str:
        """ "error", "mended" or "warning"."""
        return severity_of(self.kind)

    @property
    def is_error(self) -> bool:
        """True if the loader refuses the image."""
        return self.severity == "error"

    def describe(self, file: str) -> str:
        """The problem of a PSG file as one line, in the words of the loader's error."""
        if not self.field:
            return self.message
        if self.file:
            return f"{self.file} (image_id {self.image_id!r}): {self.message}"
        image = f", image_id {self.image_id!r}" if self.image_id else ""
        return f"{file}{image}, {self.field}: {self.message}"


def first_names(image_ids: Iterable[str]) -> str:
    """The first few ids for a message."""
    names = [repr(image_id) for image_id in image_ids]
    return f"{', '.join(names[:MAX_NAMES])}{', ...' if len(names) > MAX_NAMES else ''}"


def severity_of(kind: str) -> str:
    """Whether a kind is an "error", "mended" by the loader, or a "warning"."""
    return "mended" if kind in MENDED else "warning" if kind in WARNINGS else "error"


def is_integer(value: object) -> TypeGuard[int]:
    """True for int, False for bool, which JSON keeps apart but Python does not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_segment_id(value: object) -> TypeGuard[int]:
    """Whether a PNG can hold the id; 0 is no segment."""
    return is_integer(value) and 1 <= value <= MAX_SEGMENT_ID


def is_text(value: str) -> bool:
    """False for text with lone surrogates: JSON can escape them, but files, logs and file names cannot hold them."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def structure_problems(record: object) -> Iterator[Finding]:
    """Missing and repeated keys, and wrong JSON types; the other rules need a record that passes this one."""
    if not isinstance(record, dict):
        yield "structure", "data", f"expected an object, got {type(record).__name__}"
        return
    yield from _key_problems(record, _RECORD_TYPES, "")
    for key, types in _RECORD_TYPES.items():
        if key in record and (not isinstance(record[key], types) or isinstance(record[key], bool)):
            expected = " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))
            yield "structure", key, f"expected {expected}, got {type(record[key]).__name__}"
    for name, keys in (("segments_info", _SEGMENT_KEYS), ("annotations", _ANNOTATION_KEYS)):
        items = record.get(name)
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if not isinstance(item, dict):
                yield "structure", f"{name}[{i}]", f"expected an object, got {type(item).__name__}"
            else:
                yield from _key_problems(item, keys, f"{name}[{i}].")


def _key_problems(item: dict, keys: Iterable[str], where: str) -> Iterator[Finding]:
    for key in keys:
        if key not in item:
            yield "missing_key", where + key, "the key is missing"
    if isinstance(item, RepeatedKeys):
        for key in item.repeated:
            yield "repeated_key", where + key, "the key occurs more than once"


def size_problems(record: dict) -> Iterator[Finding]:
    """Height and width are positive."""
    for key in ("height", "width"):
        if not 0 < record[key] <= MAX_SIDE:
            yield "size", key, f"expected a positive number of pixels, got {record[key]}"


def file_name_problems(record: dict) -> Iterator[Finding]:
    """File names are relative, stay inside the data root, and are text that UTF-8 can hold."""
    for key in IMAGE_KEYS:
        name = record[key]
        if not is_text(name):
            yield "text", key, f"expected text without lone surrogates, got {name!r}"
            continue
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        leaves = posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts
        if not name or leaves:
            yield "file_name", key, f"expected a path inside the data root, got {name!r}"


def segment_problems(record: dict, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Segment ids are unique and fit a PNG pixel; category, isthing, iscrowd and area are possible values."""
    num_things, num_classes = len(vocabulary.thing_classes), len(vocabulary.object_classes)
    seen: dict[int, int] = {}
    for i, segment in enumerate(record["segments_info"]):
        where = f"segments_info[{i}]"
        segment_id, category = segment["id"], segment["category_id"]
        if not is_segment_id(segment_id):
            yield "segment_id", f"{where}.id", f"expected 1..{MAX_SEGMENT_ID}, got {segment_id!r}"
        elif seen.setdefault(segment_id, i) != i:
            message = f"id {segment_id} is already used by segments_info[{seen[segment_id]}]"
            yield "duplicate_segment_id", f"{where}.id", message
        if not is_integer(category) or not 0 <= category < num_classes:
            yield "category_id", f"{where}.category_id", f"expected 0..{num_classes - 1}, got {category!r}"
        elif segment["isthing"] not in (0, 1):
            yield "isthing", f"{where}.isthing", f"expected 0, 1, false or true, got {segment['isthing']!r}"
        elif bool(segment["isthing"]) != (category < num_things):
            message = f"{segment['isthing']!r} disagrees with category {vocabulary.object_classes[category]!r}"
            yield "isthing", f"{where}.isthing", message
        if segment["iscrowd"] not in (0, 1):
            yield "iscrowd", f"{where}.iscrowd", f"expected 0 or 1, got {segment['iscrowd']!r}"
        area = segment["area"]
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area <= MAX_NUMBER:
            yield "area", f"{where}.area", f"expected a number of pixels, got {area!r}"


def annotation_problems(record: dict) -> Iterator[Finding]:
    """Annotations run parallel to the segments; their boxes are four numbers of at most 2^53 in a known mode."""
    segments, annotations = record["segments_info"], record["annotations"]
    if len(segments) != len(annotations):
        yield "annotations", "annotations", f"expected one per segment ({len(segments)}), got {len(annotations)}"
        return
    for i, (segment, annotation) in enumerate(zip(segments, annotations, strict=True)):
        where, box = f"annotations[{i}]", annotation["bbox"]
        if annotation["category_id"] != segment["category_id"]:
            message = f"{annotation['category_id']!r} differs from its segment's {segment['category_id']!r}"
            yield "annotations", f"{where}.category_id", message
        if annotation["bbox_mode"] not in (0, 1):
            message = f"expected 0 (x0, y0, x1, y1) or 1 (x, y, w, h), got {annotation['bbox_mode']!r}"
            yield "bbox", f"{where}.bbox_mode", message
        if not _is_box(box):
            yield "bbox", f"{where}.bbox", f"expected four finite numbers, got {box!r}"


def _is_box(box: object) -> TypeGuard[list[float]]:
    return (
        isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) <= MAX_NUMBER for v in box)
    )


def box_warnings(record: dict) -> Iterator[Finding]:
    """Boxes are not empty and lie inside the image; nothing here computes with them."""
    for i, annotation in enumerate(record["annotations"]):
        box = annotation["bbox"]
        if not _is_box(box) or annotation["bbox_mode"] not in (0, 1):
            continue
        x0, y0, x1, y1 = box if annotation["bbox_mode"] == 0 else (*box[:2], box[0] + box[2], box[1] + box[3])
        if not (0 <= x0 < x1 <= record["width"] and 0 <= y0 < y1 <= record["height"]):
            message = f"expected a box inside height x width {record['height']} x {record['width']}, got {box!r}"
            yield "box_outside", f"annotations[{i}].bbox", message


def relation_problems(record: dict, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Relations are [subject, object, predicate], 0-based, in range, of two segments, each once."""
    num_segments, num_predicates = len(record["segments_info"]), len(vocabulary.predicate_classes)
    first: dict[tuple, int] = {}
    for i, relation in enumerate(record["relations"]):
        where = f"relations[{i}]"
        if not isinstance(relation, list) or len(relation) != 3 or not all(map(is_integer, relation)):
            yield "relation_form", where, f"expected [subject, object, predicate] as integers, got {relation!r}"
            continue
        subject, object_, predicate = relation
        bad_end = False
        for role, index in (("subject", subject), ("object", object_)):
            if not 0 <= index < num_segments:
                bad_end = True
                yield "relation_range", where, f"{role} {index} is no position in segments_info (0..{num_segments - 1})"
        if not 0 <= predicate < num_predicates:
            yield "predicate_range", where, f"predicate {predicate} is out of range, expected 0..{num_predicates - 1}"
        if subject == object_ and not bad_end:
            yield "self_relation", where, f"segment {subject} is related to itself"
        elif first.setdefault(tuple(relation), i) != i:
            yield "duplicate_relation", where, f"the same as relations[{first[tuple(relation)]}]"


def validate_record(record: object, image_id: str, vocabulary: Vocabulary) -> Iterator[Problem]:
    """Every problem of one image."""
    findings = list(structure_problems(record))
    if not findings and isinstance(record, dict):
        if not is_text(image_id):
            findings.append(("text", "image_id", f"expected text without lone surrogates, got {image_id!r}"))
        findings += [*size_problems(record), *file_name_problems(record), *segment_problems(record, vocabulary)]
        findings += [*annotation_problems(record), *relation_problems(record, vocabulary)]
    yield from (Problem(kind, image_id, field, message) for kind, field, message in findings)


def duplicate_images(image_ids: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Problem]]:
    """Each image occurs once; gives the position and the problem of each further occurrence."""
    first: dict[str, int] = {}
    for i, image_id in image_ids:
        if first.setdefault(image_id, i) != i:
            message = f"the image occurs more than once, as data[{first[image_id]}] and data[{i}]"
            yield i, Problem("duplicate_image_id", image_id, "image_id", message)


def no_first_segment(records: Iterable[object]) -> Iterator[Problem]:
    """Some of many relations has its image's first segment at an end; else positions may have been counted from 1."""
    count = 0
    for record in records:
        relations = record.get("relations") if isinstance(record, dict) else None
        for relation in relations if isinstance(relations, list) else []:
            if not isinstance(relation, list) or 0 in relation[:2]:
                return
            count += 1
    if count >= MANY_RELATIONS:
        message = f"none of {count:,} relations has an image's segment 0 at an end; do subject and object count from 1?"
        yield Problem("no_first_segment", "", "data", message)


def unknown_test_images(test_image_ids: frozenset[str], image_ids: Iterable[str]) -> Iterator[Problem]:
    """Every id of test_image_ids has an image."""
    for image_id in sorted(test_image_ids.difference(image_ids)):
        yield Problem("unknown_test_image", image_id, "test_image_ids", "there is no image of this id in data")


def test_id_problem(test_image_ids: list, image_ids: list[str]) -> str:
    """Why a list of test images could let them into the training split; "" if it is good.

    Ids are texts or whole numbers. One that names no image must not differ from the id of another split's image in form
    only (leading zeros, spaces, 123.0): that image would be trained on.
    """
    for i, value in enumerate(test_image_ids):
        if not isinstance(value, str | int) or isinstance(value, bool):
            return f"test_image_ids[{i}]: expected an image_id, that is text or a whole number, got {value!r}"
    listed = set(map(str, test_image_ids))
    if unknown := sorted(listed.difference(image_ids)):
        others = {_plain_form(x): x for x in image_ids if x not in listed}
        for value in unknown:
            if (other := others.get(_plain_form(value))) is not None:
                return f"test_image_ids: {value!r} and image_id {other!r} differ in form only; write both the same way"
    return ""


def _plain_form(image_id: str) -> str:
    """An id without differences that spreadsheets and number types make."""
    text = unicodedata.normalize("NFKC", image_id).strip().casefold()
    number = re.fullmatch(r"\+?0*([0-9]+)(\.0*)?", text)
    return number[1] if number else text


def name_problem(vocabulary: Vocabulary) -> str:
    """Why names cannot tell categories or predicates apart; "" if they can.

    Names are not empty, and differ in more than case and spaces: words with the same text embedding are one word.
    """
    for keys in (NAME_KEYS[:2], NAME_KEYS[2:]):
        first: dict[str, str] = {}
        for key in keys:
            for i, name in enumerate(getattr(vocabulary, key)):
                if not name.strip() or not is_text(name):
                    return f"{key}[{i}]: expected a name, got {name!r}"
                place = first.setdefault(" ".join(name.split()).casefold(), f"{key}[{i}]")
                if place != f"{key}[{i}]":
                    return f"{key}[{i}]: the name {name!r} is taken by {place}"
    return ""
