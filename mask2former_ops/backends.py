"""Finds the compiled operators and decides which implementation runs.

The compiled part is a distribution of its own (`pip install --no-build-isolation ./mask2former_ops`), which installs
one shared library and a description of it as the package `_mask2former_ops`. The description is compared with the
running PyTorch before the library is opened, because opening one that was built for another version may crash.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from . import deformops, upstream
from .compilation import INTERFACE_VERSION, compile_in_cache
from .schemas import NAMESPACE  # defines the schemas, which the kernels of a library attach to

logger = logging.getLogger(__name__)

BINARY_PACKAGE = "_mask2former_ops"
BACKENDS = ("auto", "compiled", "deformops", "pytorch", "upstream")
INSTALL_HINT = "pip install --no-build-isolation ./mask2former_ops (or set USG_PSG_OPS_JIT=1) for a faster one"

_requested: str | None = None
_choices: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class CompiledStatus:
    """Which device types have compiled operators, and where they come from or why there are none."""

    devices: frozenset[str]
    reason: str


class BinaryMismatchError(RuntimeError):
    """An installed library that must not be loaded; the message names it and says why."""


def check_binary(folder: Path) -> Path:
    """Path of the shared library in `folder` if it may be loaded into this process.

    Raises:
        BinaryMismatchError: incomplete, or built for another PyTorch, CUDA or version of this package.
    """
    description = folder / "build_info.json"
    try:
        info = json.loads(description.read_text())
        library, size = folder / info["library"], info["size"]
        built = {"torch": info["torch"], "cuda": info["cuda"], "interface": info["interface"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BinaryMismatchError(f"{folder} is half-built: {description.name} is not readable ({error!r})") from error
    found = library.stat().st_size if library.is_file() else None
    if found != size:
        raise BinaryMismatchError(f"{library} is half-built: expected a file of {size} bytes, got {found}")
    running = {"torch": torch.__version__, "cuda": torch.version.cuda, "interface": INTERFACE_VERSION}
    if not built["cuda"]:
        running["cuda"] = built["cuda"]  # a library without CUDA code runs beside any CUDA
    for name, value in running.items():
        if built[name] != value:
            raise BinaryMismatchError(f"{library} was built for {name} {built[name]}, but this is {name} {value}")
    return library


def _load_installed() -> str:
    """Loads the installed library and says where it is; LookupError where none is installed."""
    spec = importlib.util.find_spec(BINARY_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError("no compiled operators are installed")
    library = check_binary(Path(next(iter(spec.submodule_search_locations))))
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        raise BinaryMismatchError(f"{library} cannot be loaded: {error}") from error
    return str(library)


def _compiled_devices() -> frozenset[str]:
    """Device types for which the main operator has a kernel, as the dispatcher sees it."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    names = {"cpu": "CPU", "cuda": "CUDA"}
    return frozenset(device for device, key in names.items() if has_kernel(f"{NAMESPACE}::ms_deform_attn", key))


@lru_cache(maxsize=1)
def compiled_status() -> CompiledStatus:
    """Loads the compiled operators once: the installed ones, or just-in-time ones where that is asked for."""
    try:
        return CompiledStatus(_found_devices(_load_installed()), "installed")
    except LookupError as error:
        reason = str(error)
    except BinaryMismatchError as error:
        reason = f"{error}; rebuild it"
        logger.warning("Compiled operators not used: %s", reason)
    if os.environ.get("USG_PSG_OPS_JIT", "0") == "1":
        try:
            return CompiledStatus(_found_devices(compile_in_cache()), "compiled just in time")
        except (OSError, RuntimeError, ImportError) as error:
            reason = f"compiling just in time failed: {error}"
            logger.warning("Compiled operators not used: %s", reason)
    return CompiledStatus(frozenset(), reason)


def _found_devices(library: str) -> frozenset[str]:
    devices = _compiled_devices()
    logger.debug("Compiled operators for %s from %s", sorted(devices), library)
    return devices


def available_backends(device: str | torch.device = "cpu") -> list[str]:
    """Names that `set_backend` accepts for tensors on `device`, fastest first."""
    return list(_available(torch.device(device).type))


def _available(device_type: str) -> Iterator[str]:
    """One by one, since to import deformops takes a third of a second."""
    if device_type in compiled_status().devices:
        yield "compiled"
    if device_type == "cuda" and not deformops.missing():
        yield "deformops"
    if device_type == "cuda" and upstream.is_installed():
        yield "upstream"
    yield "pytorch"


def get_backend() -> str:
    """The requested backend: `set_backend`, else USG_PSG_OPS_BACKEND, else "auto"."""
    return _requested or _checked(os.environ.get("USG_PSG_OPS_BACKEND") or "auto", "USG_PSG_OPS_BACKEND")


def set_backend(name: str | None) -> None:
    """Chooses what runs from now on.

    Args:
        name: "auto" (the first of the next three that the tensor's device has), "compiled", "deformops", "pytorch",
            "upstream", or None to go back to the environment variable USG_PSG_OPS_BACKEND.
    """
    global _requested
    _requested = None if name is None else _checked(name, "name")
    _choices.clear()


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def resolve_backend(device_type: str) -> str:
    """The implementation for tensors on `device_type`: "compiled", "deformops", "pytorch" or "upstream".

    A graph made by `torch.compile` keeps the backend that was chosen when it was traced.

    Raises:
        RuntimeError: a backend was asked for by name and is not available there.
    """
    key = (device_type, get_backend())
    if key not in _choices:
        _choices[key] = _choose(*key)
        logger.info("%s", backend_report(device_type, _choices[key]))
    return _choices[key]


# As `torch.compiler.assume_constant_result` does, which would import torch._dynamo: 3 s at the start of every program.
resolve_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _choose(device_type: str, requested: str) -> str:
    if requested == "auto":
        return next(name for name in _available(device_type) if name != "upstream")
    if requested not in _available(device_type):
        reasons = {
            "compiled": compiled_status().reason,
            "deformops": deformops.missing() or "it has kernels for NVIDIA GPUs only",
            "upstream": "MultiScaleDeformableAttention is not installed",
        }
        raise RuntimeError(f"backend {requested!r} is not available on {device_type}: {reasons[requested]}")
    return requested


def backend_report(device_type: str = "cpu", backend: str | None = None) -> str:
    """One line saying which backend runs on `device_type` and why."""
    backend = backend or resolve_backend(device_type)
    status = compiled_status()
    if backend == "compiled":
        why = status.reason
    elif backend == get_backend():
        why = "asked for"
    else:
        why = f"the {status.reason} operators have no {device_type} kernels" if status.devices else status.reason
        if backend == "pytorch" and device_type == "cuda":
            why += f"; {deformops.missing()}"
        why += f"; {INSTALL_HINT}"
    return f"Deformable attention on {device_type}: {backend} backend ({why})"
