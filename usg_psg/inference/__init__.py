"""From raw predictions to panoptic maps and ranked relations."""

from .panoptic import assign_pixels, mask_areas, panoptic_inference
from .postprocess import Postprocessor, given_objects, instance_pairs, make_instances, resize_masks
from .triplets import rank_relations, triplet_scores

__all__ = [
    "Postprocessor",
    "assign_pixels",
    "given_objects",
    "instance_pairs",
    "make_instances",
    "mask_areas",
    "panoptic_inference",
    "rank_relations",
    "resize_masks",
    "triplet_scores",
]
