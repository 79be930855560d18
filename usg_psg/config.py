"""Every configuration key that this project adds to Detectron2's.

Nothing in this file imports a model or data module, and no low-level module imports this file: constructors take
plain arguments and only their `from_config` reads the config (Detectron2's `@configurable`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode, get_cfg


def add_usg_config(cfg: CfgNode) -> None:
    """Add the keys of USG-Par to a Detectron2 config, with SPEC's values as defaults.

    "SPEC n" names the section of the specification that a value comes from; the others are this project's.
    """
    _add_input(cfg)
    _add_clip(cfg)
    _add_model(cfg)
    _add_loss(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_input(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.USG = CfgNode()
    # "lsj": scale jitter, then crop or pad to a square; "shortest_edge": Detectron2's usual resize.
    cfg.INPUT.USG.AUGMENTATION = "lsj"
    cfg.INPUT.USG.IMAGE_SIZE = 640  # side of the square, pixels
    cfg.INPUT.USG.MIN_SCALE = 0.5  # of the size that fits the image into the square
    cfg.INPUT.USG.MAX_SCALE = 1.5
    cfg.INPUT.MIN_SIZE_TEST = 640
    cfg.INPUT.MAX_SIZE_TEST = 1066
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False  # the order of images depends on the seed alone
    # "RepeatFactorTrainingSampler": images with rare predicates come more often, by Detectron2's rule for categories:
    # max(1, sqrt(REPEAT_THRESHOLD / part of the images that have the predicate)), of the image's rarest; REPEAT_SQRT.
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    # What a faulty record, an unreadable picture or one that disagrees with its record causes in training: "error", or
    # "skip": the image is left out, counted and named at the end. Evaluation always stops: it counts every image.
    cfg.DATALOADER.BAD_SAMPLES = "error"


def _add_clip(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "USGPar"
    cfg.MODEL.BACKBONE.NAME = "OpenCLIPConvNeXt"
    cfg.MODEL.CLIP = CfgNode()
    cfg.MODEL.CLIP.NAME = "convnext_large_d_320"  # SPEC 3; any OpenCLIP model with a timm ConvNeXt image tower
    # An OpenCLIP tag, the path of a weight file, or "" for random weights (with a warning).
    cfg.MODEL.CLIP.PRETRAINED = "laion2b_s29b_b131k_ft_soup"
    cfg.MODEL.CLIP.FREEZE = True  # SPEC 3; frozen weights are neither trained nor saved
    # Arithmetic of a frozen backbone on a GPU: "bfloat16", "float16", or "float32".
    cfg.MODEL.CLIP.FROZEN_DTYPE = "bfloat16"
    # Pixel statistics of OpenAI's and OpenCLIP's preprocessing, times 255; RGB order.
    cfg.MODEL.PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
    cfg.MODEL.PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]
    cfg.MODEL.CLIP.OBJECT_TEMPLATES = [
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
    ]
    cfg.MODEL.CLIP.PREDICATE_TEMPLATES = [
        "a photo of something {} something.",
        "one thing is {} another thing",
    ]
    # Folder of the text embedding cache; "" means $USG_PSG_CACHE, else ~/.cache/usg_psg.
    cfg.MODEL.CLIP.TEXT_CACHE = ""


def _logit_scale(mode: str, scale: float, prior: float) -> CfgNode:
    node = CfgNode()
    # "learnable": logits = scale * cosine + bias, both trained; "fixed": logits = cosine (the bare formula of SPEC).
    node.LOGIT_SCALE = mode
    node.SCALE_INIT = scale  # CLIP starts at 1/0.07
    node.PRIOR_PROB = prior  # the bias starts where a cosine of zero has this probability
    return node


def _add_model(cfg: CfgNode) -> None:
    usg = cfg.MODEL.USG = CfgNode()
    usg.HIDDEN_DIM = 256  # SPEC 3: d
    # Vocabulary file (docs/open_vocabulary.md): prompts and synonyms of a data set's names, or, where no data set is
    # involved, the names themselves. "" for the names of the data set in use.
    usg.VOCABULARY = ""
    # Batches are padded to a multiple of this; positions are relative to the padded size, so a model that was trained
    # on padded images does best on images padded alike. -1 for the backbone's own stride.
    usg.SIZE_DIVISIBILITY = -1
    # "kernels": train through torch.compile; "graphs": and as CUDA graphs. Faster steps after a start of some minutes;
    # needs a GPU, what Triton needs, and batches of one shape ("lsj" augmentation).
    usg.COMPILE = "none"

    usg.PIXEL_DECODER = CfgNode()
    usg.PIXEL_DECODER.NAME = "MSDeformAttnPixelDecoder"
    usg.PIXEL_DECODER.NUM_LAYERS = 6
    usg.PIXEL_DECODER.NUM_HEADS = 8
    usg.PIXEL_DECODER.NUM_POINTS = 4
    usg.PIXEL_DECODER.FFN_DIM = 1024
    usg.PIXEL_DECODER.DROPOUT = 0.0

    usg.MASK_DECODER = CfgNode()
    usg.MASK_DECODER.NAME = "MaskDecoder"
    usg.MASK_DECODER.NUM_QUERIES = 100  # SPEC 4: Q
    usg.MASK_DECODER.NUM_LAYERS = 6  # SPEC 4
    usg.MASK_DECODER.NUM_HEADS = 8
    usg.MASK_DECODER.FFN_DIM = 2048
    usg.MASK_DECODER.LAYER_ORDER = "self_first"  # SPEC 4; "cross_first" is Mask2Former's
    usg.MASK_DECODER.DEEP_SUPERVISION = True

    usg.CLASS_HEAD = _logit_scale("learnable", 1 / 0.07, 0.01)
    usg.CLASS_HEAD.NUM_LAYERS = 3  # of the MLP from d to the text width

    usg.RELATION_HEAD = CfgNode()
    usg.RELATION_HEAD.NAME = "RelationHead"
    # "concat": MLP(q_i | q_j), SPEC 10; "embedded": MLP(q_i + e_subject | q_j + e_object), as the released code.
    usg.RELATION_HEAD.QUERY_FORM = "concat"
    usg.RELATION_HEAD.NUM_LAYERS = 6  # SPEC 11
    usg.RELATION_HEAD.NUM_HEADS = 8
    usg.RELATION_HEAD.FFN_DIM = 2048
    # Pixel decoder levels that the layers attend to in turn (0: stride 32, 1: stride 16, 2: stride 8).
    usg.RELATION_HEAD.FEATURE_LEVELS = [0, 1, 2]
    usg.RELATION_HEAD.PREDICATE = _logit_scale("learnable", 1 / 0.07, 0.01)
    usg.RELATION_HEAD.PREDICATE.NUM_LAYERS = 3
    usg.RELATION_HEAD.RPC = _logit_scale("learnable", 1 / 0.07, 0.01)
    usg.RELATION_HEAD.RPC.NUM_LAYERS = 2  # SPEC 8
    usg.RELATION_HEAD.RPC.NUM_HEADS = 8
    usg.RELATION_HEAD.RPC.NUM_PAIRS = 200  # SPEC 8: K


def _add_loss(cfg: CfgNode) -> None:
    loss = cfg.MODEL.USG.LOSS = CfgNode()
    loss.CLASS_WEIGHT = 1.0  # SPEC 7
    loss.MASK_WEIGHT = 5.0
    loss.DICE_WEIGHT = 5.0
    loss.PAIR_WEIGHT = 1.0  # SPEC 12
    loss.PREDICATE_WEIGHT = 1.0
    loss.OBJECT_WEIGHT = 1.0  # SPEC 13
    loss.RELATION_WEIGHT = 1.0
    loss.NO_OBJECT_WEIGHT = 0.1  # weight of the all-zero class target of unmatched queries
    loss.PAIR_POS_WEIGHT = 5.0  # SPEC 9
    # Rare predicates (losses/long_tail.py); counts are those of DATASETS.TRAIN. tau of logit adjustment in the loss:
    loss.PREDICATE_LOGIT_ADJUSTMENT = 0.0
    # beta of class-balanced weights, e.g. 0.99 (Cui et al. 2019); 0 for none.
    loss.PREDICATE_BALANCE_BETA = 0.0
    # Put annotated pairs that the proposals missed among the K pairs while training.
    loss.ADD_MISSED_PAIRS = False
    # Mask losses and matching are computed on this many sampled points; 0: on all pixels at stride 4.
    loss.NUM_POINTS = 12544
    loss.OVERSAMPLE_RATIO = 3.0
    loss.IMPORTANCE_RATIO = 0.75

    matcher = cfg.MODEL.USG.MATCHER = CfgNode()
    # SPEC 6; "fixed" gives object n of an image, in the annotation's order, to query n: a failure to compare with.
    matcher.NAME = "hungarian"
    matcher.CLASS_COST = 1.0  # SPEC 6
    matcher.MASK_COST = 5.0
    matcher.DICE_COST = 5.0


def _add_solver(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # SPEC 14
    cfg.SOLVER.BASE_LR = 1e-3
    cfg.SOLVER.WEIGHT_DECAY = 1e-2
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # learned embeddings, logit scales and biases
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # of the learning rate, for a backbone that is trained
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.SOLVER.WARMUP_FACTOR = 0.001
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "bfloat16"  # or "float16"; without a GPU, training runs in float32
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    # Detectron2's own types clip each parameter; "full_model" clips the norm of all gradients together.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
    # A step's IMS_PER_BATCH images go through the model in this many parts; the gradients are those of the whole batch.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False  # evaluate with the moving average of the trained weights
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 3  # newest periodic checkpoints; 0 keeps all
    cfg.SOLVER.BEST_METRIC = "sgdet/single/R@50"  # the checkpoint with the highest value is kept as model_best.pth


def _add_test(cfg: CfgNode) -> None:
    cfg.TEST.TASK = "sgdet"  # or "predcls": masks and labels are given, relations are predicted
    cfg.TEST.USG = CfgNode()
    cfg.TEST.USG.OBJECT_THRESHOLD = 0.1  # score from which a query may own pixels of the panoptic map
    cfg.TEST.USG.OVERLAP_THRESHOLD = 0.5  # part of its own mask that a segment must keep there
    cfg.TEST.USG.RELATIONS_PER_IMAGE = 100  # with and without graph constraint, each
    # tau of logit adjustment after training: subtracts tau log(P pi_p) from the logits of each predicate. Not together
    # with the one in the loss. The training data's counts come with the checkpoint.
    cfg.TEST.USG.PREDICATE_LOGIT_ADJUSTMENT = 0.0
    cfg.TEST.USG.DTYPE = "float32"  # of matrix products on a GPU; "bfloat16" and "float16" are faster
    cfg.TEST.USG.COMPILE = "none"  # as MODEL.USG.COMPILE, outside of training; pays where all images have one size
    cfg.TEST.USG.EXPORT = ""  # also write the predictions: "json", "sgbench" or "openpsg"
    cfg.TEST.USG.PLOTS = False  # also draw recalls and the confusion among predicates
    cfg.TEST.USG.PICTURES = 0  # also draw so many of the worst images, annotation beside prediction


def get_config_file(name: str) -> str:
    """Path of a shipped recipe, for example `psg/usg_par_convnext_large.yaml`, also outside the repository.

    Raises:
        ValueError: if there is no such recipe; the message lists those that exist.
    """
    here = Path(__file__).resolve().parent
    roots = [here / "configs", here.parent / "configs"]
    for root in roots:
        if (root / name).is_file():
            return str(root / name)
    known = sorted(
        {str(f.relative_to(root)) for root in roots for f in root.rglob("*.yaml") if f.parent.name != "vocabularies"}
    )
    raise ValueError(f"no recipe {name!r}; there are {', '.join(known)}")


def build_cfg(config_file: str = "", opts: list[str] | None = None) -> CfgNode:
    """Defaults, then a recipe, then `KEY VALUE` overrides; not frozen.

    Args:
        config_file: path of a YAML file, or the name of a shipped recipe; "" for the defaults.
        opts: alternating keys and values, as on the command line.

    Raises:
        ValueError: for a recipe that does not exist, or an unknown key, with the nearest known ones.
    """
    cfg = get_cfg()
    add_usg_config(cfg)
    if config_file:
        cfg.merge_from_file(config_file if Path(config_file).is_file() else get_config_file(config_file))
    opts = list(opts or [])
    _check_overrides(cfg, opts)
    cfg.merge_from_list(opts)
    return cfg


def _check_overrides(cfg: CfgNode, opts: list[str]) -> None:
    if len(opts) % 2:
        raise ValueError(f"overrides are KEY VALUE pairs, got {len(opts)} words: {' '.join(opts)}")
    known = list(_leaf_keys(cfg))
    for key in opts[::2]:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ValueError(f"unknown configuration key {key!r}{hint}")


def _leaf_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaf_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key
