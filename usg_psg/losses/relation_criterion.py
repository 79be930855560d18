"""Relation losses L_rel = L_predicate + L_pair (SPEC sections 9 and 12).

Letters: B images, Q queries, K selected pairs, P predicates.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..structures import RelationPredictions, TextEmbeddings
from ..training_counts import TrainingCounts
from ..utils.allowed import BELOW_ONE, ZERO_OR_MORE
from .functional import sigmoid_class_loss, weighted_pair_loss
from .long_tail import balance_weights_of_names, log_share_of_names
from .normalizer import REDUCTIONS, LossCounts, target_divisor


class RelationCriterion(nn.Module):
    """Unweighted `loss_pair` and `loss_predicate`.

    The options for rare predicates need `set_training_counts` before the first loss.

    Args:
        pair_pos_weight: weight of related pairs in `loss_pair`, see `weighted_pair_loss`.
        logit_adjustment: tau, see `log_relative_share`; 0 for none.
        balance_beta: of `effective_number_weights`, in [0, 1); 0 for none. The losses of a related pair are weighted
            with the mean weight of its predicates, those of other pairs with 1.
        reduction: "per_target": sums over the batch, divided by the number of annotated pairs, as object losses are by
            the number of objects. "mean": means over all pairs of distinct queries, and over the selected pairs and
            predicates, in which the few positive ones count little. [released code, which has pairs (i, i), too]
    """

    def __init__(
        self,
        pair_pos_weight: float = 5.0,
        logit_adjustment: float = 0.0,
        balance_beta: float = 0.0,
        reduction: str = "per_target",
    ):
        super().__init__()
        REDUCTIONS.check("reduction", reduction)
        ZERO_OR_MORE.check("logit_adjustment", logit_adjustment)
        BELOW_ONE.check("balance_beta", balance_beta)
        self.pair_pos_weight = pair_pos_weight
        self.logit_adjustment = logit_adjustment
        self.balance_beta = balance_beta
        self.reduction = reduction
        # Not saved: they belong to the training data.
        self.register_buffer("log_share", None, persistent=False)
        self.register_buffer("predicate_weight", None, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RelationCriterion:
        """The criterion of MODEL.USG.LOSS."""
        loss = cfg.MODEL.USG.LOSS
        return cls(loss.PAIR_POS_WEIGHT, loss.PREDICATE_LOGIT_ADJUSTMENT, loss.PREDICATE_BALANCE_BETA, loss.REDUCTION)

    def set_training_counts(self, counts: TrainingCounts, vocabulary: TextEmbeddings) -> None:
        """Give the training data's counts, and the names in use."""
        device, names = vocabulary.predicate_text.device, (vocabulary.predicate_names, len(vocabulary.predicate_text))
        if self.logit_adjustment:
            self.log_share = log_share_of_names(counts, *names).to(device)
        if self.balance_beta:
            self.predicate_weight = balance_weights_of_names(counts, self.balance_beta, *names).to(device)

    def forward(self, relations: RelationPredictions, labels: Tensor, counts: LossCounts) -> dict[str, Tensor]:
        """Losses.

        Args:
            relations: pair logits of all pairs, indices and predicate logits of the selected ones.
            labels: (B, Q, Q, P) bool from `predicate_targets`.
            counts: of the step, from `loss_normalizers`.

        Raises:
            ValueError: if an option for rare predicates is on and the training data's counts were not given.
        """
        proposals, predicate_logits = relations.proposals, relations.predicate_logits
        related = labels.any(dim=-1)
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        selected = labels[rows, proposals.subject_index, proposals.object_index].to(predicate_logits.dtype)
        pair = weighted_pair_loss(proposals.pair_logits, related.to(predicate_logits.dtype), self.pair_pos_weight)
        predicate = self._predicate_loss(predicate_logits, selected)
        num_queries = labels.shape[-2]
        all_pairs = counts.images * (num_queries * (num_queries - 1))
        if self.reduction == "mean":
            return {
                "loss_pair": pair / all_pairs,
                "loss_predicate": predicate / (counts.images * predicate_logits[0].numel()),
            }
        divisor = target_divisor(counts.pairs, all_pairs)
        return {"loss_pair": pair / divisor, "loss_predicate": predicate / divisor}

    def _predicate_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if (self.logit_adjustment and self.log_share is None) or (self.balance_beta and self.predicate_weight is None):
            raise ValueError(
                "LOSS.PREDICATE_LOGIT_ADJUSTMENT and PREDICATE_BALANCE_BETA need the training data's predicate counts: "
                "call set_training_counts of the model first"
            )
        if self.logit_adjustment:
            logits = logits + self.logit_adjustment * self.log_share
        weight = None
        if self.balance_beta:
            number = targets.sum(dim=-1)
            weight = torch.where(number > 0, (targets * self.predicate_weight).sum(dim=-1) / number.clamp(min=1), 1.0)
        return sigmoid_class_loss(logits, targets, weight).sum()
