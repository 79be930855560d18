"""Object and relation criteria: normalisation, layers, targets of pairs and predicates."""

import math

import pytest
import torch

from mask2former_ops import sample_logits
from usg_psg.losses import LossWeights, ObjectCriterion, RelationCriterion, predicate_targets
from usg_psg.losses.object_criterion import by_layer, matched_mask_logits
from usg_psg.losses.points import mask_points, sample_labels
from usg_psg.structures import PairProposals, RelationPredictions, SceneGraphTargets, SegmentMasks

from ..tiny import loss_counts, object_predictions
from .test_matcher import make_targets


def with_relations(targets, rows):
    targets.relations = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
    return targets


def test_labels_at_points_are_those_of_the_pixels_they_fall_into():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1, 4] = True
    points = torch.tensor([[[4.5 / 6, 1.5 / 4], [4.01 / 6, 1.99 / 4], [3.99 / 6, 1.5 / 4], [1.0, 1.0]]])
    assert sample_labels(mask, points).tolist() == [[True, True, False, False]]


def test_maps_and_labels_share_one_frame():
    """A map that equals the mask, sampled at pixel centres, gives the mask's own values."""
    mask = torch.rand(2, 5, 7) > 0.5
    y, x = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    points = torch.stack([(x + 0.5) / 7, (y + 0.5) / 5], dim=-1).reshape(1, -1, 2).expand(2, -1, -1)
    values = sample_logits(mask.float(), points)
    torch.testing.assert_close(values, sample_labels(mask, points).float(), atol=1e-5, rtol=0)


def test_mask_points_gather_where_the_mask_changes():
    logits = torch.linspace(-10, 10, 32).expand(1, 32, 32)  # changes sign at x = 0.5
    points = mask_points(logits, 400, 3.0, 1.0)
    assert points.shape == (1, 400, 2)
    assert (points[..., 0] - 0.5).abs().max() < 0.25, "a third of the candidates nearest to the change"
    uniform = mask_points(logits, 400, 3.0, 0.0)
    assert (uniform[..., 0] - 0.5).abs().max() > 0.4


def test_object_losses_of_a_perfect_prediction_are_small_and_named_by_layer():
    targets = make_targets([3], size=(8, 8))
    features = torch.nn.functional.one_hot(torch.arange(64)).float().t().reshape(1, 64, 8, 8)
    embeddings = (targets.masks.flatten(1).float() * 40 - 20)[None, None].expand(2, -1, -1, -1)
    logits = torch.full((2, 1, 3, 4), -20.0)
    logits[:, 0, torch.arange(3), targets.classes] = 20.0
    matched = torch.arange(3).expand(2, -1)
    criterion = ObjectCriterion(num_points=256, importance_ratio=0.0)
    losses = by_layer(criterion(object_predictions(logits, embeddings, features), targets, matched, loss_counts(3.0)))
    assert set(losses) == {f"loss_{n}{s}" for n in ("class", "mask", "dice") for s in ("", "_0")}
    assert losses["loss_class"] < 1e-6
    wrong = by_layer(criterion(object_predictions(logits, -embeddings, features), targets, matched, loss_counts(3.0)))
    assert losses["loss_dice"] < 0.3 and wrong["loss_dice"] > 0.6
    assert losses["loss_mask"] < 0.3 * wrong["loss_mask"]


def test_unmatched_queries_get_the_no_object_weight_and_the_sum_is_per_object():
    targets = make_targets([2], num_classes=3)
    logits = torch.zeros(1, 1, 5, 3)
    losses = ObjectCriterion(no_object_weight=0.1, num_points=4)(
        object_predictions(logits, torch.zeros(1, 1, 5, 2), torch.zeros(1, 2, 4, 4)),
        targets,
        torch.tensor([[4, 1]]),
        loss_counts(2.0),
    )
    expected = math.log(2) * 3 * (2 + 0.1 * 3) / 2
    assert losses["loss_class"].item() == pytest.approx(expected, rel=1e-6)


