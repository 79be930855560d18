"""Layers with optional normalisation and activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

__all__ = ["Conv2d", "ShapeSpec", "cat", "get_norm"]


@dataclass
class ShapeSpec:
    """What is known of a feature map's shape; stride is relative to the input image."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Conv2d(nn.Conv2d):
    """torch's Conv2d followed by an optional norm and an optional activation.

    Args:
        args, kwargs: as `torch.nn.Conv2d`, and the keywords norm (a module) and activation (a callable on tensors).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        norm, activation = kwargs.pop("norm", None), kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W'); B may be 0."""
        x = super().forward(x)
        for then in (self.norm, self.activation):
            if then is not None:
                x = then(x)
        return x


def get_norm(norm: str | Callable | None, out_channels: int) -> nn.Module | None:
    """A normalisation layer by name.

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), a callable of the number of channels; "" or None for none.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        by_name: dict[str, Callable] = {
            "BN": nn.BatchNorm2d,
            "SyncBN": nn.SyncBatchNorm,
            "FrozenBN": FrozenBatchNorm2d,
            "GN": lambda channels: nn.GroupNorm(32, channels),
        }
        if norm not in by_name:
            raise ValueError(f"norm must be one of {', '.join(by_name)}, a callable or '', got {norm!r}")
        norm = by_name[norm]
    return norm(out_channels)


def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """`torch.cat` that does not copy a single tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
