"""Libraries that take seconds to import, loaded when something of theirs is used."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """Stands for a module until one of its attributes is needed.

    OpenCLIP and timm take two thirds of the time in which this package is imported (torchvision and torch._dynamo come
    with them), and most programs build no model of theirs. `importlib.util.LazyLoader` puts its module into
    `sys.modules`, where PyTorch's look at the source of functions loads it at once.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
