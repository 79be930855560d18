"""Pairs and predicates to ranked relations (SPEC section 16).

Letters: K pairs, P predicates, R relations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def triplet_scores(subject_score: Tensor, object_score: Tensor, pair_score: Tensor, predicate_score: Tensor) -> Tensor:
    """Product of the four scores: (K,), (K,), (K,), (K, P) to (K, P)."""
    return (subject_score * object_score * pair_score)[:, None] * predicate_score


def rank_relations(scores: Tensor, per_image: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best relations with and without graph constraint, as one list.

    The list is the union of the `per_image` best (pair, predicate) entries and of the best predicate of the `per_image`
    best pairs. Its first `per_image` rows are the ranking without graph constraint; the first row of each
    pair, in order, is the ranking with it.

    Args:
        scores: (K, P) triplet scores.
        per_image: rows of either ranking.

    Returns:
        pair, predicate, score: (R,) each, best first; R is between per_image and 2 * per_image where scores allow.
    """
    num_pairs, num_predicates = scores.shape
    flat = scores.flatten()
    best_entries = flat.topk(min(per_image, flat.numel())).indices
    best_score, best_predicate = scores.max(dim=1) if num_pairs else (flat, flat.long())
    best_pairs = best_score.topk(min(per_image, num_pairs)).indices
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    for entries in (best_entries, best_pairs * num_predicates + best_predicate[best_pairs]):
        chosen.index_fill_(0, entries, True)
    entries = chosen.nonzero()[:, 0]
    entries = entries[flat[entries].argsort(descending=True, stable=True)]
    return entries // num_predicates, entries % num_predicates, flat[entries]
