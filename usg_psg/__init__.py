"""Image-only USG-Par on PSG: panoptic scene graphs as a Detectron2 extension.

Importing the package selects the engine (Detectron2, or the bundled subset where it is not installed) and registers
data sets and model parts; nothing else happens. Without PyTorch, `usg_psg.onnx` and what it needs can be imported.
"""

import importlib

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    __all__ = []
else:
    del torch
    from . import compat  # noqa: F401  selects the engine: must stay the first import

    # isort: split
    from . import data, modeling  # noqa: F401  register data sets and parts of the model
    from .config import add_usg_config, build_cfg, get_config_file
    from .vocabulary import Vocabulary

    __all__ = ["SceneGraphPredictor", "Vocabulary", "add_usg_config", "build_cfg", "get_config_file"]

    def __getattr__(name: str) -> object:
        if name != "SceneGraphPredictor":  # whose libraries for pictures a training need not import
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(".predictor", __name__).SceneGraphPredictor


__version__ = "0.2.0"
