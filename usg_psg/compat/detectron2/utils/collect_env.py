"""What a log should say about the machine and the libraries."""

from __future__ import annotations

import platform
import sys
from importlib import import_module

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]


def collect_env_info() -> str:
    """Versions and devices as a table."""
    rows = [("platform", platform.platform()), ("Python", sys.version.replace("\n", ""))]
    for name in ("detectron2", "torch", "torchvision", "numpy", "PIL", "fvcore", "iopath", "cv2"):
        try:
            version = import_module(name).__version__
        except (ImportError, AttributeError):
            version = "not available"
        rows.append((name, version))
    rows.append(("CUDA", torch.version.cuda or "none"))
    rows.append(("cuDNN", torch.backends.cudnn.version() or "none"))
    for index in range(torch.cuda.device_count()):
        rows.append((f"GPU {index}", torch.cuda.get_device_name(index)))
    if not torch.cuda.is_available():
        rows.append(("GPU", "none"))
    return tabulate(rows)
