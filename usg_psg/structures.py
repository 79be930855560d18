"""What one stage of USG-Par hands to the next.

Letters: B images, Q queries, d channels, C object classes, P predicates, K selected pairs, L prediction
layers of the mask decoder (its layers plus the prediction before the first), H W pixels of the padded batch,
T annotated objects of the whole batch, R annotated relations of the whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from .utils.allowed import one_of

TASKS = one_of("sgdet", "predcls")  # from the image alone; with masks and labels given


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

    def last_layer(self) -> MaskDecoderOutput:
        """Predictions of the last layer alone, L = 1."""
        return MaskDecoderOutput(self.queries[-1:], self.mask_embeddings[-1:])


@dataclass
class GivenQueries:
    """Queries of objects whose class and mask are given, N places for each image.

    Attributes:
        features, positions: (B, N, d).
        inside: per level (B, N, S) bool, pixels that the query may look at; all of them in empty places.
        present: (B, N) bool, places that hold an object.
    """

    features: Tensor
    positions: Tensor
    inside: list[Tensor]
    present: Tensor


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
        rows = torch.arange(self.pair_logits.shape[0], device=self.pair_logits.device)[:, None]
        return self.pair_logits[rows, self.subject_index, self.object_index]


@dataclass
class ObjectPredictions:
    """What the network says about objects, at every prediction layer.

    Attributes:
        queries: (L, B, Q, d) normalised query features.
        class_logits: (L, B, Q, C).
        mask_embeddings: (L, B, Q, d); mask logits are `mask_embeddings @ mask_features`.
        mask_features: (B, d, h, w), which cover the padded batch.
    """

    queries: Tensor
    class_logits: Tensor
    mask_embeddings: Tensor
    mask_features: Tensor

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.queries.shape[2]

    def mask_logits(self, image: int) -> Tensor:
        """(Q, h, w) float32 of the last layer, for one image of the batch."""
        logits = (self.mask_embeddings[-1, image] @ self.mask_features[image].flatten(1)).float()
        return logits.unflatten(1, self.mask_features.shape[-2:])


@dataclass
class RelationPredictions:
    """What the network says about relations.

    Attributes:
        proposals: pairs of queries.
        predicate_logits: (B, K, P) of the selected pairs.
    """

    proposals: PairProposals
    predicate_logits: Tensor


@dataclass
class ImageObjects:
    """An image's objects, as a detector found them or a user gave them, in sizes that the host knows without waiting.

    N masks: those of all queries, of which some are no object, or those of the given objects.

    Attributes:
        masks: (N, H, W) bool.
        columns: (5, N) float64, small enough to go to the host at once: 1 for an object or 0, class, 1 for a thing or
            0, score, segment of the panoptic map or 0 for none.
        panoptic: (H, W) int32 segments, 0 for none.
        query_scores, query_classes: (Q,) what each query brings into relations.
        mask_of_query: (Q,) int64 place among the masks, -1 for queries that are no object.
    """

    masks: Tensor
    columns: Tensor
    panoptic: Tensor
    query_scores: Tensor
    query_classes: Tensor
    mask_of_query: Tensor


@dataclass(frozen=True)
class TextEmbeddings:
    """A vocabulary as the model uses it.

    Attributes:
        object_text: (C, T) unit-length text embeddings of the object names.
        predicate_text: (P, T) of the predicate names.
        is_thing: C flags; segments of one stuff class are merged in the panoptic map.
        predicate_names: P names, which the training data's counts are looked up by; None if they are not known.
        object_names: C names, which `CLIPEnsemble` needs, commas separate synonyms; None if they are not known.

    Raises:
        ValueError: if the lengths or widths do not agree.
    """

    object_text: Tensor
    predicate_text: Tensor
    is_thing: Sequence[bool] | Tensor
    predicate_names: Sequence[str] | None = None
    object_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        objects, predicates = self.object_text, self.predicate_text
        if len(self.is_thing) != len(objects) or objects.shape[1:] != predicates.shape[1:]:
            raise ValueError(
                f"object_text {tuple(objects.shape)}, predicate_text {tuple(predicates.shape)} and "
                f"{len(self.is_thing)} is_thing flags do not belong together"
            )
        for field_name, texts in (("object_names", objects), ("predicate_names", predicates)):
            names = getattr(self, field_name)
            if names is not None and len(names) != len(texts):
                raise ValueError(f"{field_name}: expected {len(texts)} names, got {len(names)}")


class SegmentMasks:
    """N masks without overlaps as numbers on label maps, with the methods of Detectron2's `BitMasks`.

    Mask n is where its map has its number: (H, W) bytes of an image take the place of N bool masks.

    Args:
        maps: (M, H, W) integers, 0 for no mask.
        number: (N,) of each mask on its map.
        map_index: (N,) int64, the map of each mask; None for the first.
    """

    def __init__(self, maps: Tensor, number: Tensor, map_index: Tensor | None = None):
        self.maps, self.number = maps, number.to(maps.dtype)
        self.map_index = torch.zeros(len(number), dtype=torch.int64) if map_index is None else map_index

    @classmethod
    def of(cls, masks: Tensor | SegmentMasks) -> SegmentMasks:
        """Masks (N, H, W) bool as maps of their own, or what is in this form already."""
        if isinstance(masks, SegmentMasks):
            return masks
        index = torch.arange(len(masks), device=masks.device)
        return cls(masks, torch.ones_like(index), index)

    @property
    def tensor(self) -> Tensor:
        """(N, H, W) bool."""
        return self.maps[self.map_index] == self.number[:, None, None]

    @property
    def shape(self) -> torch.Size:
        """(N, H, W)."""
        return torch.Size((len(self), *self.maps.shape[1:]))

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, item: int | slice | Tensor) -> SegmentMasks:
        chosen = slice(item, item + 1 or None) if isinstance(item, int) else item
        return SegmentMasks(self.maps, self.number[chosen], self.map_index[chosen])

    def to(self, *args: Any, **kwargs: Any) -> SegmentMasks:
        """On another device, as `torch.Tensor.to`."""
        return SegmentMasks(*(x.to(*args, **kwargs) for x in (self.maps, self.number, self.map_index)))

    def pin_memory(self) -> SegmentMasks:
        """In page-locked memory."""
        return SegmentMasks(self.maps.pin_memory(), self.number, self.map_index)

    def at(self, pixels: Tensor) -> Tensor:
        """(N, K) bool: whether masks have the pixels (N, K), counted row by row."""
        first = self.map_index * (self.maps.shape[1] * self.maps.shape[2])
        return self.maps.take(pixels + first[:, None]) == self.number[:, None]

    @classmethod
    def cat(
        cls, parts: Sequence[SegmentMasks], size: Sequence[int] | None = None, device: torch.device | None = None
    ) -> SegmentMasks:
        """Those of several images, padded at the bottom and the right to (H, W); None for the first one's size."""
        size = parts[0].shape[1:] if size is None else size
        kind = functools.reduce(torch.promote_types, (x.maps.dtype for x in parts))
        maps = torch.zeros((sum(len(x.maps) for x in parts), *size), dtype=kind, device=device)
        index, first = [], 0
        for part in parts:
            own = maps[first : first + len(part.maps), : part.maps.shape[1], : part.maps.shape[2]]
            own.copy_(part.maps, non_blocking=True)
            index.append(part.map_index + first)
            first += len(part.maps)
        number = torch.cat([x.number.to(kind) for x in parts])
        return cls(maps, number.to(device, non_blocking=True), torch.cat(index).to(device, non_blocking=True))


