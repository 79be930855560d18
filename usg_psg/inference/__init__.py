"""From raw predictions to panoptic maps and ranked relations."""

from .panoptic import merge_panoptic
from .triplets import rank_relations, triplet_scores

__all__ = ["merge_panoptic", "rank_relations", "triplet_scores"]
