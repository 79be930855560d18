"""Files of weights: read without running code from them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .files import check_archive

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
CONVERSION_KEY = "conversion"  # of the record that tools/convert_checkpoint.py writes beside the weights


def read_plain(filename: str | Path, mmap: bool = False) -> Any:
    """Tensors and plain values of a file of torch.save or safetensors; its archive is checked, its content is not."""
    filename = str(filename)
    if filename.endswith(".safetensors"):
        return _read_safetensors(filename)
    check_archive(filename)
    # Files of before torch 1.6 are no zip archives, which alone can be left in the file.
    return torch.load(filename, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(filename))


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor has NaN or infinity, None if there is none."""
    for name, value in weights.items():
        if value.is_floating_point() and value.numel():
            wide = value if value.dtype in (torch.float32, torch.float64) else value.float()
            if not torch.stack(torch.aminmax(wide)).isfinite().all():  # NaN is its own least and greatest value
                return name
    return None


def _read_safetensors(filename: str) -> dict[str, Any]:
    """Weights, or weights and the record of a conversion, which is text in the file's metadata."""
    with safe_open(filename, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        record = (file.metadata() or {}).get(CONVERSION_KEY)
    return weights if record is None else {"model": weights, CONVERSION_KEY: json.loads(record)}