def test_no_objects_still_gives_a_differentiable_loss():
    targets = make_targets([0, 0])
    embeddings = torch.randn(2, 2, 3, 4, requires_grad=True)
    losses = ObjectCriterion(num_points=4)(
        object_predictions(torch.zeros(2, 2, 3, 4), embeddings, torch.randn(2, 4, 8, 8)),
        targets,
        torch.empty(2, 0, dtype=torch.int64),
        loss_counts(0.0, annotated_images=0.0),
    )
    sum(losses.values()).sum().backward()
    assert losses["loss_mask"].tolist() == [0, 0] and embeddings.grad.abs().sum() == 0


def test_predicate_targets_of_duplicates_and_multi_label_pairs():
    targets = make_targets([2, 3])  # flat objects 0, 1 | 2, 3, 4
    rows = [[0, 0, 1, 5], [0, 0, 1, 5], [0, 0, 1, 7], [1, 4, 2, 0], [1, 2, 3, 1]]
    with_relations(targets, rows)
    matched = torch.tensor([3, 1, 0, -1, 2])  # object 3 is unmatched
    labels = predicate_targets(matched, targets, num_queries=4, num_predicates=8)
    assert labels.nonzero().tolist() == [[0, 3, 1, 5], [0, 3, 1, 7], [1, 2, 0, 0]]


def test_relation_losses_count_pairs_once_and_compare_selected_pairs():
    targets = with_relations(make_targets([3]), [[0, 0, 1, 0], [0, 0, 1, 1], [0, 2, 0, 1]])
    labels = predicate_targets(torch.tensor([0, 1, 2]), targets, 3, 2)
    proposals = PairProposals(torch.zeros(1, 3, 3), torch.tensor([[0, 1]]), torch.tensor([[1, 0]]))
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.0]]])
    losses = RelationCriterion(pair_pos_weight=5.0)(
        RelationPredictions(proposals, logits), labels, loss_counts(pairs=2.0)
    )
    two_pairs = 2
    assert losses["loss_pair"].item() == pytest.approx(math.log(2) * (2 * 5 + 4) / two_pairs)
    expected = sum(
        math.log1p(math.exp(x))
        for x in (-2.0, 1.0, 0.5, 0.0)  # both predicates of (0, 1) are true, none of (1, 0)
    )
    assert losses["loss_predicate"].item() == pytest.approx(expected / two_pairs, rel=1e-6)


def test_a_loss_without_weight_is_an_error():
    weights = LossWeights({"loss_class": 2.0})
    one = torch.tensor(1.0)
    assert weights.apply({"loss_class": one, "loss_class_11": one}) == {"loss_class": 2.0, "loss_class_11": 2.0}
    with pytest.raises(KeyError, match="loss_clas'"):
        weights.apply({"loss_clas": one})


def test_targets_are_laid_flat_over_images():
    from detectron2.structures import Instances

    def objects(n, h, w):
        instances = Instances((h, w))
        instances.gt_classes = torch.arange(n)
        instances.gt_masks = torch.ones(n, h, w, dtype=torch.bool)
        return instances

    relations = [torch.tensor([[0, 1, 9]]), torch.zeros((0, 3), dtype=torch.int64), torch.tensor([[1, 0, 2]])]
    targets = SceneGraphTargets.from_instances(
        [objects(2, 3, 4), objects(0, 4, 4), objects(2, 4, 2)], relations, (4, 6), torch.device("cpu")
    )
    assert targets.counts == [2, 0, 2]
    assert targets.image_index.tolist() == [0, 0, 2, 2]
    assert targets.relations.tolist() == [[0, 0, 1, 9], [2, 3, 2, 2]]
    assert targets.masks.flatten(1).sum(1).tolist() == [12, 12, 8, 8]
    assert not targets.masks[0, 3].any() and not targets.masks[2, :, 2:].any(), "padding is at the bottom and right"


