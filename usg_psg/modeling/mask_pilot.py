"""Queries of objects whose class and mask are given: in training as in MP-Former, for PredCls, and for a user's masks.

Letters: B images, N places for an image's objects, T objects of the batch, d channels, S pixels of a level.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..structures import GivenQueries, SceneGraphTargets
from ..utils.allowed import ZERO_TO_ONE, one_of
from .layers import sine_position

# N comes in multiples of it, so that the buffers of one step serve the next; fewer sizes on a GPU, each of which is
# compiled and recorded on its own.
SLOTS = {"cpu": 16, "cuda": 32}
PREDCLS_QUERIES = one_of("matched", "given")  # of given objects: the matcher's choice; made from class and mask


class MaskPilot(nn.Module):
    """Makes a query of each object: its class's text embedding, projected, that sees only the pixels of its mask.

    In training, masks and classes get noise, as queries that are told everything have nothing to learn.

    Args:
        hidden_dim: d.
        text_dim: width of the text embeddings.
        mask_noise: most pixels of a level that may leave a mask, as a part of it, and as many may join.
        class_noise: probability of another class.
        object_weight, relation_weight: factors of the losses of these queries.

    Source: Zhang et al., "MP-Former: Mask-Piloted Transformer for Image Segmentation", CVPR 2023, arXiv 2303.07336.
    Differs: the learned queries and these do not see each other, in either direction, so that PredCls needs no learned
    queries; positions are the mean code of the mask's pixels; relations are supervised, too.
    """

    def __init__(
        self,
        hidden_dim: int,
        text_dim: int,
        mask_noise: float = 0.2,
        class_noise: float = 0.2,
        object_weight: float = 1.0,
        relation_weight: float = 1.0,
    ):
        super().__init__()
        ZERO_TO_ONE.check("mask_noise", mask_noise)
        ZERO_TO_ONE.check("class_noise", class_noise)
        self.mask_noise, self.class_noise = mask_noise, class_noise
        self.object_weight, self.relation_weight = object_weight, relation_weight
        self.projection = nn.Linear(text_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)  # text embeddings have length 1, queries sqrt(d)

    @classmethod
    def from_config(cls, cfg: CfgNode, text_dim: int) -> MaskPilot | None:
        """The pilot of MODEL.USG.MASK_PILOT; None if it is off."""
        node = cfg.MODEL.USG.MASK_PILOT
        if not node.ENABLED:
            return None
        weights = node.OBJECT_WEIGHT, node.RELATION_WEIGHT
        return cls(cfg.MODEL.USG.HIDDEN_DIM, text_dim, node.MASK_NOISE, node.CLASS_NOISE, *weights)

    def forward(
        self, targets: SceneGraphTargets, object_text: Tensor, sizes: Sequence[Sequence[int]], num_queries: int
    ) -> GivenQueries:
        """Queries of a batch's objects, in the order of `targets.slot`.

        Args:
            targets: classes and masks.
            object_text: (C, T) of the vocabulary.
            sizes: (h, w) of each level.
            num_queries: of the learned queries. N is another number: a CUDA graph has one call for each shape.
        """
        batch = len(targets.counts)
        unit = SLOTS["cuda" if object_text.is_cuda else "cpu"]
        slots = -(-max(targets.max_count, 1) // unit) * unit
        slots += unit * (slots == num_queries)
        place = targets.image_index, targets.slot
        classes = targets.classes.new_zeros((batch, slots))
        classes[place] = self._noisy_classes(targets.classes, len(object_text))
        present = torch.zeros_like(classes, dtype=torch.bool)
        present[place] = present.new_ones(())  # assigning a number of the host's would wait for the device
        inside = []
        masks = targets.masks if isinstance(targets.masks, Tensor) else targets.masks.tensor
        for keep in self._levels(masks, sizes):
            level = present.new_ones((batch, slots, keep.shape[1]))
            level[place] = keep
            inside.append(level)
        features = self.norm(self.projection(object_text[classes]))
        height, width = sizes[-1]
        code = sine_position(height, width, features.shape[-1], features.device).flatten(1).t()
        weight = inside[-1].to(code.dtype)
        return GivenQueries(features, weight @ code / weight.sum(-1, keepdim=True), inside, present)

    def _levels(self, masks: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """(T, S) bool of each level, from (T, H, W)."""
        finest = F.interpolate(masks[:, None].float(), size=tuple(sizes[-1]), mode="area")
        maps = [F.interpolate(finest, size=tuple(size), mode="area").flatten(1) for size in sizes]
        return [self._noisy_mask(pixels_inside(each)) for each in maps]

    def _noisy_mask(self, inside: Tensor) -> Tensor:
        """(T, S) with pixels that left and others that joined, as many in the mean; never empty."""
        if not (self.training and self.mask_noise):
            return inside
        share = inside.float().mean(dim=1, keepdim=True)
        rate = self.mask_noise * torch.rand_like(share)
        rate = torch.where(inside, rate, rate * share / (1 - share).clamp(min=1e-6))
        noisy = inside ^ (torch.rand_like(rate) < rate)
        return torch.where(noisy.any(dim=1, keepdim=True), noisy, inside)

    def _noisy_classes(self, classes: Tensor, num_classes: int) -> Tensor:
        if not (self.training and self.class_noise):
            return classes
        other = torch.rand(classes.shape, device=classes.device) < self.class_noise
        return torch.where(other, torch.randint_like(classes, num_classes), classes)


def check_parts(mask_decoder: Any, relation_head: Any) -> None:
    """ValueError unless a mask decoder and a relation head, perhaps a user's own, take queries of given objects."""
    lacking = [] if hasattr(mask_decoder, "forward_given") else [f"{type(mask_decoder).__name__} has no forward_given"]
    if "present" not in inspect.signature(relation_head.propose).parameters:
        lacking.append(f"{type(relation_head).__name__}.propose has no argument present")
    if lacking:
        raise ValueError(
            f"MODEL.USG.MASK_PILOT.ENABLED: expected parts that take given queries, but {', '.join(lacking)}"
        )


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool masks (N, H, W) at another size, by `pixels_inside`; a mask with pixels keeps some."""
    shrunk = [pixels_inside(F.interpolate(x[None, None].float(), size, mode="area").flatten()) for x in masks]
    return torch.stack(shrunk).unflatten(1, size) if shrunk else masks.new_zeros((0, *size))


def pixels_inside(coverage: Tensor) -> Tensor:
    """Which of the last axis's pixels, covered to these parts, belong to a mask: at least half covered, or the most.

    So a mask that is smaller than a pixel keeps one. A mask that covers nothing gets everything.
    """
    return coverage >= coverage.amax(dim=-1, keepdim=True).clamp(max=0.5)
