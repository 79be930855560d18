"""Videos: objects keep their id through motion, occlusion and wrong classes; relations become intervals."""

import json

import numpy as np
import pytest

from usg_psg.masks import encode_masks
from usg_psg.scene_graph import SceneGraph
from usg_psg.tracking import Tracker, track_objects
from usg_psg.vocabulary import Vocabulary

NAMES = Vocabulary(("person", "dog"), ("sky-other-merged",), ("on", "beside"))
SIZE = (60, 120)


def frame(*objects, relations=(), scores=None, sky=True):
    """A graph of squares (category, x, y) of 20 pixels, earlier ones in front, and of the sky behind them."""
    free, labels, masks = np.ones(SIZE, bool), [], []
    for category, x, y in objects:
        mask = np.zeros(SIZE, bool)
        mask[y : y + 20, max(0, x) : x + 20] = True
        masks.append(mask & free)
        labels.append(category)
        free &= ~mask
    if sky:
        masks.append(free)
        labels.append(2)
    rles = encode_masks(np.array(masks)) if masks else []
    return SceneGraph.from_rows(SIZE, labels, rles, relations, NAMES, relation_scores=scores)


def ids(video, name):
    return [obj.id for obj in video.objects if obj.name == name]


def test_two_that_pass_keep_their_ids():
    """One walks to the right, the other to the left, behind the first; the list of objects turns around on the way."""
    graphs = []
    for n in range(21):
        walkers = [(0, 4 * n, 10), (0, 90 - 4 * n, 20)]
        graphs.append(frame(*(walkers if n < 12 else walkers[::-1])))
    video = track_objects(graphs)
    assert ids(video, "person") == [1, 2] and len(video.objects) == 3
    assert [f.objects[:2] for f in video.frames] == [[1, 2]] * 12 + [[2, 1]] * 9


def test_an_object_is_found_again_where_it_must_have_gone():
    """It moves on while nobody sees it: its last mask and the new one share nothing."""
    seen = [frame((0, 4 * n, 10)) if n < 5 or n > 12 else frame() for n in range(16)]
    (person,) = [obj for obj in track_objects(seen).objects if obj.name == "person"]
    assert (person.first, person.last, person.frames) == (0, 15, 8)
    lost = track_objects(seen, max_lost=7)
    assert ids(lost, "person") == [1, 3], "eight frames are too many"
    assert ids(track_objects(seen, max_lost=8), "person") == [1]


def test_what_moves_with_the_camera_keeps_its_id():
    """A small object moves by more than its size; a large one tells how the camera moves."""
    masks = np.zeros((4, 2, *SIZE), bool)
    for n in range(4):
        masks[n, 0, 10:50, 10 + 8 * n : 60 + 8 * n] = True
        masks[n, 1, 2:6, 70 + 8 * n : 74 + 8 * n] = True
    graphs = [SceneGraph.from_rows(SIZE, [0, 1], encode_masks(m), [], NAMES) for m in masks]
    assert [f.objects for f in track_objects(graphs).frames] == [[1, 2]] * 4
    alone = [SceneGraph.from_rows(SIZE, [1], encode_masks(m[1:]), [], NAMES) for m in masks]
    assert [f.objects for f in track_objects(alone).frames] == [[1], [2], [3], [4]]


def test_a_wrong_class_for_a_frame_changes_no_identity():
    video = track_objects([frame((1 if n == 3 else 0, 5 + n, 10)) for n in range(8)])
    assert [(o.id, o.name, o.label, o.frames) for o in video.objects] == [
        (1, "person", "person 1", 8), (2, "sky-other-merged", "sky 2", 8)
    ]  # fmt: skip


def test_other_classes_and_things_in_place_of_stuff_are_other_objects():
    video = track_objects([frame((0, 0, 10)), frame((1, 9, 10)), frame((1, 9, 10), sky=False)])
    assert [(o.name, o.frames) for o in video.objects] == [("person", 1), ("sky-other-merged", 2), ("dog", 2)]
    full = [np.ones((1, *SIZE), bool), np.ones((1, *SIZE), bool)]
    graphs = [SceneGraph.from_rows(SIZE, [c], encode_masks(m), [], NAMES) for c, m in zip((2, 0), full, strict=True)]
    assert len(track_objects(graphs).objects) == 2


