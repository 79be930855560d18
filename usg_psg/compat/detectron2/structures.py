"""Containers of one image's instances and of a batch of images, and how boxes are written."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["BoxMode", "ImageList", "Instances"]


class Instances:
    """Fields of equal length that describe the instances of one image; a field is an attribute."""

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is no ordinary attribute; `_fields` itself is missing while unpickling.
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(f"Cannot find field {name!r} in the given Instances; it has {sorted(fields)}")
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        if self._fields and len(value) != len(self):
            raise AssertionError(f"field {name!r} has length {len(value)}, the Instances have {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"Instances index {item} out of range, length is {len(self)}")
            item = slice(item, item + 1 or None)
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        if not self._fields:
            raise NotImplementedError("Instances without fields have no length")
        return len(next(iter(self._fields.values())))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(image_size={self._image_size}, fields=[{fields}])"


class ImageList:
    """Images of different sizes in one padded tensor (B, C, H, W), and each one's (height, width) before padding."""

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad images (C, Hi, Wi) at the right and bottom to a common multiple of size_divisibility, and stack them."""
        if padding_constraints:
            raise NotImplementedError("padding_constraints: install Detectron2 for them")
        divisor = max(size_divisibility, 1)
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
        sized = zip(tensors, sizes, strict=True)
        padded = [F.pad(image, (0, width - w, 0, height - h), value=pad_value) for image, (h, w) in sized]
        return ImageList(torch.stack(padded), sizes)


class BoxMode(IntEnum):
    """How four numbers describe a box; the values are Detectron2's."""

    XYXY_ABS = 0  # (x0, y0, x1, y1) in pixels
    XYWH_ABS = 1  # (x0, y0, width, height) in pixels
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(
        box: Sequence[float] | torch.Tensor | np.ndarray, from_mode: BoxMode, to_mode: BoxMode
    ) -> list[float] | tuple[float, ...] | torch.Tensor | np.ndarray:
        """Convert one box, a list or tuple of 4, from XYWH_ABS to XYXY_ABS; any box to its own mode."""
        if from_mode == to_mode:
            return box
        if (from_mode, to_mode) != (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) or not isinstance(box, (list, tuple)):
            raise NotImplementedError(f"{type(box).__name__} from {from_mode!r} to {to_mode!r}: install Detectron2")
        x, y, width, height = box
        return type(box)((x, y, x + width, y + height))
