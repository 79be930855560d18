"""USGPar: the image-only model, from images to losses or to scene graphs (SPEC section 2).

Letters: B images, N objects of an image, R relations of an image, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Size, Tensor, nn
from torch.nn.attention import sdpa_kernel

from ..inference import Postprocessor, given_objects, instance_pairs
from ..losses import Counting, MatchedTargets, USGCriterion, loss_normalizers, predicate_targets
from ..structures import ImageObjects, ObjectPredictions, PixelDecoderOutput, SceneGraphTargets, TextEmbeddings
from ..training_counts import TrainingCounts
from .build import build_class_head, build_mask_decoder, build_pixel_decoder, build_relation_head
from .clip_ensemble import build_clip_ensemble
from .layers import OTHERS_THAN_CUDNN
from .mask_pilot import PREDCLS_QUERIES, MaskPilot
from .network import SceneGraphNetwork
from .text_embeddings import configured_vocabulary, embed_vocabulary


@META_ARCH_REGISTRY.register()
class USGPar(SceneGraphNetwork):
    """Universal scene graph parser for single images (USG-Par, CVPR 2025, image branch).

    Args:
        criterion, postprocessor: predictions to losses, and to scene graphs.
        add_missed_pairs: put annotated pairs that the proposals missed among the K pairs while training.
        predcls_queries: which queries stand for given objects in inference: "matched", learned queries that the
            matcher chooses, or "given", those of `mask_pilot`, which is trained beside the learned ones.
        network: as `SceneGraphNetwork`.
    """

    training_counts: TrainingCounts | None = None
    _ahead: tuple[list[dict], Size, dict[str, Tensor]] | None = None

    @configurable
    def __init__(
        self,
        *,
        criterion: USGCriterion,
        postprocessor: Postprocessor,
        add_missed_pairs: bool = False,
        predcls_queries: str = "matched",
        **network: Any,
    ):
        super().__init__(**network)
        PREDCLS_QUERIES.check("predcls_queries", predcls_queries)
        if predcls_queries == "given" and self.mask_pilot is None:
            raise ValueError("predcls_queries: 'given' needs a mask_pilot")
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.add_missed_pairs = add_missed_pairs
        self.predcls_queries = predcls_queries

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

    def set_vocabulary(self, vocabulary: TextEmbeddings) -> None:
        """`SceneGraphNetwork.set_vocabulary`; counts of the training data follow the names."""
        super().set_vocabulary(vocabulary)
        if self.training_counts is not None:
            self.set_training_counts(self.training_counts)

    def set_training_counts(self, counts: TrainingCounts) -> None:
        """Give the training data's counts, which the options for rare predicates need; checkpoints keep them."""
        self.training_counts = counts
        self.criterion.relation_criterion.set_training_counts(counts, self.vocabulary)
        self.postprocessor.set_training_counts(counts, self.vocabulary)

    def formulas(self) -> list[tuple[nn.Module, str, tuple[int | None, ...]]]:
        """Those of the criterion."""
        return self.criterion.formulas()

    def recordable(self) -> list[tuple[nn.Module, str]]:
        """Those of the postprocessor."""
        return self.postprocessor.recordable()

    @property
    def has_frozen_backbone(self) -> bool:
        """No step changes what the backbone says of an image, so it may be asked before that image's turn."""
        return not any(p.requires_grad for p in self.backbone.parameters())

    def forward(
        self,
        batched_inputs: list[dict],
        normalizers: Counting | None = None,
        upcoming: Callable[[], list[dict] | None] | None = None,
        on_host: bool = False,
    ) -> dict | list[dict]:
        """Losses in training, scene graphs otherwise.

        Args:
            batched_inputs: one dict per image. "image": (3, H, W), RGB, 0 to 255. In training also "instances" with
                gt_classes (N,) and gt_masks (N, H, W), and "relations" (R, 3) int64 (subject, object, predicate). In
                inference optionally "height", "width" of the original image, which masks are resized to; and, where
                the objects are given (PredCls), "instances" and "original_masks" (N, height, width) bool of the same
                objects, in every dict of the batch.
            normalizers: in training, what losses are divided by, from `loss_normalizers`; None counts this batch. A
                step that accumulates several batches passes the counts of all of them.
            upcoming: in training with a frozen backbone, gives the batch of the next call, the same list, or None if
                that is not known. Its features are computed while the host matches this one's objects, which leaves
                the device without other work.
            on_host: in inference, unless the objects are given, see `Postprocessor.scene_graphs`.

        Returns:
            In training, weighted losses by name; otherwise what `Postprocessor.scene_graphs` returns.
        """
        if self.training and upcoming is not None:
            return self._losses_and_look_ahead(batched_inputs, normalizers, upcoming)
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        if self.training:
            return self._losses(batched_inputs, images.tensor.shape[-2:], features, normalizers)
        with sdpa_kernel(OTHERS_THAN_CUDNN):  # see `attend`; graphs are recorded without this
            return self._infer(batched_inputs, images, features, on_host)

    def _infer(
        self, batched_inputs: list[dict], images: ImageList, features: dict[str, Tensor], on_host: bool
    ) -> list[dict]:
        padded_size = images.tensor.shape[-2:]
        pixel_features = self.pixel_decoder(features)
        are_given = "original_masks" in batched_inputs[0]
        if are_given and self.predcls_queries == "given":
            return self._relate_given(batched_inputs, padded_size, pixel_features)
        decoded = self.mask_decoder(pixel_features)
        objects = self.classify(decoded.last_layer(), pixel_features)
        if self.clip_ensemble is not None:
            objects = self.clip_ensemble(objects, features["res5"], self.object_text, self.backbone.visual_head)
        if are_given:
            return self._relate_matched(batched_inputs, padded_size, objects, pixel_features)
        return self._scene_graphs(batched_inputs, images, objects, pixel_features, on_host)

    def _losses_and_look_ahead(
        self,
        batched_inputs: list[dict],
        normalizers: Counting | None,
        upcoming: Callable[[], list[dict] | None],
    ) -> dict[str, Tensor]:
        def extract(batch: list[dict]) -> tuple[list[dict], Size, dict[str, Tensor]]:
            images = self.preprocess(batch).tensor
            # Copies, since a backbone that runs as a CUDA graph writes over its results before they are used up.
            return batch, images.shape[-2:], {name: x.clone() for name, x in self.backbone(images).items()}

        def look_ahead() -> None:
            batch = upcoming()
            self._ahead = None if batch is None else extract(batch)

        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] is not batched_inputs:
            ahead = extract(batched_inputs)
        return self._losses(*ahead, normalizers, look_ahead)

    def _losses(
        self,
        batched_inputs: list[dict],
        padded_size: Size,
        features: dict[str, Tensor],
        normalizers: Counting | None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """Losses; `meanwhile` is called while the host matches."""
        pixel_features = self.pixel_decoder(features)
        objects = self.classify(self.mask_decoder(pixel_features), pixel_features)
        instances, relations_of = zip(*((x["instances"], x["relations"]) for x in batched_inputs), strict=True)
        targets = SceneGraphTargets.from_instances(instances, relations_of, padded_size, self.device)
        counting = normalizers or loss_normalizers([batched_inputs], self.device)
        matching = self.criterion.start_matching(objects, targets)
        # What does not depend on the matching is work for the device while the host is busy with it.
        of_given = (
            {} if self.mask_pilot is None else self._given_losses(self.mask_pilot, pixel_features, targets, counting)
        )
        early = None if self.add_missed_pairs else self.relate(objects, pixel_features)
        meanwhile()
        matched = self.criterion.finish_matching(matching, targets, objects.num_queries, len(self.predicate_text))
        counts = counting.result()
        losses = self.criterion.object_losses(objects, targets, matched, counts)
        relations = early or self.relate(objects, pixel_features, matched.related)
        losses.update(self.criterion.relation_losses(relations, matched, counts))
        return {**losses, **of_given}

    def _given_losses(
        self, pilot: MaskPilot, pixel_features: PixelDecoderOutput, targets: SceneGraphTargets, counting: Counting
    ) -> dict[str, Tensor]:
        given, decoded = self.decode_given(targets, pixel_features)
        objects = self.classify(decoded, pixel_features)
        labels = predicate_targets(targets.slot, targets, objects.num_queries, len(self.predicate_text))
        matched = MatchedTargets(targets.slot.expand(len(objects.queries), -1), labels)
        priority = matched.related if self.add_missed_pairs else None
        relations = self.relate(objects, pixel_features, priority, given.present)
        weights = pilot.object_weight, pilot.relation_weight
        return self.criterion.given_losses(objects, relations, targets, matched, counting.result(), *weights)

    def _scene_graphs(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        objects: ObjectPredictions,
        pixel_features: PixelDecoderOutput,
        on_host: bool,
    ) -> list[dict]:
        sizes = images.image_sizes
        wanted = [(x.get("height", h), x.get("width", w)) for x, (h, w) in zip(batched_inputs, sizes, strict=True)]
        found = self.postprocessor.detected_objects(objects, self.is_thing, images.tensor.shape[-2:], sizes, wanted)
        relations = self.relate(objects, pixel_features, instance_pairs(found))
        return self.postprocessor.scene_graphs(found, relations, on_host)

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
