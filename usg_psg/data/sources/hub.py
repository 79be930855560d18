"""Scene graph data sets of the Hugging Face Hub in the layout of `maelic/PSG-coco-format`: boxes and relations.

Parquet files, a row per image: image, image_id, width, height, file_name, objects (id, category_id, bbox as x, y,
width, height, area, iscrowd, segmentation) and relations (id, subject_id, object_id, predicate_id; subject_id and
object_id are ids of objects). The file categories.json, or JSON in the description of the data set, has the names:
categories and rel_categories, each with id and name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import HfApi, HfFileSystem

from ...vocabulary import Vocabulary
from .files import network_errors

if TYPE_CHECKING:
    import pyarrow

PSG_REPOSITORY = "maelic/PSG-coco-format"
SPLITS = ("train", "val", "validation", "test")
COLUMNS = ("image_id", "width", "height", "file_name", "objects", "relations")
BATCH = 100  # rows; as many as a row group of the Hub's files of images has


@dataclass(frozen=True)
class HubDataset:
    """A data set at one commit.

    Attributes:
        repository, commit: of it.
        shards: (split, path in the repository) of its files, in the order of `SPLITS`.
        has_names: whether it has categories.json.
        categories_file: file to take the names from; None for the repository's own.
        endpoint: URL of the Hub; None for huggingface_hub's, which HF_ENDPOINT sets.
    """

    repository: str
    commit: str
    shards: list[tuple[str, str]]
    has_names: bool
    categories_file: Path | None = None
    endpoint: str | None = None

    @classmethod
    def open(
        cls,
        repository: str,
        revision: str | None = None,
        categories_file: Path | None = None,
        endpoint: str | None = None,
    ) -> HubDataset:
        """Ask the Hub for the data set's files.

        Raises:
            OSError: if the Hub or the data set cannot be reached.
            ValueError: if it has no Parquet file of a known split, or pyarrow is missing.
        """
        _pyarrow()
        with network_errors(repository):
            info = HfApi(endpoint).dataset_info(repository, revision=revision)
        names = sorted(file.rfilename for file in info.siblings or [])
        parquet = [name for name in names if name.endswith(".parquet")]
        shards = [(split, name) for split in SPLITS for name in parquet if _split_of(name) == split]
        if not shards:
            raise ValueError(f"{repository}: it has no Parquet file of a split {', '.join(SPLITS)}")
        return cls(repository, str(info.sha), shards, "categories.json" in names, categories_file, endpoint)

    @cached_property
    def names(self) -> tuple[dict[int, str], dict[int, str]]:
        """Names by id: of the categories and of the predicates.

        Raises:
            OSError: if the Hub cannot be reached.
            ValueError: if there are none, naming where they were looked for.
        """
        try:
            content = json.loads(self._categories())
            found = tuple({e["id"]: e["name"] for e in content[key]} for key in ("categories", "rel_categories"))
        except (ValueError, KeyError, TypeError) as error:
            where = self.categories_file or f"{self.repository}, categories.json or description"
            message = "expected JSON with categories and rel_categories, each a list of objects with id and name"
            raise ValueError(f"{where}: {message} ({type(error).__name__}: {error})") from error
        return found  # type: ignore[return-value]

    def _categories(self) -> str:
        if self.categories_file is not None:
            return self.categories_file.read_text(encoding="utf-8")
        with network_errors(self.repository):
            if self.has_names:
                get = HfApi(self.endpoint).hf_hub_download
                path = get(self.repository, "categories.json", repo_type="dataset", revision=self.commit)
                return Path(path).read_text(encoding="utf-8")
            with self._open(self.shards[0][1]) as file:
                metadata = _pyarrow().parquet.read_schema(file).metadata or {}
        return json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("description", "")

    @cached_property
    def _files(self) -> HfFileSystem:
        return HfFileSystem(endpoint=self.endpoint, skip_instance_cache=True)

    def _open(self, shard: str) -> Any:
        # Each request reads the range that is asked for and no more.
        return self._files.open(f"datasets/{self.repository}@{self.commit}/{shard}", "rb", cache_type="none")

    def annotations(self, shard: str, cache: Path) -> list[dict]:
        """Rows of a file without its images, which are not downloaded.

        Args:
            shard: path in the repository.
            cache: folder in which the rows are kept, so that a file is read once.

        Raises:
            OSError: if the Hub cannot be reached.
            ValueError: if a column is missing.
        """
        parquet = _pyarrow().parquet
        path = cache / self.commit / shard
        if path.exists():
            return parquet.read_table(path).to_pylist()
        with network_errors(f"{self.repository}, {shard}"), self._open(shard) as file:
            table = _with_columns(parquet.ParquetFile(file, pre_buffer=True), shard).read(list(COLUMNS))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        parquet.write_table(table, part)
        os.replace(part, path)
        return table.to_pylist()

    def rows(self, shard: str) -> Iterator[dict]:
        """Rows of a file with their images, as `image`: {"bytes", "path"}; errors as in `annotations`."""
        with network_errors(f"{self.repository}, {shard}"), self._open(shard) as file:
            opened = _with_columns(_pyarrow().parquet.ParquetFile(file, pre_buffer=True), shard)
            for batch in opened.iter_batches(BATCH, columns=[*COLUMNS, "image"]):
                yield from batch.to_pylist()


@dataclass(frozen=True)
class RowReader:
    """Turns the ids of a row into numbers of a vocabulary; ValueError names image and field where it cannot."""

    names: tuple[dict[int, str], dict[int, str]]
    vocabulary: Vocabulary

    def classes(self, row: dict) -> np.ndarray:
        """(N,) category ids of the objects."""
        return self._numbers(row, "objects", "category_id", self.names[0], self.vocabulary.object_classes)

    def relations(self, row: dict) -> np.ndarray:
        """(R, 3) rows (subject, object, predicate), positions among the row's objects."""
        predicates = self._numbers(row, "relations", "predicate_id", self.names[1], self.vocabulary.predicate_classes)
        position = {obj["id"]: i for i, obj in enumerate(row["objects"])}
        ends = [[position.get(r[key], -1) for key in ("subject_id", "object_id")] for r in row["relations"]]
        if unknown := [i for i, pair in enumerate(ends) if min(pair) < 0]:
            raise ValueError(
                f"image_id {row['image_id']!r}, relations[{unknown[0]}]: it relates no object of the image"
            )
        return np.column_stack([np.array(ends, dtype=np.int64).reshape(-1, 2), predicates])

    @staticmethod
    def _numbers(row: dict, field_: str, key: str, names: dict[int, str], known: Sequence[str]) -> np.ndarray:
        position = {name: i for i, name in enumerate(known)}
        numbers = [position.get(names.get(entry[key], ""), -1) for entry in row[field_]]
        if -1 in numbers:
            index = numbers.index(-1)
            value = row[field_][index][key]
            what = f"{value!r} ({names[value]!r})" if value in names else repr(value)
            where = f"image_id {row['image_id']!r}, {field_}[{index}].{key}"
            raise ValueError(f"{where}: {what} is none of the {len(known)} expected names")
        return np.array(numbers, dtype=np.int64)


def _split_of(name: str) -> str:
    """The split that a file's name begins with, such as data/train-00000-of-00016.parquet, or that of its folder."""
    path = PurePosixPath(name)
    stem = path.name.partition("-")[0].removesuffix(".parquet")
    return stem if stem in SPLITS else path.parent.name


def _with_columns(file: pyarrow.parquet.ParquetFile, shard: str) -> pyarrow.parquet.ParquetFile:
    if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
        raise ValueError(f"{shard}: the column {missing[0]!r} is missing")
    return file


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("the Hub's files are Parquet, which needs pyarrow: pip install 'usg_psg[hub]'") from error
    return pyarrow
