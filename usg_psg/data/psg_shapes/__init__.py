"""Generated scenes in PSG's layout, apart from the rest of the data: `generate.py` writes data sets of them.

Brush and sprites, the look of things and stuff, layout and relations have a module each.
"""

from .generate import VOCABULARIES, generate_psg_shapes, make_psg_shapes_scene, read_settings

__all__ = ["VOCABULARIES", "generate_psg_shapes", "make_psg_shapes_scene", "read_settings"]
