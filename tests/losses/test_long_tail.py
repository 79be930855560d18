"""Logit adjustment and class-balanced weights against numbers worked by hand."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F

from usg_psg.losses import RelationCriterion, effective_number_weights, log_relative_share
from usg_psg.losses.long_tail import balance_weights_of_names, log_share_of_names
from usg_psg.structures import PairProposals, RelationPredictions, TextEmbeddings
from usg_psg.training_counts import TrainingCounts

from ..tiny import loss_counts

COUNTS = (6, 3, 0, 1)
COUNTED = TrainingCounts(("on", "in", "over", "riding"), COUNTS, COUNTS, 10)


def embeddings(predicates: tuple[str, ...]) -> TextEmbeddings:
    return TextEmbeddings(torch.ones(1, 2), torch.ones(len(predicates), 2), [True], predicates)


def test_log_relative_share_of_three_seen_predicates():
    # shares 0.6, 0.3, 0.1 of three predicates that occur
    expected = [math.log(1.8), math.log(0.9), 0.0, math.log(0.3)]
    torch.testing.assert_close(log_relative_share(COUNTS), torch.tensor(expected))
    assert log_relative_share((5, 5, 5)).tolist() == [0, 0, 0], "nothing to adjust where all are alike"
    assert log_relative_share((0, 0)).tolist() == [0, 0]


def test_effective_number_weights_with_beta_one_half():
    # 1 / E_n: n = 1: 1, n = 3: 1 / 1.75, n = 6: 1 / 1.96875
    inverse = [1 / 1.96875, 1 / 1.75, None, 1.0]
    scale = 10 / (6 * inverse[0] + 3 * inverse[1] + 1)
    expected = [inverse[0] * scale, inverse[1] * scale, 1.0, scale]
    weights = effective_number_weights(COUNTS, 0.5)
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert (weights * torch.tensor(COUNTS)).sum().item() == pytest.approx(10)
    assert effective_number_weights(COUNTS, 0.0).tolist() == [1, 1, 1, 1]
    ratio = effective_number_weights(COUNTS, 0.999999)
    assert (ratio[3] / ratio[0]).item() == pytest.approx(6, rel=1e-4), "beta towards 1: inverse frequency"


def case():
    """Two selected pairs of three queries: (0, 1) with predicates 0 and 3, (1, 0) with none."""
    labels = torch.zeros(1, 3, 3, 4, dtype=torch.bool)
    labels[0, 0, 1, [0, 3]] = True
    proposals = PairProposals(torch.zeros(1, 3, 3), torch.tensor([[0, 1]]), torch.tensor([[1, 0]]))
    logits = torch.tensor([[[2.0, -1.0, 0.5, -3.0], [0.0, 1.0, -2.0, 0.3]]])
    return proposals, logits, labels, loss_counts(pairs=1)


def test_the_adjusted_loss_is_the_loss_of_adjusted_logits():
    proposals, logits, labels, count = case()
    criterion = RelationCriterion(logit_adjustment=2.0)
    criterion.set_training_counts(COUNTED, embeddings(COUNTED.names))
    adjusted = criterion(RelationPredictions(proposals, logits), labels, count)
    offset = 2 * torch.tensor([math.log(1.8), math.log(0.9), 0.0, math.log(0.3)])
    plain = RelationCriterion()(RelationPredictions(proposals, logits + offset), labels, count)
    torch.testing.assert_close(adjusted["loss_predicate"], plain["loss_predicate"])
    assert adjusted["loss_pair"] == plain["loss_pair"]


def test_both_adjustments_have_the_same_optimum():
    """The optimum of the adjusted loss is the log odds minus the offset, which is what subtracting it later gives."""
    share = log_relative_share((90, 10))
    target = torch.tensor([0.3, 0.05])
    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def step():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits + share, target)
        loss.backward()
        return loss

    optimizer.step(step)
    torch.testing.assert_close(logits.detach(), target.logit() - share, atol=1e-3, rtol=0)
    assert logits[1] > logits[0], "the rare predicate overtakes the frequent one, which is six times as probable"


def test_a_related_pair_has_the_mean_weight_of_its_predicates():
    proposals, logits, labels, count = case()
    criterion = RelationCriterion(balance_beta=0.5)
    criterion.predicate_weight = torch.tensor([0.5, 7.0, 7.0, 2.0])
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0] * 4])
    each = F.binary_cross_entropy_with_logits(logits[0], targets, reduction="none").sum(dim=1)
    expected = 1.25 * each[0] + each[1]
    torch.testing.assert_close(
        criterion(RelationPredictions(proposals, logits), labels, count)["loss_predicate"], expected
    )


@pytest.mark.parametrize("options", [{"logit_adjustment": 1.0}, {"balance_beta": 0.9}])
def test_options_without_counts_are_refused(options):
    with pytest.raises(ValueError, match="predicate counts"):
        RelationCriterion(**options)(RelationPredictions(*case()[:2]), *case()[2:])


def test_values_out_of_range():
    with pytest.raises(ValueError, match="logit_adjustment: expected 0 or more"):
        RelationCriterion(logit_adjustment=-1.0)
    with pytest.raises(ValueError, match="balance_beta"):
        RelationCriterion(balance_beta=1.0)


def test_other_vocabularies_take_what_they_share(caplog):
    frequency = TrainingCounts(("on", "over", "riding", "beside"), COUNTS, COUNTS, 10)
    with caplog.at_level(logging.WARNING):
        share = log_share_of_names(frequency, ("beside", "juggling", "on"), 3)
        weight = balance_weights_of_names(frequency, 0.5, ("beside", "juggling", "on"), 3)
    torch.testing.assert_close(share, torch.tensor([math.log(0.3), 0.0, math.log(1.8)]))
    assert weight[1] == 1 and weight[0] > weight[2]
    assert "1 of 3 predicates" in caplog.text and "juggling" in caplog.text
    caplog.clear()
    RelationCriterion().set_training_counts(frequency, embeddings(("juggling",)))
    assert not caplog.text, "nothing uses the counts"