def test_stuff_is_the_same_wherever_it_is():
    masks = np.zeros((2, *SIZE), bool)
    masks[0, :10], masks[1, 40:] = True, True
    graphs = [SceneGraph.from_rows(SIZE, [2], encode_masks(mask[None]), [], NAMES) for mask in masks]
    assert len(track_objects([graphs[0], *[frame(sky=False)] * 40, graphs[1]]).objects) == 1


def test_relations_become_intervals_over_short_gaps():
    held = {0, 1, 3, 4, 12, 13}
    graphs = [
        frame(
            (0, 5, 10),
            (1, 60, 10),
            relations=[(0, 1, 1), (0, 1, 0)] if n in held else [],
            scores=[0.8, 0.1][: 2 * (n in held)],
        )
        for n in range(15)
    ]
    video = track_objects(graphs, max_gap=2)
    found = [(r.subject, r.object, r.predicate, r.first, r.last, r.frames) for r in video.relations]
    assert found == [
        (1, 2, "beside", 0, 4, 4), (1, 2, "beside", 12, 13, 2), (1, 2, "on", 0, 4, 4), (1, 2, "on", 12, 13, 2)
    ]  # fmt: skip
    assert [round(r.score, 3) for r in video.relations] == [0.64, 0.8, 0.08, 0.1], "a missing frame counts as 0"
    assert len(track_objects(graphs, max_gap=7).relations) == 2
    assert len(track_objects(graphs, max_gap=0).relations) == 6


def test_frames_get_labels_that_stay_and_numbers_of_the_video():
    tracker = Tracker()
    first = tracker.add(frame((0, 5, 10)), 0, 0.0)
    second = tracker.add(frame((1, 80, 10), (0, 8, 10)), 10, 0.4)
    assert [o.label for o in first.objects] == ["person 1", "sky 2"]
    assert [o.label for o in second.objects] == ["dog 3", "person 1", "sky 2"]
    with pytest.raises(ValueError, match="frame 10: expected a number above 10"):
        tracker.add(frame(), 10)
    with pytest.raises(ValueError, match="frame 11: expected 60x120, as before, got 6x8"):
        tracker.add(SceneGraph(6, 8, [], []), 11)
    data = json.loads(tracker.graph().to_json())
    assert data["frames"] == [
        {"number": 0, "seconds": 0.0, "objects": [1, 2]}, {"number": 10, "seconds": 0.4, "objects": [3, 1, 2]}
    ]  # fmt: skip
    assert data["objects"][0] == {
        "id": 1, "label": "person 1", "name": "person", "category_id": 0, "isthing": True, "score": 1.0, "first": 0,
        "last": 10, "frames": 2,
    }  # fmt: skip


def test_empty_videos_frames_and_masks():
    assert json.loads(track_objects([]).to_json())["frames"] == []
    nothing = SceneGraph(*SIZE, [], [])
    hidden = frame((0, 5, 10), (1, 5, 10))  # the dog has no pixel
    video = track_objects([nothing, hidden, hidden, nothing])
    assert [f.objects for f in video.frames][::3] == [[], []] and ids(video, "person") == [1]


def test_masks_of_large_frames_are_compared_scaled_down_and_tiny_ones_stay():
    size = (1000, 2000)
    masks = np.zeros((2, *size), bool)
    masks[0, 400:402, 700:703], masks[1, :300, :300] = True, True
    graph = SceneGraph.from_rows(size, [0, 1], encode_masks(masks), [], NAMES)
    assert [f.objects for f in track_objects([graph, graph]).frames] == [[1, 2], [1, 2]]


@pytest.mark.parametrize("options", [{"min_iou": 0.0}, {"max_lost": -1}, {"max_gap": -1}])
def test_settings_out_of_range(options):
    with pytest.raises(ValueError, match="tracking: expected"):
        Tracker(**options)
