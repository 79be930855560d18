"""Matching, targets and losses."""

from .loss_weights import LossWeights
from .matcher import HungarianMatcher
from .normalizer import loss_normalizers
from .object_criterion import ObjectCriterion
from .relation_criterion import RelationCriterion
from .relation_targets import predicate_targets

__all__ = [
    "HungarianMatcher",
    "LossWeights",
    "ObjectCriterion",
    "RelationCriterion",
    "loss_normalizers",
    "predicate_targets",
]
