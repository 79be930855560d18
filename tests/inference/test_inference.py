"""Panoptic merging and ranking of relations on small hand-made cases."""

import torch

from usg_psg.inference import merge_panoptic, rank_relations, triplet_scores

IS_THING = torch.tensor([True, False])


def probabilities(*rows: str) -> torch.Tensor:
    """One mask per string of 0 and 1: probability 0.9 or 0.1, a single row of pixels."""
    return torch.tensor([[[0.9 if c == "1" else 0.1 for c in row]] for row in rows])


def test_the_stronger_query_wins_a_contested_pixel():
    prob = probabilities("11100000", "00111111")
    panoptic, info, ids = merge_panoptic(prob, torch.tensor([0.9, 0.5]), torch.tensor([0, 0]), IS_THING, 0.3, 0.5)
    assert panoptic.tolist() == [[1, 1, 1, 2, 2, 2, 2, 2]]
    assert ids.tolist() == [1, 2] and [s["id"] for s in info] == [1, 2]
    assert info[0] == {"id": 1, "category_id": 0, "isthing": True, "score": info[0]["score"]}


def test_a_query_that_loses_most_of_its_mask_is_left_out():
    prob = probabilities("11110000", "01110000")
    scores = torch.tensor([0.9, 0.5])
    panoptic, info, ids = merge_panoptic(prob, scores, torch.tensor([0, 0]), IS_THING, 0.3, 0.8)
    assert ids.tolist() == [1, 0] and len(info) == 1
    assert panoptic.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_stuff_of_one_class_is_one_segment_and_things_are_not_merged():
    prob = probabilities("11000000", "00110000", "00001100", "00000011")
    classes = torch.tensor([1, 1, 0, 0])
    panoptic, info, ids = merge_panoptic(prob, torch.full((4,), 0.9), classes, IS_THING, 0.3, 0.8)
    assert ids.tolist() == [1, 1, 2, 3]
    assert panoptic.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3]]
    assert [s["category_id"] for s in info] == [1, 0, 0]


def test_nothing_confident_gives_an_empty_map():
    panoptic, info, ids = merge_panoptic(
        probabilities("1100"), torch.tensor([0.1]), torch.tensor([0]), IS_THING, 0.3, 0.8
    )
    assert not panoptic.any() and info == [] and ids.tolist() == [0]


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
