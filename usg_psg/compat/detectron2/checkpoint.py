"""Checkpoints of a model and of what trains it."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer
from safetensors.torch import load_file
from torch import nn

from .utils import comm
from .utils.file_io import PathManager

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]


class DetectionCheckpointer(Checkpointer):
    """fvcore's checkpointer, which saves on the main process only and never runs code from a file.

    Reads files of torch.save, either `{"model": weights, ...}` or weights alone, and safetensors files of weights.

    Args:
        model: DDP wrappers are looked through.
        save_dir: folder of the checkpoints.
        save_to_disk: whether this process saves; None for the main process.
        checkpointables: further objects with state_dict and load_state_dict, saved under their keyword.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def _load_file(self, f: str) -> dict[str, Any]:
        if f.endswith(".safetensors"):
            return {"model": load_file(f)}
        if f.endswith(".pkl"):
            raise ValueError(
                f"{f}: pickle files can run code and are read by Detectron2 itself only; convert it to .pth"
            )
        loaded = torch.load(f, map_location="cpu", weights_only=True)
        return loaded if "model" in loaded else {"model": loaded}
