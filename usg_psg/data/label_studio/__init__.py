"""To Label Studio and back: scenes become tasks, corrected tasks become a data set in PSG's layout.

Source of the formats: labelstud.io, "Import pre-annotated data", "Export annotations", and the tags BrushLabels and
Relations.
"""

from .brush import decode_brush, encode_brush
from .corrections import Change, Correction, read_corrections
from .tasks import Region, Scene, labeling_config, read_scene, scene_of_graph, scene_of_record, task_of

__all__ = [
    "Change",
    "Correction",
    "Region",
    "Scene",
    "decode_brush",
    "encode_brush",
    "labeling_config",
    "read_corrections",
    "read_scene",
    "scene_of_graph",
    "scene_of_record",
    "task_of",
]
