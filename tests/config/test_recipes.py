"""Each recipe says what its comments and the documents claim of it."""

import itertools
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from detectron2.engine import DefaultTrainer

from usg_psg.config import build_cfg
from usg_psg.config.files import leaves
from usg_psg.data.psg_mapper import ResizeToPixels, build_augmentations
from usg_psg.pretrained.convert import convert, target_model
from usg_psg.vocabulary import Vocabulary

from ..pretrained.foreign import fcclip_shapes, meta_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DOCS = CONFIGS.parent / "docs"
RECIPES = sorted(
    str(f.relative_to(CONFIGS))
    for f in CONFIGS.rglob("*.yaml")
    if f.parent.name != "vocabularies" and not f.name.startswith("Base")
)
STARTED = ["psg/usg_par_best.yaml", "psg/usg_par_best_1gpu.yaml"]  # from FC-CLIP's weights
IMAGES = {"psg_train": 45_563, "psg_trainval": 46_563, "coco_panoptic_train": 118_287}


def median_scale(augmentations: list, image: np.ndarray) -> float:
    """Side of an object after an image's resizes, relative to before; crops change no scale."""
    resize = next(each for each in augmentations if isinstance(each, ResizeToPixels))
    return statistics.median(resize.get_transform(image).new_h / image.shape[0] for _ in range(999))


@pytest.mark.parametrize("recipe", RECIPES)
def test_objects_are_as_large_in_training_as_in_testing(recipe):
    """In pictures of COCO's most frequent size, or in the size that scenes are drawn at, by the median."""
    np.random.seed(0)
    image = np.zeros((160, 208, 3) if "quickstart" in recipe else (480, 640, 3), dtype=np.uint8)
    cfg = build_cfg(recipe)
    training, testing = (median_scale(build_augmentations(cfg, is_train), image) for is_train in (True, False))
    assert 0.9 < training / testing < 1.1


def test_so_they_are_by_default():
    cfg = build_cfg()
    middle = (cfg.INPUT.USG.MIN_SCALE + cfg.INPUT.USG.MAX_SCALE) / 2
    assert cfg.INPUT.USG.IMAGE_SIZE * middle == 640 == cfg.INPUT.MIN_SIZE_TEST * 640 / 480


def test_the_recipe_of_the_specification():
    """SPEC sections 3 to 14, number by number."""
    cfg = build_cfg("psg/usg_par_convnext_large.yaml")
    usg, loss, solver = cfg.MODEL.USG, cfg.MODEL.USG.LOSS, cfg.SOLVER
    assert cfg.MODEL.CLIP.NAME == "convnext_large_d_320" and cfg.MODEL.CLIP.FREEZE
    assert (usg.HIDDEN_DIM, usg.MASK_DECODER.NUM_QUERIES, usg.MASK_DECODER.NUM_LAYERS) == (256, 100, 6)
    assert usg.MASK_DECODER.LAYER_ORDER == "self_first"
    assert (usg.MATCHER.CLASS_COST, usg.MATCHER.MASK_COST, usg.MATCHER.DICE_COST) == (1, 5, 5)
    assert (loss.CLASS_WEIGHT, loss.MASK_WEIGHT, loss.DICE_WEIGHT, loss.PAIR_POS_WEIGHT) == (1, 5, 5, 5)
    assert (loss.OBJECT_WEIGHT, loss.RELATION_WEIGHT, loss.PAIR_WEIGHT, loss.PREDICATE_WEIGHT) == (1, 1, 1, 1)
    assert (usg.RELATION_HEAD.RPC.NUM_LAYERS, usg.RELATION_HEAD.RPC.NUM_PAIRS) == (2, 200)
    assert (usg.RELATION_HEAD.NUM_LAYERS, usg.RELATION_HEAD.QUERY_FORM) == (6, "concat")
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("ADAMW", 1e-3, 1e-2)
    assert solver.IMS_PER_BATCH == 64 * solver.REFERENCE_WORLD_SIZE, "as large as a GPU of 80 GB allows"
    assert (solver.WARMUP_ITERS, solver.LR_SCHEDULER_NAME) == (1000, "WarmupCosineLR")
    assert solver.AMP.ENABLED and solver.CLIP_GRADIENTS.ENABLED
    assert (solver.CLIP_GRADIENTS.CLIP_TYPE, solver.CLIP_GRADIENTS.CLIP_VALUE) == ("full_model", 1.0)


