"""Predictions of a batch to scene graphs: masks, objects, panoptic map, ranked relations (SPEC section 16).

Letters: B images, Q queries, K pairs, P predicates, N objects of an image, H W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from ..losses.long_tail import log_share_of_names
from ..structures import ImageObjects, ObjectPredictions, RelationPredictions, TextEmbeddings
from ..training_counts import TrainingCounts
from .panoptic import assign_pixels, mask_areas, panoptic_inference
from .triplets import TripletPrior, rank_relations, triplet_scores

MASK_PIXELS = 2**27  # pixels of query masks in float32 at once, half a gigabyte; large photographs have many times more
CPU_MASK_PIXELS = 2**22  # the same on a CPU, which is faster where they stay in its cache


class Postprocessor:
    """Turns what the network says into Detectron2's output format.

    Args:
        object_threshold, overlap_threshold: of the panoptic map, see `panoptic_inference`.
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
        scores, classes = objects.class_logits[-1].sigmoid().max(dim=-1)
        found = []
        for i, (image_size, output_size) in enumerate(zip(image_sizes, output_sizes, strict=True)):
            at_once = CPU_MASK_PIXELS if scores.device.type == "cpu" else MASK_PIXELS
            resized = (
                resize_masks(some, padded_size, image_size, output_size)
                for some in objects.mask_logits(i).split(max(at_once // max(output_size[0] * output_size[1], 1), 1))
            )
            candidates = (scores[i] >= self.object_threshold).nonzero()[:, 0]
            masks, owner = assign_pixels(resized, scores[i], candidates)
            area = mask_areas(masks)
            panoptic, segments_info, segment_ids = panoptic_inference(
                owner, area, candidates, scores[i], classes[i], is_thing, self.overlap_threshold
            )
            kept = area > 0
            instance_of_query = torch.where(kept, kept.cumsum(0) - 1, -1)
            chosen = kept.nonzero()[:, 0]  # places, since each use of a bool mask would wait for the device
            instances = make_instances(
                masks[chosen], classes[i, chosen], scores[i, chosen].float(), segment_ids[chosen]
            )
            found.append(ImageObjects(instances, (panoptic, segments_info), scores[i], instance_of_query))
        return found

    def scene_graphs(self, objects: Sequence[ImageObjects], relations: RelationPredictions) -> list[dict]:
        """Rank the relations between objects.

        Returns:
            A dict per image:
                "instances": `Instances` with pred_masks (N, H, W) bool, pred_classes (N,), scores (N,) and
                    segment_ids (N,), the segment of the panoptic map that the object became, 0 for none;
                "panoptic_seg": map (H, W) int32 and its segments_info;
                "relations": subject, object, predicate, score, (R,) each, best first, as `rank_relations` orders
                    them; subject and object index the instances;
                "pairs": subject, object, score of the K proposals, best first.

        Raises:
            ValueError: if an option needs the training data's counts and they are not known.
        """
        if self.triplet_prior and self.prior is None:
            raise ValueError(_missing_counts("TRIPLET_PRIOR", "triplet"))
        predicate_logits = relations.predicate_logits
        if self.predicate_logit_adjustment:
            predicate_logits = predicate_logits - self.predicate_shift().to(predicate_logits.device)
        proposals = relations.proposals
        pairs = zip(
            proposals.subject_index,
            proposals.object_index,
            proposals.selected_logits().sigmoid(),
            predicate_logits.sigmoid(),
            strict=True,
        )
        return [
            {
                "instances": found.instances,
                "panoptic_seg": found.panoptic_seg,
                **self._relations(found, *rest),
            }
            for found, rest in zip(objects, pairs, strict=True)
        ]

    def _relations(
        self, found: ImageObjects, subject: Tensor, object_: Tensor, pair_score: Tensor, predicate_score: Tensor
    ) -> dict:
        """Relations and proposals of one image between queries that are instances, as indices of those."""
        instance, scores = found.instance_of_query, found.query_scores
        valid = ((instance[subject] >= 0) & (instance[object_] >= 0)).nonzero()[:, 0]
        subject, object_, pair_score = subject[valid], object_[valid], pair_score[valid]
        triplets = triplet_scores(scores[subject], scores[object_], pair_score, predicate_score[valid])
        subject, object_ = instance[subject], instance[object_]
        triplets = triplets.float()
        if self.prior is not None:
            classes = found.instances.pred_classes
            triplets = triplets * self.prior(classes[subject], classes[object_])
        row, predicate, score = rank_relations(triplets, self.relations_per_image)
        return {
            "relations": {"subject": subject[row], "object": object_[row], "predicate": predicate, "score": score},
            "pairs": {"subject": subject, "object": object_, "score": pair_score},
        }


def _missing_counts(key: str, what: str) -> str:
    return (
        f"TEST.USG.{key} needs the training data's {what} counts, which the weights in use do not come with: set it to "
        "0, or use a checkpoint of tools/train_net.py"
    )


def instance_pairs(objects: Sequence[ImageObjects]) -> Tensor:
    """(B, Q, Q) bool: both queries are instances, the priority that their pairs have among the proposals."""
    is_instance = torch.stack([found.instance_of_query for found in objects]) >= 0
    return is_instance[:, :, None] & is_instance[:, None, :]


def given_objects(masks: Tensor, classes: Tensor, is_thing: Tensor, query: Tensor, num_queries: int) -> ImageObjects:
    """The objects of an image that the caller gives (PredCls), each stood for by a query.

    Args:
        masks, classes: (N, H, W) bool, of which the last owns a pixel in the panoptic map; (N,) int64.
        is_thing: (C,) bool.
        query: (N,) int64 query of each object among num_queries, -1 for none.
    """
    device, count = masks.device, len(masks)
    instance_of_query = torch.full((num_queries,), -1, device=device)
    instance_of_query[query[query >= 0]] = torch.arange(count, device=device)[query >= 0]
    ids = torch.arange(1, count + 1, device=device)
    numbered = masks * ids.to(torch.int32)[:, None, None]
    panoptic = numbered.amax(dim=0) if count else numbered.sum(dim=0, dtype=torch.int32)
    segments_info = [
        {"id": index + 1, "category_id": category, "isthing": bool(is_thing[category]), "score": 1.0}
        for index, category in enumerate(classes.tolist())
    ]
    instances = make_instances(masks, classes, torch.ones(count, device=device), ids)
    return ImageObjects(instances, (panoptic, segments_info), torch.ones(num_queries, device=device), instance_of_query)


def make_instances(masks: Tensor, classes: Tensor, scores: Tensor, segment_ids: Tensor) -> Instances:
    """Detectron2 instances of masks (N, H, W) bool, classes, scores and panoptic segments (N,)."""
    instances = Instances(tuple(masks.shape[-2:]))
    instances.pred_masks = masks
    instances.pred_classes = classes
    instances.scores = scores
    instances.segment_ids = segment_ids
    return instances


def resize_masks(
    logits: Tensor, padded_size: Sequence[int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Mask logits (Q, h, w), which cover the padded batch, at the size of the original image; all sizes are (H, W)."""
    full = F.interpolate(logits[None], size=padded_size, mode="bilinear", align_corners=False)
    full = full[..., : image_size[0], : image_size[1]]
    if tuple(full.shape[-2:]) != tuple(output_size):
        full = F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)
    return full[0]
