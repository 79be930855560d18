"""Dataset dict to network input: image, panoptic PNG and relations under one geometric transform.

Letters: N segments, R relations of one image, H W pixels after the transform.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import Instances
from PIL import Image

from ..images import ImageError, read_image
from ..masks import present_in
from ..structures import SegmentMasks
from ..utils.allowed import one_of
from ..vocabulary import Vocabulary
from .annotation import annotation_of, reindex_relations
from .mirrored_names import SidedNames
from .panoptic import read_segment_index_map
from .psg_json import POLICIES
from .register_psg import get_vocabulary
from .validation.skipped_samples import SkippedSamples

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 100
FLIPS = one_of("none", "horizontal", "vertical")
AUGMENTATIONS = one_of("lsj", "shortest_edge")


def transform_index_map(transforms: T.TransformList, index_map: np.ndarray) -> np.ndarray:
    """Apply an image's transforms to its map of positions, (h, w) to (H, W) uint8 or int32, void (0) where they pad.

    Detectron2 resizes 8-bit maps on the same sampling grid as images, wider types on another one; so a map of more
    than 255 segments goes through as two of eight bits.
    """
    if index_map.dtype == np.uint8:
        return transforms.apply_segmentation(index_map)
    parts = (index_map & 255).astype(np.uint8), (index_map >> 8).astype(np.uint8)
    low, high = (transforms.apply_segmentation(part).astype(np.int32) for part in parts)
    return low + 256 * high


def is_mirrored(transforms: T.TransformList, width: int) -> bool:
    """Whether what was on the left of an image of this width is on the right after its transforms."""
    left, right = transforms.apply_coords(np.array([[0.0, 0.0], [width, 0.0]]))
    return bool(right[0] < left[0])


class FastResize(T.ResizeTransform):
    """Detectron2's resize with torch's kernel, three times as fast as Pillow's.

    Up to 4 % of a photograph's values differ, by one grey level, rarely by two: torch's weights have fewer digits.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W, 3) or (H, W) uint8."""
        if (self.new_h, self.new_w) == img.shape[:2]:
            return img
        if img.ndim != 3 or interp is not None or self.interp != Image.Resampling.BILINEAR:
            return super().apply_image(img, interp)
        pixels = torch.from_numpy(np.require(img, requirements=("C", "W"))).permute(2, 0, 1)[None]
        resized = F.interpolate(pixels, (self.new_h, self.new_w), mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


class ResizeToPixels(T.Augmentation):
    """A resize to the transform `kind`, whose shorter side keeps at least one pixel, however thin the image is."""

    def __init__(self, resize: T.Augmentation, kind: type[T.ResizeTransform] = T.ResizeTransform):
        super().__init__()
        self.resize, self.kind = resize, kind

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for an image (H, W, 3)."""
        chosen = self.resize.get_transform(image)
        if not isinstance(chosen, T.ResizeTransform):
            return chosen
        return self.kind(chosen.h, chosen.w, max(chosen.new_h, 1), max(chosen.new_w, 1), chosen.interp)


class Mirror(T.HFlipTransform):
    """Detectron2's flip, whose result lies in memory in its own order; copying a mirrored view takes 2 ms."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, 3) or (H, W) uint8."""
        return cv2.flip(img, 1)


class RandomFlip(T.RandomFlip):
    """Detectron2's, with a faster transform."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for an image (H, W, 3)."""
        chosen = super().get_transform(image)
        return Mirror(image.shape[1]) if isinstance(chosen, T.HFlipTransform) else chosen


