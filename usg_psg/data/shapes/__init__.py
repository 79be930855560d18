"""Parts of the generated scenes: brush and sprites, the look of things and stuff, layout, relations.

`usg_psg.data.psg_shapes` writes data sets with them.
"""
