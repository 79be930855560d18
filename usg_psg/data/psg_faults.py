"""What makes a PSG file invalid: one small function per rule, yielding every fault it finds.

No image is opened here; `picture_faults.py` judges the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TypeGuard

from .psg_categories import PSGVocabulary

MAX_SEGMENT_ID = 256**3 - 1  # what three PNG channels hold
MAX_SIDE = 2**31 - 1  # what a PNG's header holds
MAX_NUMBER = 2**53  # up to here every integer is also a float

PICTURE_KEYS = ("file_name", "pan_seg_file_name")
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


@dataclass(frozen=True)
class Fault:
    """One violated rule.

    Attributes:
        kind: name of the rule, for counting.
        image_id: the image, "" if the file as a whole is meant.
        field: where, for example "relations[3]"; "" if the message says all.
        message: what was expected and what was found.
        fatal: False if the reader repairs it without loss of meaning (it drops self-relations and counts them).
        file: path of the picture that is meant, "" for the PSG file.
    """

    kind: str
    image_id: str
    field: str
    message: str
    fatal: bool = True
    file: str = ""

    def describe(self, file: str) -> str:
        """The fault as one line, in the words of the loader's error.

        Args:
            file: path of the PSG file.
        """
        if not self.field:
            return self.message
        if self.file:
            return f"{self.file} (image_id {self.image_id!r}): {self.message}"
        image = f", image_id {self.image_id!r}" if self.image_id else ""
        return f"{file}{image}, {self.field}: {self.message}"


def is_integer(value: object) -> TypeGuard[int]:
    """True for int, False for bool, which JSON keeps apart but Python does not."""
    return isinstance(value, int) and not isinstance(value, bool)


def structure_faults(record: object, image_id: str) -> Iterator[Fault]:
    """Missing keys and wrong JSON types; the other rules need a record that passes this one."""
    if not isinstance(record, dict):
        yield Fault("structure", image_id, "data", f"expected an object, got {type(record).__name__}")
        return
    for key, types in _RECORD_TYPES.items():
        if key not in record:
            yield Fault("missing_key", image_id, key, "the key is missing")
        elif not isinstance(record[key], types) or isinstance(record[key], bool):
            expected = " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))
            yield Fault("structure", image_id, key, f"expected {expected}, got {type(record[key]).__name__}")
    for name, keys in (("segments_info", _SEGMENT_KEYS), ("annotations", _ANNOTATION_KEYS)):
        items = record.get(name)
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if not isinstance(item, dict):
                yield Fault("structure", image_id, f"{name}[{i}]", f"expected an object, got {type(item).__name__}")
                continue
            for key in keys:
                if key not in item:
                    yield Fault("missing_key", image_id, f"{name}[{i}].{key}", "the key is missing")


def size_faults(record: dict, image_id: str) -> Iterator[Fault]:
    """Height and width are positive."""
    for key in ("height", "width"):
        if not 0 < record[key] <= MAX_SIDE:
            yield Fault("size", image_id, key, f"expected a positive number of pixels, got {record[key]}")


def file_name_faults(record: dict, image_id: str) -> Iterator[Fault]:
    """File names are relative and stay inside the data root."""
    for key in PICTURE_KEYS:
        name = record[key]
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        leaves = posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts
        if not name or leaves:
            yield Fault("file_name", image_id, key, f"expected a path inside the data root, got {name!r}")


def segment_faults(record: dict, image_id: str, vocabulary: PSGVocabulary) -> Iterator[Fault]:
    """Segment ids are unique and fit a PNG pixel; category, isthing, iscrowd and area are possible values."""
    num_things, num_classes = len(vocabulary.thing_classes), len(vocabulary.object_classes)
    seen: dict[int, int] = {}
    for i, segment in enumerate(record["segments_info"]):
        where = f"segments_info[{i}]"
        number, category = segment["id"], segment["category_id"]
        if not is_integer(number) or not 1 <= number <= MAX_SEGMENT_ID:
            yield Fault("segment_id", image_id, f"{where}.id", f"expected 1..{MAX_SEGMENT_ID}, got {number!r}")
        elif number in seen:
            message = f"id {number} is already used by segments_info[{seen[number]}]"
            yield Fault("duplicate_segment_id", image_id, f"{where}.id", message)
        else:
            seen[number] = i
        if not is_integer(category) or not 0 <= category < num_classes:
            message = f"expected 0..{num_classes - 1}, got {category!r}"
            yield Fault("category_id", image_id, f"{where}.category_id", message)
        elif bool(segment["isthing"]) != (category < num_things):
            message = f"{segment['isthing']!r} disagrees with category {vocabulary.object_classes[category]!r}"
            yield Fault("isthing", image_id, f"{where}.isthing", message)
        if segment["iscrowd"] not in (0, 1):
            yield Fault("iscrowd", image_id, f"{where}.iscrowd", f"expected 0 or 1, got {segment['iscrowd']!r}")
        area = segment["area"]
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 < area <= MAX_NUMBER:
            yield Fault("area", image_id, f"{where}.area", f"expected a positive number of pixels, got {area!r}")


def annotation_faults(record: dict, image_id: str) -> Iterator[Fault]:
    """Annotations run parallel to the segments; their boxes are four numbers of at most 2^53 in a known mode."""
    segments, annotations = record["segments_info"], record["annotations"]
    if len(segments) != len(annotations):
        message = f"expected one per segment ({len(segments)}), got {len(annotations)}"
        yield Fault("annotations", image_id, "annotations", message)
        return
    for i, (segment, annotation) in enumerate(zip(segments, annotations, strict=True)):
        where, box = f"annotations[{i}]", annotation["bbox"]
        if annotation["category_id"] != segment["category_id"]:
            message = f"{annotation['category_id']!r} differs from its segment's {segment['category_id']!r}"
            yield Fault("annotations", image_id, f"{where}.category_id", message)
        if annotation["bbox_mode"] not in (0, 1):
            message = f"expected 0 (x0, y0, x1, y1) or 1 (x, y, w, h), got {annotation['bbox_mode']!r}"
            yield Fault("bbox", image_id, f"{where}.bbox_mode", message)
        numbers = isinstance(box, list) and all(isinstance(v, int | float) and abs(v) <= MAX_NUMBER for v in box)
        if not numbers or len(box) != 4:
            yield Fault("bbox", image_id, f"{where}.bbox", f"expected four finite numbers, got {box!r}")


def relation_faults(record: dict, image_id: str, vocabulary: PSGVocabulary) -> Iterator[Fault]:
    """Relations are [subject, object, predicate], 0-based, in range; exact duplicates are allowed.

    A segment related to itself is a fault that is not fatal.
    """
    num_segments, num_predicates = len(record["segments_info"]), len(vocabulary.predicate_classes)
    for i, relation in enumerate(record["relations"]):
        where = f"relations[{i}]"
        if not isinstance(relation, list) or len(relation) != 3 or not all(map(is_integer, relation)):
            message = f"expected [subject, object, predicate] as integers, got {relation!r}"
            yield Fault("relation_form", image_id, where, message)
            continue
        subject, object_, predicate = relation
        bad_end = False
        for role, index in (("subject", subject), ("object", object_)):
            if not 0 <= index < num_segments:
                bad_end = True
                message = f"{role} {index} is no position in segments_info (0..{num_segments - 1})"
                yield Fault("relation_range", image_id, where, message)
        if not 0 <= predicate < num_predicates:
            message = f"predicate {predicate} is out of range, expected 0..{num_predicates - 1}"
            yield Fault("predicate_range", image_id, where, message)
        if subject == object_ and not bad_end:
            message = f"segment {subject} is related to itself"
            yield Fault("self_relation", image_id, where, message, fatal=False)


def record_faults(record: object, image_id: str, vocabulary: PSGVocabulary) -> Iterator[Fault]:
    """Every fault of one image."""
    broken = list(structure_faults(record, image_id))
    if broken or not isinstance(record, dict):
        yield from broken
        return
    yield from size_faults(record, image_id)
    yield from file_name_faults(record, image_id)
    yield from segment_faults(record, image_id, vocabulary)
    yield from annotation_faults(record, image_id)
    yield from relation_faults(record, image_id, vocabulary)


def duplicate_image_faults(image_ids: Iterable[str]) -> Iterator[Fault]:
    """Each image occurs once; yields one fault per further occurrence."""
    seen: set[str] = set()
    for image_id in image_ids:
        if image_id in seen:
            yield Fault("duplicate_image_id", image_id, "image_id", "the image occurs more than once")
        seen.add(image_id)


def unknown_test_image_faults(test_image_ids: Iterable[str], image_ids: Iterable[str]) -> Iterator[Fault]:
    """Every id of test_image_ids has an image."""
    known = set(image_ids)
    for image_id in sorted(set(test_image_ids) - known):
        yield Fault("unknown_test_image", image_id, "test_image_ids", "there is no image of this id in data")