@dataclass
class SceneGraphTargets:
    """Annotations of a batch, laid flat over images so that no loss loops over them.

    Attributes:
        classes: (T,) int64 class of each object.
        masks: (T, H, W), padded to the size of the batch; bool if they are a tensor.
        image_index: (T,) int64 image of each object, non-decreasing.
        counts: number of objects of each image, on the host.
        relations: (R, 4) int64 rows (image, subject, object, predicate); subject and object index the flat objects.
        slot: (T,) int64 position of each object among those of its image.
    """

    classes: Tensor
    masks: Tensor | SegmentMasks
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
        cls,
        instances: Sequence[Instances],
        relations: Sequence[Tensor] | None,
        size: Sequence[int],
        device: torch.device,
    ) -> SceneGraphTargets:
        """Collect the mapper's output of every image.

        Args:
            instances: per image, Detectron2 `Instances` with `gt_classes` (N,) and `gt_masks` (N, h, w): a bool tensor,
                `BitMasks`, or `SegmentMasks`, which stay label maps if all images have them.
            relations: per image, (R, 3) int64 rows of that image's objects; None for none.
            size: (H, W) of the padded batch; masks are padded at the bottom and the right, as images are.
            device: where the targets go.
        """
        counts = [len(x) for x in instances]
        if relations is None:
            relations = [torch.zeros((0, 3), dtype=torch.int64)] * len(counts)
        rows, offset = [], 0
        for image, (objects, triplets) in enumerate(zip(instances, relations, strict=True)):
            shift = torch.tensor([[offset, offset, 0]])
            image_column = torch.full((len(triplets), 1), image)
            rows.append(torch.cat([image_column, triplets.reshape(-1, 3).cpu() + shift], dim=1))
            offset += len(objects)
        image_index = [image for image, count in enumerate(counts) for _ in range(count)]
        return cls(
            classes=torch.cat([x.gt_classes for x in instances]).to(device, non_blocking=True),
            masks=_batched_masks([x.gt_masks for x in instances], size, device),
            image_index=torch.tensor(image_index, dtype=torch.int64).to(device, non_blocking=True),
            counts=counts,
            relations=torch.cat(rows).to(device, non_blocking=True),
        )


def _batched_masks(per_image: list, size: Sequence[int], device: torch.device) -> Tensor | SegmentMasks:
    if all(isinstance(x, SegmentMasks) for x in per_image):
        return SegmentMasks.cat(per_image, size, device)
    masks = torch.zeros((sum(map(len, per_image)), *size), dtype=torch.bool, device=device)
    offset = 0
    for each in per_image:
        own = getattr(each, "tensor", each)
        h, w = own.shape[-2:]
        masks[offset : offset + len(own), :h, :w] = own.to(device, non_blocking=True)
        offset += len(own)
    return masks


def _open_to_pytree(kind: type) -> None:
    """Let PyTorch's tree functions, which CUDA graphs are recorded with, see the tensors inside a structure."""
    names = [x.name for x in fields(kind)]
    register_pytree_node(kind, lambda x: ([getattr(x, name) for name in names], None), lambda parts, _: kind(*parts))


for _kind in (PixelDecoderOutput, MaskDecoderOutput, GivenQueries, PairProposals, ObjectPredictions):
    _open_to_pytree(_kind)
