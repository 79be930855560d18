"""A packed copy of a PSG file beside it, from which a data set is loaded without reading the JSON.

`psg.json.index` is a safetensors file of short JSON texts, mapped into memory: processes share its pages, and the
dict of an image is made when it is asked for. It holds what `load_psg_json` would find, problems included, and the
size, time and ends of the JSON file that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

import numpy as np
from detectron2.structures import BoxMode
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_safetensors
from torch.utils.data import Dataset

from ..vocabulary import Vocabulary
from .validation.records import Problem

logger = logging.getLogger(__name__)

SUFFIX = ".index"
VERSION = "3"
_END_BYTES = 2**16
_SEGMENT_KEYS = ("id", "category_id", "isthing", "iscrowd", "area", "bbox")


@dataclass(frozen=True)
class PSGIndex:
    """An opened index; stands in for `PSGFile` where no record's JSON is needed.

    Attributes:
        path: the PSG file that it stands for.
        image_ids, test_image_ids, vocabulary: as in `PSGFile`.
        problems: of the records that have any, by position; those with an error are not packed.
        ends: (n,) int64, where each image's part of records ends.
        records: (bytes,) uint8 JSON, for each image its file names, height, width, segments and relations.
    """

    path: str
    image_ids: list[str]
    test_image_ids: frozenset[str]
    vocabulary: Vocabulary
    problems: dict[int, list[Problem]]
    ends: np.ndarray
    records: np.ndarray

    def validate_record(self, position: int) -> Sequence[Problem]:
        """Problems of one record."""
        return self.problems.get(position, ())

    def dataset_dict(self, position: int, root: Path) -> dict:
        """One image as `load_psg_json` describes it, without problems."""
        packed = self.records[self.ends[position - 1] if position else 0 : self.ends[position]]
        file_name, pan_seg_file_name, height, width, segments, relations = json.loads(packed.tobytes())
        return {
            "file_name": str(root / file_name),
            "pan_seg_file_name": str(root / pan_seg_file_name),
            "image_id": self.image_ids[position],
            "height": height,
            "width": width,
            "segments_info": [
                {**dict(zip(_SEGMENT_KEYS, values, strict=True)), "bbox_mode": BoxMode.XYXY_ABS} for values in segments
            ],
            "relations": relations,
        }


class PSGRecords(Dataset[dict], Sequence[dict]):
    """Images of an index, each made when it is asked for; a sequence of dataset dicts.

    Detectron2's loaders take it as it is; it never becomes a list, and processes share its memory.
    """

    def __init__(self, index: PSGIndex, positions: Sequence[int] | np.ndarray, root: Path):
        self._index, self._root = index, root
        self._positions = np.asarray(positions, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, item: int) -> dict: ...

    @overload
    def __getitem__(self, item: slice) -> list[dict]: ...

    def __getitem__(self, item: int | slice) -> dict | list[dict]:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        return self._index.dataset_dict(int(self._positions[item]), self._root)

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple:
        # A process that starts afresh maps the file itself.
        return _reopen, (self._index.path, self._positions, self._root)


def _reopen(json_file: str, positions: np.ndarray, root: Path) -> PSGRecords:
    index = open_index(json_file)
    if index is None:
        raise ValueError(f"{index_path(json_file)}: the index is not there any more or was changed")
    return PSGRecords(index, positions, root)


def index_path(json_file: str | Path) -> Path:
    """Where the index of a PSG file lies."""
    return Path(f"{json_file}{SUFFIX}")


def open_index(json_file: str | Path) -> PSGIndex | None:
    """The index of a PSG file; None without one, and, with a warning, for one that does not belong to it or is damaged.

    Raises:
        FileNotFoundError: if there is an index but not the file that it belongs to.
    """
    path = index_path(json_file)
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != f"usg_psg index {VERSION}":
                raise ValueError("not an index of this version")
            if json.loads(metadata["source"]) != file_identity(json_file):
                raise ValueError(f"{json_file} has changed since")
            arrays = {name: file.get_tensor(name).numpy() for name in ("ends", "records", "text")}
        if _digest(arrays) != metadata["sha256"]:
            raise ValueError("its content is damaged")
        text = json.loads(bytes(arrays["text"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no PSG file {json_file}") from error
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        logger.warning("%s: index ignored (%s); tools/prepare_psg.py index makes a new one", path, error)
        return None
    problems: dict[int, list[Problem]] = {}
    for position, problem in text["faults"]:
        problems.setdefault(position, []).append(Problem(**problem))
    return PSGIndex(
        str(json_file),
        text["image_ids"],
        frozenset(text["test_image_ids"]),
        Vocabulary.from_names(text["vocabulary"]),
        problems,
        arrays["ends"],
        arrays["records"],
    )


def pack_index(
    dicts: list[dict | None],
    image_ids: list[str],
    test_image_ids: frozenset[str],
    vocabulary: Vocabulary,
    problems: dict[int, list[Problem]],
    identity: dict,
) -> bytes:
    """Content of an index file.

    Args:
        dicts: dataset dict of each record, its paths relative to the data root; None for one that is not valid.
        image_ids, test_image_ids, vocabulary: of the file.
        problems: by position.
        identity: of the PSG file, see `file_identity`, from before it was read.
    """
    keys = ("file_name", "pan_seg_file_name", "height", "width")
    packed = []
    for each in dicts:
        segments = [[segment[key] for key in _SEGMENT_KEYS] for segment in each["segments_info"]] if each else []
        packed.append(json.dumps([*(each[key] for key in keys), segments, each["relations"]]) if each else "")
    text = {
        "image_ids": image_ids,
        "test_image_ids": sorted(test_image_ids),
        "vocabulary": vocabulary.names,
        "faults": [(position, asdict(problem)) for position, found in problems.items() for problem in found],
    }
    arrays: dict[str, np.ndarray] = {
        "ends": np.cumsum([len(each) for each in packed], dtype=np.int64),
        "records": np.frombuffer("".join(packed).encode("ascii"), dtype=np.uint8),
        "text": np.frombuffer(json.dumps(text).encode("ascii"), dtype=np.uint8),
    }
    metadata = {"format": f"usg_psg index {VERSION}", "source": json.dumps(identity), "sha256": _digest(arrays)}
    return save_safetensors(arrays, metadata)


def file_identity(json_file: str | Path) -> dict:
    """What tells a PSG file from a changed one without reading it: size, time, and a hash of its two ends."""
    with open(json_file, "rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_END_BYTES))
        file.seek(max(0, status.st_size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ends": digest.hexdigest()}


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
