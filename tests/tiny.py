"""The smallest complete model and batch, from plain arguments, without a config."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor

from usg_psg.inference import Postprocessor
from usg_psg.losses import (
    HungarianMatcher,
    LossCounts,
    LossWeights,
    ObjectCriterion,
    RelationCriterion,
    USGCriterion,
)
from usg_psg.modeling import (
    MaskDecoder,
    MSDeformAttnPixelDecoder,
    OpenCLIPConvNeXt,
    OpenVocabularyHead,
    RelationHead,
    RelationProposalConstructor,
    USGPar,
)
from usg_psg.modeling.mask_pilot import MaskPilot
from usg_psg.modeling.openclip import load_openclip
from usg_psg.modeling.relation_head import RelationDecoder, RelationQueries
from usg_psg.modeling.text_embeddings import text_embeddings
from usg_psg.structures import ObjectPredictions, TextEmbeddings

CLIP_NAME = "usg_convnext_zepto"
OBJECTS = ("person", "dog", "sky-other-merged")
PREDICATES = ("on", "over", "beside", "holding")
LOSSES = ("loss_class", "loss_mask", "loss_dice", "loss_pair", "loss_predicate")


def tiny_model(
    dim: int = 32,
    num_queries: int = 12,
    num_pairs: int = 30,
    freeze: bool = False,
    layer_order: str = "self_first",
    query_form: str = "concat",
    num_points: int = 128,
    relation_layers: int = 3,
    backbone: OpenCLIPConvNeXt | None = None,
    object_names: tuple[str, ...] | None = None,
    deep_supervision: bool = True,
    object_threshold: float = 0.1,
    overlap_threshold: float = 0.5,
    pilot_noise: float | None = None,
    **kwargs,
) -> USGPar:
    """A USGPar whose every part is built from plain numbers; with a mask pilot if its noise is given."""
    backbone = backbone or OpenCLIPConvNeXt(
        load_openclip(CLIP_NAME).visual.trunk, freeze=freeze, weights_identity={"model": CLIP_NAME}
    )
    objects, predicates = (text_embeddings(names, ["{}"], model=CLIP_NAME) for names in (OBJECTS, PREDICATES))
    width = objects.shape[1]
    return USGPar(
        backbone=backbone,
        pixel_decoder=MSDeformAttnPixelDecoder(
            backbone.output_shape(), hidden_dim=dim, num_layers=1, num_heads=4, ffn_dim=48
        ),
        mask_decoder=MaskDecoder(
            hidden_dim=dim,
            num_queries=num_queries,
            num_layers=3,
            num_heads=4,
            ffn_dim=48,
            layer_order=layer_order,
            deep_supervision=deep_supervision,
        ),
        class_head=OpenVocabularyHead(dim, width),
        relation_head=RelationHead(
            rpc=RelationProposalConstructor(dim, 2, 4, num_pairs),
            relation_queries=RelationQueries(dim, query_form),
            relation_decoder=RelationDecoder(dim, relation_layers, 4, 48),
            predicate_head=OpenVocabularyHead(dim, width),
        ),
        criterion=USGCriterion(
            matcher=HungarianMatcher(num_points=num_points),
            object_criterion=ObjectCriterion(num_points=num_points),
            relation_criterion=RelationCriterion(),
            loss_weights=LossWeights({name: 1.0 for name in LOSSES}),
        ),
        postprocessor=Postprocessor(object_threshold, overlap_threshold),
        vocabulary=TextEmbeddings(objects, predicates, [True, True, False], object_names=object_names),
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
        mask_pilot=None if pilot_noise is None else MaskPilot(dim, width, pilot_noise, pilot_noise),
        **kwargs,
    )


def loss_counts(objects=0, pairs=0, images=1, annotated_images=1):
    """`LossCounts` of plain numbers."""
    return LossCounts(*(torch.tensor(float(x)) for x in (objects, pairs, images, annotated_images)))


def object_predictions(class_logits: Tensor, mask_embeddings: Tensor, mask_features: Tensor) -> ObjectPredictions:
    """Predictions of which nobody asks for the queries themselves."""
    return ObjectPredictions(mask_embeddings, class_logits, mask_embeddings, mask_features)


def tiny_input(num_objects: int = 3, height: int = 64, width: int = 96, relations=((0, 1, 0), (0, 1, 2), (1, 2, 3))):
    """One training sample of random pixels and masks; relations with missing objects are left out."""
    instances = Instances((height, width))
    instances.gt_classes = torch.randint(0, len(OBJECTS), (num_objects,))
    instances.gt_masks = torch.rand(num_objects, height, width) > 0.5
    rows = [r for r in relations if max(r[:2]) < num_objects]
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "image_id": "random",
        "instances": instances,
        "relations": torch.tensor(rows, dtype=torch.int64).reshape(-1, 3),
    }
