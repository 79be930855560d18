"""Counts of predicates and repeat factors against numbers worked by hand."""

import json
import math

import numpy as np
import pytest

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.data.register_psg import get_vocabulary
from usg_psg.data.train_loader import build_psg_train_loader
from usg_psg.training_counts import FREQUENCY_KEY, TrainingCounts, predicate_repeat_factors
from usg_psg.vocabulary import Vocabulary

NAMES = ("on", "over", "beside", "riding")
VOCABULARY = Vocabulary(("person", "horse"), ("grass",), NAMES)
PERSON, HORSE, GRASS, UNKNOWN = range(4)


def image(classes, relations) -> dict:
    return {"segments_info": [{"category_id": c} for c in classes], "relations": relations}


# "on" in all four images, "over" in two (twice in one of them), "beside" in one, "riding" in none.
DATASET = [
    image([PERSON, HORSE, HORSE], [[0, 1, 0], [0, 1, 0], [1, 2, 1], [2, 1, 1]]),
    image([PERSON, HORSE, GRASS], [[0, 1, 0], [0, 2, 0]]),
    image([PERSON, HORSE], [[0, 1, 0], [0, 1, 1], [1, 0, 2], [1, 1, 2]]),
    image([PERSON, GRASS, GRASS, GRASS], [[3, 1, 0]]),
]
EMPTY = image([], [])


def test_equal_relations_of_an_image_count_once_and_of_a_segment_to_itself_never():
    counts = TrainingCounts.of_dataset(DATASET, VOCABULARY)
    assert counts.relations == (5, 3, 1, 0)
    assert counts.images == (4, 2, 1, 0)
    assert counts.num_images == 4
    assert counts.triplets.triplets.tolist() == [
        [PERSON, HORSE, 0, 3],
        [PERSON, HORSE, 1, 1],
        [PERSON, GRASS, 0, 1],
        [HORSE, PERSON, 2, 1],
        [HORSE, HORSE, 1, 2],
        [GRASS, GRASS, 0, 1],
    ]
    assert counts.triplets.pairs.tolist() == [[0, 4, 4], [4, 2, 1], [4, 1, 6]]
    with pytest.raises(ValueError, match="expected as many of each"):
        TrainingCounts(NAMES, (1, 2), (1, 2, 3, 4), 4)


def test_values_follow_their_names():
    counts = TrainingCounts.of_dataset(DATASET, VOCABULARY)
    assert counts.aligned(counts.relations, ("riding", "flying", "on"), -1) == [0, -1, 5]


def test_shares_and_the_average_for_names_that_training_lacks():
    share = TrainingCounts.of_dataset(DATASET, VOCABULARY).triplets.share()
    assert share[PERSON, HORSE].tolist() == [3 / 5, 1 / 5, 0, 0, (3 + 1) / 5 / 4]
    assert share[UNKNOWN, HORSE, :2].tolist() == [3 / 8, 3 / 8], "4 + 2 + 1 pairs of any subject"
    assert share[HORSE, UNKNOWN, :3].tolist() == [0, 2 / 8, 1 / 8]
    assert share[UNKNOWN, UNKNOWN].tolist() == [5 / 27, 3 / 27, 1 / 27, 0, pytest.approx(9 / 27 / 4)], "26 pairs"


@pytest.mark.parametrize("dataset", [DATASET, [EMPTY], []])
def test_records_through_a_file_and_back(dataset):
    counts = TrainingCounts.of_dataset(dataset, VOCABULARY)
    content = json.loads(json.dumps(counts.records()))
    again = TrainingCounts.pop_from(content)
    assert again.records() == counts.records() and not content
    assert again.num_images == len(dataset)
    assert np.array_equal(again.triplets.triplets, counts.triplets.triplets)
    assert np.array_equal(again.triplets.pairs, counts.triplets.pairs)
    older = TrainingCounts.pop_from({FREQUENCY_KEY: counts.records()[FREQUENCY_KEY]})
    assert older.relations == counts.relations and older.triplets is None
    assert older.records().keys() == {FREQUENCY_KEY} and TrainingCounts.pop_from({}) is None


def test_an_image_is_repeated_for_its_rarest_predicate():
    dataset = [*DATASET, EMPTY]  # of 5 images, 4, 2 and 1 have "on", "over" and "beside"
    counts = TrainingCounts.of_dataset(dataset, VOCABULARY)
    over, beside = math.sqrt(0.5 / (2 / 5)), math.sqrt(0.5 / (1 / 5))
    factors = predicate_repeat_factors(dataset, counts, 0.5)
    np.testing.assert_allclose(factors, [over, 1.0, beside, 1.0, 1.0])
    np.testing.assert_allclose(predicate_repeat_factors(dataset, counts, 0.5, use_sqrt=False)[2], 2.5)
    assert (predicate_repeat_factors(dataset, counts, 0.1) == 1).all()


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_is_a_part_of_the_images(threshold):
    with pytest.raises(ValueError, match="REPEAT_THRESHOLD"):
        predicate_repeat_factors(DATASET, TrainingCounts.of_dataset(DATASET, VOCABULARY), threshold)


def test_detectron2_s_settings_choose_it(tmp_path, monkeypatch):
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=30, num_val=10, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opts = ["MODEL.DEVICE", "cpu", "DATALOADER.REPEAT_THRESHOLD", "0.4", "DATALOADER.NUM_WORKERS", "0"]
    plain = build_psg_train_loader(build_cfg("quickstart/usg_par_quickstart.yaml", opts))
    opts += ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    repeating = build_psg_train_loader(build_cfg("quickstart/usg_par_quickstart.yaml", opts))
    assert plain.stream.repeat_factors is None
    counts = TrainingCounts.of_dataset(repeating.dataset, get_vocabulary("psg_shapes_train"))
    assert counts.num_images == 30, "the held-out scenes are not counted"
    relations = [record["relations"] for record in repeating.dataset]
    rare = {p for p, count in enumerate(counts.images) if 0 < count < 0.4 * 30}
    has_rare = np.array([any(row[2] in rare for row in rows) for rows in relations])
    assert 0 < has_rare.sum() < 30, "the scenes of this seed show both kinds"
    assert (repeating.stream.repeat_factors[has_rare] > 1).all()
    assert (repeating.stream.repeat_factors[~has_rare] == 1).all()
    shown = np.concatenate([repeating.stream.order(epoch) for epoch in range(50)])
    assert np.isclose(len(shown) / 50, repeating.stream.repeat_factors.sum(), rtol=0.05)
