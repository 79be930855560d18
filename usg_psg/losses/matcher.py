"""Hungarian matching of queries to annotated objects (SPEC section 6).

Letters: L prediction layers, B images, Q queries, C classes, d channels, T objects of the batch, N points,
M largest number of objects in an image.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mask2former_ops import sample_features

from ..structures import ObjectPredictions, SceneGraphTargets
from ..utils.allowed import one_of
from ..utils.autocast import tensor_float32
from .points import grid_points, sample_labels

UNMATCHED = -1
MATCHERS = one_of("hungarian", "fixed")


def matching_cost(
    class_prob: Tensor,
    mask_logits: Tensor,
    gt_classes: Tensor,
    gt_masks: Tensor,
    class_weight: float = 1.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
) -> Tensor:
    """Cost of matching every query with every object of its image.

    The class cost is minus the probability of the object's class; the mask costs are those of
    `losses.functional`, averaged over the points.

    Args:
        class_prob: (B, Q, C).
        mask_logits: (B, Q, N) at sampled points.
        gt_classes: (B, M) int64, any valid class where padded.
        gt_masks: (B, M, N) float in {0, 1} at the same points.

    Returns:
        (B, Q, M) float32, computed so under autocast, too: sums over thousands of points leave no digits, or no finite
        value, in 16 bits. Inside of `tensor_float32`, factors have 11 bits: masks and logits of 16 bits fit,
        probabilities and logits of float32 are rounded. Always finite: a value that is not counts as a very bad match,
        so that the assignment succeeds and the loss itself shows the fault.
    """
    num_points = mask_logits.shape[-1]
    area = gt_masks.sum(-1)[:, None]
    # Products of few rows and columns over thousands of points keep a GPU busy only in parts: (B, S, ..., N / S).
    parts = math.gcd(num_points, 16)
    logits, masks = (
        x.unflatten(-1, (parts, -1)).transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        for x in (mask_logits, gt_masks)
    )
    with torch.autocast(mask_logits.device.type, enabled=False):
        class_cost = -class_prob.float().gather(2, gt_classes[:, None].expand(-1, class_prob.shape[1], -1))
        # mean(softplus(x) - x t) without a (B, Q, M, N) tensor
        overlap_logits = (logits @ masks.transpose(2, 3)).sum(1)
        mask_cost = (F.softplus(logits).sum((1, 3))[..., None] - overlap_logits) / num_points
        prob = logits.sigmoid()
        overlap = (prob @ masks.transpose(2, 3)).sum(1)
        dice_cost = 1 - (2 * overlap + 1) / (prob.sum((1, 3))[..., None] + area + 1)
        cost = class_weight * class_cost + mask_weight * mask_cost + dice_weight * dice_cost
    return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=1e6)


def assign(cost: np.ndarray, counts: list[int]) -> np.ndarray:
    """Cheapest one-to-one assignment of each layer and image.

    Args:
        cost: (L, B, Q, M).
        counts: objects of each image, at most M.

    Returns:
        (L, T) int64 query of each object, UNMATCHED for objects beyond Q.
    """
    matched = np.full((len(cost), sum(counts)), UNMATCHED, dtype=np.int64)
    for layer, layer_cost in enumerate(cost):
        offset = 0
        for image_cost, count in zip(layer_cost, counts, strict=True):
            queries, objects = linear_sum_assignment(image_cost[:, :count])
            matched[layer, offset + objects] = queries
            offset += count
    return matched


class Matching:
    """A matching under way: costs travel to the host and are solved in a thread, while the device is given other work.

    Args:
        cost: (L, B, Q, M) on any device.
        counts: objects of each image.
    """

    _solver = ThreadPoolExecutor(1, thread_name_prefix="matcher")

    def __init__(self, cost: Tensor, counts: list[int]):
        self.device = cost.device
        event = None
        host = cost
        if cost.is_cuda:
            host = torch.empty(cost.shape, dtype=cost.dtype, pin_memory=True).copy_(cost, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._matched: Future = self._solver.submit(self._solve, host, event, counts)

    @staticmethod
    def _solve(cost: Tensor, event: torch.cuda.Event | None, counts: list[int]) -> np.ndarray:
        if event is not None:
            event.synchronize()
        return assign(cost.numpy(), counts)

    def result(self) -> Tensor:
        """(L, T) int64 query of each object, UNMATCHED (-1) where an image has more objects than queries."""
        return torch.from_numpy(self._matched.result()).to(self.device, non_blocking=True)


class HungarianMatcher(nn.Module):
    """Matches all layers and images of a batch with a single copy from device to host.

    Args:
        class_weight, mask_weight, dice_weight: of the three costs.
        num_points: N, sampled once per image and shared by its queries and objects; 0, and everywhere outside of
            training, for all pixels of the features.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ):
        super().__init__()
        self.weights = (class_weight, mask_weight, dice_weight)
        self.num_points = num_points

    def forward(self, objects: ObjectPredictions, targets: SceneGraphTargets) -> Tensor:
        """`start(...).result()`."""
        return self.start(objects, targets).result()

    def cost(
        self, class_logits: Tensor, mask_embeddings: Tensor, features: Tensor, gt_classes: Tensor, gt_masks: Tensor
    ) -> Tensor:
        """`matching_cost` of one layer, with this matcher's weights.

        Args:
            class_logits: (B, Q, C).
            mask_embeddings: (B, Q, d).
            features: (B, d, N), mask features at the points.
            gt_classes, gt_masks: as `matching_cost` has them.
        """
        mask_logits = mask_embeddings.to(features.dtype) @ features
        return matching_cost(class_logits.float().sigmoid(), mask_logits, gt_classes, gt_masks, *self.weights)

    @torch.no_grad()
    def start(self, objects: ObjectPredictions, targets: SceneGraphTargets) -> Matching:
        """Begin to match every layer's queries with the objects of their image."""
        class_logits, mask_features = objects.class_logits, objects.mask_features
        device = class_logits.device
        counts = targets.counts
        # In steps of eight, so that the buffers of one step serve the next.
        batch, most = len(counts), -(-targets.max_count // 8) * 8
        if most == 0:
            return Matching(class_logits.new_empty((*class_logits.shape[:3], 0), dtype=torch.float32), counts)
        if self.num_points and self.training:
            points = torch.rand(batch, self.num_points, 2, device=device)
        else:
            points = grid_points(*mask_features.shape[-2:], device=device).expand(batch, -1, -1)
        features = sample_features(mask_features, points)
        labels = sample_labels(targets.masks, points[targets.image_index])
        gt_masks = labels.new_zeros((batch, most, points.shape[1]), dtype=torch.float32)
        gt_masks[targets.image_index, targets.slot] = labels.float()
        gt_classes = targets.classes.new_zeros((batch, most))
        gt_classes[targets.image_index, targets.slot] = targets.classes
        # One layer at a time: the (B, Q, N) logits of all layers together would be the step's largest tensor.
        with tensor_float32():
            cost = torch.stack(
                [
                    self.cost(*layer, features, gt_classes, gt_masks)
                    for layer in zip(class_logits, objects.mask_embeddings, strict=True)
                ]
            )
        return Matching(cost, counts)


class FixedMatching:
    """Queries of objects that need no search.

    Args:
        matched: (L, T) int64.
    """

    def __init__(self, matched: Tensor):
        self.matched = matched

    def result(self) -> Tensor:
        """(L, T) int64 query of each object, UNMATCHED (-1) where an image has more objects than queries."""
        return self.matched


class FixedMatcher(nn.Module):
    """Gives object n of each image, in the annotation's order, to query n, whatever was predicted.

    To be compared with `HungarianMatcher`, whose place it takes: SPEC section 19 says that training collapses.
    """

    def forward(self, objects: ObjectPredictions, targets: SceneGraphTargets) -> Tensor:
        """`start(...).result()`."""
        return self.start(objects, targets).result()

    def start(self, objects: ObjectPredictions, targets: SceneGraphTargets) -> FixedMatching:
        """As `HungarianMatcher.start`; the predictions do not matter."""
        query = torch.where(targets.slot < objects.num_queries, targets.slot, UNMATCHED)
        return FixedMatching(query.expand(len(objects.queries), -1))


def build_matcher(cfg: CfgNode) -> HungarianMatcher | FixedMatcher:
    """The matcher of MODEL.USG.MATCHER.

    Raises:
        ValueError: for an unknown name.
    """
    node = cfg.MODEL.USG.MATCHER
    MATCHERS.check("MODEL.USG.MATCHER.NAME", node.NAME)
    if node.NAME == "fixed":
        return FixedMatcher()
    return HungarianMatcher(node.CLASS_COST, node.MASK_COST, node.DICE_COST, cfg.MODEL.USG.LOSS.NUM_POINTS)
