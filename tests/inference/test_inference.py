"""Panoptic merging and ranking of relations on small hand-made cases."""

import pytest
import torch

from usg_psg.inference import assign_pixels, mask_areas, panoptic_inference, rank_relations, triplet_scores

IS_THING = torch.tensor([True, False])


def probabilities(*rows: str) -> torch.Tensor:
    """One mask per string of 0 and 1: probability 0.9 or 0.1, a single row of pixels."""
    return torch.tensor([[[0.9 if c == "1" else 0.1 for c in row]] for row in rows])


def merge(prob: torch.Tensor, scores, classes, object_threshold: float, overlap_threshold: float, some: int = 100):
    """Panoptic map of masks that are looked at `some` at a time."""
    scores, classes = torch.as_tensor(scores), torch.as_tensor(classes)
    candidates = (scores >= object_threshold).nonzero()[:, 0]
    masks, owner = assign_pixels(prob.logit().split(some), scores, candidates)
    area = mask_areas(masks)
    return panoptic_inference(owner, area, candidates, scores, classes, IS_THING, overlap_threshold)


def test_the_stronger_query_wins_a_contested_pixel():
    prob = probabilities("11100000", "00111111")
    panoptic, info, ids = merge(prob, [0.9, 0.5], [0, 0], 0.3, 0.5)
    assert panoptic.tolist() == [[1, 1, 1, 2, 2, 2, 2, 2]]
    assert ids.tolist() == [1, 2] and [s["id"] for s in info] == [1, 2]
    assert info[0] == {"id": 1, "category_id": 0, "isthing": True, "score": info[0]["score"]}


def test_a_query_that_loses_most_of_its_mask_is_left_out():
    prob = probabilities("11110000", "01110000")
    panoptic, info, ids = merge(prob, [0.9, 0.5], [0, 0], 0.3, 0.8)
    assert ids.tolist() == [1, 0] and len(info) == 1
    assert panoptic.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_stuff_of_one_class_is_one_segment_and_things_are_not_merged():
    prob = probabilities("11000000", "00110000", "00001100", "00000011")
    panoptic, info, ids = merge(prob, [0.9] * 4, [1, 1, 0, 0], 0.3, 0.8)
    assert ids.tolist() == [1, 1, 2, 3]
    assert panoptic.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3]]
    assert [s["category_id"] for s in info] == [1, 0, 0]


def test_nothing_confident_gives_an_empty_map():
    panoptic, info, ids = merge(probabilities("1100"), [0.1], [0], 0.3, 0.8)
    assert not panoptic.any() and info == [] and ids.tolist() == [0]


def test_an_unsure_query_owns_nothing_however_probable_its_mask():
    panoptic, _, ids = merge(probabilities("1100", "1110"), [0.2, 0.4], [0, 0], 0.3, 0.5)
    assert panoptic.tolist() == [[1, 1, 1, 0]] and ids.tolist() == [0, 1]


@pytest.mark.parametrize("some", [1, 3, 7])
def test_looking_at_some_masks_at_a_time_gives_what_all_at_once_give(some):
    prob, scores, classes = torch.rand(10, 6, 5), torch.rand(10), torch.randint(0, 2, (10,))
    panoptic, info, ids = merge(prob, scores, classes, 0.3, 0.1)
    assert len(info) > 1
    again, info_again, ids_again = merge(prob, scores, classes, 0.3, 0.1, some)
    assert torch.equal(panoptic, again) and info == info_again and torch.equal(ids, ids_again)


def test_score_is_the_product():
    scores = triplet_scores(torch.tensor([0.5]), torch.tensor([0.4]), torch.tensor([0.1]), torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(scores, torch.tensor([[0.02, 0.01]]))


def test_one_list_holds_both_rankings():
    scores = torch.rand(30, 6)
    per_image = 10
    pair, predicate, score = rank_relations(scores, per_image)
    assert (score.diff() <= 0).all() and len(set(zip(pair.tolist(), predicate.tolist(), strict=True))) == len(pair)
    flat = scores.flatten().sort(descending=True)
    assert torch.equal(score[:per_image], flat.values[:per_image]), "without graph constraint"
    seen, constrained = set(), []
    for p, q in zip(pair.tolist(), predicate.tolist(), strict=True):
        if p not in seen:
            seen.add(p)
            constrained.append((p, q))
    best = scores.max(dim=1)
    order = best.values.argsort(descending=True)[:per_image].tolist()
    assert constrained[:per_image] == [(p, best.indices[p].item()) for p in order], "with graph constraint"


def test_ranking_of_nothing_and_of_little():
    pair, predicate, score = rank_relations(torch.zeros(0, 6), 10)
    assert len(pair) == len(predicate) == len(score) == 0
    assert len(rank_relations(torch.rand(1, 2), 10)[0]) == 2
