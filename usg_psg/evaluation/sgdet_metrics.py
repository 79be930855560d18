"""SGDet metrics of a data set under several protocols, streamed image by image. Arrays only: no framework, no files.

Letters: P predicates, K values of k, G annotated segments, T annotated triplets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matching import (
    NEVER,
    first_ranks,
    greedy_ranks,
    joint_histogram,
    match_any,
    match_one_to_one,
    overlap_of_maps,
    pair_hits,
    triplet_hits,
)
from .panoptic_quality import PanopticQuality
from .recall import RecallTable, mean_over_predicates
from .scene import GroundTruth, Prediction

KS = (10, 20, 50, 100)
PROPOSAL_KS = (20, 50, 100, 200)


@dataclass(frozen=True)
class Protocol:
    """One set of rules.

    Attributes:
        name: prefix of its keys.
        matching: "one_to_one": segments of the panoptic map, each annotated segment matched at most once, IoU above
            one half. "any": the predicted masks, any number for one segment, IoU of one half and above. "greedy": as
            "any", but each predicted triplet takes at most one annotated one and duplicates in the annotation count.
        skip_unpredicted: leave images without any predicted triplet out of every mean; otherwise they count as 0.
        absent_as_zero: predicates without annotation count as 0 in mean recall; otherwise they are left out.
        pooled: recall over the triplets of all images together; otherwise per image, then the mean over images.
    """

    name: str
    matching: str
    skip_unpredicted: bool
    absent_as_zero: bool
    pooled: bool = False


PROTOCOLS = (
    # arXiv 2407.09216, SingleMPO.
    Protocol("single", "one_to_one", skip_unpredicted=False, absent_as_zero=False),
    # OpenPSG's evaluator with detection_method "pan_seg".
    Protocol("openpsg", "any", skip_unpredicted=True, absent_as_zero=True),
    Protocol("openpsg_strict", "any", skip_unpredicted=False, absent_as_zero=True),
    # The released USG code's rules, at full resolution.
    Protocol("usg_pooled", "greedy", skip_unpredicted=False, absent_as_zero=False, pooled=True),
)


@dataclass(frozen=True)
class Ranks:
    """Rank from 0 at which each annotated item is found, `NEVER` for not at all.

    Attributes:
        predicate: (T,) predicate of each annotated triplet.
        constrained, unconstrained: (T,), for the rankings with and without graph constraint.
        pairs: (T',) of each distinct annotated pair, predicates left out, with graph constraint.
    """

    predicate: np.ndarray
    constrained: np.ndarray
    unconstrained: np.ndarray
    pairs: np.ndarray


class ProtocolCounts:
    """What one protocol keeps of a data set."""

    def __init__(self, ks: Sequence[int], num_predicates: int):
        self.tables = {
            "R": RecallTable(ks),
            "mR": RecallTable(ks, num_predicates),
            "NgR": RecallTable(ks),
            "NgmR": RecallTable(ks, num_predicates),
            "PR": RecallTable(ks),
        }

    def add(self, ranks: Ranks) -> None:
        """Count one image."""
        self.tables["R"].add(ranks.constrained)
        self.tables["mR"].add(ranks.constrained, ranks.predicate)
        self.tables["NgR"].add(ranks.unconstrained)
        self.tables["NgmR"].add(ranks.unconstrained, ranks.predicate)
        self.tables["PR"].add(ranks.pairs)

    def merge(self, other: ProtocolCounts) -> None:
        """Add the counts of another process."""
        for name, table in self.tables.items():
            table.merge(other.tables[name])


@dataclass
class SGDetResults:
    """Everything computed from the counts.

    Attributes:
        metrics: percentages by key, e.g. "single/mR@50"; NaN where there is nothing to average.
        panoptic: PQ, SQ, RQ in percent; empty if not computed.
        counts: images, triplets and the like.
        predicate_recall: per protocol and "mR" or "NgmR", (K, P) percent, NaN for absent predicates.
        predicate_counts: (P,) annotated triplets without exact duplicates.
        predicate_frequency: (P,) what predicates were ranked by for head, body and tail.
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
        ks: ranks of the recalls.
        proposal_ks: numbers of pair proposals of the oracle recall.
        predicate_frequency: (P,) training frequency that orders predicates into head, body and tail, thirds of equal
            size; None takes the annotation itself.

    Raises:
        ValueError: for no ranks, a rank below 1, or another number of frequencies.
    """

    def __init__(
        self,
        num_predicates: int,
        is_thing: Sequence[bool] | None = None,
        ks: Sequence[int] = KS,
        proposal_ks: Sequence[int] = PROPOSAL_KS,
        predicate_frequency: np.ndarray | None = None,
    ):
        if predicate_frequency is not None and len(predicate_frequency) != num_predicates:
            raise ValueError(f"predicate_frequency: expected {num_predicates} numbers, got {len(predicate_frequency)}")
        for name, ranks in (("ks", ks), ("proposal_ks", proposal_ks)):
            if not len(ranks) or min(ranks) < 1:
                raise ValueError(f"{name}: expected ranks from 1, got {tuple(ranks)}")
        self.num_predicates = num_predicates
        self.num_classes = None if is_thing is None else len(is_thing)
        self.ks, self.proposal_ks = tuple(ks), tuple(proposal_ks)
        self.predicate_frequency = predicate_frequency
        self.protocols = {p.name: ProtocolCounts(self.ks, num_predicates) for p in PROTOCOLS}
        self.panoptic = None if is_thing is None else PanopticQuality(is_thing)
        self.oracle = {name: RecallTable(self.proposal_ks) for name in ("pairs", "pairs_any_class")}
        self.found_objects = np.zeros(2, dtype=np.int64)  # found, annotated
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

    def update(self, gt: GroundTruth, prediction: Prediction) -> None:
        """Count one image.

        Raises:
            ValueError: if sizes differ, or a class or predicate is out of range; the message names the image.
        """
        self._check_range(gt, prediction)
        overlap = prediction.overlap_with(gt)
        segment_map, segment_labels = prediction.ensure_map(gt.label_map.shape)
        joint = joint_histogram(segment_map, gt.label_map, len(segment_labels), len(gt.labels))
        if self.panoptic is not None:
            self.panoptic.add(joint, segment_labels, gt.labels, gt.is_crowd)
        self._count(gt.triplets, gt.unique_triplets, len(prediction.triplets))
        self.counts["images_with_proposals"] += prediction.pairs is not None
        if len(gt.triplets) == 0:
            return
        iou = overlap.iou()
        matched = match_any(iou, prediction.labels, gt.labels)
        ranks = {
            "any": _ranks(gt, prediction.constrained, prediction.unconstrained, matched),
            "greedy": _greedy_ranks(gt, prediction.constrained, prediction.unconstrained, matched),
        }
        one = match_one_to_one(overlap_of_maps(joint).iou(), segment_labels, gt.labels)
        constrained, unconstrained = prediction.segment_triplets()
        ranks["one_to_one"] = _ranks(gt, constrained, unconstrained, one)
        for protocol in PROTOCOLS:
            if len(prediction.triplets) or not protocol.skip_unpredicted:
                self.protocols[protocol.name].add(ranks[protocol.matching])
        self._add_confusion(gt, constrained, one)
        self._add_oracle(gt, prediction, matched, match_any(iou, None, None))

    def update_missing(self, gt_triplets: np.ndarray, gt_labels: np.ndarray, is_crowd: np.ndarray) -> None:
        """Count an image that no prediction was made for.

        Args:
            gt_triplets: (T, 3).
            gt_labels: (G,) classes of its segments.
            is_crowd: (G,) bool.
        """
        empty = np.zeros((0, 0), dtype=np.int64)
        gt = GroundTruth(gt_labels, gt_triplets, empty, is_crowd)
        if self.panoptic is not None:
            self.panoptic.miss(gt.labels[~np.asarray(is_crowd, dtype=bool)])
        self._count(gt.triplets, gt.unique_triplets, 0)
        if len(gt.triplets) == 0:
            return
        nothing = np.zeros((0, 3), dtype=np.int64)
        no_match = np.zeros((0, len(gt.labels)), dtype=bool)
        ranks = _ranks(gt, nothing, nothing, no_match)
        for protocol in PROTOCOLS:
            if not protocol.skip_unpredicted:
                greedy = protocol.matching == "greedy"
                self.protocols[protocol.name].add(_greedy_ranks(gt, nothing, nothing, no_match) if greedy else ranks)
        self._add_confusion(gt, nothing, no_match)
        self._add_oracle(gt, None, no_match, no_match)

    def merge(self, other: SGDetMetrics) -> None:
        """Add what another process counted on other images."""
        for name, counts in self.protocols.items():
            counts.merge(other.protocols[name])
        for name, table in self.oracle.items():
            table.merge(other.oracle[name])
        if self.panoptic is not None and other.panoptic is not None:
            self.panoptic.merge(other.panoptic)
        self.found_objects += other.found_objects
        self.possible_pairs += other.possible_pairs
        self.confusion += other.confusion
        for name in self.counts:
            self.counts[name] += other.counts[name]

    def _check_range(self, gt: GroundTruth, prediction: Prediction) -> None:
        where = f"image {gt.image_id!r}: " if gt.image_id else ""
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
                raise ValueError(f"{where}{name}: expected 0 to {limit - 1}, got {values.max()}")

    def _count(self, triplets: np.ndarray, unique: np.ndarray, num_predicted: int) -> None:
        self.counts["images"] += 1
        self.counts["predicted_triplets"] += num_predicted
        if len(triplets):
            self.counts["images_with_relations"] += 1
            self.counts["images_without_predictions"] += num_predicted == 0
            self.counts["gt_triplets"] += len(unique)
            self.counts["gt_duplicate_triplets"] += len(triplets) - len(unique)

    def _add_confusion(self, gt: GroundTruth, triplets: np.ndarray, matched: np.ndarray) -> None:
        """Under `single`: the best predicate among the first max(ks) rows, where the pair was found at all."""
        ranks = first_ranks(pair_hits(triplets[: max(self.ks)], matched, gt.unique_triplets))
        predicted = np.full(len(ranks), self.num_predicates)
        predicted[ranks != NEVER] = triplets[ranks[ranks != NEVER], 2]
        np.add.at(self.confusion, (gt.unique_triplets[:, 2], predicted), 1)

    def _add_oracle(
        self, gt: GroundTruth, prediction: Prediction | None, matched: np.ndarray, matched_any_class: np.ndarray
    ) -> None:
        found = np.any(matched, axis=0)
        self.found_objects += (found.sum(), len(found))
        subject, object_ = gt.unique_pairs.T
        self.possible_pairs += ((found[subject] & found[object_]).sum(), len(gt.unique_pairs))
        pairs = np.zeros((0, 2), dtype=np.int64) if prediction is None else prediction.pairs
        if pairs is not None:
            for name, match in (("pairs", matched), ("pairs_any_class", matched_any_class)):
                self.oracle[name].add(first_ranks(pair_hits(pairs, match, gt.unique_pairs)))

    def compute(self) -> SGDetResults:
        """The metrics of all images so far."""
        predicate_counts = self.protocols["openpsg_strict"].tables["mR"].num_triplets()
        frequency = predicate_counts if self.predicate_frequency is None else np.asarray(self.predicate_frequency)
        groups = frequency_groups(frequency)
        metrics: dict[str, float] = {}
        recalls = {}
        for protocol in PROTOCOLS:
            counts = self.protocols[protocol.name]
            recalls[protocol.name] = _protocol_metrics(protocol, counts, groups, metrics)
        for name, table in self.oracle.items():
            if self.counts["images_with_proposals"]:
                for k, value in zip(table.ks, table.pooled()[:, 0], strict=True):
                    metrics[f"oracle/{name}@{k}"] = 100.0 * float(value)
        for name, (found, total) in (("objects", self.found_objects), ("pairs@all", self.possible_pairs)):
            metrics[f"oracle/{name}"] = 100.0 * float(found) / float(total) if total else float("nan")
        return SGDetResults(
            metrics=metrics,
            panoptic=self.panoptic.compute() if self.panoptic is not None else {},
            counts=dict(self.counts),
            predicate_recall=recalls,
            predicate_counts=predicate_counts,
            predicate_frequency=frequency,
            predicate_groups=groups,
            confusion=self.confusion.copy(),
        )


def _protocol_metrics(
    protocol: Protocol, counts: ProtocolCounts, groups: dict[str, np.ndarray], metrics: dict[str, float]
) -> dict[str, np.ndarray]:
    """Writes the protocol's metrics; returns its recalls per predicate, (K, P) percent, for "mR" and "NgmR"."""
    per_predicate = {}
    for name, table in counts.tables.items():
        recall = 100.0 * (table.pooled() if protocol.pooled else table.image_mean())
        if recall.shape[1] == 1 and name not in ("mR", "NgmR"):
            metrics.update({f"{protocol.name}/{name}@{k}": float(r[0]) for k, r in zip(table.ks, recall, strict=True)})
            continue
        per_predicate[name] = recall
        for k, row in zip(table.ks, recall, strict=True):
            key = f"{protocol.name}/{name}@{k}"
            metrics[key] = mean_over_predicates(row, protocol.absent_as_zero)
            if name == "mR":
                for group, among in groups.items():
                    metrics[f"{key}/{group}"] = mean_over_predicates(row, protocol.absent_as_zero, among)
    return per_predicate


def frequency_groups(frequency: np.ndarray) -> dict[str, np.ndarray]:
    """Predicates by frequency in thirds, "head", "body" and "tail"; a remainder goes to body first, then to tail.

    Ties keep the order of the vocabulary.
    """
    order = np.argsort(-np.asarray(frequency), kind="stable")
    third, rest = divmod(len(order), 3)
    ends = (third, 2 * third + (rest > 0))
    return {"head": order[: ends[0]], "body": order[ends[0] : ends[1]], "tail": order[ends[1] :]}


def _ranks(gt: GroundTruth, constrained: np.ndarray, unconstrained: np.ndarray, matched: np.ndarray) -> Ranks:
    triplets = gt.unique_triplets
    return Ranks(
        predicate=triplets[:, 2],
        constrained=first_ranks(triplet_hits(constrained, matched, triplets)),
        unconstrained=first_ranks(triplet_hits(unconstrained, matched, triplets)),
        pairs=first_ranks(pair_hits(constrained, matched, gt.unique_pairs)),
    )


def _greedy_ranks(gt: GroundTruth, constrained: np.ndarray, unconstrained: np.ndarray, matched: np.ndarray) -> Ranks:
    triplets = gt.triplets
    return Ranks(
        predicate=triplets[:, 2],
        constrained=greedy_ranks(triplet_hits(constrained, matched, triplets)),
        unconstrained=greedy_ranks(triplet_hits(unconstrained, matched, triplets)),
        pairs=greedy_ranks(pair_hits(constrained, matched, gt.unique_pairs)),
    )
