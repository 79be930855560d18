"""One table from the name of a loss to its weight (SPEC sections 7, 12 and 13)."""

from __future__ import annotations

import re

from detectron2.config import CfgNode
from torch import Tensor


class LossWeights:
    """Weights by name; the losses of auxiliary layers, `NAME_0`, `NAME_1`, ..., share the weight of NAME.

    Args:
        weights: weight of each loss.
    """

    def __init__(self, weights: dict[str, float]):
        self.weights = dict(weights)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LossWeights:
        """L = OBJECT * (class, mask, dice) + RELATION * (pair, predicate)."""
        loss = cfg.MODEL.USG.LOSS
        return cls(
            {
                "loss_class": loss.OBJECT_WEIGHT * loss.CLASS_WEIGHT,
                "loss_mask": loss.OBJECT_WEIGHT * loss.MASK_WEIGHT,
                "loss_dice": loss.OBJECT_WEIGHT * loss.DICE_WEIGHT,
                "loss_pair": loss.RELATION_WEIGHT * loss.PAIR_WEIGHT,
                "loss_predicate": loss.RELATION_WEIGHT * loss.PREDICATE_WEIGHT,
            }
        )

    def apply(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted losses under the same names.

        Raises:
            KeyError: for a loss without a weight; a loss is never dropped.
        """
        weighted = {}
        for name, value in losses.items():
            base = re.sub(r"_\d+$", "", name)
            if base not in self.weights:
                raise KeyError(f"loss {name!r} has no weight; the table knows {sorted(self.weights)}")
            weighted[name] = value * self.weights[base]
        return weighted
