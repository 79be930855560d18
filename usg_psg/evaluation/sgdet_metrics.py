"""SGDet metrics of a data set under several protocols, streamed image by image. Arrays only: no framework, no files.

Letters: P predicates, K values of k, G annotated segments, T annotated triplets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .frequency_baseline import TrainingTriplets
from .image_match import ImageMatch
from .inputs import GroundTruth, Prediction, naming_image
from .matching import NEVER, first_ranks, match_any, pair_hits
from .novel_names import PARTS, NovelNames
from .panoptic_quality import PanopticQuality
from .protocols import PROTOCOLS, ProtocolCounts
from .recall import RecallTable

KS = (10, 20, 50, 100)
PROPOSAL_KS = (20, 50, 100, 200)
BASELINE = "frequency"  # first part of the baseline's keys


@dataclass
class SGDetResults:
    """Everything computed from the counts.

    Attributes:
        metrics: percentages by key, e.g. "single/mR@50", of the baseline "frequency/single/mR@50"; NaN for no values.
        panoptic: PQ, SQ, RQ in percent, with the suffix "_rel" over the images with relations only, "_base" and
            "_novel" over the classes that training had and lacked; empty if left out.
        counts: images, triplets and the like.
        predicate_recall: per protocol and "mR" or "NgmR", (K, P) percent, NaN for absent predicates.
        predicate_counts: (P,) annotated triplets without exact duplicates.
        predicate_frequency: (P,) by which predicates were ranked for head, body and tail.
        predicate_groups: "head", "body", "tail" to predicate indices.
        confusion: (P, P + 1) annotated against predicted predicate of found pairs; the last column is "not found".
    """

    metrics: dict[str, float]
    panoptic: dict[str, float]
    counts: dict[str, int]
    predicate_recall: dict[str, dict[str, np.ndarray]]
    predicate_counts: np.ndarray
    predicate_frequency: np.ndarray
    predicate_groups: dict[str, np.ndarray]
    confusion: np.ndarray


class SGDetMetrics:
    """Accumulates every protocol at once; memory does not grow with the number of images.

    Args:
        num_predicates: P.
        is_thing: a flag per object class, for panoptic quality; None leaves it out.
        ks, proposal_ks: ranks of the recalls; numbers of pair proposals of the oracle recall.
        predicate_frequency: (P,) orders predicates into head, body and tail, thirds of equal size; None takes that of
            `training`, or else the annotation itself.
        training: relations of the training data; without them there is no zero-shot recall.
        baseline: also score `TrainingTriplets.rank` on the predicted objects, under "frequency/...".
        baseline_scores: the baseline's ranking heeds the scores of the masks; not wanted where objects are given.
        novel: names that training lacked: recalls and panoptic quality are told for them and for the others, too.

    Raises:
        ValueError: for arguments that do not fit each other, or a rank below 1.
    """

    def __init__(
        self,
        num_predicates: int,
        is_thing: Sequence[bool] | None = None,
        ks: Sequence[int] = KS,
        proposal_ks: Sequence[int] = PROPOSAL_KS,
        predicate_frequency: np.ndarray | None = None,
        training: TrainingTriplets | None = None,
        baseline: bool = False,
        baseline_scores: bool = True,
        novel: NovelNames | None = None,
    ):
        if predicate_frequency is not None and len(predicate_frequency) != num_predicates:
            raise ValueError(f"predicate_frequency: expected {num_predicates} numbers, got {len(predicate_frequency)}")
        for name, ranks in (("ks", ks), ("proposal_ks", proposal_ks)):
            if not len(ranks) or min(ranks) < 1:
                raise ValueError(f"{name}: expected ranks from 1, got {tuple(ranks)}")
        if baseline and training is None:
            raise ValueError("baseline: needs training, the relations that it counts")
        num_classes = None if is_thing is None else len(is_thing)
        if training is not None:
            training.check(num_classes, num_predicates)
            num_classes = len(training.pairs)
            predicate_frequency = training.predicates if predicate_frequency is None else predicate_frequency
        self.num_predicates, self.num_classes = num_predicates, num_classes
        self.training, self.baseline_scores = training, baseline_scores
        self.ks, self.proposal_ks = tuple(ks), tuple(proposal_ks)
        self.predicate_frequency = predicate_frequency
        self.novel = novel
        self.protocols = self._protocol_counts()
        self.baseline = self._protocol_counts() if baseline else None
        self.is_thing = None if is_thing is None else list(is_thing)
        # By suffix of the keys: of all images, and of those with relations.
        self.panoptic = {} if is_thing is None else {x: PanopticQuality(is_thing) for x in ("", "_rel")}
        self.oracle = {name: RecallTable(self.proposal_ks) for name in ("pairs", "pairs_any_class")}
        self.found_objects = np.zeros(3, dtype=np.int64)  # found, found whatever the class, annotated
        self.possible_pairs = np.zeros(2, dtype=np.int64)  # both ends found, annotated
        self.confusion = np.zeros((num_predicates, num_predicates + 1), dtype=np.int64)
        self.counts = dict.fromkeys(
            (
                "images",
                "images_with_relations",
                "images_without_predictions",
                "images_with_proposals",
                "gt_triplets",
                "gt_duplicate_triplets",
                "predicted_triplets",
            ),
            0,
        )

    def _protocol_counts(self) -> dict[str, ProtocolCounts]:
        zero_shot = self.training is not None
        novel = self.novel is not None
        return {p.name: ProtocolCounts(p, self.ks, self.num_predicates, zero_shot, novel) for p in PROTOCOLS}

    def __getstate__(self) -> dict:
        # Other processes need the counts only, not megabytes of training statistics from each.
        return {**self.__dict__, "training": None}

    def update(self, gt: GroundTruth, prediction: Prediction) -> ImageMatch:
        """Count one image; returns the comparison, for whoever wants to look at it.

        Raises:
            ValueError: if sizes differ, or a class or predicate is out of range; the message names the image.
        """
        match = ImageMatch(gt, prediction)
        with naming_image(gt.image_id):
            self._check_range(gt, prediction)
            match.check()
        if self.is_thing is not None:
            image = PanopticQuality(self.is_thing)
            image.add(match.joint, match.panoptic[1], gt.labels, gt.is_crowd)
            self._add_panoptic(image, gt)
        self.counts["images_with_proposals"] += prediction.pairs is not None
        self._add(match)
        return match

    def update_missing(self, gt_triplets: np.ndarray, gt_labels: np.ndarray, is_crowd: np.ndarray) -> None:
        """Count an image that no prediction was made for: triplets (T, 3), labels and crowd flags (G,)."""
        gt = GroundTruth(gt_labels, gt_triplets, np.zeros((0, 0), dtype=np.int64), is_crowd)
        if self.is_thing is not None:
            image = PanopticQuality(self.is_thing)
            image.miss(gt.labels[~np.asarray(is_crowd, dtype=bool)])
            self._add_panoptic(image, gt)
        self._add(ImageMatch(gt, Prediction.nothing(gt)))

    def _add_panoptic(self, image: PanopticQuality, gt: GroundTruth) -> None:
        self.panoptic[""].merge(image)
        if len(gt.triplets):
            self.panoptic["_rel"].merge(image)

    def _add(self, match: ImageMatch) -> None:
        self._count(match.gt, len(match.prediction.triplets))
        if len(match.gt.triplets) == 0:
            return
        self._add_recalls(self.protocols, match)
        if self.baseline is not None and self.training is not None:
            scores = match.prediction.mask_scores if self.baseline_scores else None
            self._add_recalls(self.baseline, match.reranked(*self.training.rank(match.prediction.labels, scores)))
        self._add_confusion(match)
        self._add_oracle(match)

    def _add_recalls(self, counts: dict[str, ProtocolCounts], match: ImageMatch) -> None:
        for protocol in PROTOCOLS:
            if len(match.prediction.triplets) or not protocol.skip_unpredicted:
                ranks = match.ranks(protocol.matching)
                unseen = None if self.training is None else self.training.unseen(match.gt.labels, ranks.triplets)
                parts = None if self.novel is None else self.novel.parts(match.gt.labels, ranks.triplets)
                counts[protocol.name].add(ranks, unseen, parts)

    def merge(self, other: SGDetMetrics) -> None:
        """Add what another process counted on other images.

        Raises:
            ValueError: if it counted something else.
        """
        own, theirs = self._settings(), other._settings()
        if differing := [name for name in own if own[name] != theirs[name]]:
            raise ValueError(f"other: expected counts with the same {', '.join(differing)}")
        for kind in ("protocols", "baseline", "oracle", "panoptic"):
            for name, counts in (getattr(self, kind) or {}).items():
                counts.merge(getattr(other, kind)[name])
        self.found_objects += other.found_objects
        self.possible_pairs += other.possible_pairs
        self.confusion += other.confusion
        for name in self.counts:
            self.counts[name] += other.counts[name]

    def _settings(self) -> dict[str, Any]:
        """On which the shapes and the meaning of the counts depend."""
        names = ("num_predicates", "num_classes", "ks", "proposal_ks", "is_thing")
        tables = list(self.protocols["openpsg_strict"].tables)
        return {x: getattr(self, x) for x in names} | {"tables": tables, "baseline": self.baseline is not None}

    def _check_range(self, gt: GroundTruth, prediction: Prediction) -> None:
        ng = prediction.triplets_ng if prediction.triplets_ng is not None else prediction.triplets
        checks = [
            ("annotated predicate", gt.triplets[:, 2], self.num_predicates),
            ("predicted predicate", prediction.triplets[:, 2], self.num_predicates),
            ("predicted predicate", ng[:, 2], self.num_predicates),
        ]
        if self.num_classes is not None:
            checks.append(("annotated class", gt.labels, self.num_classes))
            checks.append(("predicted class", prediction.labels, self.num_classes))
        for name, values, limit in checks:
            if values.max(initial=0) >= limit:
                raise ValueError(f"{name}, counted from 0: expected 0 to {limit - 1}, got {values.max()}")

    def _count(self, gt: GroundTruth, num_predicted: int) -> None:
        self.counts["images"] += 1
        self.counts["predicted_triplets"] += num_predicted
        if len(gt.triplets):
            self.counts["images_with_relations"] += 1
            self.counts["images_without_predictions"] += num_predicted == 0
            self.counts["gt_triplets"] += len(gt.unique_triplets)
            self.counts["gt_duplicate_triplets"] += len(gt.triplets) - len(gt.unique_triplets)

    def _add_confusion(self, match: ImageMatch) -> None:
        """Under `single`: the best predicate among the first max(ks) rows, where the pair was found at all."""
        triplets, annotated = match.segment_triplets[0], match.gt.unique_triplets
        ranks = first_ranks(pair_hits(triplets[: max(self.ks)], match.segments, annotated))
        predicted = np.full(len(ranks), self.num_predicates)
        predicted[ranks != NEVER] = triplets[ranks[ranks != NEVER], 2]
        np.add.at(self.confusion, (annotated[:, 2], predicted), 1)

    def _add_oracle(self, match: ImageMatch) -> None:
        any_class = match_any(match.overlap.iou(), None, None)
        found, annotated = np.any(match.masks, axis=0), match.gt.unique_pairs
        self.found_objects += (found.sum(), np.any(any_class, axis=0).sum(), len(found))
        subject, object_ = annotated.T
        self.possible_pairs += ((found[subject] & found[object_]).sum(), len(annotated))
        pairs = match.prediction.pairs
        if pairs is not None:
            for name, matched in (("pairs", match.masks), ("pairs_any_class", any_class)):
                self.oracle[name].add(first_ranks(pair_hits(pairs, matched, annotated)))

    def compute(self) -> SGDetResults:
        """The metrics of all images so far."""
        predicate_counts = self.protocols["openpsg_strict"].tables["mR"].num_triplets()
        frequency = predicate_counts if self.predicate_frequency is None else np.asarray(self.predicate_frequency)
        groups = frequency_groups(frequency)
        metrics: dict[str, float] = {}
        recalls = {}
        for name, protocol in self.protocols.items():
            own, recalls[name] = protocol.metrics(groups)
            metrics.update(own)
        for protocol in (self.baseline or {}).values():
            metrics.update({f"{BASELINE}/{key}": value for key, value in protocol.metrics(groups)[0].items()})
        for name, table in self.oracle.items():
            if self.counts["images_with_proposals"]:
                for k, value in zip(table.ks, table.pooled()[:, 0], strict=True):
                    metrics[f"oracle/{name}@{k}"] = 100.0 * float(value)
        found, fitting, annotated = self.found_objects.tolist()
        pairs, annotated_pairs = self.possible_pairs.tolist()
        shares = {"objects": (found, annotated), "objects_any_class": (fitting, annotated)}
        for name, (part, total) in (shares | {"pairs@all": (pairs, annotated_pairs)}).items():
            metrics[f"oracle/{name}"] = 100.0 * part / total if total else float("nan")
        counts = dict(self.counts)
        if "zR" in self.protocols["openpsg_strict"].tables:
            counts["gt_zero_shot_triplets"] = int(self.protocols["openpsg_strict"].tables["zR"].num_triplets()[0])
        classes = {}
        if self.novel is not None:
            classes = {"_base": ~self.novel.classes, "_novel": self.novel.classes}
            for part in PARTS:
                table = self.protocols["openpsg_strict"].tables[f"R/{part}"]
                counts[f"gt_{part}_triplets"] = int(table.num_triplets()[0])
        panoptic = {f"{key}{x}": value for x, q in self.panoptic.items() for key, value in q.compute(classes).items()}
        return SGDetResults(
            metrics=metrics,
            panoptic=panoptic,
            counts=counts,
            predicate_recall=recalls,
            predicate_counts=predicate_counts,
            predicate_frequency=frequency,
            predicate_groups=groups,
            confusion=self.confusion.copy(),
        )


def frequency_groups(frequency: np.ndarray) -> dict[str, np.ndarray]:
    """Predicates by frequency in thirds, "head", "body" and "tail"; a remainder goes to body first, then to tail.

    Ties keep the order of the vocabulary.
    """
    order = np.argsort(-np.asarray(frequency), kind="stable")
    third, rest = divmod(len(order), 3)
    ends = (third, 2 * third + (rest > 0))
    return {"head": order[: ends[0]], "body": order[ends[0] : ends[1]], "tail": order[ends[1] :]}
