"""Boxes and segments: cases worked by hand, and areas counted on a grid."""

import numpy as np

from usg_psg.visualization.geometry import boxes_around, crossings, length_inside, shared_area


def test_boxes_around():
    assert boxes_around(np.array([[1.0, 2.0]]), np.array([[4.0, 2.0]])).tolist() == [[-1, 1, 3, 3]]


def test_shared_area_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 15, (12, 2))], axis=1).astype(float)
    area = shared_area(boxes, boxes)
    filled = np.zeros((12, 40, 40), bool)
    for n, (x0, y0, x1, y1) in enumerate(boxes.astype(int)):
        filled[n, y0:y1, x0:x1] = True
    assert (area == (filled[:, None] & filled[None]).sum(axis=(2, 3))).all()
    apart = np.array([[0.0, 0, 1, 1]]), np.array([[2.0, 0, 3, 1]])
    assert shared_area(*apart, gap=1).item() == 0 and shared_area(*apart, gap=2).item() > 0


def test_length_inside():
    box = np.array([[0.0, 0, 10, 10]])
    segments = np.array(
        [[-5, 5, 15, 5], [5, 5, 5, 20], [-5, 12, 15, 12], [0, 0, 10, 10], [4, 4, 4, 4], [-2, -4, -2, 20]], dtype=float
    )
    assert np.allclose(length_inside(segments, box)[:, 0], [10, 5, 0, np.hypot(10, 10), 0, 0])


def test_crossings():
    a = np.array([[0.0, 0, 10, 10], [0, 0, 4, 4]])
    b = np.array([[0.0, 10, 10, 0], [0, 0, 10, 0], [20, 0, 30, 5]])
    assert crossings(a, b).tolist() == [[True, False, False], [False, False, False]]
    assert (crossings(a, b) == crossings(b, a).T).all()
