"""What one stage of USG-Par hands to the next.

Letters: B images, Q queries, d channels, C object classes, P predicates, K selected pairs, L prediction
layers of the mask decoder (its layers plus the prediction before the first), H W pixels of the padded batch,
T annotated objects of the whole batch, R annotated relations of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node


@dataclass
class PixelDecoderOutput:
    """Features that every later stage attends to.

    Attributes:
        mask_features: (B, d, H/4, W/4); a mask is the dot product of a mask embedding with it.
        multi_scale_features: three maps (B, d, h, w), strides 32, 16, 8 in this order.
    """

    mask_features: Tensor
    multi_scale_features: list[Tensor]


@dataclass
class MaskDecoderOutput:
    """Predictions of all layers, stacked, so that matching and losses run on all of them at once.

    Attributes:
        queries: (L, B, Q, d) normalised query features; [-1] is the last layer, what relations build on.
        mask_embeddings: (L, B, Q, d); mask logits are `mask_embeddings @ mask_features`.
    """

    queries: Tensor
    mask_embeddings: Tensor


@dataclass
class PairProposals:
    """The relation proposal constructor's choice.

    Attributes:
        pair_logits: (B, Q, Q) logits; rows are subjects, columns objects.
        subject_index, object_index: (B, K) int64 query indices, best pair first, never equal.
    """

    pair_logits: Tensor
    subject_index: Tensor
    object_index: Tensor

    def selected_logits(self) -> Tensor:
        """(B, K) logits of the selected pairs."""
        rows = torch.arange(len(self.pair_logits), device=self.pair_logits.device)[:, None]
        return self.pair_logits[rows, self.subject_index, self.object_index]


@dataclass
class SceneGraphTargets:
    """Annotations of a batch, laid flat over images so that no loss loops over them.

    Attributes:
        classes: (T,) int64 class of each object.
        masks: (T, H, W) bool, padded to the size of the batch.
        image_index: (T,) int64 image of each object, non-decreasing.
        counts: number of objects of each image, on the host.
        relations: (R, 4) int64 rows (image, subject, object, predicate); subject and object index the flat objects.
        slot: (T,) int64 position of each object among those of its image.
    """

    classes: Tensor
    masks: Tensor
    image_index: Tensor
    counts: list[int]
    relations: Tensor
    slot: Tensor = field(init=False)

    def __post_init__(self) -> None:
        slots = [slot for count in self.counts for slot in range(count)]
        self.slot = torch.tensor(slots, dtype=torch.int64).to(self.classes.device, non_blocking=True)

    @property
    def max_count(self) -> int:
        """Most objects of one image."""
        return max(self.counts, default=0)

    @classmethod
    def from_instances(
        cls, instances: list, relations: list[Tensor], size: tuple[int, int], device: torch.device
    ) -> SceneGraphTargets:
        """Collect the mapper's output of every image.

        Args:
            instances: per image, Detectron2 `Instances` with `gt_classes` (N,) and bool `gt_masks` (N, h, w).
            relations: per image, (R, 3) int64 (subject, object, predicate), indices into that image's objects.
            size: (H, W) of the padded batch; masks are padded at the bottom and the right, as images are.
            device: where the targets go.
        """
        counts = [len(x) for x in instances]
        height, width = size
        masks = torch.zeros((sum(counts), height, width), dtype=torch.bool, device=device)
        rows, offset = [], 0
        for image, (objects, triplets) in enumerate(zip(instances, relations, strict=True)):
            gt_masks = getattr(objects.gt_masks, "tensor", objects.gt_masks)
            h, w = gt_masks.shape[-2:]
            masks[offset : offset + len(objects), :h, :w] = gt_masks.to(device, non_blocking=True)
            shift = torch.tensor([[offset, offset, 0]])
            image_column = torch.full((len(triplets), 1), image)
            rows.append(torch.cat([image_column, triplets.reshape(-1, 3).cpu() + shift], dim=1))
            offset += len(objects)
        image_index = [image for image, count in enumerate(counts) for _ in range(count)]
        return cls(
            classes=torch.cat([x.gt_classes for x in instances]).to(device, non_blocking=True),
            masks=masks,
            image_index=torch.tensor(image_index, dtype=torch.int64).to(device, non_blocking=True),
            counts=counts,
            relations=torch.cat(rows).to(device, non_blocking=True),
        )


def _open_to_pytree(kind: type) -> None:
    """Let PyTorch's tree functions, which CUDA graphs are recorded with, see the tensors inside a structure."""
    names = [x.name for x in fields(kind)]
    register_pytree_node(kind, lambda x: ([getattr(x, name) for name in names], None), lambda parts, _: kind(*parts))


for _kind in (PixelDecoderOutput, MaskDecoderOutput, PairProposals):
    _open_to_pytree(_kind)
