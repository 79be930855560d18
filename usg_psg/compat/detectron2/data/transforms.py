"""Deterministic transforms, and augmentations that choose one at random.

Geometry (fvcore's): pixel coordinates (x, y), images (H, W) or (H, W, C), uint8. All randomness comes from NumPy's
global generator.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
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

__all__ = [
    "AugInput", "Augmentation", "AugmentationList", "CropTransform", "FixedSizeCrop", "HFlipTransform", "NoOpTransform",
    "PadTransform", "RandomFlip", "ResizeScale", "ResizeShortestEdge", "ResizeTransform", "Transform", "TransformList",
    "VFlipTransform",
]  # fmt: skip


class ResizeTransform(Transform):
    """Resize with PIL's filter `interp`, None for BILINEAR; segmentations always use NEAREST."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if img.shape[:2] != (self.h, self.w) or img.dtype != np.uint8:
            raise AssertionError(f"expected uint8, {self.h} x {self.w}, got {img.dtype} of shape {img.shape}")
        interp = self.interp if interp is None else interp
        return np.asarray(Image.fromarray(img).resize((self.new_w, self.new_h), interp))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * (self.new_w / self.w, self.new_h / self.h)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)


class AugInput:
    """What augmentations look at and change: an image; boxes and segmentations are transformed by their caller."""

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        if boxes is not None or sem_seg is not None:
            raise NotImplementedError("boxes and sem_seg: apply the returned transforms to them, or install Detectron2")
        self.image = image

    def transform(self, tfm: Transform) -> None:
        self.image = tfm.apply_image(self.image)


class Augmentation:
    """Chooses a transform from an image; subclasses implement `get_transform(self, image)`."""

    def __call__(self, aug_input: AugInput) -> Transform:
        """Choose a transform, apply it to the input in place, and return it."""
        transform = self.get_transform(aug_input.image)
        aug_input.transform(transform)
        return transform


class AugmentationList(Augmentation):
    """Augmentations one after the other, each looking at what the one before it made."""

    def __init__(self, augs: list[Augmentation]):
        self.augs = augs

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([each(aug_input) for each in self.augs])


class RandomFlip(Augmentation):
    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError(f"RandomFlip is either horizontal or vertical, got {horizontal=} and {vertical=}")
        self.prob = prob
        self.horizontal = horizontal

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class ResizeShortestEdge(Augmentation):
    """Resize to a random length of the shorter side, keeping the aspect ratio; the limit of the longer side wins."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ):
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
    """Fit the image into a target size times a random factor, keeping the aspect ratio: scale jitter."""

    def __init__(
        self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = Image.BILINEAR
    ):
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
    """Crop at random what is larger than a size, pad at the right and bottom what is smaller."""

    def __init__(self, crop_size: tuple[int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255):
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
