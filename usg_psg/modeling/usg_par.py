"""USGPar: the image-only model, from images to losses or to scene graphs (SPEC section 2).

Letters: B images, N objects of an image, R relations of an image, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..inference import Postprocessor, given_objects, instance_pairs
from ..losses import LossCounts, MatchedTargets, USGCriterion, loss_normalizers, predicate_targets
from ..structures import (
    GivenQueries,
    ImageObjects,
    MaskDecoderOutput,
    ObjectPredictions,
    PixelDecoderOutput,
    RelationPredictions,
    SceneGraphTargets,
    TextEmbeddings,
)
from ..training_counts import TrainingCounts
from .build import build_class_head, build_mask_decoder, build_pixel_decoder, build_relation_head
from .clip_ensemble import CLIPEnsemble, build_clip_ensemble
from .mask_decoder import MaskDecoder
from .mask_pilot import PREDCLS_QUERIES, MaskPilot, check_parts
from .open_vocab_head import OpenVocabularyHead
from .relation_head import RelationHead
from .text_embeddings import configured_vocabulary, embed_vocabulary


@META_ARCH_REGISTRY.register()
class USGPar(nn.Module):
    """Universal scene graph parser for single images (USG-Par, CVPR 2025, image branch).

    Args:
        backbone: gives "res2" to "res5".
        pixel_decoder, mask_decoder: features to `PixelDecoderOutput`, and that to `MaskDecoderOutput`.
        class_head: query features to class logits.
        relation_head: proposals and predicate logits; any module with the methods of `RelationHead`. Likewise the mask
            decoder.
        criterion, postprocessor: predictions to losses, and to scene graphs.
        vocabulary: names to look for, until `set_vocabulary`.
        clip_ensemble: mixes CLIP's own class scores in, outside of training; None for the class head's alone.
        pixel_mean, pixel_std: of the three channels, in the range of the input.
        size_divisibility: images are padded to a multiple of it, -1 for the backbone's stride.
        add_missed_pairs: put annotated pairs that the proposals missed among the K pairs while training.
        mask_pilot: makes queries of given objects, which are trained beside the learned ones; None for none.
        predcls_queries: which queries stand for given objects in inference: "matched", learned queries that the
            matcher chooses, or "given", those of `mask_pilot`.
    """

    object_text: Tensor
    predicate_text: Tensor
    is_thing: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: nn.Module,
        mask_decoder: MaskDecoder,
        class_head: OpenVocabularyHead,
        relation_head: RelationHead,
        criterion: USGCriterion,
        postprocessor: Postprocessor,
        vocabulary: TextEmbeddings,
        clip_ensemble: CLIPEnsemble | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = -1,
        add_missed_pairs: bool = False,
        mask_pilot: MaskPilot | None = None,
        predcls_queries: str = "matched",
    ):
        super().__init__()
        PREDCLS_QUERIES.check("predcls_queries", predcls_queries)
        if predcls_queries == "given" and mask_pilot is None:
            raise ValueError("predcls_queries: 'given' needs a mask_pilot")
        if mask_pilot is not None:
            check_parts(mask_decoder, relation_head)
        if clip_ensemble is not None and getattr(backbone, "visual_head", None) is None:
            raise ValueError("CLASS_HEAD.CLIP_ENSEMBLE needs a backbone with CLIP's visual head, OpenCLIPConvNeXt")
        self.clip_ensemble = clip_ensemble
        self.mask_pilot = mask_pilot
        self.predcls_queries = predcls_queries
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.mask_decoder = mask_decoder
        self.class_head = class_head
        self.relation_head = relation_head
        self.criterion = criterion
        self.postprocessor = postprocessor
        stride = backbone.size_divisibility
        self.size_divisibility = size_divisibility if size_divisibility > 0 else stride
        if self.size_divisibility % stride:
            raise ValueError(f"SIZE_DIVISIBILITY must be a multiple of the stride {stride}, got {size_divisibility}")
        self.add_missed_pairs = add_missed_pairs
        self.training_counts: TrainingCounts | None = None
        # Not saved: the vocabulary belongs to the data set in use, not to the weights.
        for name in ("object_text", "predicate_text", "is_thing"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.set_vocabulary(vocabulary)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Build the parts that the config names."""
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
        dataset = next(iter((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)), None)
        vocabulary = embed_vocabulary(cfg, configured_vocabulary(cfg, dataset))
        text_dim = vocabulary.object_text.shape[1]
        return {
            "backbone": backbone,
            "pixel_decoder": build_pixel_decoder(cfg, backbone.output_shape()),
            "mask_decoder": build_mask_decoder(cfg),
            "class_head": build_class_head(cfg, text_dim),
            "relation_head": build_relation_head(cfg, text_dim),
            "criterion": USGCriterion(cfg),
            "postprocessor": Postprocessor.from_config(cfg),
            "vocabulary": vocabulary,
            "clip_ensemble": build_clip_ensemble(cfg),
            "pixel_mean": _normalisation(cfg, backbone, "PIXEL_MEAN"),
            "pixel_std": _normalisation(cfg, backbone, "PIXEL_STD"),
            "size_divisibility": cfg.MODEL.USG.SIZE_DIVISIBILITY,
            "add_missed_pairs": cfg.MODEL.USG.LOSS.ADD_MISSED_PAIRS,
            "mask_pilot": MaskPilot.from_config(cfg, text_dim),
            "predcls_queries": cfg.TEST.USG.PREDCLS_QUERIES,
        }

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
        if self.training_counts is not None:
            self.set_training_counts(self.training_counts)

    def set_training_counts(self, counts: TrainingCounts) -> None:
        """Give the training data's counts, which the options for rare predicates need; checkpoints keep them."""
        self.training_counts = counts
        self.criterion.relation_criterion.set_training_counts(counts, self.vocabulary)
        self.postprocessor.set_training_counts(counts, self.vocabulary)

    def parts(self) -> list[tuple[nn.Module, str]]:
        """Modules and the names of their methods that do the work of a forward pass, for `compile_parts` and timers."""
        whole = (self.backbone, self.pixel_decoder, self.mask_decoder, self.class_head)
        given = [] if self.mask_pilot is None else [(self.mask_decoder, "forward_given")]
        relations = [(self.relation_head, name) for name in ("propose", "decode")]
        return [*((part, "forward") for part in whole), *given, *relations]

    def forward(self, batched_inputs: list[dict], normalizers: LossCounts | None = None) -> dict | list[dict]:
        """Losses in training, scene graphs otherwise.

        Args:
            batched_inputs: one dict per image. "image": (3, H, W), RGB, 0 to 255. In training also "instances" with
                gt_classes (N,) and gt_masks (N, H, W), and "relations" (R, 3) int64 (subject, object, predicate). In
                inference optionally "height", "width" of the original image, which masks are resized to; and, where
                the objects are given (PredCls), "instances" and "original_masks" (N, height, width) bool of the same
                objects, in every dict of the batch.
            normalizers: in training, what losses are divided by, from `loss_normalizers`; None counts this batch. A
                step that accumulates several batches passes the counts of all of them.

        Returns:
            In training, weighted losses by name; otherwise what `Postprocessor.scene_graphs` returns.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        pixel_features = self.pixel_decoder(features)
        padded_size = images.tensor.shape[-2:]
        are_given = not self.training and "original_masks" in batched_inputs[0]
        if are_given and self.predcls_queries == "given":
            return self._relate_given(batched_inputs, padded_size, pixel_features)
        decoded = self.mask_decoder(pixel_features)
        if self.training:
            instances, relations = zip(*((x["instances"], x["relations"]) for x in batched_inputs), strict=True)
            targets = SceneGraphTargets.from_instances(instances, relations, padded_size, self.device)
            counts = normalizers or loss_normalizers([batched_inputs], self.device)
            return self._losses(self.classify(decoded, pixel_features), pixel_features, targets, counts)
        objects = self.classify(decoded.last_layer(), pixel_features)
        if self.clip_ensemble is not None:
            objects = self.clip_ensemble(objects, features["res5"], self.object_text, self.backbone.visual_head)
        if are_given:
            return self._relate_matched(batched_inputs, padded_size, objects, pixel_features)
        return self._scene_graphs(batched_inputs, images, objects, pixel_features)

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised images on the device, padded to one size."""
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        images = [(x.float() - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.size_divisibility)

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

    def _losses(
        self,
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
        targets: SceneGraphTargets,
        counts: LossCounts,
    ) -> dict[str, Tensor]:
        matching = self.criterion.start_matching(objects, targets)
        # What does not depend on the matching is work for the device while the host is busy with it.
        of_given = (
            {} if self.mask_pilot is None else self._given_losses(self.mask_pilot, pixel_features, targets, counts)
        )
        early = None if self.add_missed_pairs else self.relate(objects, pixel_features)
        matched = self.criterion.finish_matching(matching, targets, objects.num_queries, len(self.predicate_text))
        losses = self.criterion.object_losses(objects, targets, matched, counts)
        relations = early or self.relate(objects, pixel_features, matched.related)
        losses.update(self.criterion.relation_losses(relations, matched, counts))
        return {**losses, **of_given}

    def _given_losses(
        self, pilot: MaskPilot, pixel_features: PixelDecoderOutput, targets: SceneGraphTargets, counts: LossCounts
    ) -> dict[str, Tensor]:
        given, decoded = self.decode_given(targets, pixel_features)
        objects = self.classify(decoded, pixel_features)
        labels = predicate_targets(targets.slot, targets, objects.num_queries, len(self.predicate_text))
        matched = MatchedTargets(targets.slot.expand(len(objects.queries), -1), labels)
        priority = matched.related if self.add_missed_pairs else None
        relations = self.relate(objects, pixel_features, priority, given.present)
        weights = pilot.object_weight, pilot.relation_weight
        return self.criterion.given_losses(objects, relations, targets, matched, counts, *weights)

    def _scene_graphs(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
    ) -> list[dict]:
        sizes = images.image_sizes
        wanted = [(x.get("height", h), x.get("width", w)) for x, (h, w) in zip(batched_inputs, sizes, strict=True)]
        found = self.postprocessor.detected_objects(objects, self.is_thing, images.tensor.shape[-2:], sizes, wanted)
        return self.postprocessor.scene_graphs(found, self.relate(objects, pixel_features, instance_pairs(found)))

    def _relate_matched(
        self,
        batched_inputs: list[dict],
        padded_size: Sequence[int],
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
    ) -> list[dict]:
        targets = self._given_targets(batched_inputs, padded_size)
        matched = self.criterion.matcher(objects, targets)[-1]
        found = self._given_objects(batched_inputs, targets, matched, objects.num_queries)
        return self.postprocessor.scene_graphs(found, self.relate(objects, pixel_features, instance_pairs(found)))

    def _relate_given(
        self, batched_inputs: list[dict], padded_size: Sequence[int], pixel_features: PixelDecoderOutput
    ) -> list[dict]:
        targets = self._given_targets(batched_inputs, padded_size)
        given, decoded = self.decode_given(targets, pixel_features)
        relations = self.relate(decoded, pixel_features, None, given.present)
        found = self._given_objects(batched_inputs, targets, targets.slot, given.present.shape[1])
        return self.postprocessor.scene_graphs(found, relations)

    def _given_targets(self, batched_inputs: list[dict], padded_size: Sequence[int]) -> SceneGraphTargets:
        instances = [x["instances"] for x in batched_inputs]
        return SceneGraphTargets.from_instances(instances, None, padded_size, self.device)

    def _given_objects(
        self, batched_inputs: list[dict], targets: SceneGraphTargets, query: Tensor, num_queries: int
    ) -> list[ImageObjects]:
        masks = [x["original_masks"].to(self.device) for x in batched_inputs]
        per_image = zip(masks, targets.classes.split(targets.counts), query.split(targets.counts), strict=True)
        return [given_objects(mask, classes, self.is_thing, own, num_queries) for mask, classes, own in per_image]


def _normalisation(cfg: CfgNode, backbone: Backbone, key: str) -> Sequence[float]:
    """A config's values for the channels, or else the backbone's own, which are in RGB."""
    own: Any = getattr(backbone, key.lower(), None)
    if not cfg.MODEL[key] and own is None:
        raise ValueError(f"MODEL.{key}: expected three numbers, as {cfg.MODEL.BACKBONE.NAME} has none of its own")
    return cfg.MODEL[key] or (own if cfg.INPUT.FORMAT == "RGB" else own[::-1])
