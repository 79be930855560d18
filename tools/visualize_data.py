#!/usr/bin/env python
"""An HTML page of a data set's annotation, or of the errors of predictions on it.

    python tools/visualize_data.py --dataset psg_shapes_val --output output/data
    python tools/visualize_data.py --config-file cups.yaml --dataset cups_train --output output/cups
    python tools/visualize_data.py --json datasets/psg/psg.json --image-root datasets/coco --split test --limit 20 \\
        --output output/data
    python tools/visualize_data.py --dataset psg_val --predictions predictions.json --output output/errors

With --predictions, images come worst first: lowest recall, then most missed triplets. The file may be any that
tools/evaluate_predictions.py reads, and the rules are those of its protocols (docs/evaluation.md).
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import argparse
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import usg_psg  # noqa: F401  selects the engine

# isort: split
from detectron2.data import DatasetCatalog

from usg_psg.config import build_cfg
from usg_psg.data import load_psg_json, read_image, read_psg_json
from usg_psg.data.psg_json import SPLITS
from usg_psg.data.register_psg import get_vocabulary
from usg_psg.evaluation import GroundTruth, Prediction, read_predictions
from usg_psg.evaluation.errors import ERROR_PROTOCOLS, TripletErrors, triplet_errors
from usg_psg.evaluation.image_match import ImageMatch
from usg_psg.evaluation.records import ground_truth_from_record, images_with_relations
from usg_psg.evaluation.worst_images import graph_of_annotation
from usg_psg.scene_graph import SceneGraph
from usg_psg.utils.program import add_trust_argument, one_line_errors, positive_integer
from usg_psg.utils.text import counted
from usg_psg.visualization import PageItem, PageWriter
from usg_psg.vocabulary import Vocabulary


@dataclass(frozen=True)
class Source:
    """A split of a data set: what to call it, its dataset dicts, and its names."""

    title: str
    records: list[dict]
    vocabulary: Vocabulary


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="a registered data set: psg_train, psg_val, psg_test, psg_shapes_val, ...")
    parser.add_argument("--config-file", default="", metavar="FILE", help="recipe whose IMPORTS register --dataset")
    add_trust_argument(parser)
    source.add_argument("--json", type=Path, help="psg.json, or a file of the same form")
    parser.add_argument("--image-root", type=Path, help="pictures of --json, default ../coco beside the file's folder")
    parser.add_argument(
        "--split", choices=SPLITS, help="images of --json, default test with --predictions, otherwise trainval"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for index.html, or the name of the page")
    parser.add_argument("--limit", type=positive_integer, default=50, help="images on the page, default 50")
    parser.add_argument("--image-ids", nargs="+", metavar="ID", help="these images only")
    parser.add_argument("--predictions", type=Path, help="show the errors of this predictions file")
    parser.add_argument("--protocol", default="single", choices=ERROR_PROTOCOLS, help="rules for hits, default single")
    parser.add_argument(
        "--top-k", type=positive_integer, default=20, metavar="K", help="predicted triplets that count, default 20"
    )
    parser.add_argument(
        "--page-relations", type=positive_integer, default=1000, metavar="N", help="relations per image, default 1000"
    )
    arguments = parser.parse_args(argv)
    if (arguments.image_root or arguments.split) and not arguments.json:
        parser.error("--image-root and --split belong to --json")
    return arguments


def open_source(arguments: argparse.Namespace) -> Source:
    """The data set that the command line names.

    Raises:
        ValueError, FileNotFoundError: see `get_psg_metadata` and `load_psg_json`.
    """
    if arguments.config_file:
        build_cfg(arguments.config_file, trust_imports=arguments.trust_imports)
    if arguments.dataset:
        names = get_vocabulary(arguments.dataset)
        records, title = DatasetCatalog.get(arguments.dataset), arguments.dataset
    else:
        names = read_psg_json(arguments.json).vocabulary
        root = arguments.image_root or arguments.json.resolve().parent.parent / "coco"
        split = arguments.split or ("test" if arguments.predictions else "trainval")
        records, title = load_psg_json(arguments.json, root, split), f"{arguments.json.name}, {split}"
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
    """An annotated image; reads its pictures."""
    gt = ground_truth_from_record(record)
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

    def __init__(self, source: Source, chosen: list[dict], arguments: argparse.Namespace):
        self.source = source
        self.arguments = arguments
        self.chosen = {str(record["image_id"]): record for record in chosen}

    def _compare(self, wanted: set[str]) -> Iterator[tuple[str, GroundTruth, TripletErrors]]:
        """Wanted images in the order of the file; those that it lacks come last, with everything missed."""
        known, missing = {str(record["image_id"]) for record in self.source.records}, set(wanted)
        seen: set[str] = set()
        image_ids = images_with_relations(self.source.records)
        for image_id, prediction in read_predictions(self.arguments.predictions, image_ids):
            if image_id not in known:
                raise ValueError(
                    f"{self.arguments.predictions}, image {image_id!r}: the annotated split has no such image"
                )
            if image_id in seen:
                raise ValueError(f"{self.arguments.predictions}, image {image_id!r}: there is a second prediction")
            seen.add(image_id)
            if image_id in missing:
                missing.remove(image_id)
                yield self._compare_one(image_id, prediction)
        for image_id in sorted(missing):
            yield self._compare_one(image_id, None)

    def _compare_one(self, image_id: str, prediction: Prediction | None) -> tuple[str, GroundTruth, TripletErrors]:
        gt = ground_truth_from_record(self.chosen[image_id])
        try:
            match = ImageMatch(gt, prediction)
            return image_id, gt, triplet_errors(match, self.arguments.protocol, self.arguments.top_k)
        except ValueError as error:
            where = f"{self.arguments.predictions}, image {image_id!r}"
            raise ValueError(f"{where}: {str(error).removeprefix(f'image {image_id!r}: ')}") from None

    def write(self, page: PageWriter) -> str:
        """Fill the page; returns the summary to print. Images without annotated relations are left out."""
        wanted = {image_id for image_id, record in self.chosen.items() if record["relations"]}
        if not wanted:
            raise ValueError("none of the images has annotated relations, so there is no recall")
        ranking, recalls = [], []
        with tqdm(self._compare(wanted), total=len(wanted), unit="image", desc="compare") as bar:
            for image_id, _, errors in bar:
                ranking.append((errors.recall, -errors.missed, image_id))
                if self.arguments.protocol != "openpsg" or len(errors.triplets):
                    recalls.append(errors.recall)  # that protocol leaves out images without predicted triplets
        ranking.sort()
        place = {image_id: n for n, (_, _, image_id) in enumerate(ranking[: self.arguments.limit])}
        with tqdm(self._compare(set(place)), total=len(place), unit="image", desc="write") as bar:
            for image_id, gt, errors in bar:
                page.add(error_item(self.source, self.chosen[image_id], gt, errors), order=place[image_id])
        mean = 100 * math.fsum(recalls) / len(recalls) if recalls else float("nan")
        return (
            f"R@{self.arguments.top_k} of {counted(len(recalls), 'image')} under {self.arguments.protocol}: {mean:.2f}"
            f"; the worst {len(place)} of {counted(len(ranking), 'image')}"
        )


def write(arguments: argparse.Namespace) -> str:
    """Write the page; returns what to print.

    Raises:
        ValueError, OSError: for input that is missing or does not fit; no page is left then.
    """
    source = open_source(arguments)
    chosen = choose(source.records, arguments.image_ids)
    single_file = arguments.output.suffix.lower() in (".html", ".htm")
    path = arguments.output if single_file else arguments.output / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Errors on {source.title}" if arguments.predictions else source.title
    with PageWriter(path, title, arguments.page_relations) as page:
        try:
            if arguments.predictions:
                summary = ErrorPage(source, chosen, arguments).write(page)
            else:
                for record in tqdm(chosen[: arguments.limit], unit="image"):
                    page.add(annotation_item(source, record))
                summary = f"{len(page)} of {counted(len(chosen), 'image')}"
        except Exception:
            page.discard()
            raise
    return f"{summary}: {path}"


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """0 if the page is written, 2 for bad input; after Ctrl-C, 130, and the page has what was finished."""
    arguments = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    print(write(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