class PlanarPad(T.PadTransform):
    """fvcore's padding at the right and the bottom, whose result lies plane by plane in memory.

    So does what torch resized, and the network's input: the image is copied once instead of three times.
    """

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8."""
        height, width, channels = img.shape
        padded = np.full((channels, height + self.y1, width + self.x1), self.pad_value, dtype=img.dtype)
        padded[:, :height, :width] = img.transpose(2, 0, 1)
        return padded.transpose(1, 2, 0)


class FixedSizeCrop(T.FixedSizeCrop):
    """Detectron2's, with a faster padding."""

    def get_transform(self, image: np.ndarray) -> T.TransformList:
        """The transforms for an image (H, W, 3)."""
        crop, pad = super().get_transform(image).transforms
        size = pad.x1, pad.y1, pad.orig_w, pad.orig_h
        return T.TransformList([crop, PlanarPad(0, 0, *size, pad.pad_value, pad.seg_pad_value)])


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of a config.

    Training: a flip as INPUT.RANDOM_FLIP says, then INPUT.USG.AUGMENTATION: "lsj" resizes to a random scale
    (MIN_SCALE..MAX_SCALE of what fits into the square) and crops or pads to IMAGE_SIZE x IMAGE_SIZE;
    "shortest_edge" resizes by MIN_SIZE_TRAIN and MAX_SIZE_TRAIN. Test: MIN_SIZE_TEST and MAX_SIZE_TEST.
    """
    if not is_train:
        return [ResizeToPixels(T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice"))]
    flip = cfg.INPUT.RANDOM_FLIP
    FLIPS.check("INPUT.RANDOM_FLIP", flip)
    AUGMENTATIONS.check("INPUT.USG.AUGMENTATION", cfg.INPUT.USG.AUGMENTATION)
    augmentations = []
    if flip != "none":
        augmentations.append(RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    usg = cfg.INPUT.USG
    if usg.AUGMENTATION == "lsj":
        side = usg.IMAGE_SIZE
        augmentations.append(ResizeToPixels(T.ResizeScale(usg.MIN_SCALE, usg.MAX_SCALE, side, side), FastResize))
        augmentations.append(FixedSizeCrop((side, side), pad=True, seg_pad_value=0))
    else:
        sizes, style = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        resize = T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, style)
        augmentations.append(ResizeToPixels(resize, FastResize))
    return augmentations


class PSGDatasetMapper:
    """Turns one dataset dict into one input of USGPar.

    Crowd segments stay, because relations point at positions in the segment list. A segment that loses its last
    pixel is taken out, together with its relations; the others are renumbered.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation],
        image_format: str = "RGB",
        with_annotations: bool | None = None,
        with_ground_truth: bool = False,
        bad_sample: str = "error",
        sided_names: Vocabulary | None = None,
    ):
        """
        Args:
            is_train: for training; annotations are read by default.
            augmentations: applied in order, to image and segments alike.
            image_format: "RGB" or "BGR", the order of the channels.
            with_annotations: read the panoptic PNG and yield instances and relations; None means is_train.
            with_ground_truth: yield the annotation of the original image, where the dict names a panoptic PNG.
            bad_sample: "error" raises for an unreadable or inconsistent image, and counts one whose segments_info and
                PNG list different ids, of which it uses those in both, in `skipped_samples`; "strict" raises for that,
                too; "skip", in training only, logs and counts, and returns None, in whose place the training loader
                draws another image.
            sided_names: the vocabulary, of which classes and predicates that name a side ("left of") are exchanged for
                their counterparts where the augmentations mirror an image; None leaves all as they are.

        Raises:
            ValueError: if an argument makes no sense, or a name of a side has no counterpart.
        """
        POLICIES.check("bad_sample", bad_sample)
        if bad_sample == "skip" and not is_train:
            raise ValueError("bad_sample: 'skip' is for training only, an evaluation counts every image")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.with_annotations = is_train if with_annotations is None else with_annotations
        self.with_ground_truth = with_ground_truth
        self.bad_sample = bad_sample
        self.sided_names = None if sided_names is None else SidedNames(sided_names)
        self.skipped_samples = SkippedSamples() if is_train else None
        self._failures_in_a_row = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """Arguments from INPUT, DATASETS and DATALOADER."""
        mirrors = is_train and cfg.INPUT.RANDOM_FLIP == "horizontal" and len(cfg.DATASETS.TRAIN) > 0
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "with_annotations": is_train or cfg.TEST.TASK == "predcls",
            "with_ground_truth": not is_train,
            "bad_sample": cfg.DATALOADER.BAD_SAMPLES if is_train else "error",
            "sided_names": get_vocabulary(cfg.DATASETS.TRAIN[0]) if mirrors else None,
        }

    def __call__(self, dataset_dict: dict) -> dict | None:
        """Read and transform one image.

        Args:
            dataset_dict: as `load_psg_json` makes them; not changed. Without annotations only file_name is needed,
                and image_id, height and width are used where present.

        Returns:
            A copy with image (3, H, W) uint8 and, with annotations, instances (Instances of image size (H, W) with
            gt_classes (N,) int64 and gt_masks, `SegmentMasks`), relations (R, 3) int64, positions in instances (in
            training each once), and segments_info of the same N segments. height and width are the original image's;
            with annotations in a test, original_masks (N, height, width) bool are the instances' masks at that size.
            With ground truth, annotation (`Annotation`) is that of the original image.

        Raises:
            FileNotFoundError, ValueError: if image or panoptic PNG are missing, unreadable, or disagree with the
                file; the message names file and image_id.
        """
        try:
            result = self._map(dataset_dict)
        except (FileNotFoundError, ValueError) as error:
            if self.bad_sample != "skip":
                raise
            self._skip(str(dataset_dict.get("image_id", dataset_dict["file_name"])), error)
            return None
        self._failures_in_a_row = 0
        return result

    def _skip(self, image_id: str, error: Exception) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            # No damaged image here and there: a folder is missing or a disk is gone.
            raise ValueError(f"{self._failures_in_a_row} images in a row cannot be used, the last one: {error}")
        assert self.skipped_samples is not None  # bad_sample is "skip"
        if self.skipped_samples.add(image_id, str(error)):
            logger.warning("image skipped: %s", error)

    def _count_or_refuse(self, disagreements: Sequence[ImageError], image_id: str) -> None:
        for error in disagreements:
            if self.bad_sample == "strict":
                raise error
            if self.skipped_samples is None:
                logger.warning("%s", error)
            else:
                self.skipped_samples.add(image_id, str(error), mended=f"{error.problem}_png")

    def _map(self, dataset_dict: dict) -> dict:
        result = dict(dataset_dict)
        for key in ("segments_info", "annotations"):
            if key in result:
                result[key] = [dict(entry) for entry in result[key]]
        size = (result["height"], result["width"]) if "height" in result else None
        image_id = result.get("image_id", "")
        image = read_image(result["file_name"], self.image_format, size=size, image_id=image_id)
        result["height"], result["width"] = image.shape[:2]
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        result["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        with_ground_truth = self.with_ground_truth and "pan_seg_file_name" in result
        if self.with_annotations or with_ground_truth:
            original, disagreements = read_segment_index_map(result)
            self._count_or_refuse(disagreements, image_id)
        if with_ground_truth:
            result["annotation"] = annotation_of(result, original)
        if not self.with_annotations:
            return {key: value for key, value in result.items() if key not in ("segments_info", "relations")}
        if self.sided_names is not None and is_mirrored(transforms, image.shape[1]):
            self.sided_names.exchange(result)
        index_map = transform_index_map(transforms, original)
        keep = present_in(index_map, len(result["segments_info"]))
        numbers = np.flatnonzero(keep) + 1  # in the maps
        result["segments_info"] = [s for s, kept in zip(result["segments_info"], keep, strict=True) if kept]
        classes = torch.tensor([s["category_id"] for s in result["segments_info"]], dtype=torch.int64)
        label_map = torch.from_numpy(np.require(index_map, requirements=("C", "W")))[None]
        masks = SegmentMasks(label_map, torch.from_numpy(numbers))
        result["instances"] = Instances(index_map.shape, gt_classes=classes, gt_masks=masks)
        rows = dict.fromkeys(map(tuple, result["relations"])) if self.is_train else result["relations"]
        result["relations"] = torch.from_numpy(reindex_relations(list(rows), keep))
        if not self.is_train:
            result["original_masks"] = torch.from_numpy(original[None] == numbers.astype(original.dtype)[:, None, None])
        return result