def test_the_recipe_of_the_released_code():
    """configs/psg.yaml of ChocoWu/USG at 39e6b77, number by number."""
    cfg = build_cfg("psg/usg_par_released.yaml")
    usg, solver = cfg.MODEL.USG, cfg.SOLVER
    assert (usg.HIDDEN_DIM, usg.MASK_DECODER.NUM_QUERIES, usg.MASK_DECODER.NUM_LAYERS) == (256, 100, 9)
    assert (usg.RELATION_HEAD.RPC.NUM_LAYERS, usg.RELATION_HEAD.RPC.NUM_PAIRS) == (4, 100)
    assert usg.RELATION_HEAD.NUM_LAYERS == 6
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY) == (8, 1e-4, 1e-4)
    assert (solver.WARMUP_ITERS, solver.CLIP_GRADIENTS.CLIP_VALUE) == (1000, 0.1)
    assert solver.MAX_ITER == 50 * -(-46563 // 8), "50 epochs, the last batch of each is not full"
    assert (usg.LOSS.OBJECT_WEIGHT, usg.LOSS.RELATION_WEIGHT) == (1.0, 0.8)


def test_the_convergence_benchmark_is_the_specification_with_a_trained_backbone():
    psg, shapes = build_cfg("psg/usg_par_convnext_large.yaml"), build_cfg("shapes/usg_par_shapes_512.yaml")
    assert not shapes.MODEL.CLIP.FREEZE and shapes.INPUT.USG.IMAGE_SIZE == 512
    assert shapes.MODEL.USG.LOSS.ADD_MISSED_PAIRS == psg.MODEL.USG.LOSS.ADD_MISSED_PAIRS
    assert shapes.SOLVER.BACKBONE_MULTIPLIER == 1 and shapes.MODEL.USG.LOSS.PAIR_WEIGHT == 0.2
    assert shapes.MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS == 200
    assert shapes.SOLVER.AMP.ENABLED and shapes.SOLVER.AMP.DTYPE == "bfloat16"


def test_the_benchmark_for_ablations_has_as_many_queries_and_pairs_as_psg_and_one_scale():
    cfg, psg = build_cfg("shapes/usg_par_shapes_psg.yaml"), build_cfg("psg/usg_par_convnext_large.yaml")
    assert cfg.MODEL.USG.MASK_DECODER.NUM_QUERIES == psg.MODEL.USG.MASK_DECODER.NUM_QUERIES == 100
    assert cfg.MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS == psg.MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS == 200
    assert cfg.INPUT.USG.IMAGE_SIZE == cfg.INPUT.MAX_SIZE_TEST == cfg.INPUT.MIN_SIZE_TEST
    assert cfg.INPUT.USG.MIN_SCALE == cfg.INPUT.USG.MAX_SCALE == 1.0
    assert cfg.DATASETS.TEST == ("psg_shapes_val", "psg_shapes_val_complete")


def test_the_best_recipe_says_where_each_of_its_values_comes_from():
    lines = (CONFIGS / "psg" / "usg_par_best.yaml").read_text().splitlines()
    keys = {key.split(".")[-1] for key, _ in leaves(build_cfg())}
    reasons = 0
    for above, line in itertools.pairwise(lines):
        key, _, value = line.strip().partition(":")
        if key not in keys or not value.strip() or value.strip().startswith("#"):
            continue
        reasons += 1
        comment = line if " # " in line else above
        assert any(word in comment for word in ("# measured: ", "# taken from ", "# rule: ")), line
    assert reasons == 24


def test_the_best_recipe_takes_fcclip_as_it_is():
    """Every decoder weight, in the published order of layers, with the published prompts."""
    cfg = build_cfg("psg/usg_par_best.yaml")
    target = target_model(cfg)
    made = convert(meta_weights(fcclip_shapes(backbone=False)), "fcclip", target)
    assert made.record["layers"] == list(range(9)) and made.record["queries"] == list(range(250))
    assert made.record["MODEL.USG.MASK_DECODER.LAYER_ORDER"] == "cross_first"
    used = {own.split(".")[0] for _, own in made.used}
    slowed = {name for name, factor in cfg.SOLVER.MULTIPLIERS if factor == 0.1}
    assert slowed == used - {"class_head"}
    assert cfg.MODEL.CLIP.FREEZE and cfg.MODEL.WEIGHTS == "fcclip_init.safetensors"
    trained = sum(p.numel() for name, p in target.named_parameters() if not name.startswith("backbone."))
    assert f"{trained / 1e6:.1f} M trained" in (DOCS / "model_zoo.md").read_text().replace("\n  ", " ")
    prompts = Vocabulary.read(str(CONFIGS / "vocabularies" / "psg_fc_clip.yaml")).object_templates
    assert list(cfg.MODEL.CLIP.OBJECT_TEMPLATES) == list(prompts)


@pytest.mark.parametrize("recipe", [*STARTED, "coco/usg_par_coco_panoptic.yaml"])
def test_one_rule_of_batch_rate_and_steps(recipe):
    cfg = build_cfg(recipe)
    solver = cfg.SOLVER
    assert solver.BASE_LR / solver.IMS_PER_BATCH == pytest.approx(0.0001 / 16), "Mask2Former's"
    per_gpu = solver.IMS_PER_BATCH / solver.REFERENCE_WORLD_SIZE
    assert per_gpu == (16 if "1gpu" in recipe else 8)
    assert solver.CHECKPOINT_PERIOD == cfg.TEST.EVAL_PERIOD == solver.MAX_ITER / 10


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.startswith(("psg/", "coco/"))])
def test_fifty_passes(recipe):
    cfg = build_cfg(recipe)
    (train,) = cfg.DATASETS.TRAIN
    passes = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.MAX_ITER / IMAGES[train]
    assert passes == pytest.approx(50, rel=0.005)


