"""Pairs and predicates to ranked relations (SPEC section 16).

Letters: K pairs, C object classes, P predicates, R relations.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..structures import TextEmbeddings
from ..training_counts import TripletCounts

logger = logging.getLogger(__name__)

UNSEEN_SHARE = 1e-3  # added to every share, so that a triplet that training lacks can still be found


def triplet_scores(subject_score: Tensor, object_score: Tensor, pair_score: Tensor, predicate_score: Tensor) -> Tensor:
    """Product of the four scores: (..., K), (..., K), (..., K), (..., K, P) to (..., K, P)."""
    return (subject_score * object_score * pair_score)[..., None] * predicate_score


class TripletPrior:
    """(share + 0.001)^exponent of triplets: of the training pairs of their classes, the share that has the predicate.

    Args:
        counts: of the training data; names that they lack are treated as `TripletCounts.share` says, with a warning.
        exponent: w.
        vocabulary: the names in use.

    Source: the frequency bias of Neural Motifs (Zellers et al., CVPR 2018). Differs: theirs is added to the logits in
    training, this one is a factor of the scores afterwards.
    """

    def __init__(self, counts: TripletCounts, exponent: float, vocabulary: TextEmbeddings):
        device = vocabulary.predicate_text.device
        share = torch.from_numpy(counts.share()).float()
        self._table = ((share + UNSEEN_SHARE) ** exponent).to(device)
        self._classes = _positions("objects", counts.objects, vocabulary.object_names, len(vocabulary.object_text)).to(
            device
        )
        self._predicates = _positions(
            "predicates", counts.predicates, vocabulary.predicate_names, len(vocabulary.predicate_text)
        ).to(device)

    def __call__(self, subject_class: Tensor, object_class: Tensor) -> Tensor:
        """(..., K, P) float32 of pairs of classes (..., K)."""
        return self._table[self._classes[subject_class], self._classes[object_class]][..., self._predicates]


def _positions(kind: str, known: Sequence[str], names: Sequence[str] | None, number: int) -> Tensor:
    """(number,) int64 position of each name among the known ones; behind the last one if it is not there."""
    names = names or ["(name not given)"] * number
    unknown = [name for name in names if name not in known]
    if unknown:
        logger.warning(
            "%d of %d %s are not among those of the training data, triplets with them take the average prior: %s",
            len(unknown), number, kind, ", ".join(unknown),
        )  # fmt: skip
    return torch.tensor([known.index(name) if name in known else len(known) for name in names])


def rank_relations(scores: Tensor, per_image: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best relations with and without graph constraint, as one list.

    The list is the union of the `per_image` best (pair, predicate) entries and of the best predicate of the `per_image`
    best pairs. Its first `per_image` rows are the ranking without graph constraint; the first row of each
    pair, in order, is the ranking with it.

    Args:
        scores: (..., K, P) triplet scores; below 0 for what is no relation.
        per_image: rows of either ranking.

    Returns:
        pair, predicate, score: (..., R) each, best first. R depends on the arguments' sizes alone, so that nothing
            waits for the device: rows behind the last relation have a score below 0.
    """
    num_pairs, num_predicates = scores.shape[-2:]
    flat = scores.flatten(-2)
    best_entries = flat.topk(min(per_image, flat.shape[-1])).indices
    best_score, best_predicate = scores.max(dim=-1) if num_pairs else (flat, flat.long())
    best_pairs = best_score.topk(min(per_image, num_pairs)).indices
    of_pairs = best_pairs * num_predicates + best_predicate.gather(-1, best_pairs)
    entries = torch.cat([best_entries, of_pairs], dim=-1).sort().values
    score = flat.gather(-1, entries)
    score[..., 1:].masked_fill_(entries[..., 1:] == entries[..., :-1], -1)  # stands in the list already
    score, order = score.sort(descending=True, stable=True)
    entries = entries.gather(-1, order)
    return entries // num_predicates, entries % num_predicates, score
