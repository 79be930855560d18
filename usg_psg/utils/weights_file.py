"""Files of weights: read without running code from them."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .files import check_archive

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
CONVERSION_KEY = "conversion"  # of the record that tools/convert_checkpoint.py writes beside the weights
RECORDS_KEY = "usg_psg"  # of the other records beside the weights of a safetensors file


def read_plain(filename: str | Path, mmap: bool = False) -> Any:
    """Tensors and plain values of a file of torch.save or safetensors; its archive is checked, its content is not."""
    filename = str(filename)
    if filename.endswith(".safetensors"):
        return _read_safetensors(filename)
    check_archive(filename)
    # Files of before torch 1.6 are no zip archives, which alone can be left in the file.
    return torch.load(filename, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(filename))


def read_records(filename: str | Path) -> Any:
    """What `read_plain` reads, with the tensors left in the file; kept for the next call, so not to be changed."""
    state = os.stat(filename)
    return _read_records(str(filename), state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _read_records(filename: str, *_identity: int) -> Any:
    return read_plain(filename, mmap=True)


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor has NaN or infinity, None if there is none."""
    for name, value in weights.items():
        if value.is_floating_point() and value.numel():
            wide = value if value.dtype in (torch.float32, torch.float64) else value.float()
            if not torch.stack(torch.aminmax(wide)).isfinite().all():  # NaN is its own least and greatest value
                return name
    return None


def weight_names(filename: str | Path) -> list[str]:
    """Names of the weights in a file, without reading them."""
    if str(filename).endswith(".safetensors"):
        with safe_open(filename, framework="pt") as file:
            return list(file.keys())
    content = read_records(filename)
    return list(content.get("model", content))


def _read_safetensors(filename: str) -> dict[str, Any]:
    """Weights; or weights and the records beside them, which are text in the file's metadata."""
    with safe_open(filename, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        metadata = file.metadata() or {}
    records = json.loads(metadata.get(RECORDS_KEY, "{}"))
    if CONVERSION_KEY in metadata:
        records[CONVERSION_KEY] = json.loads(metadata[CONVERSION_KEY])
    return {"model": weights, **records} if records else weights
