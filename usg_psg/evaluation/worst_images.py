"""The images of an evaluation that went worst, kept to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from ..masks import encode_segments
from ..scene_graph import SceneGraph
from ..vocabulary import Vocabulary
from .image_match import ImageMatch
from .inputs import GroundTruth


@dataclass(frozen=True)
class WorstImage:
    """An image with annotated relations, and how it went.

    Attributes:
        key: (-recall, missed relations, image_id), larger for a worse image; recall is in [0, 1].
        annotation, prediction: scene graphs.
        shown: relations of the prediction, with graph constraint, that counted. Those whose two ends became one segment
            count too, but no graph has them.
    """

    key: tuple[float, int, str]
    annotation: SceneGraph
    prediction: SceneGraph
    shown: int

    @property
    def recall(self) -> float:
        """In [0, 1]."""
        return abs(self.key[0])

    @property
    def image_id(self) -> str:
        """As in the data set."""
        return self.key[2]


class WorstImages:
    """Keeps the `count` images with the lowest recall of `k` relations under `single`, masks as run lengths."""

    def __init__(self, count: int, vocabulary: Vocabulary, k: int = 20):
        self.count, self.vocabulary, self.k = count, vocabulary, k
        self.images: list[WorstImage] = []  # the worst first

    def add(self, match: ImageMatch, output: dict) -> None:
        """Keep an image with annotated relations, of which `output` is the model's, if it is among the worst so far."""
        ranks = match.ranks("one_to_one").constrained
        if not len(ranks):
            return
        found = int((ranks < self.k).sum())
        key = (-found / len(ranks), len(ranks) - found, match.gt.image_id)
        if len(self.images) < self.count or key > self.images[-1].key:
            rows = match.segment_triplets[0][: self.k]
            shown = int((rows[:, 0] != rows[:, 1]).sum())
            graphs = graph_of_annotation(match.gt, self.vocabulary), SceneGraph.from_output(output, self.vocabulary)
            self._keep(WorstImage(key, *graphs, shown))

    def merge(self, other: WorstImages) -> None:
        """Take in what another process kept."""
        self._keep(*other.images)

    def _keep(self, *images: WorstImage) -> None:
        self.images = sorted([*self.images, *images], key=lambda image: image.key, reverse=True)[: self.count]


def graph_of_annotation(gt: GroundTruth, vocabulary: Vocabulary) -> SceneGraph:
    """An annotation in the form of a prediction, without exact duplicates among its relations, every score 1."""
    masks = encode_segments(gt.label_map, range(1, len(gt.labels) + 1))
    return SceneGraph.from_rows(gt.label_map.shape, gt.labels.tolist(), masks, gt.unique_triplets.tolist(), vocabulary)
