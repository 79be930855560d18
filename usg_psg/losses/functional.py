"""The losses' formulas: tensors in, tensors out; no matching, no weights, no averaging over GPUs.

Letters: M masks, N points of a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each mask, averaged over its points.

    Args:
        logits: (M, N).
        targets: (M, N) in {0, 1}.

    Returns:
        (M,).
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of each mask, p = sigmoid(logits).

    The ones keep the value defined for empty masks. Shapes as in `mask_bce_loss`.

    Source: V-Net (Milletari et al. 2016) with the first powers and the smoothing that DETR uses.
    """
    prob = logits.sigmoid()
    return 1 - (2 * (prob * targets).sum(dim=1) + 1) / (prob.sum(dim=1) + targets.sum(dim=1) + 1)


def sigmoid_class_loss(logits: Tensor, targets: Tensor, query_weight: Tensor | None = None) -> Tensor:
    """Sum of the binary cross-entropies of the queries and classes of each image.

    Args:
        logits: (..., Q, C).
        targets: (..., Q, C) in {0, 1}; an all-zero row means "no class".
        query_weight: (..., Q), or None for ones.

    Returns:
        (...).
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=-1)
    return (loss if query_weight is None else loss * query_weight).sum(dim=-1)


def mean_class_loss(logits: Tensor, targets: Tensor, query_weight: Tensor) -> Tensor:
    """Binary cross-entropy of each image: mean over its classes, weighted mean over its queries.

    Args:
        logits: (..., Q, C).
        targets: (..., Q, C) in {0, 1}.
        query_weight: (..., Q), 0 or more.

    Returns:
        (...); 0 where all weights of an image are 0.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)
    total = query_weight.sum(dim=-1)
    return (loss * query_weight).sum(dim=-1) / torch.where(total > 0, total, 1.0)


def weighted_pair_loss(logits: Tensor, targets: Tensor, pos_weight: float) -> Tensor:
    """Sum over ordered pairs of distinct queries of the binary cross-entropy, positives counted pos_weight times.

    Args:
        logits: (B, Q, Q).
        targets: (B, Q, Q) in {0, 1}; the diagonal is ignored.
        pos_weight: SPEC section 9; 0 for the number of negatives per positive, at least 1 [released code].

    Returns:
        Scalar.
    """
    diagonal = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    if pos_weight:
        # Filled on the device: a tensor made on the host would wait for it.
        weight = torch.full((), pos_weight, dtype=logits.dtype, device=logits.device)
    else:
        positive = targets.masked_fill(diagonal, 0.0).sum()
        pairs = len(targets) * (targets[0].numel() - len(diagonal))
        weight = ((pairs - positive) / positive.clamp(min=1)).clamp(min=1)
    loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    return loss.masked_fill(diagonal, 0.0).sum()
