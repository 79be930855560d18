"""Panoptic merging and ranking of relations on small hand-made cases."""

import numpy as np
import pytest
import torch

from usg_psg.inference import (
    assign_pixels,
    number_segments,
    panoptic_map,
    rank_relations,
    segments_info,
    triplet_scores,
)

IS_THING = torch.tensor([True, False])


def probabilities(*rows: str) -> torch.Tensor:
    """One mask per string of 0 and 1: probability 0.9 or 0.1, a single row of pixels."""
    return torch.tensor([[[0.9 if c == "1" else 0.1 for c in row]] for row in rows])


@pytest.fixture(params=[True, False], ids=["cpu", "as on a gpu"], autouse=True)
def at_hand(request, monkeypatch):
    """With shortcuts that need to know values, and without."""
    monkeypatch.setattr("usg_psg.inference.panoptic.is_at_hand", lambda _: request.param)


def merge(prob: torch.Tensor, scores, classes, object_threshold: float, overlap_threshold: float, some: int = 100):
    """Panoptic map of masks that are looked at `some` at a time, its segments, and the segment of each mask."""
    scores, classes = torch.as_tensor(scores), torch.as_tensor(classes)
    is_candidate = scores >= object_threshold
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("usg_psg.inference.panoptic.CPU_MASK_PIXELS", "mask2former_ops.reference.MASK_PIXELS"):
            patch.setattr(limit, some * prob[0].numel())
        sizes = (prob.shape[1:],) * 3
        _, owner, area, kept_area = assign_pixels(prob.logit(), scores, is_candidate, sizes)
    is_thing = IS_THING[classes]
    ids = number_segments(kept_area, area, is_candidate, classes, is_thing, overlap_threshold)
    info = segments_info(
        np.stack([np.ones(len(scores)), *(x.double().numpy() for x in (classes, is_thing, scores, ids))])
    )
    return panoptic_map(owner, ids), info, ids


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


def test_a_merged_segment_has_the_best_score():
    _, info, ids = merge(probabilities("1100", "0011"), torch.tensor([0.5, 0.75]), [1, 1], 0.3, 0.8)
    assert ids.tolist() == [1, 1] and info == [{"id": 1, "category_id": 1, "isthing": False, "score": 0.75}]


def test_segments_are_numbered_one_query_after_the_other():
    """Against the rule in a loop, on masks that leave out some queries and merge others."""
    shared = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        owner, classes = (torch.randint(0, n, s, generator=generator) for n, s in ((12, (9, 9)), (5, (12,))))
        area, keep = torch.randint(1, 20, (12,), generator=generator), torch.rand(12, generator=generator) > 0.3
        things, expected, stuff, last = torch.tensor([True, False, False, True, False]), [], {}, 0
        for query, category in enumerate(classes.tolist()):
            kept = int((owner == query).sum())
            number = 0
            if keep[query] and kept and kept >= 0.5 * area[query]:
                number = stuff.get(category, last + 1)
                last = max(last, number)
                if not things[category]:
                    stuff[category] = number
            expected.append(number)
        shared += max(expected) < sum(map(bool, expected))
        kept_area = owner.flatten().bincount(minlength=12)
        assert number_segments(kept_area, area, keep, classes, things[classes], 0.5).tolist() == expected
    assert shared > 5, "seeds in which several share a segment"


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


def ranked(scores: torch.Tensor, per_image: int):
    """`rank_relations`, without the rows that stand for nothing."""
    found = rank_relations(scores, per_image)
    return [x[found[2] >= 0] for x in found]


def test_one_list_holds_both_rankings():
    scores = torch.rand(30, 6)
    per_image = 10
    pair, predicate, score = ranked(scores, per_image)
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
    pair, predicate, score = ranked(torch.zeros(0, 6), 10)
    assert len(pair) == len(predicate) == len(score) == 0
    assert len(ranked(torch.rand(1, 2), 10)[0]) == 2


def test_what_is_no_relation_comes_last_and_changes_nothing():
    scores, valid = torch.rand(30, 6), torch.arange(30) % 3 > 0
    for per_image in (5, 40, 1000):
        marked = rank_relations(scores.masked_fill(~valid[:, None], -1), per_image)
        assert len(marked[2]) == min(per_image, 180) + min(per_image, 30), "a size that depends on no value"
        count = int((marked[2] >= 0).sum())
        assert (marked[2][count:] == -1).all()
        pair, predicate, score = ranked(scores[valid], per_image)
        expected = valid.nonzero()[:, 0][pair], predicate, score
        for one, other in zip(marked, expected, strict=True):
            assert torch.equal(one[:count], other)


def test_images_of_a_batch_have_what_each_has_alone():
    scores = torch.rand(3, 30, 6)
    kept_area, classes, is_candidate = (
        torch.randint(0, 9, (3, 12)),
        torch.randint(0, 3, (3, 12)),
        torch.rand(3, 12) < 0.8,
    )
    of_batch = kept_area, kept_area + 2, is_candidate, classes, classes > 1
    numbers = number_segments(*of_batch, 0.5)
    assert numbers.max() > 3
    for i, ranking in enumerate(zip(*rank_relations(scores, 10), strict=True)):
        assert torch.equal(numbers[i], number_segments(*(x[i] for x in of_batch), 0.5))
        for one, other in zip(ranking, rank_relations(scores[i], 10), strict=True):
            assert torch.equal(one, other)
