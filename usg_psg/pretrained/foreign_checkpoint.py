"""Read checkpoints of other projects without running code from them, and write converted ones."""

from __future__ import annotations

import collections
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..utils.files import write_whole
from ..utils.weights_file import CONVERSION_KEY, SUFFIXES, first_not_finite, read_plain
from .convert import Conversion

SUFFIXES_READ = (".pkl", *SUFFIXES)
SUFFIXES_WRITTEN = (".pth", ".safetensors")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as pickles of protocol 2 write them; other encodings are none of a checkpoint's business."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """`bytes()`, which is how pickles of protocol 2 write empty data; with a size it could ask for any memory."""
    return b""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler of numpy arrays in plain containers; every other class or function is refused."""

    ALLOWED: ClassVar[dict[tuple[str, str], Callable]] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): _no_bytes,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    # Functions in NumPy's pickles of arrays and scalars, from before NumPy 2 and since.
    NUMPY: ClassVar[dict[str, Any]] = {
        "multiarray._reconstruct": np.empty(0).__reduce__()[0],
        "multiarray.scalar": np.float32(0).__reduce__()[0],
        "numeric._frombuffer": np.empty(1).__reduce_ex__(5)[0],
    }

    def find_class(self, module: str, name: str) -> Callable:
        """The class or function of that name; UnpicklingError if it is not allowed."""
        numpy_name = f"{module.removeprefix('numpy.core.').removeprefix('numpy._core.')}.{name}"
        if module.startswith(("numpy.core.", "numpy._core.")) and numpy_name in self.NUMPY:
            return self.NUMPY[numpy_name]
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it needs {module}.{name}; only arrays in plain containers are read")
        return self.ALLOWED[module, name]


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """Weights of another project's checkpoint, on the CPU.

    Args:
        path: .pkl (Detectron2's model zoo), .pth, .pt, .bin or .safetensors; weights alone or under the key "model".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names the file, and the entry that is not a tensor.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES_READ:
        raise ValueError(f"{path}: expected a file {', '.join(SUFFIXES_READ)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        data = _read(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    weights = data["model"] if isinstance(data, dict) and "model" in data else data
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path}: expected weights by name, got {type(weights).__name__}")
    return {str(name): _as_tensor(path, name, value) for name, value in weights.items()}


def _read(path: Path) -> Any:
    if path.suffix != ".pkl":
        return read_plain(path)
    with open(path, "rb") as file:
        return ArrayUnpickler(file, encoding="latin1").load()  # Python 2 wrote some of the zoo's files


def _as_tensor(path: Path, name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        raise ValueError(f"{path}, {name}: expected an array of numbers, got {type(value).__name__}")
    if first_not_finite({name: value}) is not None:
        raise ValueError(f"{path}, {name}: holds values that are not finite")
    return value


def write_converted(path: str | Path, conversion: Conversion) -> None:
    """Write weights and record to a .pth or .safetensors file, whole or not at all; ValueError for another suffix."""
    path = Path(path)
    if path.suffix not in SUFFIXES_WRITTEN:
        raise ValueError(f"{path}: expected a file {' or '.join(SUFFIXES_WRITTEN)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pth":
        data = {"model": conversion.weights, CONVERSION_KEY: conversion.record}
        write_whole(path, lambda file: torch.save(data, file))
    else:
        content = save(conversion.weights, metadata={CONVERSION_KEY: json.dumps(conversion.record)})
        write_whole(path, lambda file: file.write(content))
