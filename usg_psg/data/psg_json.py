"""psg.json to Detectron2 dataset dicts, by split; no image is opened.

Reads OpenPSG's psg.json and the competition's psg_train_val.json and psg_val_test.json, which have the same keys.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.structures import BoxMode

from ..utils.allowed import one_of
from ..utils.files import remove_temporary_files, write_whole
from ..utils.garbage import collector_paused
from ..utils.unique_keys import RepeatedKeys, marked_object
from ..vocabulary import NAME_KEYS, Vocabulary
from .psg_index import PSGIndex, PSGRecords, file_identity, index_path, open_index, pack_index
from .validation.records import (
    MENDED,
    Problem,
    duplicate_images,
    first_names,
    name_problem,
    test_id_problem,
    unknown_test_images,
    validate_record,
)

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "trainval", "test")
PARTITION = ("trainval", "test")  # each image is in one of them
POLICIES = one_of("error", "skip", "strict")
MAX_VAL_IMAGES = 1000
VAL_FRACTION = 40  # at most one image in 40 is held out; PSG's 46,563 give the full 1,000


@dataclass(frozen=True)
class PSGFile:
    """Content of a PSG file, unchecked but for its outermost level."""

    path: str
    records: list  # the entries of `data`
    image_ids: list[str]  # of each record; "#<position>" where it has none
    test_image_ids: frozenset[str]
    vocabulary: Vocabulary

    def validate_record(self, position: int) -> Iterator[Problem]:
        """Problems of one record."""
        return validate_record(self.records[position], self.image_ids[position], self.vocabulary)

    def dataset_dict(self, position: int, root: Path) -> dict:
        """One image as `load_psg_json` describes it, of a record without problems."""
        return _dataset_dict(self.records[position], self.image_ids[position], root)


@collector_paused()
def read_psg_json(json_file: str | Path) -> PSGFile:
    """Open a PSG file.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or it is not JSON, is cut off, lacks or repeats one of
            PSG's outermost keys, or its names or test images are ambiguous (`name_problem`, `test_id_problem`).
    """
    path = str(json_file)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_pairs_hook=marked_object)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no PSG file {path}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a complete JSON file ({error})") from error
    _require_list(path, content, "data", None)
    vocabulary = Vocabulary.from_names({key: _require_list(path, content, key, str) for key in NAME_KEYS})
    test_ids = _require_list(path, content, "test_image_ids", None)
    image_ids = [_image_id(record, position) for position, record in enumerate(content["data"])]
    if problem := name_problem(vocabulary) or test_id_problem(test_ids, image_ids):
        raise ValueError(f"{path}, {problem}")
    return PSGFile(path, content["data"], image_ids, frozenset(map(str, test_ids)), vocabulary)


def open_psg(json_file: str | Path) -> PSGFile | PSGIndex:
    """The index of a PSG file where there is a good one, else the file; errors as in `read_psg_json`."""
    return open_index(json_file) or read_psg_json(json_file)


def _require_list(path: str, content: object, key: str, item_type: type | None) -> list:
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"{path}: not a PSG file, the key {key!r} is missing")
    if isinstance(content, RepeatedKeys) and key in content.repeated:
        raise ValueError(f"{path}: the key {key!r} occurs more than once")
    value = content[key]
    if not isinstance(value, list):
        raise ValueError(f"{path}, {key}: expected a list, got {type(value).__name__}")
    if item_type is str and not all(isinstance(x, str) for x in value):
        raise ValueError(f"{path}, {key}: expected a list of names")
    return value


def _image_id(record: object, position: int) -> str:
    if isinstance(record, dict) and isinstance(record.get("image_id"), str | int):
        return str(record["image_id"])
    return f"#{position}"


def select_split(image_ids: list[str], test_image_ids: frozenset[str], split: str) -> list[int]:
    """Positions of a split's images, in the file's order.

    test: the images listed in test_image_ids. trainval: all others. val: those of trainval whose sha1 of the image_id
    comes first, min(1000, n // 40) of n images, so that a small file keeps its images for training. train: the rest
    of trainval. ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if split == "test":
        return [i for i, image_id in enumerate(image_ids) if image_id in test_image_ids]
    trainval = [i for i, image_id in enumerate(image_ids) if image_id not in test_image_ids]
    if split == "trainval":
        return trainval
    names = sorted({image_ids[i] for i in trainval}, key=lambda x: (_sha1(x), x))
    held_out = set(names[: min(MAX_VAL_IMAGES, len(names) // VAL_FRACTION)])
    return [i for i in trainval if (image_ids[i] in held_out) == (split == "val")]


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()


@collector_paused()
def load_psg_json(
    json_file: str | Path,
    image_root: str | Path,
    split: str,
    *,
    vocabulary: Vocabulary | None = None,
    policy: str = "error",
) -> Sequence[dict]:
    """Dataset dicts of one split; from the file's index where there is one (`psg_index.py`).

    Args:
        json_file: psg.json or a file of the same form.
        image_root: folder that file_name and pan_seg_file_name are relative to.
        split: "train", "val", "trainval" or "test", see `select_split`.
        vocabulary: names that the file must have; None accepts the file's own.
        policy: "error": ValueError at the first error; what can be used without guessing (`MENDED`) is used, and its
            number logged. "skip": images with errors are skipped, and their number by kind of error and the first ids
            are logged. "strict": ValueError also at what the other two mend. Ids in test_image_ids that name no
            image are an error of the split "test", and a warning with every other.

    Returns:
        One dict per image, in the file's order: file_name and pan_seg_file_name (absolute paths), image_id (str),
        height, width, segments_info (all of the file's, crowd included, in its order: id, category_id, isthing,
        iscrowd, area, bbox as x0, y0, x1, y1 in pixels, bbox_mode) and relations, rows [subject, object, predicate]
        of positions in segments_info and a predicate, 0-based. Rows that relate a segment to itself, which codebases
        differ in keeping, are left out; exact duplicates stay for the evaluation protocols that count them, while
        `PSGDatasetMapper` drops them in training.
        With an index a `PSGRecords`, otherwise a list.

    Raises:
        FileNotFoundError: if json_file does not exist.
        ValueError: at a problem, naming file, image_id and field; if the names differ; if the split is empty.
    """
    POLICIES.check("policy", policy)
    content = open_psg(json_file)
    if vocabulary is not None:
        check_vocabulary(content, vocabulary)
    chosen = select_split(content.image_ids, content.test_image_ids, split)
    skipped = _skip_invalid(content, chosen, split, policy)
    if split != "test":
        _report_unknown_test_images(content)
    kept = [i for i in chosen if i not in skipped]
    if not kept:
        raise ValueError(f"{content.path}: the split {split!r} has no {'valid ' if skipped else ''}image")
    root = Path(image_root).resolve()
    if isinstance(content, PSGIndex):
        return PSGRecords(content, kept, root)
    return [content.dataset_dict(i, root) for i in kept]


def _skip_invalid(content: PSGFile | PSGIndex, chosen: Sequence[int], split: str, policy: str) -> set[int]:
    """Positions that the policy skips; logs their number, and that of mended images, or raises at the first problem."""
    skipped: set[int] = set()
    kinds: Counter[str] = Counter()
    mended: list[tuple[int | None, str]] = []
    for position, problem in _split_problems(content, chosen, split):
        if problem.severity == "mended" and policy != "strict":
            mended.append((position, problem.kind))
        elif policy != "skip":
            raise ValueError(problem.describe(content.path))
        else:
            kinds[problem.kind] += 1
            if position is not None:
                skipped.add(position)
            logger.debug("skipped: %s", problem.describe(content.path))
    where = f"{content.path}, split {split}"
    for kind, count in Counter(kind for position, kind in mended if position not in skipped).items():
        logger.warning("%s: %d %s", where, count, MENDED[kind])
    if kinds:
        by_kind = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        names = f": {first_names(content.image_ids[i] for i in sorted(skipped))}" if skipped else ""
        logger.warning("%s: %d invalid images skipped (%s)%s", where, len(skipped), by_kind, names)
    return skipped


def _report_unknown_test_images(content: PSGFile | PSGIndex) -> None:
    """Warn of ids that the test split lacks, since a reader who trains may not see the error of that split."""
    if unknown := sorted(content.test_image_ids.difference(content.image_ids)):
        text = "%s: %d of %d test_image_ids name no image: %s"
        logger.warning(text, content.path, len(unknown), len(content.test_image_ids), first_names(unknown))


def invalid_positions(content: PSGFile | PSGIndex, chosen: Sequence[int]) -> set[int]:
    """Those of the chosen records that the loader refuses, or skips with the policy "skip"."""
    return {i for i, problem in _split_problems(content, chosen, "") if problem.is_error and i is not None}


def write_index(json_file: str | Path) -> Path:
    """Make a PSG file's index and return its path; errors as in `read_psg_json`."""
    identity = file_identity(json_file) if Path(json_file).is_file() else {}
    content = read_psg_json(json_file)
    problems = {i: found for i in range(len(content.records)) if (found := list(content.validate_record(i)))}
    invalid = {i for i, found in problems.items() if any(f.is_error for f in found)}
    dicts = [None if i in invalid else content.dataset_dict(i, Path()) for i in range(len(content.records))]
    packed = pack_index(dicts, content.image_ids, content.test_image_ids, content.vocabulary, problems, identity)
    path = index_path(json_file)
    remove_temporary_files(path.parent, unused_seconds=3600)
    write_whole(path, lambda file: file.write(packed))
    return path


def check_vocabulary(content: PSGFile | PSGIndex, expected: Vocabulary) -> None:
    """Raise ValueError at the first name that differs from those that the file's data set is registered with."""
    for key in NAME_KEYS:
        registered, own = getattr(expected, key), getattr(content.vocabulary, key)
        if registered == own:
            continue
        for i, (a, b) in enumerate(zip(registered, own, strict=False)):
            if a != b:
                raise ValueError(f"{content.path}, {key}[{i}]: registered as {a!r}, the file says {b!r}")
        raise ValueError(f"{content.path}, {key}: {len(registered)} names are registered, the file has {len(own)}")


def _split_problems(
    content: PSGFile | PSGIndex, chosen: Sequence[int], split: str
) -> Iterator[tuple[int | None, Problem]]:
    """Problems of the chosen records with their positions; None where no record is to blame."""
    for i in chosen:
        for problem in content.validate_record(i):
            yield i, problem
    yield from duplicate_images((i, content.image_ids[i]) for i in chosen)
    if split == "test":
        for problem in unknown_test_images(content.test_image_ids, content.image_ids):
            yield None, problem


def _dataset_dict(record: dict, image_id: str, root: Path) -> dict:
    segments = [
        {
            "id": segment["id"],
            "category_id": segment["category_id"],
            "isthing": bool(segment["isthing"]),
            "iscrowd": bool(segment["iscrowd"]),
            "area": int(segment["area"]),
            "bbox": [float(v) for v in BoxMode.convert(box["bbox"], BoxMode(box["bbox_mode"]), BoxMode.XYXY_ABS)],
            "bbox_mode": BoxMode.XYXY_ABS,
        }
        for segment, box in zip(record["segments_info"], record["annotations"], strict=True)
    ]
    return {
        "file_name": str(root / record["file_name"]),
        "pan_seg_file_name": str(root / record["pan_seg_file_name"]),
        "image_id": image_id,
        "height": record["height"],
        "width": record["width"],
        "segments_info": segments,
        "relations": [list(r) for r in record["relations"] if r[0] != r[1]],
    }
