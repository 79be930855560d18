"""psg_shapes: drawn scenes on disk in PSG's layout, any number of them, the same for the same seed.

output_dir/coco/{train2017,val2017}/*.jpg, output_dir/coco/panoptic_{train2017,val2017}/*.png, output_dir/psg/psg.json.
Classes and predicates are among PSG's, in PSG's order. `easy_scene.py` states the rules of the relations; `truth.py`
and `psg_scene.py` state those of the preset "psg". That preset also writes psg_complete.json, the same images with all
relations, and, if names are held out, psg_seen.json, the training images with the vocabulary that lacks them.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ...masks import mask_box
from ...utils.files import write_json
from ...vocabulary import Vocabulary
from ..panoptic import encode_panoptic
from ..psg_categories import PSG_VOCABULARY
from ..validation.records import MAX_SEGMENT_ID
from .easy_scene import NAMES, make_easy_scene
from .psg_scene import PSGScene, make_psg_scene
from .scene import Scene

logger = logging.getLogger(__name__)

SETTINGS_FILE = "psg_shapes.json"
MIN_SIDE = 64
MIN_PSG_SIDE = 128
# Far apart, so that neither depends on how many images the other split has.
_FIRST_ID = {"train": 100_000_000, "val": 500_000_000}
_MAX_IMAGES = 100_000_000
_FOLDERS = ("train2017", "panoptic_train2017", "val2017", "panoptic_val2017")

VOCABULARIES = {
    "easy": Vocabulary.from_names(  # in PSG's order
        {key: [name for name in every if name in NAMES[key]] for key, every in PSG_VOCABULARY.names.items()}
    ),
    "psg": PSG_VOCABULARY,
}


@dataclass(frozen=True)
class ShapesSettings:
    """What a generated data set was made from; written beside it.

    Attributes:
        num_train, num_val: number of images; the val images are listed in test_image_ids.
        size: (height, width) of the pictures, pixels.
        preset: a key of `VOCABULARIES`.
        seed: the n-th image of a split depends on seed, preset, size and hold_out alone.
        hold_out: names that do not occur in training.
        complete: whether all files were written.
    """

    num_train: int
    num_val: int
    size: tuple[int, int]
    preset: str
    seed: int
    hold_out: tuple[str, ...] = ()
    complete: bool = False


def make_psg_shapes_scene(
    preset: str, size: tuple[int, int], seed: int, split: str, index: int, hold_out: Sequence[str] = ()
) -> Scene:
    """The index-th scene of a split, "train" or "val", without writing it; arguments as of `generate_psg_shapes`."""
    rng = _scene_rng(seed, split, index)
    if preset == "psg":
        absent = frozenset(hold_out) if split == "train" else frozenset()
        annotator = np.random.default_rng([seed, _FIRST_ID[split] + index, 1])
        return make_psg_scene(max(size), rng, annotator, absent)
    return make_easy_scene(*size, rng)


def generate_psg_shapes(
    output_dir: str | Path,
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (480, 640),
    preset: str = "easy",
    seed: int = 0,
    num_workers: int = 0,
    *,
    hold_out: Sequence[str] = (),
    overwrite: bool = False,
    progress: Callable[[], object] | None = None,
) -> Path:
    """Draw a data set; psg.json appears last, so a data set that can be read is complete.

    If output_dir already holds the same data set, complete, nothing is done.

    Args:
        output_dir: folder of the data set; `$DETECTRON2_DATASETS/psg_shapes` for the registered names.
        num_train, num_val: number of images.
        size: (height, width) in pixels, at least 64 each. The preset "psg" has COCO's shapes; the larger number is
            their longer side, at least 128.
        preset: "easy" (few classes, few large things) or "psg" (PSG's vocabulary, statistics and sparse annotation).
        seed: of everything random.
        num_workers: processes; 0 draws in this one.
        hold_out: names of the preset "psg" that training must not know: classes are not drawn in its pictures,
            predicates are not written down.
        overwrite: replace another generated data set in output_dir.
        progress: called after each image.

    Returns:
        Path of psg.json.

    Raises:
        ValueError: if an argument is out of range, or output_dir holds something else.
    """
    settings = ShapesSettings(num_train, num_val, (*size,), preset, seed, tuple(sorted(set(hold_out))))
    _check_settings(settings, num_workers)
    root = Path(output_dir)
    json_file = root / "psg" / "psg.json"
    if _is_same(root, settings):
        logger.info("%s already holds these scenes", root)
        return json_file
    _clear(root, overwrite)
    for folder in _FOLDERS:
        (root / "coco" / folder).mkdir(parents=True, exist_ok=True)
    write_json(root / SETTINGS_FILE, asdict(settings), indent=None)
    drawn = []
    for record_and_relations in _records(root, settings, num_workers):
        drawn.append(record_and_relations)
        if progress is not None:
            progress()
    _write_annotations(json_file, drawn, settings)
    write_json(root / SETTINGS_FILE, {**asdict(settings), "complete": True}, indent=None)
    return json_file


def _write_annotations(json_file: Path, drawn: list[tuple[dict, list]], settings: ShapesSettings) -> None:
    """Write psg.json and, before it, the other files of the preset "psg"."""
    records, vocabulary, num_train = [record for record, _ in drawn], VOCABULARIES[settings.preset], settings.num_train
    if settings.preset == "psg":
        everything = [{**record, "relations": relations} for record, relations in drawn]
        _write_psg(json_file.with_name("psg_complete.json"), everything, vocabulary, num_train)
        if settings.hold_out:
            _write_seen(json_file.with_name("psg_seen.json"), records[:num_train], vocabulary, settings.hold_out)
    _write_psg(json_file, records, vocabulary, num_train)


def _write_psg(path: Path, records: list[dict], vocabulary: Vocabulary, num_train: int) -> None:
    content = {
        "data": records,
        **{key: list(names) for key, names in vocabulary.names.items()},
        "test_image_ids": [record["image_id"] for record in records[num_train:]],
    }
    path.parent.mkdir(exist_ok=True)
    write_json(path, content, indent=None)


def _write_seen(path: Path, records: list[dict], vocabulary: Vocabulary, hold_out: Sequence[str]) -> None:
    """The training records renumbered for the vocabulary without the names held out, which they do not have."""
    seen = Vocabulary.from_names(
        {key: [n for n in names if n not in hold_out] for key, names in vocabulary.names.items()}
    )
    category, predicate = (
        {i: new.index(name) for i, name in enumerate(old) if name in new}
        for old, new in (
            (vocabulary.object_classes, seen.object_classes),
            (vocabulary.predicate_classes, seen.predicate_classes),
        )
    )

    def renumber(entries: list[dict]) -> list[dict]:
        return [{**entry, "category_id": category[entry["category_id"]]} for entry in entries]

    renumbered = [
        {
            **record,
            "segments_info": renumber(record["segments_info"]),
            "annotations": renumber(record["annotations"]),
            "relations": [[s, o, predicate[p]] for s, o, p in record["relations"]],
        }
        for record in records
    ]
    _write_psg(path, renumbered, seen, len(renumbered))


def read_settings(output_dir: str | Path) -> ShapesSettings | None:
    """What a folder was generated from; None if it holds no generated data set."""
    try:
        content = json.loads((Path(output_dir) / SETTINGS_FILE).read_text(encoding="utf-8"))
        tuples = {key: tuple(content[key]) for key in ("size", "hold_out") if key in content}
        return ShapesSettings(**{**content, **tuples})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_settings(settings: ShapesSettings, num_workers: int) -> None:
    if settings.preset not in VOCABULARIES:
        raise ValueError(f"preset: expected one of {', '.join(VOCABULARIES)}, got {settings.preset!r}")
    for name in ("num_train", "num_val"):
        if not 0 <= getattr(settings, name) < _MAX_IMAGES:
            raise ValueError(f"{name}: expected 0..{_MAX_IMAGES - 1}, got {getattr(settings, name)}")
    if len(settings.size) != 2 or min(settings.size) < MIN_SIDE:
        raise ValueError(f"size: expected (height, width) of at least {MIN_SIDE} pixels, got {settings.size}")
    if settings.preset == "psg" and max(settings.size) < MIN_PSG_SIDE:
        raise ValueError(f"size: preset psg needs a longer side of at least {MIN_PSG_SIDE} pixels, got {settings.size}")
    if settings.hold_out and settings.preset != "psg":
        raise ValueError(f"hold_out: only the preset psg can hold out names, got preset {settings.preset!r}")
    vocabulary = VOCABULARIES[settings.preset]
    for name in settings.hold_out:
        if name not in vocabulary.object_classes + vocabulary.predicate_classes:
            raise ValueError(f"hold_out: {name!r} is neither a class nor a predicate of PSG")
    if settings.seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {settings.seed}")
    if num_workers < 0:
        raise ValueError(f"num_workers: expected 0 or more, got {num_workers}")


def _is_same(root: Path, settings: ShapesSettings) -> bool:
    found = read_settings(root)
    return found is not None and found.complete and {**asdict(found), "complete": False} == asdict(settings)


def _clear(root: Path, overwrite: bool) -> None:
    """Make room, but only in a folder that this generator filled."""
    if not root.exists() or not any(root.iterdir()):
        return
    found = read_settings(root)
    if found is None:
        raise ValueError(f"output_dir: {root} is not empty and was not made by this generator; choose another folder")
    if found.complete and not overwrite:
        raise ValueError(f"output_dir: {root} holds other scenes ({found}); overwriting them has to be asked for")
    for name in ("psg.json", "psg_complete.json", "psg_seen.json"):
        (root / "psg" / name).unlink(missing_ok=True)
    for folder in _FOLDERS:
        shutil.rmtree(root / "coco" / folder, ignore_errors=True)


def _records(root: Path, settings: ShapesSettings, num_workers: int) -> Iterator[tuple[dict, list]]:
    """Entries of psg.json and all relations of their images, training first; writes the pictures."""
    jobs = [("train", i) for i in range(settings.num_train)] + [("val", i) for i in range(settings.num_val)]
    work = partial(_write_scene, str(root), settings)
    if num_workers == 0:
        yield from map(work, jobs)
        return
    # A spawned process first imports all of the package; one forked from this one waits for ever in OpenCV if its
    # threads have been used here. A server, where there is one, imports once and forks clean ones.
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        # Ctrl-C waits for the chunks that are being drawn.
        yield from pool.map(work, jobs, chunksize=max(1, min(4, len(jobs) // (4 * num_workers))))


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    cv2.setNumThreads(1)


def _scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, _FIRST_ID[split] + index])


def _write_scene(root: str, settings: ShapesSettings, job: tuple[str, int]) -> tuple[dict, list]:
    split, index = job
    scene = make_psg_shapes_scene(settings.preset, settings.size, settings.seed, split, index, settings.hold_out)
    number = _FIRST_ID[split] + index
    unknown = settings.hold_out if split == "train" else ()
    vocabulary = VOCABULARIES[settings.preset]
    record = _record(scene, number, split, vocabulary)
    record["relations"] = _numbered(scene.relations, vocabulary, unknown)
    every = scene.all_relations if isinstance(scene, PSGScene) else scene.relations
    ids = np.array([0] + [s["id"] for s in record["segments_info"]])
    folder = Path(root) / "coco"
    quality = [cv2.IMWRITE_JPEG_QUALITY, 93]
    _write_image(folder / record["file_name"], scene.image, quality)
    _write_image(folder / record["pan_seg_file_name"], encode_panoptic(ids[scene.segments]), [])
    return record, _numbered(every, vocabulary, unknown)


def _numbered(relations: list, vocabulary: Vocabulary, unknown: Sequence[str]) -> list[list[int]]:
    """Rows of psg.json of relations whose predicate may be known."""
    predicates = vocabulary.predicate_classes
    return [[int(s), int(o), predicates.index(p)] for s, o, p in relations if p not in unknown]


def _record(scene: Scene, number: int, split: str, vocabulary: Vocabulary) -> dict:
    """The scene's entry of psg.json."""
    height, width = scene.segments.shape
    rng = np.random.default_rng(number)
    ids = rng.choice(MAX_SEGMENT_ID, size=len(scene.names), replace=False, shuffle=False) + 1
    segments, annotations = [], []
    for position, name in enumerate(scene.names):
        mask = scene.segments == position + 1
        category = vocabulary.object_classes.index(name)
        is_thing, area = int(category < len(vocabulary.thing_classes)), int(np.count_nonzero(mask))
        segment = {"id": int(ids[position]), "category_id": category, "iscrowd": 0, "isthing": is_thing, "area": area}
        segments.append(segment)
        box = [float(v) for v in mask_box(mask)]
        annotations.append({"bbox": box, "bbox_mode": 0, "category_id": category})
    return {
        "file_name": f"{split}2017/{number:012d}.jpg",
        "height": height,
        "width": width,
        "image_id": str(number),
        "pan_seg_file_name": f"panoptic_{split}2017/{number:012d}.png",
        "segments_info": segments,
        "relations": [],
        "annotations": annotations,
        "coco_image_id": str(number),
    }


def _write_image(path: Path, rgb: np.ndarray, options: list[int]) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(rgb[:, :, ::-1]), options):
        raise OSError(f"cannot write {path}")
