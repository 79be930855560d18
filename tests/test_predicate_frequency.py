"""Counts of predicates and repeat factors against numbers worked by hand."""

import json
import math

import numpy as np
import pytest

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.data.register_psg import get_vocabulary
from usg_psg.data.train_loader import build_psg_train_loader
from usg_psg.predicate_frequency import PredicateFrequency, predicate_repeat_factors

NAMES = ("on", "over", "beside", "riding")
# "on" in all four images, "over" in two (twice in one of them), "beside" in one, "riding" in none.
DATASET = [
    {"relations": [[0, 1, 0], [0, 1, 0], [1, 2, 1], [2, 1, 1]]},
    {"relations": [[0, 1, 0], [0, 2, 0]]},
    {"relations": [[0, 1, 0], [0, 1, 1], [1, 0, 2]]},
    {"relations": [[3, 1, 0]]},
]
EMPTY = {"relations": []}


def test_equal_relations_of_an_image_count_once():
    frequency = PredicateFrequency.of_dataset(DATASET, NAMES)
    assert frequency.relations == (5, 3, 1, 0)
    assert frequency.images == (4, 2, 1, 0)
    assert frequency.num_images == 4
    assert PredicateFrequency.from_record(json.loads(json.dumps(frequency.record()))) == frequency
    with pytest.raises(ValueError, match="expected as many of each"):
        PredicateFrequency(NAMES, (1, 2), (1, 2, 3, 4), 4)


def test_values_follow_their_names():
    frequency = PredicateFrequency.of_dataset(DATASET, NAMES)
    assert frequency.aligned(frequency.relations, ("riding", "flying", "on"), -1) == [0, -1, 5]


def test_an_image_is_repeated_for_its_rarest_predicate():
    dataset = [*DATASET, EMPTY]  # of 5 images, 4, 2 and 1 have "on", "over" and "beside"
    frequency = PredicateFrequency.of_dataset(dataset, NAMES)
    over, beside = math.sqrt(0.5 / (2 / 5)), math.sqrt(0.5 / (1 / 5))
    factors = predicate_repeat_factors(dataset, frequency, 0.5)
    np.testing.assert_allclose(factors, [over, 1.0, beside, 1.0, 1.0])
    np.testing.assert_allclose(predicate_repeat_factors(dataset, frequency, 0.5, use_sqrt=False)[2], 2.5)
    assert (predicate_repeat_factors(dataset, frequency, 0.1) == 1).all()


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_is_a_part_of_the_images(threshold):
    with pytest.raises(ValueError, match="REPEAT_THRESHOLD"):
        predicate_repeat_factors(DATASET, PredicateFrequency.of_dataset(DATASET, NAMES), threshold)


def test_detectron2_s_settings_choose_it(tmp_path, monkeypatch):
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=30, num_val=10, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opts = ["MODEL.DEVICE", "cpu", "DATALOADER.REPEAT_THRESHOLD", "0.4", "DATALOADER.NUM_WORKERS", "0"]
    plain = build_psg_train_loader(build_cfg("quickstart/usg_par_quickstart.yaml", opts))
    opts += ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    repeating = build_psg_train_loader(build_cfg("quickstart/usg_par_quickstart.yaml", opts))
    assert plain.stream.repeat_factors is None
    frequency = PredicateFrequency.of_dataset(repeating.dataset, get_vocabulary("psg_shapes_train").predicate_classes)
    assert frequency.num_images == 30, "the held-out scenes are not counted"
    relations = [record["relations"] for record in repeating.dataset]
    rare = {p for p, count in enumerate(frequency.images) if 0 < count < 0.4 * 30}
    has_rare = np.array([any(row[2] in rare for row in rows) for rows in relations])
    assert 0 < has_rare.sum() < 30, "the scenes of this seed show both kinds"
    assert (repeating.stream.repeat_factors[has_rare] > 1).all()
    assert (repeating.stream.repeat_factors[~has_rare] == 1).all()
    shown = np.concatenate([repeating.stream.order(epoch) for epoch in range(50)])
    assert np.isclose(len(shown) / 50, repeating.stream.repeat_factors.sum(), rtol=0.05)
