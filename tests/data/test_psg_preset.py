"""The preset "psg": PSG's statistics, everything that is true, and what an annotator writes down of it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from usg_psg.data import PSG_VOCABULARY, get_psg_metadata
from usg_psg.data.psg_shapes import generate_psg_shapes, make_psg_shapes_scene
from usg_psg.data.psg_shapes.actions import EVENTS
from usg_psg.data.psg_shapes.frequencies import COCO_SHAPES, NAME_WEIGHTS, PSG_PREDICATE_COUNTS, WRITTEN_RATES
from usg_psg.data.psg_shapes.place_painter import paint_place
from usg_psg.data.psg_shapes.places import GROUND, PLACES
from usg_psg.data.psg_shapes.psg_layout import PSG_LOOKS, Canvas, Item
from usg_psg.data.psg_shapes.psg_scene import make_psg_scene, salience, written_relations
from usg_psg.data.psg_shapes.scene import Background
from usg_psg.data.psg_shapes.singles import SINGLES, TABLETOPS
from usg_psg.data.psg_shapes.stuff import SURFACES
from usg_psg.data.psg_shapes.truth import SYNONYMS, SceneTruth
from usg_psg.data.validation.check_dataset import check_dataset

HELD_OUT = ("zebra", "snow", "standing on")
NUM_SCENES = 60


@pytest.fixture(scope="module")
def scenes():
    return [make_psg_shapes_scene("psg", (160, 160), 3, "train", i) for i in range(NUM_SCENES)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", 8, 6, (128, 128), "psg", seed=5, hold_out=HELD_OUT)
    return root


def names_of(scene, relations):
    return [(scene.names[s], p, scene.names[o]) for s, o, p in relations]


def test_statistics_are_near_psgs(scenes):
    assert 9 <= np.mean([len(s.names) for s in scenes]) <= 13.5
    assert 4 <= np.mean([len(s.relations) for s in scenes]) <= 7.5
    share = sum(len(s.relations) for s in scenes) / sum(len(s.all_relations) for s in scenes)
    assert 0.22 <= share <= 0.38
    shapes = {(round(h / 4), round(w / 4)) for h, w, _ in COCO_SHAPES}
    assert {s.segments.shape for s in scenes} <= shapes and len({s.segments.shape for s in scenes}) > 4
    counts = Counter(p for s in scenes for *_, p in s.relations)
    assert {"on", "beside", "over"} <= {name for name, _ in counts.most_common(5)}
    things = set(PSG_VOCABULARY.thing_classes)
    for scene in scenes:
        areas = np.bincount(scene.segments.ravel(), minlength=len(scene.names) + 1)
        assert areas[0] == 0 and areas[1:].min() > 0
        stuff = [name for name in scene.names if name not in things]
        assert len(stuff) == len(set(stuff)) and stuff == scene.names[len(scene.names) - len(stuff) :]
        assert set(scene.names) <= set(PSG_VOCABULARY.object_classes)


def test_what_is_written_is_true_under_one_of_its_names(scenes):
    for scene in scenes:
        allowed = {(s, o, name) for s, o, p in scene.all_relations for name in (p, *SYNONYMS.get(p, ()))}
        assert set(scene.relations) <= allowed
        assert all(s != o for s, o, _ in scene.all_relations)
        assert len(set(scene.all_relations)) == len(scene.all_relations)


def test_the_annotator_does_not_change_the_picture():
    first, second = (make_psg_scene(160, np.random.default_rng(1), np.random.default_rng(i)) for i in (1, 2))
    assert (first.image == second.image).all() and first.all_relations == second.all_relations
    assert first.relations != second.relations


def test_an_annotator_has_one_name_for_one_kind_of_relation():
    relations = [(i, 40, p) for i in range(20) for p in ("standing on", "talking to")]
    salient = np.full(41, 9.0)
    used = Counter()
    for seed in range(40):
        written = written_relations(relations, salient, np.random.default_rng(seed))
        names = {p for *_, p in written}
        assert len(written) == 40 and len(names) == 2
        used.update(names)
    assert {"standing on", "on", "talking to"} <= set(used)


def test_salient_relations_are_written_more_often():
    segments = np.full((40, 60), 3)
    segments[12:28, 20:40] = 1  # large, in the middle
    segments[0:3, 0:3] = 2
    salient = salience(segments, np.array([True, True, False]))
    assert salient[0] > 1.5 * salient[1]
    relations = [(0, 2, "on"), (1, 2, "on")]
    counts = Counter(
        s for seed in range(600) for s, *_ in written_relations(relations, salient, np.random.default_rng(seed))
    )
    assert counts[0] > 1.4 * counts[1]


def test_tables_are_complete():
    predicates = set(PSG_VOCABULARY.predicate_classes)
    assert set(PSG_PREDICATE_COUNTS) == set(WRITTEN_RATES) == set(NAME_WEIGHTS) == predicates
    drawn = {p for e in EVENTS for _, p, _ in e.links}
    by_rule = {
        "over",
        "in front of",
        "beside",
        "on",
        "parked on",
        "driving on",
        "walking on",
        "running on",
        "standing on",
        "flying over",
    }
    assert drawn | by_rule == predicates
    looks, stuff = set(PSG_LOOKS), set(SURFACES)
    assert set(PSG_VOCABULARY.thing_classes) <= looks
    assert set(PSG_VOCABULARY.stuff_classes) == stuff
    names = {n for e in EVENTS for part in e.parts for n in part.names}
    names |= {n for singles in SINGLES.values() for single in singles for n in single.names}
    names |= {n for _, held in TABLETOPS.values() for n in held}
    assert names <= looks | stuff and set(PSG_VOCABULARY.thing_classes) <= names | set(TABLETOPS)
    for event in EVENTS:
        assert event.places <= set(PLACES) and event.ground <= GROUND and event.behind <= stuff


@pytest.mark.parametrize("event", EVENTS, ids=[f"{e.predicate}-{i}" for i, e in enumerate(EVENTS)])
def test_every_action_can_be_drawn(event):
    """Each group finds a place in one of its backgrounds, and has its relation there."""
    rng = np.random.default_rng(0)
    for attempt in range(60):
        place = sorted(event.places)[attempt % len(event.places)]
        background = paint_place(place, 96, 128, rng, frozenset())
        canvas = Canvas(background, 40.0 if place != "table" else 120.0, 0.6, frozenset(), 0.0004, rng)
        if canvas.add_event(event):
            break
    else:
        pytest.fail("found no place")
    assert event.predicate in {p for item in canvas.items for _, p, _ in item.links}


def item(x0, y0, x1, y1, name="chair", **options):
    outline = np.zeros((60, 100), dtype=bool)
    outline[y0:y1, x0:x1] = True
    return Item(name, None, outline, ((x0 + x1) / 2, y1), y1, 0, rests="ground", **options)


def truth(*items):
    labels = np.zeros((60, 100), dtype=np.int16)
    labels[20:] = 1
    background = Background(None, labels, ["sky-other-merged", "grass-merged"], 20.0)
    segments = labels.astype(np.int32) + len(items) + 1
    for k in sorted(range(len(items)), key=lambda k: items[k].depth):
        segments[items[k].outline] = k + 1
    return set(SceneTruth(background, list(items), segments, background.names).relations())


def test_rules():
    apart = truth(item(10, 30, 20, 50), item(26, 30, 36, 50), item(80, 30, 90, 50))
    assert apart == {(0, 4, "on"), (1, 4, "on"), (2, 4, "on"), (0, 1, "beside"), (3, 4, "over")}
    hidden = truth(item(10, 30, 30, 50), item(20, 34, 40, 56))
    assert (1, 0, "in front of") in hidden and not any(p == "beside" for *_, p in hidden)
    gazing = truth(item(10, 30, 20, 50, "person", pose="looking", faces=1), item(26, 30, 36, 50, "dog", faces=1))
    assert (0, 1, "looking at") in gazing and (1, 0, "looking at") not in gazing
    assert (0, 3, "standing on") in gazing
    assert (0, 2, "parked on") in truth(item(10, 30, 30, 50, "car"))
    assert (0, 2, "driving on") in truth(item(10, 30, 30, 50, "car", pose="driving"))
    assert (0, 2, "walking on") in truth(item(10, 30, 30, 50, "person", pose="walking"))


def test_files_and_registered_splits(generated, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(generated))
    for name in ("psg", "psg_complete", "psg_seen"):
        file = generated / "psg_shapes" / "psg" / f"{name}.json"
        assert check_dataset(file, generated / "psg_shapes" / "coco", workers=0).num_errors == 0
    sparse, complete = (DatasetCatalog.get(f"psg_shapes_{name}") for name in ("val", "val_complete"))
    assert [d["file_name"] for d in sparse] == [d["file_name"] for d in complete]
    assert sum(len(d["relations"]) for d in sparse) < sum(len(d["relations"]) for d in complete)
    assert get_psg_metadata("psg_shapes_val").object_classes == list(PSG_VOCABULARY.object_classes)


def test_names_held_out(generated, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(generated))
    meta, seen = get_psg_metadata("psg_shapes_train"), get_psg_metadata("psg_shapes_train_seen")
    assert not set(HELD_OUT) & {*seen.object_classes, *seen.predicate_classes}
    assert len(seen.object_classes) == 131 and len(seen.predicate_classes) == 55
    for full, small in zip(*(DatasetCatalog.get(f"psg_shapes_{n}") for n in ("train", "train_seen")), strict=True):
        classes = [meta.object_classes[s["category_id"]] for s in full["segments_info"]]
        assert classes == [seen.object_classes[s["category_id"]] for s in small["segments_info"]]
        assert not set(classes) & set(HELD_OUT)
        rows = [(s, o, meta.predicate_classes[p]) for s, o, p in full["relations"]]
        assert rows == [(s, o, seen.predicate_classes[p]) for s, o, p in small["relations"]]
        assert "standing on" not in {p for *_, p in rows}
    val = DatasetCatalog.get("psg_shapes_val_complete")
    assert any(meta.predicate_classes[p] == "standing on" for d in val for *_, p in d["relations"])


def test_same_files_whatever_the_size_of_the_set(generated, tmp_path):
    generate_psg_shapes(tmp_path / "x", 2, 1, (128, 128), "psg", seed=5, hold_out=HELD_OUT)
    first, second = (
        {r["image_id"]: r for r in json.loads((f / "psg" / "psg_complete.json").read_text())["data"]}
        for f in (generated / "psg_shapes", tmp_path / "x")
    )
    assert len(second) == 3 and all(first[i] == record for i, record in second.items())
    for path in (tmp_path / "x" / "coco").rglob("*.*"):
        assert path.read_bytes() == (generated / "psg_shapes" / path.relative_to(tmp_path / "x")).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (100, 100)}, "size: preset psg needs a longer side of at least 128"),
        ({"hold_out": ("unicorn",)}, "hold_out: 'unicorn' is neither"),
        ({"preset": "easy", "hold_out": ("car",)}, "hold_out: only the preset psg"),
        ({"hold_out": PSG_VOCABULARY.stuff_classes}, "hold_out: no place is left"),
    ],
)
def test_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        generate_psg_shapes(tmp_path / "x", 1, 0, **{"size": (128, 128), "preset": "psg", **change})
