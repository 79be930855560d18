"""From raw predictions to panoptic maps and ranked relations."""

from .panoptic import claim_pixels, merge_panoptic
from .triplets import rank_relations, triplet_scores

__all__ = ["claim_pixels", "merge_panoptic", "rank_relations", "triplet_scores"]
