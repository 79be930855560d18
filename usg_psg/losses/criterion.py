"""Everything that training asks of predictions: matches, targets, weighted losses (SPEC sections 6, 7, 9, 12, 13).

Letters: L prediction layers, B images, Q queries, P predicates, T objects of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ..structures import ObjectPredictions, PairProposals, RelationPredictions, SceneGraphTargets
from .loss_weights import LossWeights
from .matcher import FixedMatcher, FixedMatching, HungarianMatcher, Matching, build_matcher
from .normalizer import LossCounts
from .object_criterion import ObjectCriterion, by_layer
from .relation_criterion import RelationCriterion
from .relation_targets import predicate_targets

LOG_PERIOD = 20  # iterations between the sanity figures, which cost a synchronisation


@dataclass
class MatchedTargets:
    """Annotations in terms of queries.

    Attributes:
        query: (L, T) int64 query of each object at each layer, -1 where unmatched.
        predicates: (B, Q, Q, P) bool, by the last layer's matches.
    """

    query: Tensor
    predicates: Tensor

    @property
    def related(self) -> Tensor:
        """(B, Q, Q) bool, SPEC's pair matrix G."""
        return self.predicates.any(dim=-1)


class USGCriterion(nn.Module):
    """Matching and losses, in steps: the device can be given other work while the host matches.

    Args:
        matcher: of queries and objects.
        object_criterion, relation_criterion: unweighted losses.
        loss_weights: of each loss by name.
    """

    @configurable
    def __init__(
        self,
        *,
        matcher: FixedMatcher | HungarianMatcher,
        object_criterion: ObjectCriterion,
        relation_criterion: RelationCriterion,
        loss_weights: LossWeights,
    ):
        super().__init__()
        self.matcher = matcher
        self.object_criterion = object_criterion
        self.relation_criterion = relation_criterion
        self.loss_weights = loss_weights

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Matcher, losses and weights of MODEL.USG."""
        return {
            "matcher": build_matcher(cfg),
            "object_criterion": ObjectCriterion.from_config(cfg),
            "relation_criterion": RelationCriterion.from_config(cfg),
            "loss_weights": LossWeights.from_config(cfg),
        }

    def formulas(self) -> list[tuple[nn.Module, str, tuple[int | None, ...]]]:
        """Modules, their methods that are only arithmetic, and the axis of each argument that the objects lie along.

        For `compile_parts`; None for arguments whose shape does not depend on the number of annotated objects.
        """
        found: list[tuple[nn.Module, str, tuple[int | None, ...]]]
        found = [
            (self.object_criterion, "point_losses", (1, 1, None, 0, 0)),
            (self.object_criterion, "class_losses", (None, None, None)),
        ]
        if isinstance(self.matcher, HungarianMatcher):
            found.append((self.matcher, "cost", (None, None, None, 1, 1)))
        return found

    def start_matching(self, objects: ObjectPredictions, targets: SceneGraphTargets) -> Matching | FixedMatching:
        """Begin to match the queries of every layer with the objects of their image."""
        return self.matcher.start(objects, targets)

    def finish_matching(
        self,
        matching: Matching | FixedMatching,
        targets: SceneGraphTargets,
        num_queries: int,
        num_predicates: int,
    ) -> MatchedTargets:
        """Wait for the matches, and express the annotated relations by queries."""
        query = matching.result()
        return MatchedTargets(query, predicate_targets(query[-1], targets, num_queries, num_predicates))

    def object_losses(
        self, objects: ObjectPredictions, targets: SceneGraphTargets, matched: MatchedTargets, counts: LossCounts
    ) -> dict[str, Tensor]:
        """Weighted losses by name, of every layer in `objects`; `counts` of the step, from `loss_normalizers`."""
        losses = self.object_criterion(objects, targets, matched.query, counts)
        return by_layer(self.loss_weights.apply(losses))

    def relation_losses(
        self, relations: RelationPredictions, matched: MatchedTargets, counts: LossCounts
    ) -> dict[str, Tensor]:
        """Weighted losses by name; sanity figures go to the event storage, if there is one."""
        losses = self.relation_criterion(relations, matched.predicates, counts)
        log_sanity(matched, relations.proposals)
        return self.loss_weights.apply(losses)

    def given_losses(
        self,
        objects: ObjectPredictions,
        relations: RelationPredictions,
        targets: SceneGraphTargets,
        matched: MatchedTargets,
        counts: LossCounts,
        object_weight: float = 1.0,
        relation_weight: float = 1.0,
    ) -> dict[str, Tensor]:
        """Losses of queries of given objects, times two factors, as `NAME_given`; empty places cost nothing."""
        losses = self.object_criterion(objects, targets, matched.query, counts, no_object_weight=0.0)
        weighted = by_layer({n: value * object_weight for n, value in self.loss_weights.apply(losses).items()})
        losses = self.relation_criterion(relations, matched.predicates, counts)
        weighted.update((n, value * relation_weight) for n, value in self.loss_weights.apply(losses).items())
        return {f"{name}_given": value for name, value in weighted.items()}


@torch.no_grad()
def log_sanity(matched: MatchedTargets, proposals: PairProposals) -> None:
    """SPEC section 18: matched queries against objects, annotated pairs among the proposals."""
    if not has_event_storage():
        return
    storage = get_event_storage()
    if storage.iter % LOG_PERIOD:
        return
    query, related = matched.query[-1], matched.related
    storage.put_scalar("sanity/gt_objects", len(query))
    storage.put_scalar("sanity/matched_queries", int((query >= 0).sum()))
    num_pairs = int(related.sum())
    if num_pairs:
        # Ranks without the priority that training may give to annotated pairs.
        k = proposals.subject_index.shape[1]
        diagonal = torch.eye(related.shape[-1], dtype=torch.bool, device=related.device)
        chosen = proposals.pair_logits.masked_fill(diagonal, -torch.inf).flatten(1).topk(k, dim=1).indices
        found = int(related.flatten(1).gather(1, chosen).sum())
        storage.put_scalar("sanity/pair_recall_in_top_k", 100.0 * found / num_pairs)
