"""How the network's parts run: as they are, compiled, or as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from .cuda_graphs import CudaRecorder, GraphedFunction

MODES = ("none", "kernels", "graphs", "kernels+graphs")


class PartRunner:
    """Calls modules, and bound methods of modules, in one of four ways.

    Args:
        mode: "none"; "kernels", through `torch.compile`; "graphs", as CUDA graphs of PyTorch's own kernels; or both.
        recorder_type: see `GraphedFunction`.

    Raises:
        ValueError: for another mode.
    """

    def __init__(self, mode: str = "none", recorder_type: Callable[[], Any] = CudaRecorder):
        if mode not in MODES:
            raise ValueError(f"COMPILE must be one of {', '.join(MODES)}, got {mode!r}")
        self.mode = mode
        self.recorder_type = recorder_type
        self._functions: dict[tuple[int, str], Callable] = {}
        self._fixed: set[int] = set()

    def __call__(self, part: Callable, *args: Any) -> Any:
        """What the part returns; with graphs in memory that its next call overwrites."""
        if self.mode == "none":
            return part(*args)
        # The bound method, not the module: a compiled module would be another child with the same weights.
        function = part.forward if isinstance(part, nn.Module) else part
        assert isinstance(function, MethodType) and isinstance(function.__self__, nn.Module)
        owner = function.__self__
        key = (id(owner), function.__name__)
        if key not in self._functions:
            self._functions[key] = self._prepare(function, owner)
        return self._functions[key](*args)

    def _prepare(self, function: Callable, owner: nn.Module) -> Callable:
        if "kernels" in self.mode:
            function = torch.compile(function)
        if "graphs" in self.mode:
            function = GraphedFunction(function, owner, self._fixed, self.recorder_type)
        return function
