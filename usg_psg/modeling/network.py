"""The network: images to features, queries, masks, classes, pairs and predicates; it knows no losses, no thresholds.

Letters: B images, H W pixels, e the text tower's channels, P predicates.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..structures import (
    GivenQueries,
    MaskDecoderOutput,
    ObjectPredictions,
    PixelDecoderOutput,
    RelationPredictions,
    SceneGraphTargets,
    TextEmbeddings,
)
from .clip_ensemble import CLIPEnsemble
from .mask_decoder import MaskDecoder
from .mask_pilot import MaskPilot, check_parts
from .open_vocab_head import OpenVocabularyHead
from .relation_head import RelationHead


class SceneGraphNetwork(nn.Module):
    """Parts that have weights, and the vocabulary that they classify into.

    Args:
        backbone: gives "res2" to "res5".
        pixel_decoder, mask_decoder: features to `PixelDecoderOutput`, and that to `MaskDecoderOutput`.
        class_head: query features to class logits.
        relation_head: proposals and predicate logits; any module with the methods of `RelationHead`. Likewise the mask
            decoder.
        vocabulary: names to look for, until `set_vocabulary`.
        clip_ensemble: mixes CLIP's own class scores in, outside of training; None for the class head's alone.
        mask_pilot: makes queries of given objects; None for none.
        pixel_mean, pixel_std: of the three channels, in the range of the input.
        size_divisibility: images are padded to a multiple of it, -1 for the backbone's stride.
    """

    object_text: Tensor
    predicate_text: Tensor
    is_thing: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: nn.Module,
        mask_decoder: MaskDecoder,
        class_head: OpenVocabularyHead,
        relation_head: RelationHead,
        vocabulary: TextEmbeddings,
        clip_ensemble: CLIPEnsemble | None = None,
        mask_pilot: MaskPilot | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = -1,
    ):
        super().__init__()
        if mask_pilot is not None:
            check_parts(mask_decoder, relation_head)
        if clip_ensemble is not None and getattr(backbone, "visual_head", None) is None:
            raise ValueError("CLASS_HEAD.CLIP_ENSEMBLE needs a backbone with CLIP's visual head, OpenCLIPConvNeXt")
        self.clip_ensemble = clip_ensemble
        self.mask_pilot = mask_pilot
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.mask_decoder = mask_decoder
        self.class_head = class_head
        self.relation_head = relation_head
        stride = backbone.size_divisibility
        self.size_divisibility = size_divisibility if size_divisibility > 0 else stride
        if self.size_divisibility % stride:
            raise ValueError(f"SIZE_DIVISIBILITY must be a multiple of the stride {stride}, got {size_divisibility}")
        # Not saved: the vocabulary belongs to the data set in use, not to the weights.
        for name in ("object_text", "predicate_text", "is_thing"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.set_vocabulary(vocabulary)

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.pixel_mean.device

    @property
    def vocabulary(self) -> TextEmbeddings:
        """The names in use."""
        names = self.predicate_names, self.object_names
        return TextEmbeddings(self.object_text, self.predicate_text, self.is_thing, *names)

    def set_vocabulary(self, vocabulary: TextEmbeddings) -> None:
        """Classify into other names from now on, without retraining.

        Raises:
            ValueError: if `clip_ensemble` needs names and there are none.
        """
        if self.clip_ensemble is not None:
            self.clip_ensemble.set_names(vocabulary.object_names)
        self.object_text = vocabulary.object_text.to(self.device)
        self.predicate_text = vocabulary.predicate_text.to(self.device)
        self.is_thing = torch.as_tensor(vocabulary.is_thing, dtype=torch.bool, device=self.device)
        self.predicate_names = None if vocabulary.predicate_names is None else tuple(vocabulary.predicate_names)
        self.object_names = None if vocabulary.object_names is None else tuple(vocabulary.object_names)

    def parts(self) -> list[tuple[nn.Module, str]]:
        """Modules and the names of their methods that do the work of a forward pass, for `compile_parts` and timers."""
        whole = (self.backbone, self.pixel_decoder, self.mask_decoder, self.class_head)
        given = [] if self.mask_pilot is None else [(self.mask_decoder, "forward_given")]
        relations = [(self.relation_head, name) for name in ("propose", "decode")]
        return [*((part, "forward") for part in whole), *given, *relations]

    def formulas(self) -> list[tuple[nn.Module, str, tuple[int | None, ...]]]:
        """Of the losses, see `USGCriterion.formulas`; a network alone has none."""
        return []

    def recordable(self) -> list[tuple[nn.Module, str]]:
        """Modules and the names of their methods behind the network, for `compile_parts`; a network alone has none."""
        return []

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised images (B, 3, H, W) float32 on the device, zero where they are padded to one size."""
        images = [x["image"] for x in batched_inputs]
        divisor = self.size_divisibility
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
        pixels = self._on_device(images, (height, width))
        batch = (pixels - self.pixel_mean).div_(self.pixel_std).float()
        for place, (h, w) in zip(batch, sizes, strict=True):
            if h < height:
                place[:, h:] = 0
            if w < width:
                place[:, :, w:] = 0
        return ImageList(batch, sizes)

    def _on_device(self, images: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Images (3, h, w) in the top left of one tensor (B, 3, H, W) on the device."""
        kind = functools.reduce(torch.promote_types, (image.dtype for image in images))
        # In training, copies of the next batch run beside the work on this one.
        beside = self.training and self.device.type == "cuda" and not any(image.is_cuda for image in images)
        stream = _upload_stream(self.device) if beside else None
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            pixels = torch.zeros((len(images), 3, *size), dtype=kind, device=self.device)
            for image, place in zip(images, pixels, strict=True):
                # `to` keeps the layout, often that of decoded files, and the device reorders: the host takes longer.
                place[:, : image.shape[1], : image.shape[2]].copy_(image.to(self.device, non_blocking=True))
        if stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(stream)
            pixels.record_stream(torch.cuda.current_stream(self.device))
        return pixels

    def classify(
        self, decoded: MaskDecoderOutput, pixel_features: PixelDecoderOutput, object_text: Tensor | None = None
    ) -> ObjectPredictions:
        """Classes beside the masks of every layer of `decoded`; of the model's own names, unless others are given."""
        logits = self.class_head(decoded.queries, self.object_text if object_text is None else object_text)
        return ObjectPredictions(decoded.queries, logits, decoded.mask_embeddings, pixel_features.mask_features)

    def relate(
        self,
        objects: ObjectPredictions | MaskDecoderOutput,
        pixel_features: PixelDecoderOutput,
        priority: Tensor | None = None,
        present: Tensor | None = None,
        predicate_text: Tensor | None = None,
    ) -> RelationPredictions:
        """Proposals and predicates of the last layer's queries.

        `priority` and `present` as `propose` has them; predicate_text (P, e) in place of the vocabulary's.
        """
        text = self.predicate_text if predicate_text is None else predicate_text
        some = () if present is None else (present,)
        proposals = self.relation_head.propose(objects.queries[-1], priority, *some)
        logits = self.relation_head.decode(objects.queries[-1], proposals, pixel_features, text, *some)
        return RelationPredictions(proposals, logits)

    def decode_given(
        self, targets: SceneGraphTargets, pixel_features: PixelDecoderOutput
    ) -> tuple[GivenQueries, MaskDecoderOutput]:
        """Queries of given objects, as `mask_pilot` makes them and as the mask decoder hands them on."""
        assert self.mask_pilot is not None
        sizes = [x.shape[-2:] for x in pixel_features.multi_scale_features]
        given = self.mask_pilot(targets, self.object_text, sizes, self.mask_decoder.num_queries)
        return given, self.mask_decoder.forward_given(pixel_features, given)


@functools.cache
def _upload_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
