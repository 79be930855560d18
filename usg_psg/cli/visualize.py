"""Writes a page of a data set's annotation, or of the errors of predictions on it."""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..config import build_cfg
from ..data import load_psg_json, read_psg_json
from ..data.register_psg import get_vocabulary
from ..evaluation import GroundTruth, Prediction, read_predictions
from ..evaluation.errors import TripletErrors, triplet_errors
from ..evaluation.image_match import ImageMatch
from ..evaluation.records import ground_truth, images_with_relations
from ..evaluation.worst_images import graph_of_annotation
from ..images import read_image
from ..scene_graph import SceneGraph
from ..utils.text import counted
from ..visualization import PageItem, PageWriter
from ..vocabulary import Vocabulary
from . import image_root_of


@dataclass(frozen=True)
class Source:
    """A split of a data set: what to call it, its dataset dicts, and its names."""

    title: str
    records: list[dict]
    vocabulary: Vocabulary


def open_source(args: Namespace) -> Source:
    """The data set that the command line names.

    Raises:
        ValueError, FileNotFoundError: see `get_psg_metadata` and `load_psg_json`.
    """
    if args.config_file:
        build_cfg(args.config_file, trust_imports=args.trust_imports)
    if args.dataset:
        names = get_vocabulary(args.dataset)
        records, title = DatasetCatalog.get(args.dataset), args.dataset
    else:
        names = read_psg_json(args.json).vocabulary
        root = image_root_of(args.json, args.image_root)
        split = args.split or ("test" if args.predictions else "trainval")
        records, title = load_psg_json(args.json, root, split), f"{args.json.name}, {split}"
    return Source(title, records, names)


def choose(records: list[dict], image_ids: list[str] | None) -> list[dict]:
    """The records with these ids, in this order; all without ids.

    Raises:
        ValueError: for an id that no record has.
    """
    if image_ids is None:
        return records
    by_id = {str(record["image_id"]): record for record in records}
    missing = [image_id for image_id in image_ids if image_id not in by_id]
    if missing:
        raise ValueError(f"--image-ids {missing[0]}: the split has no such image")
    return [by_id[image_id] for image_id in dict.fromkeys(image_ids)]


def annotation_item(source: Source, record: dict) -> PageItem:
    """An annotated image; reads its files."""
    gt = ground_truth(record)
    return PageItem(
        name=str(record["image_id"]),
        image=_image(record),
        graph=graph_of_annotation(gt, source.vocabulary),
        scores=False,
        title="Annotated",
        note=f"{counted(len(gt.labels), 'object')}, {counted(len(gt.unique_triplets), 'relation')}",
    )


def error_item(source: Source, record: dict, gt: GroundTruth, errors: TripletErrors) -> PageItem:
    """An image with hits and errors; reads its photograph.

    Raises:
        ValueError: for a class or predicate that the data set has no name for; the message names the image.
    """
    labels, triplets = errors.labels.tolist(), errors.triplets.tolist()
    try:
        graph = SceneGraph.from_rows(gt.label_map.shape, labels, errors.masks, triplets, source.vocabulary)
    except ValueError as error:
        raise ValueError(f"image {record['image_id']!r}: {error}") from None
    found, total = int(errors.found.sum()), len(errors.found)
    return PageItem(
        name=str(record["image_id"]),
        image=_image(record),
        graph=graph,
        truth=graph_of_annotation(gt, source.vocabulary),
        marks=["hit" if hit else "wrong" for hit in errors.hits],
        truth_marks=["hit" if hit else "missed" for hit in errors.found],
        scores=False,
        title="Predicted",
        note=f"recall {found} of {total}, {int((~errors.hits).sum())} wrong" if total else "nothing annotated",
    )


def _image(record: dict) -> np.ndarray:
    size = (record["height"], record["width"])
    return read_image(record["file_name"], size=size, image_id=str(record["image_id"]))


class ErrorPage:
    """Writes the worst images. The predictions are read twice, so that only one image is in memory at a time."""

    def __init__(self, source: Source, chosen: list[dict], args: Namespace):
        self.source = source
        self.args = args
        self.chosen = {str(record["image_id"]): record for record in chosen}

    def _compare(self, wanted: set[str]) -> Iterator[tuple[str, GroundTruth, TripletErrors]]:
        """Wanted images in the order of the file; those that it lacks come last, with everything missed."""
        known, missing = {str(record["image_id"]) for record in self.source.records}, set(wanted)
        seen: set[str] = set()
        image_ids = images_with_relations(self.source.records)
        for image_id, prediction in read_predictions(self.args.predictions, image_ids):
            if image_id not in known:
                raise ValueError(f"{self.args.predictions}, image {image_id!r}: the annotated split has no such image")
            if image_id in seen:
                raise ValueError(f"{self.args.predictions}, image {image_id!r}: there is a second prediction")
            seen.add(image_id)
            if image_id in missing:
                missing.remove(image_id)
                yield self._compare_one(image_id, prediction)
        for image_id in sorted(missing):
            yield self._compare_one(image_id, None)

    def _compare_one(self, image_id: str, prediction: Prediction | None) -> tuple[str, GroundTruth, TripletErrors]:
        gt = ground_truth(self.chosen[image_id])
        try:
            return image_id, gt, triplet_errors(ImageMatch(gt, prediction), self.args.protocol, self.args.top_k)
        except ValueError as error:
            raise ValueError(f"{self.args.predictions}, image {image_id!r}: {error}") from None

    def write(self, page: PageWriter) -> str:
        """Fill the page; returns the summary to print. Images without annotated relations are left out."""
        wanted = {image_id for image_id, record in self.chosen.items() if record["relations"]}
        if not wanted:
            raise ValueError("none of the images has annotated relations, so there is no recall")
        ranking, recalls = [], []
        with tqdm(self._compare(wanted), total=len(wanted), unit="image", desc="compare") as bar:
            for image_id, _, errors in bar:
                ranking.append((errors.recall, -errors.missed, image_id))
                if self.args.protocol != "openpsg" or len(errors.triplets):
                    recalls.append(errors.recall)  # that protocol leaves out images without predicted triplets
        ranking.sort()
        place = {image_id: n for n, (_, _, image_id) in enumerate(ranking[: self.args.limit])}
        with tqdm(self._compare(set(place)), total=len(place), unit="image", desc="write") as bar:
            for image_id, gt, errors in bar:
                page.add(error_item(self.source, self.chosen[image_id], gt, errors), order=place[image_id])
        mean = 100 * math.fsum(recalls) / len(recalls) if recalls else float("nan")
        return (
            f"R@{self.args.top_k} of {counted(len(recalls), 'image')} under {self.args.protocol}: {mean:.2f}"
            f"; the worst {len(place)} of {counted(len(ranking), 'image')}"
        )


def run(args: Namespace) -> None:
    """Write the page; after Ctrl-C it has what was finished.

    Raises:
        ValueError, OSError: for input that is missing or does not fit; no page is left then.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    source = open_source(args)
    chosen = choose(source.records, args.image_ids)
    single_file = args.output.suffix.lower() in (".html", ".htm")
    path = args.output if single_file else args.output / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Errors on {source.title}" if args.predictions else source.title
    with PageWriter(path, title, args.page_relations) as page:
        try:
            if args.predictions:
                summary = ErrorPage(source, chosen, args).write(page)
            else:
                for record in tqdm(chosen[: args.limit], unit="image"):
                    page.add(annotation_item(source, record))
                summary = f"{len(page)} of {counted(len(chosen), 'image')}"
        except Exception:
            page.discard()
            raise
    print(f"{summary}: {path}")
