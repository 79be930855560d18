"""Names in the page's picture: inside it, apart, on their objects, at every size."""

import numpy as np
import pytest

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph, SceneRelation
from usg_psg.visualization.geometry import shared_area
from usg_psg.visualization.overlay import owner_map
from usg_psg.visualization.page_labels import MOST, SIDES, page_labels

from .scenes import blobs, stripes


@pytest.mark.parametrize("seed", range(3))
def test_labels_stand_on_their_objects_or_have_a_line_to_them(seed):
    """Never on another object without saying so, which a rule by columns of the mask did."""
    graph = blobs(np.random.default_rng(seed), 240, 320, 12)
    owner = owner_map(graph)
    for tags in page_labels(graph):
        scale = tags["side"] / 320
        boxes = []
        for index, place in enumerate(tags["places"]):
            if not (owner == index + 1).any():
                assert place is None
                continue
            x, y, *label = place
            assert owner[min(239, int(y / scale)), min(319, int(x / scale))] == index + 1 or scale < 1
            if not label:
                continue
            left, top, width, height, *line = label
            boxes.append([left, top, left + width, top + height])
            rows, columns = (
                (np.arange(a, b) / scale).astype(int) for a, b in ((top, top + height), (left, left + width))
            )
            on_it = (owner[rows.clip(0, 239)][:, columns.clip(0, 319)] == index + 1).mean()
            assert line or on_it > 0.5
        boxes = np.array(boxes)
        assert len(boxes) > 2 and (boxes >= 0).all() and (boxes[:, 2:] <= np.array([1, 0.75]) * tags["side"] + 1).all()
        assert (shared_area(boxes, boxes)[~np.eye(len(boxes), dtype=bool)] == 0).all()


def test_an_object_that_a_small_picture_would_lose_keeps_its_point():
    graph = stripes(900, 1200, count=2)
    mask = np.zeros((900, 1200), bool)
    mask[430:432, 610:612] = True
    graph.objects[1].mask = encode_mask(mask)
    for tags in page_labels(graph):
        x, y = tags["places"][1][:2]
        assert abs(x - 611 * tags["side"] / 1200) <= 2 and abs(y - 431 * tags["side"] / 1200) <= 2


def test_related_objects_choose_first_and_there_is_an_end(monkeypatch):
    graph = blobs(np.random.default_rng(0), 300, 400, 150)
    areas = [int(thing.mask_array().sum()) for thing in graph.objects]
    small = sorted((n for n, area in enumerate(areas) if area > 50), key=areas.__getitem__)[:2]
    related = SceneGraph(300, 400, graph.objects, [SceneRelation(*small, "on", 0, 0.5)])
    named = [sum(len(place or ()) > 2 for place in tags["places"]) for tags in page_labels(related)]
    assert max(named) <= MOST
    monkeypatch.setattr("usg_psg.visualization.page_labels.MOST", 2)
    tags = page_labels(related)[-1]
    assert [n for n, place in enumerate(tags["places"]) if len(place or ()) > 2] == sorted(small)


def test_names_leave_most_of_the_image_open():
    graph = blobs(np.random.default_rng(3), 480, 640, 60)
    for tags in page_labels(graph):
        labels = [place[2:] for place in tags["places"] if len(place or ()) > 2]
        assert sum(label[2] * label[3] for label in labels) <= 0.31 * 0.75 * tags["side"] ** 2
    few, *_, many = (sum(len(place or ()) > 2 for place in tags["places"]) for tags in page_labels(graph))
    assert 0 < few < many


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (20, 1500), (1500, 20)])
def test_pictures_that_are_too_thin_for_names(size):
    found = page_labels(stripes(*size, count=1))
    assert [tags["side"] for tags in found] == list(SIDES)
    assert min(size) == max(size) or all(len(tags["places"][0]) == 2 for tags in found)
    assert page_labels(SceneGraph(*size, [], []))[0]["places"] == []
