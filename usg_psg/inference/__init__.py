"""From raw predictions to panoptic maps and ranked relations."""

from .panoptic import assign_pixels, map_runs, number_segments, panoptic_map, segments_info
from .postprocess import Postprocessor, given_objects, instance_pairs, make_instances
from .triplets import rank_relations, triplet_scores

__all__ = [
    "Postprocessor",
    "assign_pixels",
    "given_objects",
    "instance_pairs",
    "make_instances",
    "map_runs",
    "number_segments",
    "panoptic_map",
    "rank_relations",
    "segments_info",
    "triplet_scores",
]
