"""Deterministic transforms, and augmentations that choose one at random.

Geometry (fvcore's): pixel coordinates (x, y), images (H, W) or (H, W, C). All randomness comes from NumPy's global
generator.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image
from torch.nn import functional as F

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "CropTransform",
    "FixedSizeCrop",
    "HFlipTransform",
    "NoOpTransform",
    "PadTransform",
    "RandomCrop",
    "RandomFlip",
    "ResizeScale",
    "ResizeShortestEdge",
    "ResizeTransform",
    "Transform",
    "TransformList",
    "VFlipTransform",
]


class ResizeTransform(Transform):
    """Resize; uint8 arrays with PIL, floating-point ones with torch.

    Args:
        h, w: size of the input.
        new_h, new_w: size of the output.
        interp: PIL's NEAREST, BILINEAR or BICUBIC; None for BILINEAR. Segmentations always use NEAREST.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W) or (H, W, C) to the new size; interp replaces the transform's own."""
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"expected an array of {self.h} x {self.w}, got shape {img.shape}")
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            single = img.ndim == 3 and img.shape[2] == 1
            resized = Image.fromarray(img[:, :, 0] if single else img).resize((self.new_w, self.new_h), interp)
            return np.asarray(resized)[:, :, None] if single else np.asarray(resized)
        if not np.issubdtype(img.dtype, np.floating):
            raise ValueError(f"only uint8 and floating-point arrays can be resized, got {img.dtype}")
        mode = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}[interp]
        planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.atleast_3d(img), 2, 0)))[None]
        align = None if mode == "nearest" else False
        resized = F.interpolate(planes, (self.new_h, self.new_w), mode=mode, align_corners=align)[0].numpy()
        return resized[0] if img.ndim == 2 else np.moveaxis(resized, 0, 2)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) positions (x, y) to the new size."""
        return coords * (self.new_w / self.w, self.new_h / self.h)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(H, W) labels to the new size, by nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> ResizeTransform:
        """From the new size to the old one."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class AugInput:
    """What augmentations look at and change: an image and, optionally, boxes and a segmentation.

    Args:
        image: (H, W) or (H, W, C), uint8 or floating point.
        boxes: (N, 4) float32, (x0, y0, x1, y1).
        sem_seg: (H, W) labels.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise AssertionError(f"image must be an array (H, W) or (H, W, C), got {type(image).__name__}")
        if np.issubdtype(image.dtype, np.integer) and image.dtype != np.uint8:
            raise AssertionError(f"image must be uint8 or floating point, got {image.dtype}")
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to everything here."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: list[Augmentation | Transform]) -> TransformList:
        """Apply augmentations in order; returns the transforms that they chose."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """Chooses a transform from attributes of its input.

    Subclasses implement `get_transform`, whose argument names are attributes of the `AugInput` (a single argument is
    the image, whatever its name); `input_args` overrules the names.
    """

    input_args: tuple[str, ...] | None = None

    def get_transform(self, *args: Any) -> Transform:
        """The transform to apply."""
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Choose a transform, apply it to the input in place, and return it."""
        if self.input_args is None:
            names = tuple(inspect.signature(self.get_transform).parameters)
            self.input_args = ("image",) if len(names) == 1 else names
        transform = self.get_transform(*(getattr(aug_input, name) for name in self.input_args))
        aug_input.transform(transform)
        return transform

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Keep a constructor's `locals()` as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Sequence[int] | None = None) -> Any:
        """Uniform random numbers from [low, high), or from [0, low) without high."""
        low, high = (0.0, low) if high is None else (low, high)
        return np.random.uniform(low, high, () if size is None else size)

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in vars(self).items() if name != "input_args")
        return f"{type(self).__name__}({', '.join(arguments)})"


class _Fixed(Augmentation):
    def __init__(self, transform: Transform):
        self.transform = transform

    def get_transform(self, image: np.ndarray) -> Transform:
        return self.transform


