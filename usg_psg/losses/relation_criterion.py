"""Relation losses L_rel = L_predicate + L_pair (SPEC sections 9 and 12).

Letters: B images, Q queries, K selected pairs, P predicates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..structures import PairProposals
from .functional import sigmoid_class_loss, weighted_pair_loss


class RelationCriterion(nn.Module):
    """Unweighted `loss_pair` and `loss_predicate`.

    Both are sums over the batch divided by the number of annotated pairs, as the object losses are by the
    number of objects: a mean over all Q * Q pairs would let the few positive ones vanish.

    Args:
        pair_pos_weight: weight of related pairs in `loss_pair`.
    """

    def __init__(self, pair_pos_weight: float = 5.0):
        super().__init__()
        self.pair_pos_weight = pair_pos_weight

    def forward(
        self, proposals: PairProposals, predicate_logits: Tensor, labels: Tensor, num_pairs: Tensor
    ) -> dict[str, Tensor]:
        """Losses.

        Args:
            proposals: pair logits of all pairs, indices of the selected ones.
            predicate_logits: (B, K, P) of the selected pairs.
            labels: (B, Q, Q, P) bool from `predicate_targets`.
            num_pairs: scalar that the sums are divided by, see `loss_normalizers`.
        """
        related = labels.any(dim=-1)
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        selected = labels[rows, proposals.subject_index, proposals.object_index].to(predicate_logits.dtype)
        pair = weighted_pair_loss(proposals.pair_logits, related.to(predicate_logits.dtype), self.pair_pos_weight)
        return {
            "loss_pair": pair / num_pairs,
            "loss_predicate": sigmoid_class_loss(predicate_logits, selected) / num_pairs,
        }
