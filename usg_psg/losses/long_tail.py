"""What rare and frequent predicates get, from their counts in the training data.

Letters: P predicates, n_p annotated relations of predicate p.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..training_counts import TrainingCounts

logger = logging.getLogger(__name__)


def log_relative_share(counts: Sequence[int]) -> Tensor:
    """log(P pi_p): how much more frequent each predicate is than if all were alike, pi_p = n_p / sum(n).

    The offset of logit adjustment (Menon et al. 2021, arXiv 2007.07314), times its temperature tau. There a softmax
    ranks classes; here each predicate has a sigmoid of its own, logit s_p, whose optimum is the log odds of the
    predicate given the pair. The loss on s_p + tau log(P pi_p) makes the log odds minus tau log(P pi_p) the optimum of
    s_p; subtracting tau log(P pi_p) from logits that were trained without it gives the same scores afterwards. Either
    divides the odds by (P pi_p)^tau. Without the factor P, which a softmax would not see, every sigmoid would be
    pushed towards one; with it the mean predicate keeps its score.

    Args:
        counts: P numbers n_p.

    Returns:
        (P,) float32; 0 for predicates that never occur, about which the counts say nothing. P counts only the others.
    """
    number = torch.as_tensor(counts, dtype=torch.float64)
    seen = number > 0
    share = number / number.sum().clamp(min=1) * seen.sum()
    return torch.where(seen, share, 1.0).log().float()


def effective_number_weights(counts: Sequence[int], beta: float) -> Tensor:
    """Class-balanced weights w_p proportional to (1 - beta) / (1 - beta^n_p), the inverse of the effective number.

    Args:
        counts: P numbers n_p.
        beta: in [0, 1); 0 gives equal weights, towards 1 they become 1 / n_p.

    Returns:
        (P,) float32, scaled so that the mean over the annotated relations is 1, sum(n w) = sum(n): pairs without a
        relation, whose loss has weight 1, then keep their balance with the related ones. 1 for predicates that never
        occur.

    Source: Cui et al. 2019, equation 4. Differs: the scale, where theirs makes the mean over classes 1.
    """
    number = torch.as_tensor(counts, dtype=torch.float64)
    seen = number > 0
    inverse = torch.where(seen, (1 - beta) / (1 - beta ** number.clamp(min=1)), 0.0)
    scale = number.sum() / (number * inverse).sum() if bool(seen.any()) else 1.0
    return torch.where(seen, inverse * scale, 1.0).float()


def log_share_of_names(counts: TrainingCounts, names: Sequence[str] | None, num_predicates: int) -> Tensor:
    """(P,) float32 `log_relative_share` of the training data for the names of any vocabulary.

    Args:
        counts: of the training data.
        names: P predicate names, None if they are not known. A name that training did not know is left alone (0).
        num_predicates: P.
    """
    return _of_names(counts, log_relative_share(counts.relations), names, num_predicates, 0.0)


def balance_weights_of_names(
    counts: TrainingCounts, beta: float, names: Sequence[str] | None, num_predicates: int
) -> Tensor:
    """(P,) float32 `effective_number_weights`; other arguments as in `log_share_of_names`, for unknown names 1."""
    return _of_names(counts, effective_number_weights(counts.relations, beta), names, num_predicates, 1.0)


def _of_names(
    counts: TrainingCounts, values: Tensor, names: Sequence[str] | None, num_predicates: int, default: float
) -> Tensor:
    names = names or ["(name not given)"] * num_predicates
    unknown = [name for name in names if name not in counts.names]
    if unknown:
        logger.warning(
            "%d of %d predicates are not among those of the training data, their scores are not adjusted: %s",
            len(unknown), len(names), ", ".join(unknown),
        )  # fmt: skip
    return torch.tensor(counts.aligned(values.tolist(), names, default))
