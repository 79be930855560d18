"""Object losses of every prediction layer (SPEC section 7).

Letters: L prediction layers, B images, Q queries, C classes, d channels, T objects of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former_ops import sample_logits

from ..structures import ObjectPredictions, SceneGraphTargets, SegmentMasks
from ..utils.autocast import to_autocast_dtype
from .functional import dice_loss, mask_bce_loss, mean_class_loss, sigmoid_class_loss
from .normalizer import REDUCTIONS, LossCounts, target_divisor
from .points import mask_points, sample_labels


class ObjectCriterion(nn.Module):
    """Unweighted `loss_class`, `loss_mask` and `loss_dice` of every layer, which `by_layer` names.

    Masks are compared at sampled points: of the predicted masks only those of matched queries are ever computed.

    Args:
        no_object_weight: weight of the class loss of unmatched queries, whose target is all zeros.
        num_points, oversample_ratio, importance_ratio: as in `mask_points`.
        reduction: "per_target": sums over the batch, divided by the number of annotated objects. "mean": the mean over
            images of each image's mean, for classes over queries (weighted) and classes, for masks over its matched
            objects; images without objects take no part in the latter. [released code]
    """

    def __init__(
        self,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        reduction: str = "per_target",
    ):
        super().__init__()
        REDUCTIONS.check("reduction", reduction)
        self.reduction = reduction
        self.no_object_weight = no_object_weight
        self.sampling = (num_points, oversample_ratio, importance_ratio)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ObjectCriterion:
        """The criterion of MODEL.USG.LOSS."""
        loss = cfg.MODEL.USG.LOSS
        sampling = (loss.NUM_POINTS, loss.OVERSAMPLE_RATIO, loss.IMPORTANCE_RATIO)
        return cls(loss.NO_OBJECT_WEIGHT, *sampling, loss.REDUCTION)

    def forward(
        self,
        objects: ObjectPredictions,
        targets: SceneGraphTargets,
        matched_query: Tensor,
        counts: LossCounts,
        no_object_weight: float | None = None,
    ) -> dict[str, Tensor]:
        """`loss_class`, `loss_mask` and `loss_dice`, (L,) each.

        Args:
            objects: predictions of L layers.
            targets: of the batch.
            matched_query: (L, T) from the matcher.
            counts: of the step, from `loss_normalizers`.
            no_object_weight: another one than usual.
        """
        if no_object_weight is None:
            no_object_weight = self.no_object_weight
        if self.reduction == "mean":
            class_divisor, mask_divisor = counts.images, torch.where(counts.objects > 0, counts.annotated_images, 1.0)
        else:
            class_divisor = mask_divisor = target_divisor(counts.objects, counts.images * objects.num_queries)
        class_losses = self._class_losses(objects.class_logits, targets, matched_query, no_object_weight)
        losses = {"loss_class": class_losses / class_divisor}
        for name, values in self._mask_losses(objects, targets, matched_query).items():
            losses[name] = values / mask_divisor
        return losses

    def _class_losses(
        self, class_logits: Tensor, targets: SceneGraphTargets, matched_query: Tensor, no_object_weight: float
    ) -> Tensor:
        """(L,) sums over the batch, or over its images' means."""
        num_layers, batch, num_queries, num_classes = class_logits.shape
        layer = torch.arange(num_layers, device=class_logits.device)[:, None]
        # Unmatched objects go to one more query, cut off afterwards: choosing rows would wait for the device.
        query = torch.where(matched_query >= 0, matched_query, num_queries)
        labels = class_logits.new_zeros((num_layers, batch, num_queries + 1, num_classes))
        one = class_logits.new_ones(())  # assigning a number of the host's would wait, too
        labels[layer, targets.image_index, query, targets.classes] = one
        weight = class_logits.new_full((num_layers, batch, num_queries + 1), no_object_weight)
        weight[layer, targets.image_index, query] = one
        return self.class_losses(class_logits, labels[:, :, :-1], weight[:, :, :-1])

    def class_losses(self, class_logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """(L,) sums over the images of their `sigmoid_class_loss` or `mean_class_loss`; arguments (L, B, Q, ...)."""
        per_image = mean_class_loss if self.reduction == "mean" else sigmoid_class_loss
        return per_image(class_logits, labels, weight).sum(dim=1)

    def _mask_losses(
        self, objects: ObjectPredictions, targets: SceneGraphTargets, matched_query: Tensor
    ) -> dict[str, Tensor]:
        """(L,) sums over the batch, or over its images' means, each."""
        num_layers, num_objects = matched_query.shape
        weight = (matched_query >= 0).flatten()
        if self.reduction == "mean":
            weight = weight * self._share_of_image(targets, objects.num_queries).repeat(num_layers)
        logits = matched_mask_logits(
            objects.mask_embeddings, objects.mask_features, targets, matched_query.clamp(min=0)
        ).flatten(0, 1)
        points = mask_points(logits.detach(), *self.sampling)
        point_logits = sample_logits(logits, points)
        masks = SegmentMasks.of(targets.masks)
        point_logits, points = (x.unflatten(0, (num_layers, num_objects)) for x in (point_logits, points))
        bce, dice = self.point_losses(point_logits, points, masks.maps, masks.number, masks.map_index)
        return {
            "loss_mask": (bce * weight).view(num_layers, num_objects).sum(1),
            "loss_dice": (dice * weight).view(num_layers, num_objects).sum(1),
        }

    def point_losses(
        self, point_logits: Tensor, points: Tensor, maps: Tensor, number: Tensor, map_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`mask_bce_loss` and `dice_loss` of every layer's masks at their points.

        Args:
            point_logits: (L, T, N).
            points: (L, T, N, 2).
            maps, number, map_index: the T annotated masks, as `SegmentMasks` has them.

        Returns:
            Two (L * T,).
        """
        with torch.no_grad():
            # An object's points differ from layer to layer: bring them side by side, one row per object.
            by_object = points.transpose(0, 1).flatten(1, 2)
            labels = sample_labels(SegmentMasks(maps, number, map_index), by_object)
            labels = labels.unflatten(1, (len(points), -1)).transpose(0, 1).flatten(0, 1).to(point_logits.dtype)
        logits = point_logits.flatten(0, 1)
        return mask_bce_loss(logits, labels), dice_loss(logits, labels)

    @staticmethod
    def _share_of_image(targets: SceneGraphTargets, num_queries: int) -> Tensor:
        """(T,) one over the number of matched objects of each object's image."""
        share = [1 / min(count, num_queries) for count in targets.counts for _ in range(count)]
        return torch.tensor(share).to(targets.classes.device, non_blocking=True)


def by_layer(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of L layers, (L,) each, under a name of their own: the last keeps the name, the others get suffixes."""
    named = {}
    for name, values in losses.items():
        *auxiliary, last = values.unbind()
        named[name] = last
        named.update({f"{name}_{layer}": value for layer, value in enumerate(auxiliary)})
    return named


def matched_mask_logits(
    mask_embeddings: Tensor, mask_features: Tensor, targets: SceneGraphTargets, matched_query: Tensor
) -> Tensor:
    """Mask logits of the matched queries only.

    Args:
        mask_embeddings: (L, B, Q, d).
        mask_features: (B, d, h, w).
        targets: of the batch.
        matched_query: (L, T) query indices, all valid.

    Returns:
        (L, T, h, w) float32.
    """
    num_layers, batch = mask_embeddings.shape[:2]
    device = mask_embeddings.device
    # One product for all images, each with as many rows as the fullest one, in a multiple that suits the hardware.
    slots = -(-max(targets.max_count, 1) // 8) * 8
    layer = torch.arange(num_layers, device=device)
    query = matched_query.new_zeros((num_layers, batch, slots))
    query[layer[:, None], targets.image_index, targets.slot] = matched_query
    image = torch.arange(batch, device=device)[:, None]
    embeddings = mask_embeddings[layer[:, None, None], image, query]  # (L, B, slots, d)
    rows = embeddings.transpose(0, 1).flatten(1, 2)  # (B, L * slots, d)
    row = (targets.image_index * num_layers + layer[:, None]) * slots + targets.slot  # (L, T)
    chosen = _ChosenRows.apply(to_autocast_dtype(rows), to_autocast_dtype(mask_features.flatten(2)), row.flatten())
    return chosen.unflatten(0, row.shape).unflatten(2, mask_features.shape[-2:])


class _ChosenRows(torch.autograd.Function):
    """Rows of the products of (B, R, d) and (B, d, P), in float32: `row` (K,) of B * R, none twice, gives (K, P).

    The gradient of the second is laid out in memory as that is: PyTorch's would be with P inside, and a copy of it in
    the features' layout took 0.6 ms of a step on an H200.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, row)
        return (left @ right).flatten(0, 1).index_select(0, row).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right, row = ctx.saved_tensors
        products = right.new_zeros((left.shape[0] * left.shape[1], right.shape[2]))
        products = products.index_copy_(0, row, grad.to(right.dtype)).view(*left.shape[:2], -1)
        grad_left = products @ right.mT if ctx.needs_input_grad[0] else None
        grad_right = None
        if ctx.needs_input_grad[1]:
            inside = right.stride(1) == 1
            grad_right = (products.mT @ left).mT if inside else left.mT @ products
        return grad_left, grad_right, None
