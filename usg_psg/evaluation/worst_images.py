"""The images of an evaluation that went worst, to be looked at."""

from __future__ import annotations

import heapq
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from ..data.panoptic import read_image
from ..scene_graph import SceneGraph, SceneObject, SceneRelation
from ..vocabulary import Vocabulary
from .image_match import ImageMatch
from .inputs import GroundTruth
from .matching import encode_masks

logger = logging.getLogger(__name__)


class WorstImages:
    """Keeps the predictions of the images with the lowest recall, masks as run lengths; the others cost no memory.

    Args:
        count: images kept.
        vocabulary: names of the data set.
        k: predicted relations that count, under the rules of the protocol `single`.
    """

    def __init__(self, count: int, vocabulary: Vocabulary, k: int = 20):
        self.count, self.k = count, k
        self.vocabulary = vocabulary
        # The best of the worst first; its key is (-recall, missed relations, image_id). The number is that of relations
        # to draw: those among the first k whose ends became one segment took a rank, but no graph has them.
        self._heap: list[tuple[tuple[float, int, str], SceneGraph, int]] = []

    def add(self, match: ImageMatch, output: dict) -> None:
        """Keep an image if it is among the worst so far.

        Args:
            match: of the image; images without annotated relations are left out.
            output: the model's, of which the prediction was made.
        """
        if not len(match.gt.triplets):
            return
        ranks = match.ranks("one_to_one").constrained
        found = int((ranks < self.k).sum())
        key = (-found / len(ranks), len(ranks) - found, match.gt.image_id)
        if len(self._heap) < self.count or key > self._heap[0][0]:
            rows = match.segment_triplets[0][: self.k]
            self._push(key, SceneGraph.from_output(output, self.vocabulary), int((rows[:, 0] != rows[:, 1]).sum()))

    def merge(self, other: WorstImages) -> None:
        """Take in what another process kept."""
        for key, graph, shown in other._heap:
            if len(self._heap) < self.count or key > self._heap[0][0]:
                self._push(key, graph, shown)

    def _push(self, key: tuple[float, int, str], graph: SceneGraph, shown: int) -> None:
        # Keys differ in the image_id, so graphs are never compared.
        heapq.heappush(self._heap, (key, graph, shown))
        if len(self._heap) > self.count:
            heapq.heappop(self._heap)

    def worst(self) -> list[tuple[str, float, SceneGraph, int]]:
        """Image_id, recall in [0, 1], prediction and number of its relations that count; the worst image first."""
        kept = sorted(self._heap, key=lambda x: x[0], reverse=True)
        return [(key[2], -key[0], graph, shown) for key, graph, shown in kept]

    def save(self, folder: Path | str, records: Mapping[str, dict]) -> list[Path]:
        """Draw annotation beside prediction of each image.

        Args:
            folder: where the PNG files go, named by rank and image; made if missing. Those of an earlier evaluation
                are removed.
            records: dataset dicts by image_id.

        Returns:
            Paths of the files. An image whose picture cannot be read is left out, with a warning.
        """
        from ..visualization.comparison import draw_comparison
        from .records import ground_truth_from_record

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9][0-9][0-9]*_*.png"):
            old.unlink()
        paths = []
        for n, (image_id, recall, prediction, shown) in enumerate(self.worst(), start=1):
            record = records[image_id]
            try:
                size = (prediction.height, prediction.width)
                image = read_image(record["file_name"], "RGB", size=size, image_id=image_id)
            except (FileNotFoundError, ValueError) as error:
                logger.warning("no picture of image %s: %s", image_id, error)
                continue
            annotation = scene_graph_of_annotation(ground_truth_from_record(record), self.vocabulary)
            title = f"{image_id}: recall {100 * recall:.1f} at {self.k}"
            path = folder / f"{n:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', image_id)}.png"
            draw_comparison(image, annotation, prediction, shown, title).savefig(path)
            paths.append(path)
        return paths


def scene_graph_of_annotation(gt: GroundTruth, vocabulary: Vocabulary) -> SceneGraph:
    """An annotation in the form of a prediction, without exact duplicates among its relations, every score 1."""
    names, is_thing, predicates = vocabulary.object_classes, vocabulary.is_thing, vocabulary.predicate_classes
    height, width = gt.label_map.shape
    # One mask at a time: together they would take as much memory as there are segments.
    objects = [
        SceneObject(names[c], c, 1.0, is_thing[c], encode_masks((gt.label_map == n + 1)[None])[0])
        for n, c in enumerate(gt.labels.tolist())
    ]
    relations = [SceneRelation(s, o, predicates[p], p, 1.0) for s, o, p in gt.unique_triplets.tolist()]
    return SceneGraph(height, width, objects, relations)
