"""Every configuration key that this project adds to Detectron2's.

Nothing in this file imports a model or data module, and no low-level module imports this file: constructors take
plain arguments and only their `from_config` reads the config (Detectron2's `@configurable`).
"""

from __future__ import annotations

from detectron2.config import CfgNode


def add_usg_config(cfg: CfgNode) -> None:
    """Add the keys of USG-Par to a Detectron2 config, with SPEC's values as defaults.

    The comment above or behind a key says what it means and, in square brackets, where its default comes from:
    [SPEC 4] is a section of docs/specification.md, none is this project's choice. docs/configuration.md is made of
    these comments by `python -m usg_psg.config.reference --write`.
    """
    # Modules to import when the config is built, so that your own parts and data sets register (docs/extending.md).
    cfg.IMPORTS = []
    _add_input(cfg)
    _add_clip(cfg)
    _add_model(cfg)
    _add_loss(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_input(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"  # order of the channels, which OpenCLIP's weights expect [OpenCLIP]
    cfg.INPUT.USG = CfgNode()
    # "lsj": scale jitter, then crop or pad to a square; "shortest_edge": Detectron2's usual resize. [Mask2Former]
    cfg.INPUT.USG.AUGMENTATION = "lsj"
    cfg.INPUT.USG.IMAGE_SIZE = 640  # side of the square of "lsj", pixels
    cfg.INPUT.USG.MIN_SCALE = 0.5  # smallest scale of "lsj", relative to the one that fits the image into the square
    cfg.INPUT.USG.MAX_SCALE = 1.5  # largest scale of "lsj"
    cfg.INPUT.MIN_SIZE_TEST = 640  # length of an image's shorter side outside training, pixels
    cfg.INPUT.MAX_SIZE_TEST = 1066  # upper limit of its longer side, pixels
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False  # leave images without segments out of training
    # Batches of images of one orientation. Not supported: the order of images depends on the seed alone.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    # "RepeatFactorTrainingSampler": images with rare predicates come more often, by Detectron2's rule for categories:
    # max(1, sqrt(REPEAT_THRESHOLD / fraction of images with the predicate)), for the image's rarest one; REPEAT_SQRT.
    # [Detectron2; LVIS]
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    # What training does about faulty data. "error": the first fault stops it, while what can be mended without guessing
    # is mended (repeated relations count once, PNG ids that no segment lists are unlabelled, segments without a pixel
    # and relations of a segment to itself are left out) and counted in the log. "skip": as "error", but faulty images
    # are left out, counted and named at the end. "strict": what "error" would mend stops training, too. An evaluation
    # always acts as "error".
    cfg.DATALOADER.BAD_SAMPLES = "error"


def _add_clip(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "USGPar"  # the registered model
    cfg.MODEL.BACKBONE.NAME = "OpenCLIPConvNeXt"  # the registered backbone; docs/extending.md adds one [SPEC 3]
    cfg.MODEL.CLIP = CfgNode()
    cfg.MODEL.CLIP.NAME = "convnext_large_d_320"  # an OpenCLIP model with a timm ConvNeXt image tower [SPEC 3]
    # An OpenCLIP tag, the path of a weight file, or "" for random weights. [released code]
    cfg.MODEL.CLIP.PRETRAINED = "laion2b_s29b_b131k_ft_soup"
    cfg.MODEL.CLIP.FREEZE = True  # frozen weights of the backbone are neither trained nor saved [SPEC 3]
    # Arithmetic of a frozen backbone on a GPU: "bfloat16", "float16", or "float32".
    cfg.MODEL.CLIP.FROZEN_DTYPE = "bfloat16"
    # Subtracted from the channels of an image in 0..255, in the order of INPUT.FORMAT. [OpenCLIP]
    cfg.MODEL.PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
    # Divisors of the channels after that. [OpenCLIP]
    cfg.MODEL.PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]
    # Prompts of object names, with {} in the name's place; a name's embeddings in all of them are averaged.
    cfg.MODEL.CLIP.OBJECT_TEMPLATES = [
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
    ]
    # Prompts of predicate names.
    cfg.MODEL.CLIP.PREDICATE_TEMPLATES = [
        "a photo of something {} something.",
        "one thing is {} another thing",
    ]
    # Folder of the text embedding cache; "" means $USG_PSG_CACHE, else ~/.cache/usg_psg.
    cfg.MODEL.CLIP.TEXT_CACHE = ""


def _logit_scale(mode: str, scale: float, prior: float) -> CfgNode:
    node = CfgNode()
    # "learnable": logits = scale * cosine + bias, both trained; "fixed": logits = cosine (the bare formula of SPEC 5, 8
    # and 11, which trains badly: docs/results.md).
    node.LOGIT_SCALE = mode
    node.SCALE_INIT = scale  # initial value of the scale, 1/0.07 [CLIP]
    node.PRIOR_PROB = prior  # the bias is initialised so that a cosine of zero has this probability
    return node


def _add_model(cfg: CfgNode) -> None:
    usg = cfg.MODEL.USG = CfgNode()
    usg.HIDDEN_DIM = 256  # channels of queries and pixel features, `d` [SPEC 3]
    # Vocabulary file (docs/open_vocabulary.md): prompts and synonyms of a data set's names, or, where no data set is
    # involved, the names themselves. "" for the names of the data set in use.
    usg.VOCABULARY = ""
    # Batches are padded to a multiple of this. Positions are relative to the padded size, so a model trained on padded
    # images does best on images padded in the same way. -1 for the backbone's own stride.
    usg.SIZE_DIVISIBILITY = -1
    # How the network's parts run in training on a GPU. "graphs": as CUDA graphs, which save the host's kernel launches;
    # starts in seconds, needs batches of few shapes ("lsj" augmentation), no accumulation. "kernels": by torch.compile;
    # starts in minutes, needs Triton and a C compiler. "kernels+graphs": both.
    usg.COMPILE = "none"

    usg.PIXEL_DECODER = CfgNode()
    usg.PIXEL_DECODER.NAME = "MSDeformAttnPixelDecoder"  # the registered pixel decoder [SPEC 3]
    usg.PIXEL_DECODER.NUM_LAYERS = 6  # deformable encoder layers [Mask2Former]
    usg.PIXEL_DECODER.NUM_HEADS = 8  # attention heads [Mask2Former]
    usg.PIXEL_DECODER.NUM_POINTS = 4  # points that a head samples in each level [Mask2Former]
    usg.PIXEL_DECODER.FFN_DIM = 1024  # width of the feed-forward networks [Mask2Former]
    usg.PIXEL_DECODER.DROPOUT = 0.0  # fraction of the encoder's activations set to zero in training [Mask2Former]

    usg.MASK_DECODER = CfgNode()
    usg.MASK_DECODER.NAME = "MaskDecoder"  # the registered mask decoder [SPEC 4]
    usg.MASK_DECODER.NUM_QUERIES = 100  # Q, the largest number of objects in an image [SPEC 4]
    usg.MASK_DECODER.NUM_LAYERS = 6  # decoder layers [SPEC 4]
    usg.MASK_DECODER.NUM_HEADS = 8  # attention heads [Mask2Former]
    usg.MASK_DECODER.FFN_DIM = 2048  # width of the feed-forward networks [Mask2Former]
    usg.MASK_DECODER.LAYER_ORDER = "self_first"  # which attention comes first; "cross_first" is Mask2Former's [SPEC 4]
    usg.MASK_DECODER.DEEP_SUPERVISION = True  # object losses on every layer, not only on the last [Mask2Former]

    usg.CLASS_HEAD = _logit_scale("learnable", 1 / 0.07, 0.01)
    usg.CLASS_HEAD.NUM_LAYERS = 3  # linear layers of the MLP from d to the text width
    ensemble = usg.CLASS_HEAD.CLIP_ENSEMBLE = CfgNode()
    # Outside of training, mix CLIP's own scores of each mask's pixels into the class scores, mostly for names that the
    # model was not trained on (docs/open_vocabulary.md). [FC-CLIP]
    ensemble.ENABLED = False
    ensemble.ALPHA = 0.4  # CLIP's part in the scores of names that the model was trained on [FC-CLIP]
    ensemble.BETA = 0.8  # CLIP's part in the scores of other names [FC-CLIP]
    # Data set, or vocabulary file, with the names that the model was trained on; "" for the first of DATASETS.TRAIN.
    ensemble.SEEN = ""

    usg.RELATION_HEAD = CfgNode()
    usg.RELATION_HEAD.NAME = "RelationHead"  # the registered relation head; docs/extending.md adds one
    # "concat": MLP(q_i | q_j); "embedded": MLP(q_i + e_subject | q_j + e_object), as in the released code. [SPEC 10]
    usg.RELATION_HEAD.QUERY_FORM = "concat"
    usg.RELATION_HEAD.NUM_LAYERS = 6  # layers of the relation decoder [SPEC 11]
    usg.RELATION_HEAD.NUM_HEADS = 8  # attention heads [released code]
    usg.RELATION_HEAD.FFN_DIM = 2048  # width of the feed-forward networks [released code]
    # Pixel decoder levels that the layers attend to in turn (0: stride 32, 1: stride 16, 2: stride 8).
    usg.RELATION_HEAD.FEATURE_LEVELS = [0, 1, 2]
    usg.RELATION_HEAD.PREDICATE = _logit_scale("learnable", 1 / 0.07, 0.01)
    usg.RELATION_HEAD.PREDICATE.NUM_LAYERS = 3  # linear layers of the MLP from d to the text width
    usg.RELATION_HEAD.RPC = _logit_scale("learnable", 1 / 0.07, 0.01)
    usg.RELATION_HEAD.RPC.NUM_LAYERS = 2  # two-way cross-attention layers [SPEC 8]
    usg.RELATION_HEAD.RPC.NUM_HEADS = 8  # attention heads [released code]
    usg.RELATION_HEAD.RPC.NUM_PAIRS = 200  # K, pairs passed to the relation decoder [SPEC 8]
    # Keep L_pair's gradient from the queries: it trains the proposals alone, and not the mask decoder.
    usg.RELATION_HEAD.RPC.DETACH_QUERIES = False


def _add_loss(cfg: CfgNode) -> None:
    loss = cfg.MODEL.USG.LOSS = CfgNode()
    # "per_target": sums divided by the number of annotated objects or pairs; "mean": means over all predictions, as in
    # the released code: queries and classes, matched masks, pairs of queries, selected pairs and predicates.
    loss.REDUCTION = "per_target"
    loss.CLASS_WEIGHT = 1.0  # weight of the classes' sigmoid cross-entropy [SPEC 7]
    loss.MASK_WEIGHT = 5.0  # weight of the masks' binary cross-entropy [SPEC 7]
    loss.DICE_WEIGHT = 5.0  # weight of the masks' dice loss [SPEC 7]
    loss.PAIR_WEIGHT = 1.0  # weight of the pairs' binary cross-entropy [SPEC 12]
    loss.PREDICATE_WEIGHT = 1.0  # weight of the predicates' sigmoid cross-entropy [SPEC 12]
    loss.OBJECT_WEIGHT = 1.0  # weight of the object losses together [SPEC 13]
    loss.RELATION_WEIGHT = 1.0  # weight of the relation losses together [SPEC 13]
    loss.NO_OBJECT_WEIGHT = 0.1  # weight of the all-zero class target of unmatched queries [Mask2Former]
    # Weight of related pairs in the pairs' cross-entropy; 0: unrelated pairs per related one of the batch. [SPEC 9]
    loss.PAIR_POS_WEIGHT = 5.0
    # tau of logit adjustment for rare predicates in the loss; counts are those of DATASETS.TRAIN [arXiv 2007.07314]
    loss.PREDICATE_LOGIT_ADJUSTMENT = 0.0
    # beta of class-balanced weights of predicates, for example 0.99; 0 for none [Cui et al., CVPR 2019]
    loss.PREDICATE_BALANCE_BETA = 0.0
    # In training, put annotated pairs that the proposals missed among the K pairs.
    loss.ADD_MISSED_PAIRS = False
    # Mask losses and matching are computed on this many sampled points; 0: on all pixels at stride 4. [Mask2Former]
    loss.NUM_POINTS = 12544
    loss.OVERSAMPLE_RATIO = 3.0  # candidates for each point of a mask loss [Mask2Former]
    loss.IMPORTANCE_RATIO = 0.75  # fraction of the points chosen from the most uncertain candidates [Mask2Former]

    matcher = cfg.MODEL.USG.MATCHER = CfgNode()
    # "hungarian", or "fixed": object n of an image, in the annotation's order, goes to query n, a failing baseline for
    # comparison. [SPEC 6]
    matcher.NAME = "hungarian"
    matcher.CLASS_COST = 1.0  # weight of the class in the matching cost [SPEC 6]
    matcher.MASK_COST = 5.0  # weight of the masks' binary cross-entropy [SPEC 6]
    matcher.DICE_COST = 5.0  # weight of the masks' dice [SPEC 6]


def _add_solver(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # AdamW, the only one [SPEC 14]
    cfg.SOLVER.BASE_LR = 1e-3  # learning rate after the warmup [SPEC 14]
    cfg.SOLVER.WEIGHT_DECAY = 1e-2  # of linear and convolution weights [SPEC 14]
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0  # of normalisation layers [Mask2Former]
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # of learned embeddings, logit scales and biases [Mask2Former]
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # of the learning rate, for a backbone that is trained
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"  # one of Detectron2's schedules [SPEC 14]
    cfg.SOLVER.WARMUP_ITERS = 1000  # steps of linear warmup [SPEC 14]
    cfg.SOLVER.WARMUP_FACTOR = 0.001  # of the learning rate at the first step
    cfg.SOLVER.AMP.ENABLED = True  # mixed precision on a GPU; without one, training runs in float32 [SPEC 14]
    cfg.SOLVER.AMP.DTYPE = "bfloat16"  # of mixed precision; or "float16", which scales the loss
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True  # clip gradients [SPEC 14]
    # Detectron2's own types clip each parameter; "full_model" clips the norm of all gradients together. [Mask2Former]
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0  # largest norm (or entry, with CLIP_TYPE "value") [SPEC 14]
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0  # order of the norm
    # A step's IMS_PER_BATCH images go through the model in this many parts; the gradients are those of the whole batch.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False  # evaluate with the moving average of the trained weights
    cfg.SOLVER.EMA.DECAY = 0.9998  # fraction of the average that a step keeps
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 3  # number of newest periodic checkpoints that are kept; 0 keeps all
    cfg.SOLVER.BEST_METRIC = "sgdet/single/R@50"  # the checkpoint with the highest value is kept as model_best.pth


def _add_test(cfg: CfgNode) -> None:
    cfg.TEST.TASK = "sgdet"  # "sgdet": from the image alone; "predcls": masks and labels are given
    cfg.TEST.USG = CfgNode()
    cfg.TEST.USG.OBJECT_THRESHOLD = 0.1  # minimum score for a query to own pixels of the panoptic map
    cfg.TEST.USG.OVERLAP_THRESHOLD = 0.5  # fraction of its own mask that a segment must keep there
    cfg.TEST.USG.RELATIONS_PER_IMAGE = 100  # relations that are kept, with and without graph constraint each
    # tau of logit adjustment after training: subtracts tau log(P pi_p) from the logits of each predicate. Not together
    # with the one in the loss. The training data's counts come with the checkpoint. [arXiv 2007.07314]
    cfg.TEST.USG.PREDICATE_LOGIT_ADJUSTMENT = 0.0
    cfg.TEST.USG.DTYPE = "float32"  # arithmetic of inference on a GPU; "bfloat16" and "float16" are faster
    cfg.TEST.USG.COMPILE = "none"  # as MODEL.USG.COMPILE, outside training; pays off where all images have one size
    cfg.TEST.USG.ALLOW_RANDOM_WEIGHTS = False  # evaluate without MODEL.WEIGHTS, to try out or time a model
    cfg.TEST.USG.EXPORT = ""  # also write the predictions: "json", "sgbench", "openpsg", "coco_panoptic"
    # Also report zero-shot recall and the frequency baseline, which count the relations of DATASETS.TRAIN.
    cfg.TEST.USG.FREQUENCY_BASELINE = False
    cfg.TEST.USG.PLOTS = False  # also draw recalls and the confusion among predicates
    cfg.TEST.USG.PICTURES = 0  # also draw this many of the worst images, annotation beside prediction
