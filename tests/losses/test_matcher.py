"""The matcher against brute force, and its edges."""

import itertools

import numpy as np
import pytest
import torch

from usg_psg.config import build_cfg
from usg_psg.losses.matcher import (
    UNMATCHED,
    FixedMatcher,
    HungarianMatcher,
    assign,
    build_matcher,
    matching_cost,
)
from usg_psg.structures import SceneGraphTargets
from usg_psg.utils.autocast import tensor_float32

from ..tiny import object_predictions


def make_targets(counts, size=(16, 16), num_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    return SceneGraphTargets(
        classes=torch.randint(0, num_classes, (total,), generator=generator),
        masks=torch.rand(total, *size, generator=generator) > 0.5,
        image_index=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        counts=list(counts),
        relations=torch.zeros((0, 4), dtype=torch.int64),
    )


def test_cost_formula():
    """cost = 1 * (-p_class) + 5 * mean BCE + 5 * dice, written out for one query and one object."""
    prob = torch.tensor([[[0.2, 0.7]]])
    logits = torch.tensor([[[1.0, -2.0, 0.5]]])
    mask = torch.tensor([[[1.0, 0.0, 0.0]]])
    p = torch.sigmoid(logits[0, 0])
    bce = -(torch.log(p[0]) + torch.log(1 - p[1]) + torch.log(1 - p[2])) / 3
    dice = 1 - (2 * p[0] + 1) / (p.sum() + 1 + 1)
    expected = -0.7 + 5 * bce + 5 * dice
    cost = matching_cost(prob, logits, torch.tensor([[1]]), mask)
    torch.testing.assert_close(cost, expected.view(1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_cost_keeps_its_digits_under_autocast(dtype):
    """Sure masks of large objects: sums of their logits have more digits than 16 bits hold, and exceed float16."""
    mask = (torch.arange(12544) < 7000).float()[None, None]
    logits = torch.cat([12 * (2 * mask - 1), 12 * (1 - 2 * mask), -12 * torch.ones_like(mask)], dim=1).to(dtype)
    arguments = torch.full((1, 3, 1), 0.5), logits, torch.zeros(1, 1, dtype=torch.int64), mask
    with torch.autocast("cpu", dtype=dtype):
        cost = matching_cost(*arguments)
    exact = matching_cost(*(x.double() if x.is_floating_point() else x for x in arguments))
    torch.testing.assert_close(cost, exact.float(), rtol=1e-4, atol=1e-4)
    assert cost[0].argmin() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cost_keeps_its_digits_where_a_gpu_rounds_factors(dtype):
    torch.manual_seed(0)
    logits = (8 * torch.randn(2, 100, 12544)).to(dtype)
    masks = (torch.rand(2, 16, 12544) < torch.rand(2, 16, 1)).float()
    arguments = torch.rand(2, 100, 5), logits, torch.randint(0, 5, (2, 16)), masks
    on_gpu = [x.cuda() for x in arguments]
    with tensor_float32():
        cost = matching_cost(*on_gpu)
    assert not torch.equal(cost, matching_cost(*on_gpu)), "factors were not rounded"
    exact = matching_cost(*(x.double() if x.is_floating_point() else x for x in arguments))
    torch.testing.assert_close(cost.cpu(), exact.float(), rtol=1e-4, atol=1e-3)


def test_outside_of_training_the_matching_is_not_left_to_chance():
    targets = make_targets([4], size=(8, 8))
    arguments = object_predictions(torch.randn(1, 1, 9, 4), torch.randn(1, 1, 9, 6), torch.randn(1, 6, 8, 8)), targets
    matcher = HungarianMatcher(num_points=2)
    assert len({tuple(matcher(*arguments)[0].tolist()) for _ in range(20)}) > 1, "two points leave much to chance"
    matcher.eval()
    assert len({tuple(matcher(*arguments)[0].tolist()) for _ in range(20)}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_cheapest_of_all(seed):
    rng = np.random.default_rng(seed)
    cost = rng.normal(size=(2, 2, 5, 3))
    counts = [3, 2]
    matched = assign(cost, counts)
    for layer in range(2):
        for image, (start, count) in enumerate([(0, 3), (3, 2)]):
            own = matched[layer, start : start + count]
            assert len(set(own.tolist())) == count, "one query per object"
            total = sum(cost[layer, image, q, o] for o, q in enumerate(own))
            best = min(
                sum(cost[layer, image, q, o] for o, q in enumerate(perm))
                for perm in itertools.permutations(range(5), count)
            )
            assert total == pytest.approx(best)


def test_every_object_is_matched_once_on_every_layer():
    targets = make_targets([3, 0, 5])
    matched = HungarianMatcher(num_points=64)(
        object_predictions(torch.randn(4, 3, 8, 4), torch.randn(4, 3, 8, 6), torch.randn(3, 6, 4, 4)), targets
    )
    assert matched.shape == (4, 8)
    for layer in matched:
        assert len(set(layer[:3].tolist())) == 3 and len(set(layer[3:].tolist())) == 5
        assert (layer >= 0).all()


def test_more_objects_than_queries_leaves_some_unmatched():
    matched = HungarianMatcher(num_points=16)(
        object_predictions(torch.randn(1, 1, 2, 4), torch.randn(1, 1, 2, 6), torch.randn(1, 6, 4, 4)), make_targets([5])
    )
    assert (matched != UNMATCHED).sum() == 2


def test_values_that_are_not_numbers_do_not_break_the_assignment():
    logits = torch.randn(1, 1, 4, 4)
    logits[0, 0, 1] = torch.nan
    embeddings = torch.randn(1, 1, 4, 6)
    embeddings[0, 0, 2] = torch.inf
    matched = HungarianMatcher(num_points=16)(
        object_predictions(logits, embeddings, torch.randn(1, 6, 4, 4)), make_targets([2])
    )
    assert set(matched[0].tolist()) == {0, 3}, "the finite queries win"


def test_finds_the_query_that_predicts_the_object():
    """Masks that are right and classes that are right lead to the identity."""
    targets = make_targets([3], size=(8, 8))
    features = torch.nn.functional.one_hot(torch.arange(64)).float().t().reshape(1, 64, 8, 8)
    embeddings = (targets.masks.flatten(1).float() * 20 - 10)[None, None]
    logits = torch.full((1, 1, 3, 4), -5.0)
    logits[0, 0, torch.arange(3), targets.classes] = 5.0
    order = torch.tensor([2, 0, 1])
    matched = HungarianMatcher(num_points=512)(
        object_predictions(logits[:, :, order], embeddings[:, :, order], features), targets
    )
    assert order[matched[0]].tolist() == [0, 1, 2]


def test_the_fixed_matcher_takes_the_order_of_the_annotation():
    logits, embeddings, features = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 6), torch.randn(3, 6, 4, 4)
    matched = FixedMatcher()(object_predictions(logits, embeddings, features), make_targets([3, 0, 6]))
    assert matched.tolist() == [[0, 1, 2, 0, 1, 2, 3, UNMATCHED, UNMATCHED]] * 2


def test_the_config_chooses_the_matcher():
    assert isinstance(build_matcher(build_cfg()), HungarianMatcher)
    assert isinstance(build_matcher(build_cfg("", ["MODEL.USG.MATCHER.NAME", "fixed"])), FixedMatcher)
    with pytest.raises(ValueError, match="MATCHER.NAME"):
        build_matcher(build_cfg("", ["MODEL.USG.MATCHER.NAME", "greedy"]))
