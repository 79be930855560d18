"""Matches and annotated relations to targets of pairs and predicates (SPEC sections 9 and 12)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..structures import SceneGraphTargets


def predicate_targets(
    matched_query: Tensor, targets: SceneGraphTargets, num_queries: int, num_predicates: int
) -> Tensor:
    """Multi-hot predicates of every ordered pair of queries.

    A relation belongs to the pair of queries that its two objects were matched with; several relations of a pair
    set several predicates, equal ones the same; a relation with an unmatched object is left out.

    Args:
        matched_query: (T,) query of each object in the last layer, -1 where unmatched.
        targets: of the batch.
        num_queries: Q.
        num_predicates: P.

    Returns:
        (B, Q, Q, P) bool; `.any(-1)` is SPEC's pair matrix G.
    """
    image, subject, object_, predicate = targets.relations.unbind(1)
    # What is unmatched goes to one more row and column, cut off afterwards: choosing rows would wait for the device.
    query = torch.where(matched_query >= 0, matched_query, num_queries)
    labels = torch.zeros(
        (len(targets.counts), num_queries + 1, num_queries + 1, num_predicates),
        dtype=torch.bool,
        device=matched_query.device,
    )
    labels[image, query[subject], query[object_], predicate] = labels.new_ones(())
    return labels[:, :num_queries, :num_queries]
