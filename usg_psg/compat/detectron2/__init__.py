"""The part of Detectron2's public API that this project calls, on fvcore, iopath, yacs, torchvision and pycocotools.

Names, signatures and defaults are Detectron2's; its documentation (https://detectron2.readthedocs.io) describes them
in full. It is imported under the name `detectron2`, and only where the real package is absent: see `usg_psg/compat`.
"""

__version__ = "0.6+usg.psg.bundled"
