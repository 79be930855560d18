"""Matching, targets and losses."""

from .loss_weights import LossWeights
from .matcher import HungarianMatcher
from .object_criterion import ObjectCriterion
from .relation_criterion import RelationCriterion
from .relation_targets import predicate_targets

__all__ = ["HungarianMatcher", "LossWeights", "ObjectCriterion", "RelationCriterion", "predicate_targets"]
