"""PSG data sets in Detectron2's catalogs.

`DETECTRON2_DATASETS` (default "datasets") is the folder of the built-in ones. It is read whenever one of them is
loaded or its metadata asked for, not only on import, so setting it afterwards works too:

    $DETECTRON2_DATASETS/coco/{train2017,val2017,panoptic_train2017,panoptic_val2017}   images
    $DETECTRON2_DATASETS/psg/psg.json                                                   psg_{train,val,trainval,test}
    $DETECTRON2_DATASETS/psg/coco_panoptic.json, of `usg-psg data import coco-panoptic` coco_panoptic_{train,val}
    $DETECTRON2_DATASETS/psg_shapes/{coco,psg}                                          psg_shapes_{train,val}
    the same of preset psg: psg_complete.json, psg_seen.json                            psg_shapes_{train,val}_complete,
                                                                                        psg_shapes_train_seen
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..utils.suggestions import did_you_mean
from ..vocabulary import Vocabulary
from .psg_categories import PSG_VOCABULARY
from .psg_json import POLICIES, SPLITS, load_psg_json, open_psg

IGNORE_LABEL = 255
LABEL_DIVISOR = 1000


@dataclass(frozen=True)
class _Source:
    """Where a registered data set lies; paths that are not absolute start at `datasets_root`, wherever it is then."""

    json_path: Path
    root_path: Path
    split: str
    vocabulary: Vocabulary | None
    policy: str

    @property
    def json_file(self) -> Path:
        return datasets_root() / self.json_path

    @property
    def image_root(self) -> Path:
        return datasets_root() / self.root_path


_SOURCES: dict[str, _Source] = {}
_policy_override = "error"


def datasets_root() -> Path:
    """`$DETECTRON2_DATASETS`, default "datasets", as an absolute path."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))).resolve()


def register_psg(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    split: str,
    *,
    vocabulary: Vocabulary | None = None,
    policy: str = "error",
) -> None:
    """Register a data set in PSG's format; no file is opened.

    Args:
        name: what `cfg.DATASETS.TRAIN` and `TEST` call it.
        json_file: psg.json, or a file of the same form with any vocabulary.
        image_root: folder that the file's file names are relative to.
        split: "train", "val", "trainval" or "test", see `select_split`.
        vocabulary: names that the file must have; None takes the file's own when they are first needed.
        policy: "error", "skip" or "strict", see `load_psg_json`.

    Raises:
        ValueError: if the name is taken, or split or policy unknown.
    """
    json_path, root_path = Path(json_file).expanduser().resolve(), Path(image_root).expanduser().resolve()
    _register(name, _Source(json_path, root_path, split, vocabulary, policy))


def unregister_psg(name: str) -> None:
    """Take a data set of `register_psg` out of both catalogs; KeyError if it is not registered."""
    _SOURCES.pop(name)
    DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)


def get_psg_metadata(name: str) -> Metadata:
    """Names and layout of a data set, before any of its images is needed.

    The model builds its text embeddings from `object_classes` and `predicate_classes`. The names of PSG are built in;
    those of another vocabulary are read from its file on first use.

    Returns:
        Metadata with thing_classes, stuff_classes, object_classes (things, then stuff: the category id is the index),
        predicate_classes, evaluator_type "psg_sgdet", ignore_label, label_divisor,
        {thing,stuff}_dataset_id_to_contiguous_id (identities), json_file and image_root.

    Raises:
        FileNotFoundError, ValueError: if the file of the names is missing, or the data set is not registered.
    """
    source = _SOURCES.get(name)
    if source is None:
        if name in MetadataCatalog.list() and hasattr(MetadataCatalog.get(name), "predicate_classes"):
            return MetadataCatalog.get(name)
        near = did_you_mean(name, _SOURCES) or f"; registered are: {', '.join(sorted(_SOURCES)) or 'none'}"
        raise ValueError(f"{name!r} is not a registered PSG data set{near}")
    paths = {"json_file": str(source.json_file), "image_root": str(source.image_root)}
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file", paths["json_file"]) != paths["json_file"]:
        # The root was set to another folder since; a Metadata object refuses new values.
        MetadataCatalog.remove(name)
        metadata = MetadataCatalog.get(name)
    if metadata.get("predicate_classes") is None:
        vocabulary = source.vocabulary or _own_vocabulary(name, paths["json_file"])
        metadata.set(**paths, **_vocabulary_metadata(vocabulary))
    return metadata


