"""Containers of one image's instances, of a batch of images, of masks and of boxes.

N: instances, H, W: height and width in pixels, C: channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["BitMasks", "BoxMode", "Boxes", "ImageList", "Instances"]


class Instances:
    """Fields of equal length that describe the instances of one image; a field is an attribute.

    Args:
        image_size: (height, width).
        kwargs: fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
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
        """Set a field.

        Raises:
            AssertionError: if its length is not that of the other fields.
        """
        if self._fields and len(value) != len(self):
            raise AssertionError(f"field {name!r} has length {len(value)}, the Instances have {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Delete a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """A field by name."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields, not copied."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """A copy with every field that can be moved or cast moved or cast."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        """The chosen instances; an int gives Instances of length 1."""
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"Instances index {item} out of range, length is {len(self)}")
            item = slice(item, item + 1 or None)
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        if not self._fields:
            raise NotImplementedError("Instances without fields have no length")
        return len(next(iter(self._fields.values())))

    def __iter__(self) -> Iterator:
        raise NotImplementedError("Instances are not iterable")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Concatenate Instances of the same image size and fields."""
        first = instance_lists[0]
        if any(each.image_size != first.image_size for each in instance_lists):
            raise AssertionError(f"image sizes differ: {[each.image_size for each in instance_lists]}")
        joined = {}
        for name, value in first.get_fields().items():
            values = [each.get(name) for each in instance_lists]
            if isinstance(value, torch.Tensor):
                joined[name] = torch.cat(values)
            elif isinstance(value, list):
                joined[name] = list(chain.from_iterable(values))
            elif hasattr(type(value), "cat"):
                joined[name] = type(value).cat(values)
            else:
                raise ValueError(f"field {name!r}: cannot concatenate values of type {type(value).__name__}")
        return Instances(first.image_size, **joined)

    def __str__(self) -> str:
        count = len(self) if self._fields else 0
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"

    __repr__ = __str__


class ImageList:
    """Images of different sizes in one padded tensor (B, C, H, W); index it to get one image without padding.

    Args:
        tensor: (B, C, H, W) or (B, H, W).
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """A copy with the tensor moved or cast."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad at the right and bottom to a common size and stack.

        Args:
            tensors: each (C, Hi, Wi) or (Hi, Wi).
            size_divisibility: the common height and width are rounded up to a multiple of it; 0 or 1 for none.
            pad_value: value of the padding.
            padding_constraints: `size_divisibility`, which replaces the argument, and `square_size`: if above 0 the
                common height and width.
        """
        if not tensors:
            raise AssertionError("ImageList.from_tensors needs at least one image")
        constraints = padding_constraints or {}
        divisor = max(constraints.get("size_divisibility", size_divisibility), 1)
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        height, width = (-(-side // divisor) * divisor for side in (height, width))
        padded = [
            F.pad(image, (0, width - w, 0, height - h), value=pad_value)
            for image, (h, w) in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)


class Boxes:
    """Boxes (x0, y0, x1, y1).

    Args:
        tensor: (N, 4); becomes float32.
    """

    def __init__(self, tensor: torch.Tensor):
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise AssertionError(f"boxes must have shape (N, 4), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> Boxes:
        """A copy."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> Boxes:
        """A copy on a device."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """(N,) areas."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return sides[:, 0] * sides[:, 1]

    def __getitem__(self, item: int | slice | torch.Tensor) -> Boxes:
        chosen = self.tensor[item]
        return Boxes(chosen[None] if isinstance(item, int) else chosen)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """Concatenate; no boxes from an empty list."""
        return cls(torch.cat([boxes.tensor for boxes in boxes_list])) if boxes_list else cls(torch.empty(0, 4))


class BitMasks:
    """Masks of one image.

    Args:
        tensor: (N, H, W), converted to bool.
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray):
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise AssertionError(f"masks must have shape (N, H, W), got {tuple(tensor.shape)}")
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """A copy with the tensor moved."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | torch.Tensor) -> BitMasks:
        chosen = self.tensor[item]
        return BitMasks(chosen[None] if isinstance(item, int) else chosen)

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: which masks have a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around the masks, x1 and y1 exclusive; zeros for an empty mask."""
        columns, rows = self.tensor.any(dim=1), self.tensor.any(dim=2)
        sides = []
        for occupied in (columns, rows):
            positions = torch.arange(occupied.shape[1], device=self.device)
            low = torch.where(occupied, positions, occupied.shape[1]).amin(dim=1)
            high = torch.where(occupied, positions + 1, 0).amax(dim=1)
            sides.append((low, high))
        (x0, x1), (y0, y1) = sides
        boxes = torch.stack((x0, y0, x1, y1), dim=1) * self.nonempty()[:, None]
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """Concatenate masks of one image size."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


@unique
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
        """Convert between XYXY_ABS and XYWH_ABS.

        Args:
            box: one box as list or tuple of 4, or (..., 4) as array or tensor.

        Returns:
            the box(es) in the type of the input.

        Raises:
            NotImplementedError: for the other modes.
        """
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(f"conversion from {from_mode!r} to {to_mode!r}: install Detectron2 for it")
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        if isinstance(box, (list, tuple)):
            x, y, a, b = box
            return type(box)((x, y, a + sign * x, b + sign * y))
        converted = box.clone() if isinstance(box, torch.Tensor) else box.copy()
        converted[..., 2:] += sign * converted[..., :2]
        return converted