class AugmentationList(Augmentation):
    """Augmentations one after the other, each looking at what the one before it made.

    Args:
        augs: augmentations or transforms.
    """

    def __init__(self, augs: list[Augmentation | Transform]):
        super().__init__()
        self.augs = [each if isinstance(each, Augmentation) else _Fixed(each) for each in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([each(aug_input) for each in self.augs])


class RandomFlip(Augmentation):
    """Mirror with a probability, left-right or upside down.

    Args:
        prob: of mirroring.
        horizontal, vertical: exactly one of them.
    """

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError(f"RandomFlip is either horizontal or vertical, got {horizontal=} and {vertical=}")
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class ResizeShortestEdge(Augmentation):
    """Resize to a random length of the shorter side, keeping the aspect ratio.

    Args:
        short_edge_length: "range": (smallest, largest); "choice": lengths to choose from; an int for always the same.
        max_size: upper limit of the longer side, which wins.
        sample_style: "range" or "choice".
        interp: as in `ResizeTransform`.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ):
        super().__init__()
        if sample_style not in ("range", "choice"):
            raise ValueError(f"sample_style must be range or choice, got {sample_style!r}")
        lengths = (short_edge_length,) * 2 if isinstance(short_edge_length, int) else tuple(short_edge_length)
        if sample_style == "range" and len(lengths) != 2:
            raise ValueError(f"short_edge_length must be (smallest, largest) for sample_style range, got {lengths}")
        self.short_edge_length = lengths
        self.max_size = max_size
        self.sample_style = sample_style
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.sample_style == "range":
            length = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, int(length), self.max_size)
        return ResizeTransform(height, width, new_height, new_width, self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after resizing, rounded half up."""
        short, long = min(oldh, oldw), max(oldh, oldw)
        new_short, new_long = float(short_edge_length), short_edge_length * 1.0 / short * long
        if new_long > max_size:
            shrink = max_size * 1.0 / new_long
            new_short, new_long = new_short * shrink, new_long * shrink
        new_short, new_long = int(new_short + 0.5), int(new_long + 0.5)
        return (new_short, new_long) if oldh < oldw else (new_long, new_short)


class ResizeScale(Augmentation):
    """Fit the image into a target size times a random factor, keeping the aspect ratio: scale jitter.

    Args:
        min_scale, max_scale: range of the factor.
        target_height, target_width: size to fit into at factor 1.
        interp: as in `ResizeTransform`.
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.BILINEAR,
    ):
        super().__init__()
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width = target_height, target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.min_scale, self.max_scale)
        height, width = image.shape[:2]
        ratio = min(self.target_height * factor / height, self.target_width * factor / width)
        new_height, new_width = (int(np.round(side * ratio)) for side in (height, width))
        return ResizeTransform(height, width, new_height, new_width, self.interp)


class FixedSizeCrop(Augmentation):
    """Crop at random what is larger than a size, pad at the right and bottom what is smaller.

    Args:
        crop_size: (height, width).
        pad: False leaves smaller images smaller.
        pad_value: of image pixels.
        seg_pad_value: of segmentation labels.
    """

    def __init__(self, crop_size: tuple[int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255):
        super().__init__()
        self.crop_size = crop_size
        self.pad = pad
        self.pad_value = pad_value
        self.seg_pad_value = seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        height, width = image.shape[:2]
        kept_h, kept_w = min(height, self.crop_size[0]), min(width, self.crop_size[1])
        where = np.random.uniform(0.0, 1.0)  # one draw for both directions
        y0, x0 = (int(np.round(spare * where)) for spare in (height - kept_h, width - kept_w))
        transforms = [CropTransform(x0, y0, kept_w, kept_h, width, height)]
        if self.pad:
            below, right = self.crop_size[0] - kept_h, self.crop_size[1] - kept_w
            transforms.append(PadTransform(0, 0, right, below, kept_w, kept_h, self.pad_value, self.seg_pad_value))
        return TransformList(transforms)


class RandomCrop(Augmentation):
    """Cut out a random rectangle.

    Args:
        crop_type: what crop_size means: "relative" parts of (height, width); "relative_range" the smallest parts;
            "absolute" (height, width) in pixels; "absolute_range" (smallest, largest) side in pixels.
        crop_size: two numbers.
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float]):
        super().__init__()
        if crop_type not in ("relative", "relative_range", "absolute", "absolute_range"):
            raise ValueError(f"unknown crop_type {crop_type!r}")
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> CropTransform:
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        y0 = np.random.randint(height - crop_h + 1)
        x0 = np.random.randint(width - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the rectangle for an image of a size."""
        if self.crop_type == "absolute":
            return tuple(min(int(wanted), side) for wanted, side in zip(self.crop_size, image_size, strict=True))
        if self.crop_type == "absolute_range":
            low, high = self.crop_size
            return tuple(int(np.random.randint(min(low, side), min(high, side) + 1)) for side in image_size)
        parts = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            parts = parts + np.random.rand(2) * (1 - parts)
        else:
            parts = self.crop_size
        return tuple(int(side * part + 0.5) for side, part in zip(image_size, parts, strict=True))
