"""Matching, targets and losses."""

from .criterion import MatchedTargets, USGCriterion
from .long_tail import effective_number_weights, log_relative_share
from .loss_weights import LossWeights
from .matcher import FixedMatcher, HungarianMatcher, build_matcher
from .normalizer import Counting, LossCounts, loss_normalizers
from .object_criterion import ObjectCriterion
from .relation_criterion import RelationCriterion
from .relation_targets import predicate_targets

__all__ = [
    "Counting",
    "FixedMatcher",
    "HungarianMatcher",
    "LossCounts",
    "LossWeights",
    "MatchedTargets",
    "ObjectCriterion",
    "RelationCriterion",
    "USGCriterion",
    "build_matcher",
    "effective_number_weights",
    "log_relative_share",
    "loss_normalizers",
    "predicate_targets",
]
