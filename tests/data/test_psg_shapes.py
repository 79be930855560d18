"""Generated scenes: reproducible, in PSG's layout, and annotated with what can be seen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from usg_psg.data import PSG_VOCABULARY, decode_panoptic_png, get_psg_metadata, load_psg_json, read_psg_json
from usg_psg.data.psg_mapper import PSGDatasetMapper
from usg_psg.data.psg_shapes import VOCABULARIES, generate_psg_shapes, make_psg_shapes_scene, read_settings
from usg_psg.data.psg_shapes.easy_scene import GAP, GROUND, MIN_AREA, NUM_THINGS
from usg_psg.data.validation.check_dataset import check_dataset
from usg_psg.images import read_image

from ..programs import run

SIZE = (144, 192)
TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_synthetic_psg.py"


def files(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".jpg", ".png")
    }


NAMES = VOCABULARIES["easy"]


@pytest.fixture(scope="module")
def scenes():
    return [make_psg_shapes_scene("easy", (240, 320), 3, "train", i) for i in range(40)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", 6, 3, SIZE, "easy", seed=5)
    return root


def test_layout_on_disk(generated, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(generated))
    file = read_psg_json(generated / "psg_shapes" / "psg" / "psg.json")
    assert check_dataset(file.path, generated / "psg_shapes" / "coco", workers=0).num_errors == 0
    assert file.vocabulary == NAMES
    train, val = DatasetCatalog.get("psg_shapes_train"), DatasetCatalog.get("psg_shapes_val")
    assert (len(train), len(val)) == (6, 3)
    assert get_psg_metadata("psg_shapes_val").predicate_classes == list(NAMES.predicate_classes)
    assert all("/train2017/" in d["file_name"] for d in train) and all("/val2017/" in d["file_name"] for d in val)
    mapper = PSGDatasetMapper(is_train=True, augmentations=[])
    for dataset_dict in train + val:
        sample = mapper(dataset_dict)  # also compares the PNG's ids with the file
        masks = sample["instances"].gt_masks.tensor
        assert masks.shape[1:] == SIZE and (masks.sum(0) == 1).all()
        assert masks.flatten(1).sum(1).tolist() == [s["area"] for s in dataset_dict["segments_info"]]
        for mask, segment in zip(masks.numpy(), dataset_dict["segments_info"], strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert segment["bbox"] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_same_seed_same_files_whatever_the_size_of_the_set(generated, tmp_path):
    cv2.GaussianBlur(np.zeros((512, 512, 3), np.uint8), (0, 0), 3)  # starts threads that processes must not inherit
    generate_psg_shapes(tmp_path / "a", 4, 5, SIZE, "easy", seed=5, num_workers=2)
    first, second = files(generated / "psg_shapes" / "coco"), files(tmp_path / "a" / "coco")
    common = set(first) & set(second)
    assert len(common) == 2 * (4 + 3)
    assert all(first[name] == second[name] for name in common)
    generate_psg_shapes(tmp_path / "b", 1, 0, SIZE, "easy", seed=6)
    ((name, other),) = [x for x in files(tmp_path / "b" / "coco").items() if x[0].endswith(".jpg")]
    assert other != first[name]
    paths = [f / "psg" / "psg.json" for f in (generated / "psg_shapes", tmp_path / "a")]
    records = [{x["image_id"]: x for x in json.loads(p.read_text())["data"]} for p in paths]
    assert all(records[0][i] == records[1][i] for i in set(records[0]) & set(records[1]))


def test_vocabularies_are_subsets_in_psg_order(scenes):
    for key in ("thing_classes", "stuff_classes", "predicate_classes"):
        chosen, everything = getattr(NAMES, key), getattr(PSG_VOCABULARY, key)
        assert chosen == tuple(name for name in everything if name in chosen)
    names = {name for scene in scenes for name in scene.names}
    predicates = {p for scene in scenes for _, _, p in scene.relations}
    assert names == set(NAMES.object_classes)
    assert predicates == set(NAMES.predicate_classes)


def test_statistics(scenes):
    per_image = [len(scene.relations) for scene in scenes]
    assert 4 <= np.mean(per_image) <= 10
    things = set(NAMES.thing_classes)
    for scene in scenes:
        num_things = sum(name in things for name in scene.names)
        assert NUM_THINGS[0] <= num_things <= NUM_THINGS[1]
        areas = np.bincount(scene.segments.ravel(), minlength=len(scene.names) + 1)
        assert areas[0] == 0 and areas[1:].min() >= MIN_AREA * scene.segments.size
        stuff = [name for name in scene.names if name not in things]
        assert len(stuff) == len(set(stuff))
        assert len(set(scene.relations)) == len(scene.relations)
        assert all(s != o for s, o, _ in scene.relations)
    counts = Counter(p for scene in scenes for _, _, p in scene.relations)
    assert max(counts.values()) >= 5 * min(counts.values())
    pairs = Counter((i, s, o) for i, scene in enumerate(scenes) for s, o, _ in scene.relations)
    assert max(pairs.values()) == 1


def box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_relations_follow_from_the_masks(scenes):
    """Re-derive some rules from the finished segments alone."""
    checked = Counter()
    for scene in scenes:
        masks = [scene.segments == i + 1 for i in range(len(scene.names))]
        boxes = [box(m) for m in masks]
        height, width = scene.segments.shape
        for subject, object_, predicate in scene.relations:
            s, o = boxes[subject], boxes[object_]
            if predicate == "beside":
                assert s[0] + s[2] <= o[0] + o[2]
                assert (o[0] - s[2]) / width <= GAP[0]
            elif predicate == "flying over":
                x, y = (s[0] + s[2]) // 2, s[3]
                below = {scene.names[i - 1] for i in np.unique(scene.segments[y:, x])}
                assert scene.names[object_] in below & set(GROUND)
            elif predicate in ("standing on", "parked on", "driving on") and scene.names[object_] in GROUND:
                band = scene.segments[max(0, s[3] - 2) : s[3] + 4, s[0] : s[2]]
                things = {i + 1 for i, n in enumerate(scene.names) if n in NAMES.thing_classes}
                covered = set(np.unique(band).tolist()) - things
                # A nearer thing, or the picture's edge, may hide what is under the feet.
                assert object_ + 1 in covered or s[3] >= height - 1 or things & set(np.unique(band).tolist())
            elif predicate == "over" and scene.names[subject] == "sky-other-merged":
                assert s[1] == 0 and s[1] < o[1] and o[3] > s[3] - 1
            elif predicate == "in front of":
                around = cv2.dilate(masks[subject].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
                assert (around & masks[object_]).any()
                assert s[3] >= o[3] - 0.03 * height or o[3] >= height - 1
            elif predicate == "driving on":
                assert scene.names[object_] == "road"
            else:
                continue
            checked[predicate] += 1
    wanted = {"beside", "flying over", "standing on", "over", "in front of"}
    assert wanted <= set(checked), checked


def test_every_grounded_thing_has_a_support(scenes):
    for scene in scenes:
        related = {s for s, _, _ in scene.relations}
        for i, name in enumerate(scene.names):
            if name in NAMES.thing_classes:
                assert i in related, (name, scene.relations)


def test_image_shows_the_segments(scenes):
    """A segment's own colours differ from its neighbours': edges of the picture lie where the segments meet."""
    on_edge, inside = [], []
    for scene in scenes[:10]:
        gray = scene.image.astype(float).mean(-1)
        step = np.abs(np.diff(gray, axis=1))
        border = np.diff(scene.segments, axis=1) != 0
        on_edge.append(step[border].mean())
        inside.append(step[~border].mean())
    assert np.mean(on_edge) > 2 * np.mean(inside)


def test_refuses_to_touch_what_it_did_not_make(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="was not made by this generator"):
            generate_psg_shapes(mine, 1, 0, SIZE, overwrite=overwrite)
    assert (mine / "photo.jpg").read_bytes() == b"precious"


def test_repeated_changed_and_interrupted_runs(tmp_path):
    root = tmp_path / "s"
    path = generate_psg_shapes(root, 2, 1, SIZE, seed=1)
    changed = path.stat().st_mtime_ns
    assert generate_psg_shapes(root, 2, 1, SIZE, seed=1) == path
    assert path.stat().st_mtime_ns == changed
    with pytest.raises(ValueError, match="holds other scenes"):
        generate_psg_shapes(root, 1, 1, SIZE, seed=1)
    generate_psg_shapes(root, 1, 1, SIZE, seed=1, overwrite=True)
    assert len(files(root)) == 4

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_psg_shapes(root, 2, 2, SIZE, seed=1, overwrite=True, progress=stop)
    assert not path.exists() and not read_settings(root).complete
    generate_psg_shapes(root, 2, 1, SIZE, seed=1)
    assert len(load_psg_json(path, root / "coco", "trainval")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "medium"}, "preset: expected one of easy, psg"),
        ({"num_train": -1}, "num_train"),
        ({"size": (32, 200)}, "size: .*at least 64"),
        ({"seed": -1}, "seed"),
        ({"num_workers": -1}, "num_workers"),
    ],
)
def test_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        generate_psg_shapes(**{"output_dir": tmp_path / "x", "num_train": 1, "num_val": 1, "size": SIZE, **change})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [(512, 512), (300, 200), (128, 320)])
def test_other_sizes(size):
    scene = make_psg_shapes_scene("easy", size, 0, "val", 0)
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.segments.shape == size


@pytest.mark.slow
def test_program(tmp_path):
    command = ["tools/make_synthetic_psg.py", "--output", str(tmp_path / "x"), "--num-train", "2", "--num-val", "1"]
    done = run(*command, "--size", "96")
    assert done.returncode == 0, done.stderr
    (entry,) = load_psg_json(tmp_path / "x/psg/psg.json", tmp_path / "x/coco", "test")
    assert read_image(entry["file_name"]).shape == (96, 96, 3)
    assert set(np.unique(decode_panoptic_png(entry["pan_seg_file_name"]))) == {s["id"] for s in entry["segments_info"]}
    again = run(*command, "--size", "128")
    assert again.returncode == 2 and "error: output_dir" in again.stderr