@pytest.mark.parametrize("segments", [5, 300])
def test_label_maps_are_the_same_targets_as_bool_masks(segments):
    from detectron2.structures import Instances

    def instances(size, few):
        label_map = torch.randint(0, few + 1, (1, *size)).to(torch.uint8 if few < 256 else torch.int32)
        number = torch.randperm(few)[: few - 1] + 1
        return Instances(size, gt_classes=torch.arange(few - 1), gt_masks=SegmentMasks(label_map, number))

    images = [instances((24, 30), 5), instances((32, 20), segments), instances((8, 8), 1)]
    plain = [Instances(x.image_size, gt_classes=x.gt_classes, gt_masks=x.gt_masks.tensor) for x in images]
    of_maps, of_masks, mixed = (
        SceneGraphTargets.from_instances(x, None, (32, 32), torch.device("cpu"))
        for x in (images, plain, [images[0], *plain[1:]])
    )
    assert isinstance(of_maps.masks, SegmentMasks) and of_maps.masks.shape == of_masks.masks.shape
    assert of_maps.masks.maps.dtype == images[1].gt_masks.maps.dtype
    assert torch.equal(of_maps.masks.tensor, of_masks.masks) and torch.equal(mixed.masks, of_masks.masks)
    points = torch.rand(len(of_masks.classes), 50, 2)
    assert torch.equal(sample_labels(of_maps.masks, points), sample_labels(of_masks.masks, points))
    some = torch.tensor([2, 0])
    assert torch.equal(images[0].gt_masks[some].tensor, plain[0].gt_masks[some])
    assert torch.equal(images[0].gt_masks[3].tensor, plain[0].gt_masks[3:4])


def test_logits_of_matched_queries_in_batches_of_uneven_images():
    targets = make_targets([2, 0, 9])
    embeddings, features = torch.randn(3, 3, 12, 6), torch.randn(3, 6, 4, 5)
    matched = torch.randint(0, 12, (3, 11))
    logits = matched_mask_logits(embeddings, features, targets, matched)
    assert logits.shape == (3, 11, 4, 5)
    for layer in range(3):
        for number, image in enumerate(targets.image_index.tolist()):
            expected = torch.einsum("d,dhw->hw", embeddings[layer, image, matched[layer, number]], features[image])
            torch.testing.assert_close(logits[layer, number], expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_matched_logits_are_those_of_all_and_laid_out_as_the_features(layout):
    targets = make_targets([2, 0, 9])
    embeddings = torch.randn(3, 3, 12, 6, requires_grad=True)
    features = torch.randn(3, 6, 4, 5).to(memory_format=layout).requires_grad_()
    matched = torch.randint(0, 12, (3, 11))
    weights = torch.randn(3, 11, 4, 5)
    found = torch.autograd.grad(
        (matched_mask_logits(embeddings, features, targets, matched) * weights).sum(), (embeddings, features)
    )
    every = torch.einsum("lbqd,bdhw->lbqhw", embeddings, features)
    chosen = every[torch.arange(3)[:, None], targets.image_index, matched]
    expected = torch.autograd.grad((chosen * weights).sum(), (embeddings, features))
    torch.testing.assert_close(found, expected)
    assert found[1].is_contiguous(memory_format=layout)


def test_unmatched_objects_have_no_class_target():
    targets = make_targets([3], num_classes=2)
    logits = torch.zeros(1, 1, 2, 2)
    losses = ObjectCriterion(no_object_weight=0.5, num_points=4)(
        object_predictions(logits, torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 4, 4)),
        targets,
        torch.tensor([[1, -1, -1]]),
        loss_counts(1.0),
    )
    assert losses["loss_class"].item() == pytest.approx(math.log(2) * 2 * (1 + 0.5))
    assert losses["loss_mask"].item() == pytest.approx(math.log(2)), "only the matched one counts"
