"""Queries of given objects: what they are made of, what they see, and that they leave the learned queries alone."""

import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from usg_psg.modeling import mask_pilot
from usg_psg.modeling.mask_pilot import MaskPilot, pixels_inside
from usg_psg.structures import PixelDecoderOutput, SceneGraphTargets

from ..losses.test_matcher import make_targets
from ..tiny import OBJECTS, tiny_input, tiny_model

SIZES = [(2, 3), (4, 6), (8, 12)]


def given_inputs(counts):
    """Inputs of PredCls: objects with masks that do not overlap."""
    inputs = [tiny_input(n) for n in counts]
    for x in inputs:
        (h, w), count = x["image"].shape[1:], len(x["instances"])
        owner = torch.randint(0, max(count, 1), (h // 8, w // 8)).repeat_interleave(8, 0).repeat_interleave(8, 1)
        x["instances"].gt_masks = x["original_masks"] = owner == torch.arange(count)[:, None, None]
    return inputs


def test_a_pixel_is_inside_if_half_of_it_is_covered_or_no_other_more():
    coverage = torch.tensor([[0.5, 0.4, 1.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.0]])
    assert pixels_inside(coverage).tolist() == [[True, False, True], [False, True, False], [True, True, True]]


def test_queries_stand_in_the_order_of_the_objects_and_look_where_their_masks_are():
    pilot = MaskPilot(32, 64).eval()
    targets = make_targets([2, 0, 1], size=(64, 96))
    targets.masks[:] = False
    targets.masks[0, :, :48] = True  # the left half
    targets.masks[1, 40, 90] = True  # one pixel
    targets.masks[2, 32:] = True  # the lower half
    text = torch.nn.functional.normalize(torch.randn(4, 64), dim=1)
    given = pilot(targets, text, SIZES, num_queries=100)
    assert given.present.nonzero().tolist() == [[0, 0], [0, 1], [2, 0]]
    assert given.features.shape == given.positions.shape == (3, 16, 32)
    assert given.features.var(-1, unbiased=False).allclose(torch.ones(3, 16), atol=1e-2), "as learned ones at the start"
    for inside, (h, w) in zip(given.inside, SIZES, strict=True):
        masks = inside.unflatten(-1, (h, w))
        assert masks[2, 0].nonzero()[:, 0].unique().tolist() == list(range(h // 2, h))
        if w % 2 == 0:
            assert masks[0, 0].all(0).tolist() == [True] * (w // 2) + [False] * (w // 2)
        assert masks[0, 1].nonzero().tolist() == [[40 * h // 64, 90 * w // 96]]
        assert masks[1].all() and masks[2, 1:].all(), "empty places look everywhere"
    again = pilot(targets, text.roll(1, 0), SIZES, 100)
    assert torch.equal(again.positions, given.positions) and not torch.equal(again.features, given.features)
    assert pilot(targets, text, SIZES, num_queries=16).present.shape == (3, 32)


def test_noise_belongs_to_training():
    torch.manual_seed(0)
    targets = make_targets([400], size=(64, 96), num_classes=4)
    targets.masks[:] = False
    targets.masks[:, :, :48] = True
    pilot, text = MaskPilot(32, 64, mask_noise=0.4, class_noise=0.5), torch.randn(4, 64)
    pure, noisy = (pilot.train(training)(targets, text, SIZES, 100) for training in (False, True))
    place = targets.image_index, targets.slot
    inside, seen = (x.inside[-1][place].unflatten(1, SIZES[-1]) for x in (pure, noisy))
    left, joined = (1 - seen[inside].float().mean()).item(), seen[~inside].float().mean().item()
    assert left == pytest.approx(0.2, abs=0.02) and joined == pytest.approx(0.2, abs=0.02), (
        "half of the most, on average"
    )
    assert seen.flatten(1).any(1).all()
    changed = (pure.features[place] != noisy.features[place]).any(1).float().mean().item()
    assert changed == pytest.approx(0.5 * 3 / 4, abs=0.1)


@torch.no_grad()
def test_a_query_sees_nothing_outside_its_mask():
    model = tiny_model(pilot_noise=0.2).eval()
    targets = make_targets([1], size=(64, 96))
    targets.masks[0], targets.masks[0, :32, :32] = False, True
    levels = [torch.randn(1, 32, *size) for size in SIZES]
    decoded = []
    for outside in (0.0, 5.0):
        changed = [level + outside for level in levels]
        for level, old in zip(changed, levels, strict=True):
            h, w = level.shape[2] // 2, level.shape[3] // 3
            level[:, :, :h, :w] = old[:, :, :h, :w]
        features = PixelDecoderOutput(torch.randn(1, 32, 16, 24), changed)
        decoded.append(model.decode_given(targets, features)[1].queries[:, :, 0])
    torch.testing.assert_close(*decoded)
    assert decoded[0].shape == (3, 1, 32), "one prediction after each layer"


def test_learned_queries_are_trained_as_without_a_pilot():
    torch.manual_seed(0)
    piloted, plain = tiny_model(num_points=0, pilot_noise=0.2), tiny_model(num_points=0)
    extra = plain.load_state_dict(piloted.state_dict(), strict=False)
    assert not extra.missing_keys and all(key.startswith("mask_pilot.") for key in extra.unexpected_keys)
    batch = [tiny_input(3), tiny_input(0)]
    losses, expected = piloted.train()(batch), plain.train()(batch)
    given = {name.removesuffix("_given") for name in losses if name.endswith("_given")}
    assert {name: losses[name] for name in expected} == expected
    assert given == expected.keys() - {"loss_class_2", "loss_mask_2", "loss_dice_2"}, "none before the first layer"


def test_losses_of_given_queries_have_factors():
    torch.manual_seed(0)
    model = tiny_model(num_points=0, pilot_noise=0.0).train()
    batch = [tiny_input(3)]
    before = model(batch)
    model.mask_pilot.object_weight, model.mask_pilot.relation_weight = 0.5, 0.0
    after = model(batch)
    assert after["loss_class_given"].item() == pytest.approx(0.5 * before["loss_class_given"].item())
    assert before["loss_pair_given"] > 0 and after["loss_pair_given"] == 0 == after["loss_predicate_given"]


@torch.no_grad()
def test_every_given_object_is_related_also_with_more_of_them_than_learned_queries():
    model = tiny_model(num_pairs=100, pilot_noise=0.2, predcls_queries="given").eval()
    inputs = given_inputs((14, 0, 1, 3))
    for x, result in zip(inputs, model(inputs), strict=True):
        count = len(x["instances"])
        assert torch.equal(result["instances"].pred_classes, x["instances"].gt_classes)
        assert torch.equal(result["instances"].pred_masks, x["original_masks"])
        assert len(result["pairs"]["score"]) == min(count * (count - 1), 100)
        assert len(set(result["pairs"]["subject"].tolist())) == (count if count > 1 else 0)


@torch.no_grad()
def test_relations_of_given_objects_depend_on_nothing_but_them(monkeypatch):
    """Not on the order in which they are given, other images of the batch, or the number of empty places."""
    torch.manual_seed(0)
    model = tiny_model(num_pairs=100, pilot_noise=0.2, predcls_queries="given").eval()
    inputs = given_inputs((4, 6))

    def scores(result):
        rows = torch.stack([result["relations"][name] for name in ("subject", "object", "predicate")], 1)
        return dict(zip(map(tuple, rows.tolist()), result["relations"]["score"].tolist(), strict=True))

    expected = scores(model(inputs)[0])
    assert scores(model(inputs[:1])[0]) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(mask_pilot, "SLOTS", {"cpu": 40})
    assert scores(model(inputs[:1])[0]) == pytest.approx(expected, rel=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    own = inputs[0]["instances"]
    turned = Instances(own.image_size, gt_classes=own.gt_classes[order], gt_masks=own.gt_masks[order])
    found = scores(model([{**inputs[0], "instances": turned, "original_masks": own.gt_masks[order]}])[0])
    place = order.tolist()
    assert {(place[s], place[o], p): v for (s, o, p), v in found.items()} == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_masks_may_overlap():
    model = tiny_model(num_pairs=100, pilot_noise=0.2, predcls_queries="given").eval()
    (inputs,) = given_inputs((2,))
    inputs["instances"].gt_masks = inputs["original_masks"] = torch.ones(2, 64, 96, dtype=torch.bool)
    result = model([inputs])[0]
    assert len(result["pairs"]["score"]) == 2
    assert set(result["panoptic_seg"][0].unique().tolist()) == {2}, "the last one owns the pixels"


def test_a_choice_that_needs_a_pilot_is_refused_without_one():
    with pytest.raises(ValueError, match="'given' needs a mask_pilot"):
        tiny_model(predcls_queries="given")
    with pytest.raises(ValueError, match="mask_noise: expected a number from 0 to 1, got 2"):
        MaskPilot(32, 64, mask_noise=2)


def test_parts_that_do_not_take_given_objects_are_refused():
    class Head(nn.Module):
        def propose(self, queries, priority=None):
            pass

    with pytest.raises(ValueError, match=r"Identity has no forward_given, Head\.propose has no argument present"):
        mask_pilot.check_parts(nn.Identity(), Head())


def test_classes_are_those_of_the_vocabulary_in_use():
    model = tiny_model(pilot_noise=0.0)
    targets = SceneGraphTargets.from_instances([tiny_input(3)["instances"]], None, (64, 96), torch.device("cpu"))
    targets.classes[:] = torch.arange(len(OBJECTS))
    pyramid = [torch.randn(1, 32, *size) for size in SIZES]
    given, _ = model.decode_given(targets, PixelDecoderOutput(torch.randn(1, 32, 16, 24), pyramid))
    expected = model.mask_pilot.norm(model.mask_pilot.projection(model.object_text))
    torch.testing.assert_close(given.features[0, :3], expected)
