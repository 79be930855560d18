"""From raw predictions to panoptic maps and ranked relations."""

from .panoptic import assign_pixels, mask_areas, number_segments, owned_areas, panoptic_map, segments_info
from .postprocess import Postprocessor, given_objects, instance_pairs, make_instances, resize_masks
from .triplets import rank_relations, triplet_scores

__all__ = [
    "Postprocessor",
    "assign_pixels",
    "given_objects",
    "instance_pairs",
    "make_instances",
    "mask_areas",
    "number_segments",
    "owned_areas",
    "panoptic_map",
    "rank_relations",
    "resize_masks",
    "segments_info",
    "triplet_scores",
]
