"""What each term of the loss is divided by: `LOSS.REDUCTION`, steps without annotations, several processes."""

import math

import pytest
import torch
from detectron2.utils import comm

from usg_psg.config import build_cfg
from usg_psg.config.checks import value_problems
from usg_psg.losses import ObjectCriterion, RelationCriterion, loss_normalizers
from usg_psg.losses.functional import sigmoid_class_loss, weighted_pair_loss
from usg_psg.structures import PairProposals, RelationPredictions

from ..tiny import loss_counts, object_predictions, tiny_input, tiny_model
from .test_matcher import make_targets

QUERIES, CLASSES, PREDICATES, PAIRS = 4, 5, 3, 6


def bce(logit: float, target: bool) -> float:
    return math.log1p(math.exp(-logit if target else logit))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def object_case(objects):
    """Random predictions of one layer for images with that many objects, of which at most QUERIES are matched."""
    torch.manual_seed(0)
    targets = make_targets(objects, size=(4, 4), num_classes=CLASSES)
    matched = torch.tensor(
        [[slot if slot < QUERIES else -1 for count in objects for slot in range(count)]], dtype=torch.int64
    )
    logits = torch.randn(1, len(objects), QUERIES, CLASSES)
    return logits, torch.randn(1, len(objects), QUERIES, 8), torch.randn(len(objects), 8, 4, 4), targets, matched


def relation_case(batch=2):
    """Random predictions of pairs and predicates, and labels with a few pairs."""
    torch.manual_seed(1)
    labels = torch.zeros(batch, QUERIES, QUERIES, PREDICATES, dtype=torch.bool)
    labels[0, 0, 1, 2] = labels[0, 0, 1, 0] = labels[1, 3, 2, 1] = True
    subject, object_ = torch.tensor([[0, 0, 1, 3, 3, 2], [3, 0, 1, 2, 3, 2]]), torch.tensor([[1, 2, 0, 1, 2, 0]] * 2)
    proposals = PairProposals(torch.randn(batch, QUERIES, QUERIES), subject, object_)
    return proposals, torch.randn(batch, PAIRS, PREDICATES), labels


def test_mean_object_losses_are_means_over_queries_and_classes_and_over_matched_masks():
    objects, no_object = [2, 0, QUERIES + 1], 0.05
    logits, embeddings, features, targets, matched = object_case(objects)
    criterion = ObjectCriterion(no_object, num_points=0, reduction="mean")
    losses = criterion(object_predictions(logits, embeddings, features), targets, matched, loss_counts(7, 0, 3, 2))
    per_image = {"loss_class": [], "loss_mask": [], "loss_dice": []}
    for image, number in enumerate(objects):
        first, pairs = sum(objects[:image]), min(number, QUERIES)
        rows = []
        for query in range(QUERIES):
            true = targets.classes[first + query].item() if query < pairs else -1
            row = [bce(x, c == true) for c, x in enumerate(logits[0, image, query].tolist())]
            rows.append((1.0 if query < pairs else no_object, mean(row)))
        per_image["loss_class"].append(sum(w * x for w, x in rows) / sum(w for w, _ in rows))
        if not number:
            continue
        masks, dice = [], []
        for query in range(pairs):
            x = torch.einsum("d,dhw->hw", embeddings[0, image, query], features[image]).flatten().tolist()
            t = targets.masks[first + query].flatten().tolist()
            masks.append(mean(map(bce, x, t)))
            p = [1 / (1 + math.exp(-each)) for each in x]
            dice.append(1 - (2 * sum(a * b for a, b in zip(p, t, strict=True)) + 1) / (sum(p) + sum(t) + 1))
        per_image["loss_mask"].append(mean(masks))
        per_image["loss_dice"].append(mean(dice))
    for name, values in per_image.items():
        assert losses[name].item() == pytest.approx(mean(values), rel=1e-5), name


@pytest.mark.parametrize("pos_weight", [5.0, 0.0])
def test_mean_relation_losses_are_means_over_pairs_of_queries_and_over_predicates(pos_weight):
    proposals, logits, labels = relation_case()
    losses = RelationCriterion(pos_weight, reduction="mean")(
        RelationPredictions(proposals, logits), labels, loss_counts(9, 2, 2)
    )
    related = labels.any(-1)
    pairs = 2 * QUERIES * (QUERIES - 1)
    positive_weight = pos_weight or (pairs - 2) / 2
    terms = [
        bce(proposals.pair_logits[b, i, j].item(), bool(related[b, i, j]))
        * (positive_weight if related[b, i, j] else 1.0)
        for b in range(2)
        for i in range(QUERIES)
        for j in range(QUERIES)
        if i != j
    ]
    assert len(terms) == pairs and losses["loss_pair"].item() == pytest.approx(mean(terms), rel=1e-5)
    terms = [
        bce(logits[b, k, p].item(), bool(labels[b, proposals.subject_index[b, k], proposals.object_index[b, k], p]))
        for b in range(2)
        for k in range(PAIRS)
        for p in range(PREDICATES)
    ]
    assert losses["loss_predicate"].item() == pytest.approx(mean(terms), rel=1e-5)


