"""Predictions of a batch to scene graphs: masks, objects, panoptic map, ranked relations (SPEC section 16).

Letters: B images, Q queries, K pairs, P predicates, N objects of an image, H W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from math import prod
from types import MethodType
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ..losses.long_tail import log_share_of_names
from ..structures import ImageObjects, ObjectPredictions, PairProposals, RelationPredictions, TextEmbeddings
from ..training_counts import TrainingCounts
from .panoptic import assign_pixels, is_at_hand, map_runs, number_segments, panoptic_map, segments_info
from .triplets import TripletPrior, rank_relations, triplet_scores

RUNS_OF_COLUMN = 16  # of a panoptic map, on average, up to which the host gets the runs in place of the pixels
RECORDED_PIXELS = 2**27  # of an image's query masks, up to which they are recorded: a graph keeps its memory


class Postprocessor(nn.Module):
    """Turns what the network says into Detectron2's output format. It has no weights.

    Until all is ranked, sizes depend on nothing that the device computes, so that the host need not wait: objects and
    relations that are none keep their place, and are left out when one copy to the host says which they are.

    Args:
        object_threshold: least score of a query that may own pixels of the panoptic map.
        overlap_threshold: see `number_segments`.
        relations_per_image: see `rank_relations`.
        predicate_logit_adjustment: tau: `log_relative_share` times tau is subtracted from predicate logits; needs
            `set_training_counts`.
        triplet_prior: exponent of `TripletPrior`, a factor of triplet scores; needs them, too; 0 for none.
    """

    def __init__(
        self,
        object_threshold: float = 0.1,
        overlap_threshold: float = 0.5,
        relations_per_image: int = 100,
        predicate_logit_adjustment: float = 0.0,
        triplet_prior: float = 0.0,
    ):
        super().__init__()
        self.object_threshold = object_threshold
        self.overlap_threshold = overlap_threshold
        self.relations_per_image = relations_per_image
        self.predicate_logit_adjustment = predicate_logit_adjustment
        self.triplet_prior = triplet_prior
        self.log_share: Tensor | None = None
        self.prior: TripletPrior | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Postprocessor:
        """The postprocessor of TEST.USG."""
        test = cfg.TEST.USG
        thresholds = test.OBJECT_THRESHOLD, test.OVERLAP_THRESHOLD
        return cls(*thresholds, test.RELATIONS_PER_IMAGE, test.PREDICATE_LOGIT_ADJUSTMENT, test.TRIPLET_PRIOR)

    def set_training_counts(self, counts: TrainingCounts, vocabulary: TextEmbeddings) -> None:
        """Give the training data's counts, and the names in use."""
        if self.predicate_logit_adjustment:
            names = vocabulary.predicate_names, len(vocabulary.predicate_text)
            self.log_share = log_share_of_names(counts, *names).to(vocabulary.predicate_text.device)
        if self.triplet_prior and counts.triplets is not None:
            self.prior = TripletPrior(counts.triplets, self.triplet_prior, vocabulary)

    def predicate_shift(self) -> Tensor:
        """(P,) what is subtracted from the predicate logits.

        Raises:
            ValueError: if the training data's counts are not known.
        """
        if self.log_share is None:
            raise ValueError(_missing_counts("PREDICATE_LOGIT_ADJUSTMENT", "predicate"))
        return self.predicate_logit_adjustment * self.log_share

    def detected_objects(
        self,
        objects: ObjectPredictions,
        is_thing: Tensor,
        padded_size: Sequence[int],
        image_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[ImageObjects]:
        """Objects of each image: every query whose mask has a pixel; those above the threshold make the panoptic map.

        Args:
            objects: predictions, of which the last layer's count.
            is_thing: (C,) bool.
            padded_size: (H, W) of the batch.
            image_sizes, output_sizes: (H, W) of each image, as the network got it and as the original has it.
        """
        thresholds = self.object_threshold, self.overlap_threshold
        sizes = tuple(padded_size), tuple(image_sizes), tuple(output_sizes)
        # A recording for the sizes of several images would be used once.
        alone = len(output_sizes) == 1 and objects.num_queries * prod(output_sizes[0]) <= RECORDED_PIXELS
        segment = self._recordable("segment", alone)
        masks, owners, columns, segment_ids, *of_queries = segment(objects, is_thing, sizes, thresholds)
        maps = map(panoptic_map, owners, segment_ids)  # which no later call overwrites
        return [ImageObjects(*of_image) for of_image in zip(masks, columns, maps, *of_queries, strict=True)]

    def recordable(self) -> list[tuple[nn.Module, str]]:
        """Methods of tensors and constants, which never wait for the device, for `compile_parts`."""
        return [(self, "segment"), (self, "rank"), (self, "runs")]

    def _recordable(self, name: str, recorded: bool) -> Callable:
        """The method as the model runs it, or as it is."""
        return getattr(self, name) if recorded else MethodType(getattr(type(self), name), self)

    def segment(
        self,
        objects: ObjectPredictions,
        is_thing: Tensor,
        sizes: tuple[Sequence[int], Sequence[tuple[int, int]], Sequence[tuple[int, int]]],
        thresholds: tuple[float, float],
    ) -> tuple[Any, ...]:
        """Masks of the queries of each image, the queries that own its pixels, and the segments that they become.

        Args:
            objects: predictions, of which the last layer's count.
            is_thing: (C,) bool.
            sizes: (H, W) of the batch, of each image in it, and of each original.
            thresholds: of object and overlap.

        Returns:
            masks, owners: B of `assign_pixels`.
            columns: (B, 5, Q), as `ImageObjects` has them.
            segment_ids: (B, Q) of `number_segments`.
            query_scores, query_classes, mask_of_query: (B, Q), as there.
        """
        scores, classes = objects.class_logits[-1].sigmoid().max(dim=-1)
        is_candidate, are_things = scores >= thresholds[0], is_thing[classes]
        assigned = (
            assign_pixels(objects.mask_logits(i), scores[i], is_candidate[i], (sizes[0], *of_image))
            for i, of_image in enumerate(zip(*sizes[1:], strict=True))
        )
        masks, owners, *areas = zip(*assigned, strict=True)
        area, kept_area = map(torch.stack, areas)
        segment_ids = number_segments(kept_area, area, is_candidate, classes, are_things, thresholds[1])
        is_object = area > 0
        mask_of_query = torch.arange(area.shape[1], device=area.device).where(is_object, -1)
        columns = _columns(is_object, classes, are_things, scores, segment_ids)
        return masks, owners, columns, segment_ids, scores, classes, mask_of_query

    def scene_graphs(
        self, objects: Sequence[ImageObjects], relations: RelationPredictions, on_host: bool = False
    ) -> list[dict]:
        """Rank the relations between objects.

        Args:
            on_host: give what a `SceneGraph` is made of without another wait: "instances" without pred_masks, on the
                CPU, and, from a device, "panoptic_runs", first pixels and values (n,) int32 arrays of the n runs down
                the map's columns, unless there are more than `RUNS_OF_COLUMN` a column.

        Returns:
            A dict per image:
                "instances": `Instances` with pred_masks (N, H, W) bool, pred_classes (N,), scores (N,) and
                    segment_ids (N,), the segment of the panoptic map that the object became, 0 for none;
                "panoptic_seg": map (H, W) int32 and its segments_info;
                "relations": subject, object, predicate, score, (R,) each, on the CPU, best first, as `rank_relations`
                    orders them; subject and object index the instances;
                "pairs": subject, object, score of the K proposals, likewise.

        Raises:
            ValueError: if an option needs the training data's counts and they are not known.
        """
        if self.triplet_prior and self.prior is None:
            raise ValueError(_missing_counts("TRIPLET_PRIOR", "triplet"))
        predicate_logits, proposals = relations.predicate_logits, relations.proposals
        if self.predicate_logit_adjustment:
            predicate_logits = predicate_logits - self.predicate_shift().to(predicate_logits.device)
        scores, classes, mask_of_query = (
            torch.stack([getattr(found, name) for found in objects])
            for name in ("query_scores", "query_classes", "mask_of_query")
        )
        subject, object_, pair_logits = proposals.subject_index, proposals.object_index, proposals.pair_logits
        factor = (
            None if self.prior is None else self.prior(*(classes.gather(1, queries) for queries in (subject, object_)))
        )
        pairs, ranked = self.rank(
            subject, object_, pair_logits, predicate_logits, factor, scores, mask_of_query, self.relations_per_image
        )
        tables: list[Iterable[Tensor]] = [[found.columns for found in objects], pairs, ranked]
        if on_host and not is_at_hand(pair_logits):
            runs = self._recordable("runs", len(objects) == 1 and objects[0].masks.numel() <= RECORDED_PIXELS)
            tables.append([runs(found.panoptic, RUNS_OF_COLUMN) for found in objects])
        arrays = iter(_to_host(list(chain(*tables))))
        of_images = zip(*([*islice(arrays, len(objects))] for _ in tables), strict=True)
        return [_output(found, on_host, *x) for found, x in zip(objects, of_images, strict=True)]

    def runs(self, panoptic: Tensor, of_column: int) -> Tensor:
        """`map_runs` of a map (H, W), of_column times W at most."""
        return map_runs(panoptic, of_column * panoptic.shape[1])

    def rank(
        self,
        subject: Tensor,
        object_: Tensor,
        pair_logits: Tensor,
        predicate_logits: Tensor,
        factor: Tensor | None,
        scores: Tensor,
        mask_of_query: Tensor,
        per_image: int,
    ) -> tuple[Tensor, Tensor]:
        """Proposals and ranked relations, in float64.

        Args:
            subject, object_: (B, K) int64 queries.
            pair_logits, predicate_logits: (B, Q, Q), (B, K, P).
            factor: (B, K, P) of the triplet scores; None for 1.
            scores, mask_of_query: (B, Q) as `ImageObjects` has them.
            per_image: see `rank_relations`.

        Returns:
            pairs: (B, 3, K) mask of the subject, that of the object, -1 for none; score.
            ranked: (B, 3, R) as `rank_relations` gives them.
        """
        subject_mask, object_mask = (mask_of_query.gather(1, queries) for queries in (subject, object_))
        pair_score = PairProposals(pair_logits, subject, object_).selected_logits().sigmoid()
        of_pair = scores.gather(1, subject), scores.gather(1, object_), pair_score
        triplets = triplet_scores(*of_pair, predicate_logits.sigmoid()).float()
        if factor is not None:
            triplets = triplets * factor
        triplets = triplets.masked_fill(((subject_mask < 0) | (object_mask < 0))[..., None], -1)
        return _columns(subject_mask, object_mask, pair_score), _columns(*rank_relations(triplets, per_image))


def _columns(*columns: Tensor) -> Tensor:
    """(..., n, N) float64 of n columns (..., N): it holds numbers of all kinds as they are."""
    return torch.stack([x.double() for x in columns], dim=-2)


def _to_host(tables: Sequence[Tensor]) -> list[np.ndarray]:
    """Copies of tables, each a multiple of 8 bytes; the only wait for the device."""
    parts = torch.cat([x.flatten().view(torch.uint8) for x in tables]).cpu().split([x.nbytes for x in tables])
    return [part.view(x.dtype).view(x.shape).numpy() for part, x in zip(parts, tables, strict=True)]


def _output(
    found: ImageObjects,
    on_host: bool,
    columns: np.ndarray,
    pairs: np.ndarray,
    ranked: np.ndarray,
    runs: np.ndarray | None = None,
) -> dict:
    """An image of `Postprocessor.scene_graphs`, from copies of its columns and of what `rank` and `runs` returned."""
    chosen = np.flatnonzero(columns[0])
    instance_of_mask = np.append(columns[0].cumsum() - 1, -1).astype(np.int64)
    subject, object_ = instance_of_mask[pairs[:2].astype(np.int64)]
    row, predicate, score = ranked[:, ~(ranked[2] < 0)]
    row, valid = row.astype(np.int64), (pairs[:2] >= 0).all(axis=0)
    names = ("subject", "object", "predicate", "score")
    relations = zip(names, _tensors(subject[row], object_[row], predicate, score), strict=True)
    proposals = zip(names[:2] + names[3:], _tensors(subject[valid], object_[valid], pairs[2, valid]), strict=True)
    _, classes, _, scores, segment_ids = columns[:, chosen]
    places, classes, segment_ids, scores = _tensors(chosen, classes, segment_ids, scores)
    if on_host:
        size = tuple(found.masks.shape[1:])
        instances = Instances(size, pred_classes=classes, scores=scores, segment_ids=segment_ids)
    else:
        to_device = (x.to(found.masks.device, non_blocking=True) for x in (places, classes, scores, segment_ids))
        places, *fields = to_device
        instances = make_instances(found.masks[places], *fields)
    result = {
        "instances": instances,
        "panoptic_seg": (found.panoptic, segments_info(columns)),
        "relations": dict(relations),
        "pairs": dict(proposals),
    }
    if runs is not None and runs[0, -1] == found.panoptic.numel():  # or else there may be more of them
        result["panoptic_runs"] = runs[:, : np.searchsorted(runs[0], runs[0, -1])]
    return result


def _tensors(*columns: np.ndarray) -> list[Tensor]:
    """Columns of whole numbers, and the last one of scores, in their own types."""
    return [torch.from_numpy(x.astype(np.int64)) for x in columns[:-1]] + [
        torch.from_numpy(columns[-1].astype(np.float32))
    ]


def _missing_counts(key: str, what: str) -> str:
    return (
        f"TEST.USG.{key} needs the training data's {what} counts, which the weights in use do not come with: set it to "
        "0, or use a checkpoint of tools/train_net.py"
    )


def instance_pairs(objects: Sequence[ImageObjects]) -> Tensor:
    """(B, Q, Q) bool: both queries are objects, the priority that their pairs have among the proposals."""
    is_instance = torch.stack([found.mask_of_query for found in objects]) >= 0
    return is_instance[:, :, None] & is_instance[:, None]


def given_objects(masks: Tensor, classes: Tensor, is_thing: Tensor, query: Tensor, num_queries: int) -> ImageObjects:
    """The objects of an image that the caller gives (PredCls), each stood for by a query.

    Args:
        masks, classes: (N, H, W) bool, of which the last owns a pixel in the panoptic map; (N,) int64.
        is_thing: (C,) bool.
        query: (N,) int64 query of each object among num_queries, -1 for none.
    """
    device, count = masks.device, len(masks)
    places, segment_ids = (torch.arange(first, first + count, device=device) for first in (0, 1))
    of_query = torch.full((2, num_queries + 1), -1, device=device)  # the last is that of objects without a query
    of_query[:, query] = torch.stack([places, classes])
    place_of_query, class_of_query = of_query[:, :-1]
    numbered = masks * segment_ids.to(torch.int32)[:, None, None]
    panoptic = numbered.amax(dim=0) if count else numbered.sum(dim=0, dtype=torch.int32)
    every = torch.ones(count, device=device)
    columns = _columns(every, classes, is_thing[classes], every, segment_ids)
    scores = torch.ones(num_queries, device=device)
    return ImageObjects(masks, columns, panoptic, scores, class_of_query.clamp(min=0), place_of_query)


def make_instances(masks: Tensor, classes: Tensor, scores: Tensor, segment_ids: Tensor) -> Instances:
    """Detectron2 instances of masks (N, H, W) bool, classes, scores and panoptic segments (N,)."""
    instances = Instances(tuple(masks.shape[-2:]))
    instances.pred_masks = masks
    instances.pred_classes = classes
    instances.scores = scores
    instances.segment_ids = segment_ids
    return instances
