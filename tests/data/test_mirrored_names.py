"""Mirrored images: names of sides change with them, exactly where the flip was drawn."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T

from usg_psg.config import build_cfg
from usg_psg.config.checks import check_config
from usg_psg.data import PSG_VOCABULARY, PSGDatasetMapper, load_psg_json, register_psg, unregister_psg
from usg_psg.data.mirrored_names import mirrored_indices
from usg_psg.vocabulary import Vocabulary

from .psg_files import COLORS, STUFF, content, record, write_images, write_json

SIDED = ["left of", "on", "right of", "holding"]


@pytest.mark.parametrize(
    "left, right",
    [
        ("left of", "right of"),
        ("to the left of", "to the right of"),
        ("Left-of", "right_of"),
        ("onLeftOf", "on right of"),
        ("left", "right"),
        ("left hand", "right hand"),
        ("leftmost", "rightmost"),
        ("from left to right of", "from right to left of"),
    ],
)
def test_counterparts(left, right):
    assert mirrored_indices(["on", left, right], "predicate") == [0, 2, 1]


def test_names_without_a_side_stay():
    names = ["traffic light", "bright", "cleft", "uprights", "leftover", "copyright"]
    assert mirrored_indices(names, "class") == list(range(6))
    assert mirrored_indices(["on top", "on-top"], "predicate") == [0, 1]
    for names in (PSG_VOCABULARY.object_classes, PSG_VOCABULARY.predicate_classes):
        assert mirrored_indices(names, "name") == list(range(len(names)))


@pytest.fixture
def dataset(tmp_path):
    """A registered data set with predicates of sides."""
    entry = record("5")
    write_images(tmp_path, entry)
    path = write_json(tmp_path, {**content([entry], []), "predicate_classes": SIDED})
    register_psg("sided", path, tmp_path, "trainval")
    yield path
    unregister_psg("sided")


def config(*opts):
    return build_cfg("", ["DATASETS.TRAIN", "('sided',)", "INPUT.USG.IMAGE_SIZE", "64", *opts])


@pytest.mark.parametrize("augmentation", ["lsj", "shortest_edge"])
def test_predicates_change_exactly_with_the_flip(dataset, tmp_path, augmentation):
    cfg = config("INPUT.USG.AUGMENTATION", augmentation, "INPUT.USG.MIN_SCALE", "1.0", "INPUT.USG.MAX_SCALE", "1.0")
    mapper = PSGDatasetMapper(cfg, is_train=True)
    (dataset_dict,) = load_psg_json(dataset, tmp_path, "trainval")
    counts = {True: 0, False: 0}
    for seed in range(24):
        np.random.seed(seed)
        sample = mapper(dataset_dict)
        first, second = (
            sample["instances"].gt_masks.tensor[:2].float().mean(dim=1)
        )  # the left and the right upper quarter
        is_flipped = bool(first.argmax() > second.argmax())
        counts[is_flipped] += 1
        # SIDED has "left of" in place of "on" and "right of" in place of "over".
        expected = [[0, 3, 2], [1, 0, 1], [2, 3, 0], [0, 2, 3]] if is_flipped else dataset_dict["relations"]
        assert sample["relations"].tolist() == expected
    assert min(counts.values()) >= 5
    assert dataset_dict["relations"][0] == [0, 3, 0]  # the data set itself is as it was


def test_other_settings_exchange_nothing(dataset, tmp_path):
    (dataset_dict,) = load_psg_json(dataset, tmp_path, "trainval")
    for opts in (("INPUT.RANDOM_FLIP", "none"), ("INPUT.RANDOM_FLIP", "vertical")):
        mapper = PSGDatasetMapper(config(*opts), is_train=True)
        for seed in range(6):
            np.random.seed(seed)
            assert mapper(dataset_dict)["relations"].tolist() == dataset_dict["relations"]


def test_classes_change_too(tmp_path):
    entry = record("5")
    write_images(tmp_path, entry)
    (dataset_dict,) = load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")
    names = Vocabulary(("left hand", "right hand"), tuple(STUFF), ("on", "beside", "over", "holding"))
    arguments = {"is_train": True, "sided_names": names}
    sample = PSGDatasetMapper(augmentations=[T.RandomFlip(1.0)], **arguments)(dataset_dict)
    assert sample["instances"].gt_classes.tolist() == [1, 1, 0, 2]
    assert np.array_equal(sample["image"][:, 10, -10].numpy(), COLORS[1])
    twice = PSGDatasetMapper(augmentations=[T.RandomFlip(1.0), T.RandomFlip(1.0)], **arguments)(dataset_dict)
    assert twice["instances"].gt_classes.tolist() == [0, 0, 1, 2]


def test_a_side_without_counterpart_is_refused_before_training(tmp_path):
    path = write_json(tmp_path, {**content([], []), "predicate_classes": ["on", "to the left of"]})
    register_psg("one_sided", path, tmp_path, "trainval")
    try:
        cfg = build_cfg("", ["DATASETS.TRAIN", "('one_sided',)", "DATASETS.TEST", "()", "MODEL.CLIP.PRETRAINED", ""])
        message = "INPUT.RANDOM_FLIP: .*the predicate 'to the left of' into 'to the right of', which .* lacks"
        with pytest.raises(ValueError, match=message):
            check_config(cfg, train=True)
        cfg.INPUT.RANDOM_FLIP = "none"
        check_config(cfg, train=True)
    finally:
        unregister_psg("one_sided")


def test_things_and_stuff_are_not_mixed():
    with pytest.raises(ValueError, match="'left wall' into 'right wall', which"):
        PSGDatasetMapper(True, augmentations=[], sided_names=Vocabulary(("left wall",), ("right wall",), ("on",)))
