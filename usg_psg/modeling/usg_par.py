"""USGPar: the image-only model, from images to losses or to scene graphs (SPEC section 2).

Letters: B images, Q queries, C object classes, P predicates, T text width, K selected pairs, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ..data.predicate_frequency import PredicateFrequency
from ..inference import claim_pixels, merge_panoptic, rank_relations, triplet_scores
from ..losses import (
    FixedMatcher,
    HungarianMatcher,
    LossCounts,
    LossWeights,
    ObjectCriterion,
    RelationCriterion,
    build_matcher,
    long_tail_of_names,
    loss_normalizers,
    predicate_targets,
)
from ..structures import MaskDecoderOutput, PairProposals, PixelDecoderOutput, SceneGraphTargets
from .build import build_class_head, build_mask_decoder, build_pixel_decoder, build_relation_head
from .clip_ensemble import CLIPEnsemble, build_clip_ensemble
from .open_vocab_head import OpenVocabularyHead
from .part_runner import PartRunner
from .relation_head import RelationHead
from .vocabulary import vocabulary_embeddings

MASK_PIXELS = 2**27  # pixels of query masks in float32 at once, half a gigabyte; large photographs have many times more
LOG_PERIOD = 20  # iterations between the sanity figures, which cost a synchronisation


@META_ARCH_REGISTRY.register()
class USGPar(nn.Module):
    """Universal scene graph parser for single images (USG-Par, CVPR 2025, image branch).

    Args:
        backbone: gives "res2" to "res5".
        pixel_decoder: features to `PixelDecoderOutput`.
        mask_decoder: to `MaskDecoderOutput`.
        class_head: query features to class logits.
        relation_head: proposals and predicate logits; any module with the methods of `RelationHead`.
        matcher, object_criterion, relation_criterion, loss_weights: training.
        object_text: (C, T) unit-length embeddings of the object names.
        predicate_text: (P, T) of the predicate names.
        is_thing: C flags.
        predicate_names: P names, which the training data's counts are looked up by; None if they are not known.
        object_names: C names, which `clip_ensemble` needs; commas separate synonyms.
        clip_ensemble: mixes CLIP's own class scores in, outside of training; None for the class head's alone.
        pixel_mean, pixel_std: of the three channels, in the range of the input.
        size_divisibility: images are padded to a multiple of it, -1 for the backbone's stride.
        deep_supervision: losses on every prediction layer, not only on the last.
        add_missed_pairs: put annotated pairs that the proposals missed among the K pairs while training.
        object_threshold, overlap_threshold: of the panoptic map, see `merge_panoptic`.
        relations_per_image: see `rank_relations`.
        predicate_logit_adjustment: tau, what is subtracted from predicate logits outside of training, in multiples of
            `log_relative_share`; needs `set_predicate_frequency`.
        task: what inference is given: nothing ("sgdet"), or the objects' masks and labels ("predcls").
        compile: how the network's parts run in training, a mode of `PartRunner`.
        inference_compile: the same outside of training, where "kernels" and "graphs" prepare for each size of images.
        inference_dtype: of matrix products on a GPU outside of training, "float32", "bfloat16" or "float16".
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
        matcher: FixedMatcher | HungarianMatcher,
        object_criterion: ObjectCriterion,
        relation_criterion: RelationCriterion,
        loss_weights: LossWeights,
        object_text: Tensor,
        predicate_text: Tensor,
        is_thing: Sequence[bool],
        predicate_names: Sequence[str] | None = None,
        object_names: Sequence[str] | None = None,
        clip_ensemble: CLIPEnsemble | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = -1,
        deep_supervision: bool = True,
        add_missed_pairs: bool = False,
        object_threshold: float = 0.1,
        overlap_threshold: float = 0.5,
        relations_per_image: int = 100,
        predicate_logit_adjustment: float = 0.0,
        task: str = "sgdet",
        compile: str = "none",
        inference_compile: str = "none",
        inference_dtype: str = "float32",
    ):
        super().__init__()
        if task not in ("sgdet", "predcls"):
            raise ValueError(f"TEST.TASK must be 'sgdet' or 'predcls', got {task!r}")
        if inference_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"TEST.USG.DTYPE must be float32, bfloat16 or float16, got {inference_dtype!r}")
        if clip_ensemble is not None and getattr(backbone, "visual_head", None) is None:
            raise ValueError("CLASS_HEAD.CLIP_ENSEMBLE needs a backbone with CLIP's visual head, OpenCLIPConvNeXt")
        self.clip_ensemble = clip_ensemble
        self.task = task
        self.runners = {True: PartRunner(compile), False: PartRunner(inference_compile)}  # in training, outside of it
        self.inference_dtype = getattr(torch, inference_dtype)
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.mask_decoder = mask_decoder
        self.class_head = class_head
        self.relation_head = relation_head
        self.matcher = matcher
        self.object_criterion = object_criterion
        self.relation_criterion = relation_criterion
        self.loss_weights = loss_weights
        stride = backbone.size_divisibility
        self.size_divisibility = size_divisibility if size_divisibility > 0 else stride
        if self.size_divisibility % stride:
            raise ValueError(f"SIZE_DIVISIBILITY must be a multiple of the stride {stride}, got {size_divisibility}")
        self.deep_supervision = deep_supervision
        self.add_missed_pairs = add_missed_pairs
        self.object_threshold = object_threshold
        self.overlap_threshold = overlap_threshold
        self.relations_per_image = relations_per_image
        self.predicate_logit_adjustment = predicate_logit_adjustment
        self.predicate_frequency: PredicateFrequency | None = None
        # Not saved: the vocabulary belongs to the data set in use, not to the weights.
        for name in ("object_text", "predicate_text", "is_thing", "predicate_log_share"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.set_vocabulary(object_text, predicate_text, is_thing, predicate_names, object_names)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        usg, loss = cfg.MODEL.USG, cfg.MODEL.USG.LOSS
        backbone = build_backbone(cfg)
        vocabulary = vocabulary_embeddings(cfg, next(iter((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)), None))
        text_dim = vocabulary["object_text"].shape[1]
        sampling = (loss.NUM_POINTS, loss.OVERSAMPLE_RATIO, loss.IMPORTANCE_RATIO)
        return {
            "backbone": backbone,
            "pixel_decoder": build_pixel_decoder(cfg, backbone.output_shape()),
            "mask_decoder": build_mask_decoder(cfg),
            "class_head": build_class_head(cfg, text_dim),
            "relation_head": build_relation_head(cfg, text_dim),
            "matcher": build_matcher(cfg),
            "object_criterion": ObjectCriterion(loss.NO_OBJECT_WEIGHT, *sampling, loss.REDUCTION),
            "relation_criterion": RelationCriterion(
                loss.PAIR_POS_WEIGHT, loss.PREDICATE_LOGIT_ADJUSTMENT, loss.PREDICATE_BALANCE_BETA, loss.REDUCTION
            ),
            "loss_weights": LossWeights.from_config(cfg),
            **vocabulary,
            "clip_ensemble": build_clip_ensemble(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": usg.SIZE_DIVISIBILITY,
            "deep_supervision": usg.MASK_DECODER.DEEP_SUPERVISION,
            "add_missed_pairs": loss.ADD_MISSED_PAIRS,
            "object_threshold": cfg.TEST.USG.OBJECT_THRESHOLD,
            "overlap_threshold": cfg.TEST.USG.OVERLAP_THRESHOLD,
            "relations_per_image": cfg.TEST.USG.RELATIONS_PER_IMAGE,
            "predicate_logit_adjustment": cfg.TEST.USG.PREDICATE_LOGIT_ADJUSTMENT,
            "task": cfg.TEST.TASK,
            "compile": usg.COMPILE,
            "inference_compile": cfg.TEST.USG.COMPILE,
            "inference_dtype": cfg.TEST.USG.DTYPE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def set_vocabulary(
        self,
        object_text: Tensor,
        predicate_text: Tensor,
        is_thing: Sequence[bool],
        predicate_names: Sequence[str] | None = None,
        object_names: Sequence[str] | None = None,
    ) -> None:
        """Classify into other names from now on, without retraining.

        Args:
            object_text: (C, T) unit-length text embeddings.
            predicate_text: (P, T).
            is_thing: C flags; segments of one stuff class are merged in the panoptic map.
            predicate_names: P names; None if they are not known.
            object_names: C names, commas separate synonyms; None if they are not known.

        Raises:
            ValueError: if the lengths or widths do not agree, or `clip_ensemble` needs names.
        """
        if len(is_thing) != len(object_text) or object_text.shape[1:] != predicate_text.shape[1:]:
            raise ValueError(
                f"object_text {tuple(object_text.shape)}, predicate_text {tuple(predicate_text.shape)} and "
                f"{len(is_thing)} is_thing flags do not belong together"
            )
        if predicate_names is not None and len(predicate_names) != len(predicate_text):
            raise ValueError(f"predicate_names: expected {len(predicate_text)} names, got {len(predicate_names)}")
        if self.clip_ensemble is not None:
            if object_names is None or len(object_names) != len(object_text):
                got = "none" if object_names is None else len(object_names)
                raise ValueError(f"object_names: CLIP_ENSEMBLE needs {len(object_text)} names, got {got}")
            self.clip_ensemble.set_names(object_names)
        device = self.pixel_mean.device
        self.object_text = object_text.to(device)
        self.predicate_text = predicate_text.to(device)
        self.is_thing = torch.as_tensor(is_thing, dtype=torch.bool, device=device)
        self.predicate_names = None if predicate_names is None else tuple(predicate_names)
        self.object_names = None if object_names is None else tuple(object_names)
        self._set_long_tail()

    def set_predicate_frequency(self, frequency: PredicateFrequency) -> None:
        """Give the counts of the training data, which the options for rare predicates need; checkpoints keep them."""
        self.predicate_frequency = frequency
        self._set_long_tail()

    def _set_long_tail(self) -> None:
        criterion = self.relation_criterion
        if self.predicate_frequency is None:
            return
        in_use = bool(self.predicate_logit_adjustment or criterion.logit_adjustment or criterion.balance_beta)
        names = self.predicate_names or ["(name not given)"] * len(self.predicate_text)
        both = long_tail_of_names(self.predicate_frequency, names, criterion.balance_beta, in_use)
        self.predicate_log_share, weight = (x.to(self.pixel_mean.device) for x in both)
        criterion.set_long_tail(self.predicate_log_share, weight)

    def forward(
        self, batched_inputs: list[dict], normalizers: LossCounts | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Losses in training, scene graphs otherwise.

        Args:
            batched_inputs: one dict per image. "image": (3, H, W), RGB, 0 to 255. In training also "instances" with
                gt_classes (N,) and gt_masks (N, H, W), and "relations" (R, 3) int64 (subject, object, predicate). In
                inference optionally "height", "width" of the original image, which masks are resized to. For
                "predcls" also "instances", and "original_masks" (N, height, width) bool of the same objects.
            normalizers: in training, what losses are divided by, from `loss_normalizers`; None counts this batch. A
                step that accumulates several batches passes the counts of all of them.

        Returns:
            In training, weighted losses by name. Otherwise a dict per image:
                "instances": `Instances` with pred_masks (N, H, W) bool, pred_classes (N,), scores (N,) and
                    segment_ids (N,), the segment of the panoptic map that the object became, 0 for none;
                "panoptic_seg": map (H, W) int32 and its segments_info;
                "relations": subject, object, predicate, score, (R,) each, best first, as `rank_relations` orders
                    them; subject and object index the instances;
                "pairs": subject, object, score of the K proposals, best first.
        """
        if not self.training and self.device.type == "cuda" and self.inference_dtype != torch.float32:
            with torch.autocast("cuda", dtype=self.inference_dtype):
                return self._scene_graphs(batched_inputs, *self._dense(batched_inputs))
        images, features, pixel_features, decoded = self._dense(batched_inputs)
        if not self.training:
            return self._scene_graphs(batched_inputs, images, features, pixel_features, decoded)
        targets = SceneGraphTargets.from_instances(
            [x["instances"] for x in batched_inputs],
            [x["relations"] for x in batched_inputs],
            tuple(images.tensor.shape[-2:]),
            self.device,
        )
        if normalizers is None:
            normalizers = loss_normalizers([batched_inputs], self.device)
        return self._losses(pixel_features, decoded, targets, normalizers)

    def _dense(
        self, batched_inputs: list[dict]
    ) -> tuple[ImageList, dict[str, Tensor], PixelDecoderOutput, MaskDecoderOutput]:
        images = self._preprocess(batched_inputs)
        features = self._run(self.backbone, images.tensor)
        pixel_features = self._run(self.pixel_decoder, features)
        decoded = self._run(self.mask_decoder, pixel_features)
        return images, features, pixel_features, decoded

    def _run(self, part: Callable, *args: Any) -> Any:
        """Call a part of the network in the way that is asked for."""
        return self.runners[self.training](part, *args)

    def _preprocess(self, batched_inputs: list[dict]) -> ImageList:
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        images = [(x.float() - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _losses(
        self,
        pixel_features: PixelDecoderOutput,
        decoded: MaskDecoderOutput,
        targets: SceneGraphTargets,
        normalizers: LossCounts,
    ) -> dict[str, Tensor]:
        first = 0 if self.deep_supervision else -1
        queries, mask_embeddings = decoded.queries[first:], decoded.mask_embeddings[first:]
        class_logits = self._run(self.class_head, queries, self.object_text)
        mask_features = pixel_features.mask_features
        matching = self.matcher.start(class_logits, mask_embeddings, mask_features, targets)

        def relations(boost: Tensor | None) -> tuple[PairProposals, Tensor]:
            proposals = self._run(self.relation_head.propose, queries[-1], boost)
            text = self.predicate_text
            return proposals, self._run(self.relation_head.decode, queries[-1], proposals, pixel_features, text)

        # Proposals that do not depend on the matching are work for the device while the host is busy with it.
        early = None if self.add_missed_pairs else relations(None)
        matched = matching.result()
        losses = self.object_criterion(class_logits, mask_embeddings, mask_features, targets, matched, normalizers)
        labels = predicate_targets(matched[-1], targets, queries.shape[2], len(self.predicate_text))
        related = labels.any(dim=-1)
        proposals, predicate_logits = early or relations(related)
        losses.update(self.relation_criterion(proposals, predicate_logits, labels, normalizers))
        self._log_sanity(matched[-1], proposals, related)
        return self.loss_weights.apply(losses)

    @torch.no_grad()
    def _log_sanity(self, matched: Tensor, proposals: PairProposals, related: Tensor) -> None:
        """SPEC section 18: matched queries against objects, annotated pairs among the proposals."""
        if not has_event_storage():
            return
        storage = get_event_storage()
        if storage.iter % LOG_PERIOD:
            return
        storage.put_scalar("sanity/gt_objects", len(matched))
        storage.put_scalar("sanity/matched_queries", int((matched >= 0).sum()))
        num_pairs = int(related.sum())
        if num_pairs:
            # Ranks without the boost that training may give to annotated pairs.
            k = proposals.subject_index.shape[1]
            off_diagonal = ~torch.eye(related.shape[-1], dtype=torch.bool, device=related.device)
            ranking = proposals.pair_logits.masked_fill(~off_diagonal, -torch.inf).flatten(1)
            chosen = ranking.topk(k, dim=1).indices
            found = int(related.flatten(1).gather(1, chosen).sum())
            storage.put_scalar("sanity/pair_recall_in_top_k", 100.0 * found / num_pairs)

    def _scene_graphs(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        features: dict[str, Tensor],
        pixel_features: PixelDecoderOutput,
        decoded: MaskDecoderOutput,
    ) -> list[dict]:
        queries = decoded.queries[-1]
        class_logits = self._run(self.class_head, queries, self.object_text)
        if self.clip_ensemble is not None:
            masks = decoded.mask_embeddings[-1], pixel_features.mask_features
            head = self.backbone.visual_head
            class_logits = self.clip_ensemble(class_logits, *masks, features["res5"], self.object_text, head)
        find_objects = self._given_objects if self.task == "predcls" else self._detected_objects
        objects, query_scores, instance_of_query = find_objects(
            batched_inputs, images, pixel_features, decoded, class_logits
        )
        is_instance = instance_of_query >= 0
        related = is_instance[:, :, None] & is_instance[:, None, :]
        proposals = self._run(self.relation_head.propose, queries, related)
        text = self.predicate_text
        predicate_logits = self._run(self.relation_head.decode, queries, proposals, pixel_features, text)
        if self.predicate_logit_adjustment:
            if self.predicate_frequency is None:
                raise ValueError(
                    "TEST.USG.PREDICATE_LOGIT_ADJUSTMENT needs the training data's predicate counts, which the "
                    "weights in use do not come with: set it to 0, or use a checkpoint of tools/train_net.py"
                )
            predicate_logits = predicate_logits - self.predicate_logit_adjustment * self.predicate_log_share
        relations = zip(
            instance_of_query,
            query_scores,
            proposals.subject_index,
            proposals.object_index,
            proposals.selected_logits().sigmoid(),
            predicate_logits.sigmoid(),
            strict=True,
        )
        return [{**found, **self._relations(*rest)} for found, rest in zip(objects, relations, strict=True)]

    def _detected_objects(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        pixel_features: PixelDecoderOutput,
        decoded: MaskDecoderOutput,
        class_logits: Tensor,
    ) -> tuple[list[dict], Tensor, Tensor]:
        """Objects of each image, scores (B, Q) and the instance index (B, Q) of each query, -1 if its mask is empty."""
        scores, classes = class_logits.sigmoid().max(dim=-1)
        objects, index = [], []
        for i, (inputs, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            mask_logits = (decoded.mask_embeddings[-1, i] @ pixel_features.mask_features[i].flatten(1)).float()
            mask_logits = mask_logits.unflatten(1, pixel_features.mask_features.shape[-2:])
            padded_size = tuple(images.tensor.shape[-2:])
            output_size = (inputs.get("height", size[0]), inputs.get("width", size[1]))
            some = max(MASK_PIXELS // max(output_size[0] * output_size[1], 1), 1)
            mask_prob = (
                resize_masks(part, padded_size, size, output_size).sigmoid_() for part in mask_logits.split(some)
            )
            masks, owner = claim_pixels(mask_prob, scores[i], self.object_threshold)
            panoptic, segments_info, segment_ids = merge_panoptic(
                masks, owner, scores[i], classes[i], self.is_thing, self.object_threshold, self.overlap_threshold
            )
            kept = masks.flatten(1).any(dim=1)
            index.append(torch.where(kept, kept.cumsum(0) - 1, -1))
            chosen = kept.nonzero()[:, 0]  # places, since each use of a bool mask would wait for the device
            instances = make_instances(
                masks[chosen], classes[i, chosen], scores[i, chosen].float(), segment_ids[chosen]
            )
            objects.append({"instances": instances, "panoptic_seg": (panoptic, segments_info)})
        return objects, scores, torch.stack(index)

    def _given_objects(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        pixel_features: PixelDecoderOutput,
        decoded: MaskDecoderOutput,
        class_logits: Tensor,
    ) -> tuple[list[dict], Tensor, Tensor]:
        """As `_detected_objects`, for annotated objects: each is stood for by the query that the matcher gives it."""
        no_relations = torch.zeros((0, 3), dtype=torch.int64)
        targets = SceneGraphTargets.from_instances(
            [x["instances"] for x in batched_inputs],
            [no_relations] * len(batched_inputs),
            tuple(images.tensor.shape[-2:]),
            self.device,
        )
        matched = self.matcher(class_logits[None], decoded.mask_embeddings[-1:], pixel_features.mask_features, targets)[
            0
        ].split(targets.counts)
        objects, index = [], torch.full(class_logits.shape[:2], -1, device=self.device)
        for i, (inputs, query) in enumerate(zip(batched_inputs, matched, strict=True)):
            masks = inputs["original_masks"].to(self.device)
            count = len(masks)
            index[i, query[query >= 0]] = torch.arange(count, device=self.device)[query >= 0]
            classes = inputs["instances"].gt_classes.to(self.device)
            ids = torch.arange(1, count + 1, device=self.device)
            panoptic = (masks * ids[:, None, None]).sum(dim=0).to(torch.int32)
            segments_info = [
                {"id": n + 1, "category_id": c, "isthing": bool(self.is_thing[c]), "score": 1.0}
                for n, c in enumerate(classes.tolist())
            ]
            instances = make_instances(masks, classes, torch.ones(count, device=self.device), ids)
            objects.append({"instances": instances, "panoptic_seg": (panoptic, segments_info)})
        return objects, torch.ones_like(class_logits[..., 0]), index

    def _relations(
        self,
        instance_of_query: Tensor,
        scores: Tensor,
        subject: Tensor,
        object_: Tensor,
        pair_score: Tensor,
        predicate_score: Tensor,
    ) -> dict:
        """Relations and proposals of one image between queries that are instances, as indices of those."""
        valid = ((instance_of_query[subject] >= 0) & (instance_of_query[object_] >= 0)).nonzero()[:, 0]
        subject, object_, pair_score = subject[valid], object_[valid], pair_score[valid]
        triplets = triplet_scores(scores[subject], scores[object_], pair_score, predicate_score[valid])
        row, predicate, score = rank_relations(triplets.float(), self.relations_per_image)
        subject, object_ = instance_of_query[subject], instance_of_query[object_]
        return {
            "relations": {"subject": subject[row], "object": object_[row], "predicate": predicate, "score": score},
            "pairs": {"subject": subject, "object": object_, "score": pair_score},
        }


def make_instances(masks: Tensor, classes: Tensor, scores: Tensor, segment_ids: Tensor) -> Instances:
    """Detectron2 instances of masks (N, H, W) bool, classes, scores and panoptic segments (N,)."""
    instances = Instances(tuple(masks.shape[-2:]))
    instances.pred_masks = masks
    instances.pred_classes = classes
    instances.scores = scores
    instances.segment_ids = segment_ids
    return instances


def resize_masks(
    logits: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Mask logits of the padded batch to one original image.

    Args:
        logits: (Q, h, w) covering the padded image.
        padded_size, image_size: (H, W) of the padded and of the unpadded network input.
        output_size: (H, W) of the original image.

    Returns:
        (Q, H, W) of output_size.
    """
    full = F.interpolate(logits[None], size=padded_size, mode="bilinear", align_corners=False)
    full = full[..., : image_size[0], : image_size[1]]
    if tuple(full.shape[-2:]) != tuple(output_size):
        full = F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)
    return full[0]
