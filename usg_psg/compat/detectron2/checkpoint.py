"""Checkpoints of a model and of what trains it."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .utils import comm

__all__ = ["Checkpointer", "DetectionCheckpointer"]


class DetectionCheckpointer(Checkpointer):
    """fvcore's checkpointer, which saves on the main process only and never runs code from a file.

    Args:
        model: DDP wrappers are looked through.
        save_dir: folder of the checkpoints.
        save_to_disk: whether this process saves; None for the main process.
        checkpointables: further objects with state_dict and load_state_dict, saved under their keyword.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ):
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        """A file of torch.save: `{"model": weights, ...}`, or weights alone."""
        if f.endswith(".pkl"):
            raise ValueError(f"{f}: pickle files, which can run code, are for Detectron2 itself; convert it to .pth")
        loaded = torch.load(f, map_location="cpu", weights_only=True)
        return loaded if "model" in loaded else {"model": loaded}