def test_one_gpu_trains_as_two_would_by_the_same_rule():
    one = dict(leaves(build_cfg("psg/usg_par_best_1gpu.yaml")))
    two = dict(leaves(DefaultTrainer.auto_scale_workers(build_cfg("psg/usg_par_best.yaml"), 2)))
    changed = {key for key in one if one[key] != two[key]} - {"SOLVER.STEPS"}  # which a cosine does not have
    assert changed == {"SOLVER.REFERENCE_WORLD_SIZE"}


def test_the_table_of_times_follows_from_the_recipes():
    """docs/reproduce_psg.md: batch, rate and steps for each number of GPUs, and hours from images a second."""
    rows = re.findall(
        r"^\| (\d) \| `(\w+\.yaml)` \| (.*) \|$", (DOCS / "reproduce_psg.md").read_text(), flags=re.MULTILINE
    )
    assert [int(gpus) for gpus, *_ in rows] == [1, 2, 4, 8]
    for gpus, recipe, cells in rows:
        batch, rate, steps, speed, hours, _ = (float(cell.replace(",", "")) for cell in cells.split(" | "))
        solver = DefaultTrainer.auto_scale_workers(build_cfg(f"psg/{recipe}"), int(gpus)).SOLVER
        assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (batch, pytest.approx(rate), steps)
        assert batch * steps / speed / 3600 == pytest.approx(hours, rel=0.02)


def test_the_pair_loss_weighs_what_measured_best():
    """0.2 at 100 queries; the loss adds up over all pairs of queries."""
    for recipe in STARTED:
        usg = build_cfg(recipe).MODEL.USG
        assert usg.LOSS.PAIR_WEIGHT * usg.MASK_DECODER.NUM_QUERIES**2 == pytest.approx(0.2 * 100**2)
        assert not usg.LOSS.ADD_MISSED_PAIRS


def test_objects_alone_leave_the_relation_head_untrained():
    cfg = build_cfg("coco/usg_par_coco_panoptic.yaml")
    assert cfg.MODEL.USG.LOSS.RELATION_WEIGHT == 0 and cfg.SOLVER.MULTIPLIERS == [["relation_head", 0.0]]
    assert cfg.MODEL.WEIGHTS == "" and cfg.TEST.USG.PREDICATE_LOGIT_ADJUSTMENT == 0
