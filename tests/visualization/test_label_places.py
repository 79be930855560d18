"""Places for labels in crowds: off others of their kind, lines apart."""

import numpy as np

from usg_psg.visualization.label_places import Place, place_labels, tangled


def crowd() -> np.ndarray:
    """A large object in the middle and small ones close to its left side."""
    owner = np.zeros((200, 300), np.int32)
    owner[20:180, 110:200] = 1
    for n in range(4):
        owner[40 + 35 * n : 46 + 35 * n, 100:106] = n + 2
    return owner


def covered(owner: np.ndarray, place: Place, index: int) -> float:
    left, top, right, bottom = (int(v) for v in place.box)
    return float((owner[top:bottom, left:right] == index + 1).mean())


def test_a_label_keeps_off_a_larger_object_of_its_kind():
    owner, sizes = crowd(), [(60, 16)] * 5
    places = place_labels(owner, sizes, kinds=[0] * 5)
    assert [covered(owner, place, 0) for place in places[1:]] == [0.0] * 4
    assert covered(owner, places[0], 0) == 1.0 and places[0].leader is None
    assert all(2.5 < place.reach < 3.5 for place in places[1:]), "the dots of small objects follow from it"


def test_a_line_avoids_the_middle_of_other_objects():
    owner = np.zeros((60, 300), np.int32)
    for n in range(3):
        owner[26:34, 100 + 30 * n : 108 + 30 * n] = n + 1
    assert not tangled(place_labels(owner, [(70, 14)] * 3))


def test_lines_that_cross_or_run_under_a_label_are_counted():
    one = Place((0, 0, 10, 10), (50, 50), (10, 10))
    across = Place((0, 50, 10, 60), (50, 0), (10, 50))
    assert tangled([one, across]) == 2
    assert tangled([one, Place((20, 20, 40, 40), (30, 30), None), None]) == 1
    assert tangled([one, Place((80, 80, 90, 90), (85, 85), None)]) == 0
    assert tangled([]) == 0