def test_mean_losses_do_not_depend_on_the_numbers_of_objects_and_pairs():
    """All logits 0: every binary cross-entropy is log 2, and so is every mean of them."""
    for objects in ([1, 1], [QUERIES, 3]):
        targets = make_targets(objects, size=(4, 4), num_classes=CLASSES)
        matched = torch.cat([torch.arange(count) for count in objects])[None]
        zeros = torch.zeros(1, 2, QUERIES, CLASSES), torch.zeros(1, 2, QUERIES, 8), torch.zeros(2, 8, 4, 4)
        criterion = ObjectCriterion(num_points=0, reduction="mean")
        losses = criterion(object_predictions(*zeros), targets, matched, loss_counts(sum(objects), 0, 2, 2))
        assert [losses[x].item() for x in ("loss_class", "loss_mask")] == pytest.approx([math.log(2)] * 2)
    proposals, logits, labels = relation_case()
    proposals = PairProposals(0 * proposals.pair_logits, proposals.subject_index, proposals.object_index)
    losses = RelationCriterion(1.0, reduction="mean")(
        RelationPredictions(proposals, 0 * logits), labels, loss_counts(0, 2, 2)
    )
    assert [x.item() for x in losses.values()] == pytest.approx([math.log(2)] * 2)


def test_per_target_losses_of_annotated_steps_are_sums_over_counts_to_the_last_bit():
    logits, embeddings, features, targets, matched = object_case([2, 0, 3])
    losses = ObjectCriterion(1.0, num_points=0)(
        object_predictions(logits, embeddings, features), targets, matched, loss_counts(5, 0, 3, 2)
    )
    labels = torch.zeros_like(logits[0])
    labels[targets.image_index, matched[0], targets.classes] = 1
    assert torch.equal(losses["loss_class"][0], sigmoid_class_loss(logits[0], labels).sum() / 5)
    proposals, logits, labels = relation_case()
    losses = RelationCriterion()(RelationPredictions(proposals, logits), labels, loss_counts(0, 3, 2))
    assert torch.equal(losses["loss_pair"], weighted_pair_loss(proposals.pair_logits, labels.any(-1).float(), 5.0) / 3)


@pytest.mark.parametrize("reduction", ["per_target", "mean"])
def test_a_step_without_relations_or_objects_weighs_no_more_than_one_with_them(reduction):
    torch.manual_seed(0)
    cfg = build_cfg(opts=["MODEL.USG.LOSS.REDUCTION", reduction])
    assert cfg.MODEL.USG.LOSS.REDUCTION == reduction
    model = tiny_model()
    model.criterion.object_criterion.reduction = model.criterion.relation_criterion.reduction = reduction
    every_pair = [(s, o, 0) for s in range(3) for o in range(3) if s != o]
    related, unrelated, empty = tiny_input(relations=every_pair), tiny_input(relations=()), tiny_input(num_objects=0)
    for other in (unrelated, empty):
        other["image"] = related["image"]
    with torch.no_grad():
        torch.manual_seed(0)
        usual, lonely, bare = (model([x]) for x in (related, unrelated, empty))
    assert lonely["loss_pair"] < usual["loss_pair"] and bare["loss_pair"] < usual["loss_pair"]
    assert lonely["loss_predicate"] <= usual["loss_predicate"]
    assert bare["loss_class"] < usual["loss_class"] and bare["loss_mask"] == bare["loss_dice"] == 0
    assert all(loss > 0 for name, loss in bare.items() if name.startswith(("loss_class", "loss_pair", "loss_pred")))


@pytest.mark.parametrize("reduction", ["per_target", "mean"])
@pytest.mark.parametrize("samples", [((3, 1), (2, 0)), ((0, 0), (2, 1)), ((0, 0), (0, 0))])
def test_parts_of_a_step_add_up_to_the_whole(reduction, samples, monkeypatch):
    """Two processes whose gradients are averaged, or two accumulated batches, against all images in one batch."""
    inputs = [tiny_input(objects, relations=[(0, 1, 0)][:pairs]) for objects, pairs in samples]
    logits, embeddings, features, targets, matched = object_case([objects for objects, _ in samples])
    criterion = ObjectCriterion(num_points=0, reduction=reduction)
    whole = criterion(
        object_predictions(logits, embeddings, features),
        targets,
        matched,
        loss_normalizers([inputs], torch.device("cpu")).result(),
    )

    def halves(normalizers):
        for image, (objects, _) in enumerate(samples):
            chosen = targets.image_index == image
            part = make_targets([objects], size=(4, 4), num_classes=CLASSES)
            part.classes, part.masks = targets.classes[chosen], targets.masks[chosen]
            one = slice(image, image + 1)
            predicted = object_predictions(logits[:, one], embeddings[:, one], features[one])
            yield criterion(predicted, part, matched[:, chosen], normalizers)

    accumulated = list(halves(loss_normalizers([[x] for x in inputs], torch.device("cpu")).result()))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    other = loss_counts_of(inputs[1:], monkeypatch)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total, async_op: Added(total, other))
    averaged = list(halves(loss_normalizers([inputs[:1]], torch.device("cpu")).result()))
    for name, value in whole.items():
        torch.testing.assert_close(sum(x[name] for x in accumulated), value)
        torch.testing.assert_close(sum(x[name] for x in averaged) / 2, value)


class Added:
    """An exchange that is over when it is waited for."""

    def __init__(self, total, other):
        self.wait = lambda: total.add_(other)


def loss_counts_of(inputs, monkeypatch):
    """(4,) counts of another process."""
    with monkeypatch.context() as alone:
        alone.setattr(comm, "get_world_size", lambda: 1)
        return torch.stack(loss_normalizers([inputs], torch.device("cpu")).result())


def test_the_released_recipe_takes_means_and_other_reductions_are_refused():
    assert build_cfg("psg/usg_par_released.yaml").MODEL.USG.LOSS.REDUCTION == "mean"
    wrong = build_cfg(opts=["MODEL.USG.LOSS.REDUCTION", "sum"])
    assert any("LOSS.REDUCTION: expected 'per_target', 'mean', got 'sum'" in x for x in value_problems(wrong))
    for criterion in (ObjectCriterion, RelationCriterion):
        with pytest.raises(ValueError, match="reduction: expected"):
            criterion(reduction="sum")