def get_vocabulary(name: str) -> Vocabulary:
    """The names of a data set; errors as in `get_psg_metadata`."""
    return Vocabulary.from_metadata(get_psg_metadata(name))


def check_dataset_files(name: str) -> None:
    """Raise FileNotFoundError if a data set of this module has no file or no folder of images where they belong."""
    if source := _SOURCES.get(name):
        _require_file(name, source.json_file)
        if not source.image_root.is_dir():
            raise FileNotFoundError(f"data set {name!r}: there is no folder {source.image_root} ({_root_hint()})")


@contextmanager
def bad_record_policy(policy: str) -> Iterator[None]:
    """Load data sets with this policy for invalid records, unless they are registered with another than "error"."""
    global _policy_override
    POLICIES.check("DATALOADER.BAD_SAMPLES", policy)
    before, _policy_override = _policy_override, policy
    try:
        yield
    finally:
        _policy_override = before


def register_builtin_psg() -> None:
    """Register the data sets of this module's docstring."""
    for split in SPLITS:
        _register_builtin(f"psg_{split}", _Source(Path("psg/psg.json"), Path("coco"), split, PSG_VOCABULARY, "error"))
    for name, split in (("train", "trainval"), ("val", "test")):
        source = _Source(Path("psg/coco_panoptic.json"), Path("coco"), split, PSG_VOCABULARY, "error")
        _register_builtin(f"coco_panoptic_{name}", source)
    for name, file, split in (
        ("train", "psg", "trainval"),
        ("val", "psg", "test"),
        ("train_complete", "psg_complete", "trainval"),
        ("val_complete", "psg_complete", "test"),
        ("train_seen", "psg_seen", "trainval"),
    ):
        json_path, root_path = Path(f"psg_shapes/psg/{file}.json"), Path("psg_shapes/coco")
        _register_builtin(f"psg_shapes_{name}", _Source(json_path, root_path, split, None, "error"))


def _register_builtin(name: str, source: _Source) -> None:
    if name not in _SOURCES:
        _register(name, source)


def _register(name: str, source: _Source) -> None:
    if source.split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {source.split!r}")
    POLICIES.check("policy", source.policy)
    if name in DatasetCatalog.list():
        raise ValueError(f"name: a data set {name!r} is already registered")
    DatasetCatalog.register(name, lambda: _load(name))
    _SOURCES[name] = source
    # Known without opening a file; evaluators are chosen by it.
    MetadataCatalog.get(name).set(evaluator_type="psg_sgdet")


def _load(name: str) -> Sequence[dict]:
    source = _SOURCES[name]
    _require_file(name, source.json_file)
    policy = source.policy if source.policy != "error" else _policy_override
    return load_psg_json(source.json_file, source.image_root, source.split, vocabulary=source.vocabulary, policy=policy)


def _require_file(name: str, json_file: Path) -> None:
    if not json_file.is_file():
        raise FileNotFoundError(f"data set {name!r}: there is no file {json_file} ({_root_hint()})")


def _root_hint() -> str:
    root = os.environ.get("DETECTRON2_DATASETS")
    hint = f"is {root!r}" if root else "is not set, so its default 'datasets' in the working directory is used"
    return f"DETECTRON2_DATASETS {hint}"


def _own_vocabulary(name: str, json_file: str) -> Vocabulary:
    _require_file(name, Path(json_file))
    return _read_vocabulary(json_file, os.stat(json_file).st_mtime_ns)


@lru_cache(maxsize=16)
def _read_vocabulary(json_file: str, _modified: int) -> Vocabulary:
    return open_psg(json_file).vocabulary


def _vocabulary_metadata(vocabulary: Vocabulary) -> dict:
    num_things, num_classes = len(vocabulary.thing_classes), len(vocabulary.object_classes)
    return {
        **{key: list(names) for key, names in vocabulary.names.items()},
        "object_classes": list(vocabulary.object_classes),
        "thing_dataset_id_to_contiguous_id": {i: i for i in range(num_things)},
        "stuff_dataset_id_to_contiguous_id": {i: i for i in range(num_things, num_classes)},
        "evaluator_type": "psg_sgdet",
        "ignore_label": IGNORE_LABEL,
        "label_divisor": LABEL_DIVISOR,
    }
