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
from ..losses import LossCounts, USGCriterion, loss_normalizers
from ..predicate_frequency import PredicateFrequency
from ..structures import (
    TASKS,
    MaskDecoderOutput,
    ObjectPredictions,
    PixelDecoderOutput,
    RelationPredictions,
    SceneGraphTargets,
    TextEmbeddings,
)
from .build import build_class_head, build_mask_decoder, build_pixel_decoder, build_relation_head
from .clip_ensemble import CLIPEnsemble, build_clip_ensemble
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
        relation_head: proposals and predicate logits; any module with the methods of `RelationHead`.
        criterion, postprocessor: predictions to losses, and to scene graphs.
        vocabulary: names to look for, until `set_vocabulary`.
        clip_ensemble: mixes CLIP's own class scores in, outside of training; None for the class head's alone.
        pixel_mean, pixel_std: of the three channels, in the range of the input.
        size_divisibility: images are padded to a multiple of it, -1 for the backbone's stride.
        add_missed_pairs: put annotated pairs that the proposals missed among the K pairs while training.
        task: what inference is given: nothing ("sgdet"), or the objects' masks and labels ("predcls").
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
        mask_decoder: nn.Module,
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
        task: str = "sgdet",
    ):
        super().__init__()
        TASKS.check("task", task)
        if clip_ensemble is not None and getattr(backbone, "visual_head", None) is None:
            raise ValueError("CLASS_HEAD.CLIP_ENSEMBLE needs a backbone with CLIP's visual head, OpenCLIPConvNeXt")
        self.clip_ensemble = clip_ensemble
        self.task = task
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
        self.predicate_frequency: PredicateFrequency | None = None
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
            "task": cfg.TEST.TASK,
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
        if self.predicate_frequency is not None:
            self.set_predicate_frequency(self.predicate_frequency)

    def set_predicate_frequency(self, frequency: PredicateFrequency) -> None:
        """Give the counts of the training data, which the options for rare predicates need; checkpoints keep them."""
        self.predicate_frequency = frequency
        counts = frequency, self.predicate_names, len(self.predicate_text), self.device
        self.criterion.relation_criterion.set_predicate_frequency(*counts)
        self.postprocessor.set_predicate_frequency(*counts)

    def parts(self) -> list[tuple[nn.Module, str]]:
        """Modules and the names of their methods that do the work of a forward pass, for `compile_parts` and timers."""
        whole = (self.backbone, self.pixel_decoder, self.mask_decoder, self.class_head)
        return [*((part, "forward") for part in whole), (self.relation_head, "propose"), (self.relation_head, "decode")]

    def forward(self, batched_inputs: list[dict], normalizers: LossCounts | None = None) -> dict | list[dict]:
        """Losses in training, scene graphs otherwise.

        Args:
            batched_inputs: one dict per image. "image": (3, H, W), RGB, 0 to 255. In training also "instances" with
                gt_classes (N,) and gt_masks (N, H, W), and "relations" (R, 3) int64 (subject, object, predicate). In
                inference optionally "height", "width" of the original image, which masks are resized to. For
                "predcls" also "instances", and "original_masks" (N, height, width) bool of the same objects.
            normalizers: in training, what losses are divided by, from `loss_normalizers`; None counts this batch. A
                step that accumulates several batches passes the counts of all of them.

        Returns:
            In training, weighted losses by name; otherwise what `Postprocessor.scene_graphs` returns.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        pixel_features = self.pixel_decoder(features)
        decoded = self.mask_decoder(pixel_features)
        if self.training:
            instances, relations = zip(*((x["instances"], x["relations"]) for x in batched_inputs), strict=True)
            targets = SceneGraphTargets.from_instances(instances, relations, images.tensor.shape[-2:], self.device)
            counts = normalizers or loss_normalizers([batched_inputs], self.device)
            return self._losses(self.classify(decoded, pixel_features), pixel_features, targets, counts)
        objects = self.classify(decoded.last_layer(), pixel_features)
        if self.clip_ensemble is not None:
            objects = self.clip_ensemble(objects, features["res5"], self.object_text, self.backbone.visual_head)
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
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
        priority: Tensor | None = None,
        predicate_text: Tensor | None = None,
    ) -> RelationPredictions:
        """Proposals and predicates of the last layer's queries; `priority` as in `select_pairs`, names as above."""
        text = self.predicate_text if predicate_text is None else predicate_text
        proposals = self.relation_head.propose(objects.queries[-1], priority)
        logits = self.relation_head.decode(objects.queries[-1], proposals, pixel_features, text)
        return RelationPredictions(proposals, logits)

    def _losses(
        self,
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
        targets: SceneGraphTargets,
        counts: LossCounts,
    ) -> dict[str, Tensor]:
        matching = self.criterion.start_matching(objects, targets)
        # Proposals that do not depend on the matching are work for the device while the host is busy with it.
        early = None if self.add_missed_pairs else self.relate(objects, pixel_features)
        matched = self.criterion.finish_matching(matching, targets, objects.num_queries, len(self.predicate_text))
        losses = self.criterion.object_losses(objects, targets, matched, counts)
        relations = early or self.relate(objects, pixel_features, matched.related)
        losses.update(self.criterion.relation_losses(relations, matched, counts))
        return losses

    def _scene_graphs(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
    ) -> list[dict]:
        padded_size = images.tensor.shape[-2:]
        if self.task == "predcls":
            instances = [x["instances"] for x in batched_inputs]
            targets = SceneGraphTargets.from_instances(instances, None, padded_size, self.device)
            matched = self.criterion.matcher(objects, targets)[-1].split(targets.counts)
            masks = [x["original_masks"].to(self.device) for x in batched_inputs]
            found = [
                given_objects(mask, given.gt_classes.to(self.device), self.is_thing, query, objects.num_queries)
                for mask, given, query in zip(masks, instances, matched, strict=True)
            ]
        else:
            sizes = images.image_sizes
            wanted = [(x.get("height", h), x.get("width", w)) for x, (h, w) in zip(batched_inputs, sizes, strict=True)]
            found = self.postprocessor.detected_objects(objects, self.is_thing, padded_size, sizes, wanted)
        return self.postprocessor.scene_graphs(found, self.relate(objects, pixel_features, instance_pairs(found)))


def _normalisation(cfg: CfgNode, backbone: Backbone, key: str) -> Sequence[float]:
    """A config's values for the channels, or else the backbone's own, which are in RGB."""
    own: Any = getattr(backbone, key.lower(), None)
    if not cfg.MODEL[key] and own is None:
        raise ValueError(f"MODEL.{key}: expected three numbers, as {cfg.MODEL.BACKBONE.NAME} has none of its own")
    return cfg.MODEL[key] or (own if cfg.INPUT.FORMAT == "RGB" else own[::-1])
