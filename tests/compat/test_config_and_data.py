"""Configs, catalogs, data sets, transforms and images; the same on both engines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from detectron2.config import configurable, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    detection_utils,
)
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from PIL import Image


class Part:
    @configurable
    def __init__(self, width, *, depth=2, name="part"):
        self.values = (width, depth, name)

    @classmethod
    def from_config(cls, cfg, depth=None):
        arguments = {"width": cfg.MODEL.BACKBONE.FREEZE_AT}
        return arguments if depth is None else {**arguments, "depth": depth * 10}


@configurable(from_config=lambda cfg, bonus=0: {"a": cfg.SEED + bonus})
def function(a, b=1):
    return a, b


def test_configurable_constructor():
    """Explicit arguments, a config, a config with arguments for from_config and for the constructor."""
    cfg = get_cfg()
    assert Part(7, name="x").values == (7, 2, "x")
    assert Part(cfg).values == (2, 2, "part")
    assert Part(cfg=cfg, depth=3).values == (2, 30, "part")
    assert Part(cfg, name="y", width=5).values == (5, 2, "y")


def test_configurable_function():
    cfg = get_cfg()
    assert function(4) == (4, 1)
    assert function(cfg, bonus=3, b=9) == (2, 9)


def test_configurable_subclass_uses_its_own_from_config():
    class Child(Part):
        @classmethod
        def from_config(cls, cfg):
            return {**super().from_config(cfg), "name": "child"}

    assert Child(get_cfg()).values == (2, 2, "child")


def test_base_files_are_inherited(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  BASE_LR: 0.5\n  MAX_ITER: 7\n")
    (tmp_path / "child.yaml").write_text("_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 9\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "child.yaml"))
    cfg.merge_from_list(["SOLVER.GAMMA", "0.25", "DATASETS.TRAIN", "('a',)"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA, cfg.DATASETS.TRAIN) == (0.5, 9, 0.25, ("a",))
    (tmp_path / "dumped.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "dumped.yaml"))
    assert again.SOLVER == cfg.SOLVER and again.DATASETS == cfg.DATASETS and get_cfg().SOLVER.MAX_ITER == 40000
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 3
    with pytest.raises((AssertionError, KeyError), match="NO_SUCH"):
        again.merge_from_list(["SOLVER.NO_SUCH", 1])


def test_catalogs():
    DatasetCatalog.register("compat_catalog", lambda: [{"n": 1}])
    try:
        assert DatasetCatalog.get("compat_catalog") == [{"n": 1}] and "compat_catalog" in DatasetCatalog.list()
        with pytest.raises(AssertionError, match="already registered"):
            DatasetCatalog.register("compat_catalog", list)
        with pytest.raises(KeyError, match="compat_missing"):
            DatasetCatalog.get("compat_missing")
        metadata = MetadataCatalog.get("compat_catalog").set(thing_classes=["a"])
        assert MetadataCatalog.get("compat_catalog") is metadata and metadata.get("stuff", 3) == 3
        metadata.thing_classes = ["a"]
        with pytest.raises(AssertionError):
            metadata.thing_classes = ["b"]
        with pytest.raises(AttributeError, match="stuff_classes"):
            _ = metadata.stuff_classes
        assert pickle.loads(pickle.dumps(metadata)).thing_classes == ["a"]
    finally:
        DatasetCatalog.remove("compat_catalog")
        MetadataCatalog.remove("compat_catalog")


@pytest.mark.parametrize("serialize", [True, False])
def test_list_data_set_gives_out_copies(serialize):
    given = [{"x": [1]}, {"x": [2, 2]}]
    dataset = DatasetFromList(given, serialize=serialize)
    dataset[1]["x"].append(3)
    assert [dataset[0], dataset[1], len(dataset)] == [{"x": [1]}, {"x": [2, 2]}, 2]
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[0], again[1]] == given


def test_skipped_elements_are_replaced():
    dataset = MapDataset(DatasetFromList(list(range(6))), lambda n: None if n < 5 else n)
    assert [dataset[n] for n in range(6)] == [5] * 6


def test_loader_of_nothing_but_skipped_elements_ends():
    with pytest.raises((ValueError, IndexError)):
        _ = MapDataset(DatasetFromList([1, 2]), lambda n: None)[0]


def test_test_loader_keeps_the_order():
    loader = build_detection_test_loader([{"n": n} for n in range(5)], mapper=lambda e: e, batch_size=2)
    assert [[each["n"] for each in batch] for batch in loader] == [[0, 1], [2, 3], [4]]


def test_loaders_from_config():
    DatasetCatalog.register("compat_loader", lambda: [{"n": n, "width": 4, "height": 3} for n in range(6)])
    try:
        cfg = get_cfg()
        cfg.merge_from_list(["DATASETS.TRAIN", ("compat_loader",), "SOLVER.IMS_PER_BATCH", 3, "SEED", 5])
        cfg.DATALOADER.NUM_WORKERS = 0
        stream = iter(build_detection_train_loader(cfg, mapper=lambda e: {**e, "mapped": True}))
        sampler = iter(TrainingSampler(6, seed=5))
        shown = [each["n"] for _ in range(4) for each in next(stream)]
        assert shown == [next(sampler) for _ in range(12)] and sorted(shown[:6]) == list(range(6))
        tested = list(build_detection_test_loader(cfg, "compat_loader", mapper=lambda e: e["n"]))
        assert tested == [[0], [1], [2], [3], [4], [5]]
    finally:
        DatasetCatalog.remove("compat_loader")


def test_workers_see_each_image_once_per_round():
    """Two workers deal the stream out: the first two rounds together hold every image twice."""
    loader = build_detection_train_loader(
        [{"n": n} for n in range(8)],
        mapper=lambda e: e["n"],
        sampler=TrainingSampler(8, seed=0),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=2,
    )
    stream = iter(loader)
    assert sorted(n for _ in range(8) for n in next(stream)) == sorted(list(range(8)) * 2)


def test_images_of_a_batch_have_one_orientation():
    elements = [{"width": w, "height": 5} for w in (3, 9, 3, 9, 3, 3, 9)]
    stream = iter(build_detection_train_loader(elements, mapper=dict, total_batch_size=2, num_workers=0))
    for _ in range(20):
        assert len({each["width"] for each in next(stream)}) == 1


@pytest.mark.parametrize("orientation, expected", [(1, [[1, 2, 3], [4, 5, 6]]), (6, [[4, 1], [5, 2], [6, 3]])])
def test_images_are_turned_upright(tmp_path, orientation, expected):
    image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    path = str(tmp_path / "image.png")
    image.save(path, exif=exif)
    assert detection_utils.read_image(path, "L")[..., 0].tolist() == expected
    assert detection_utils.read_image(path, "RGB").shape == (*np.shape(expected), 3)


def test_channels_can_be_swapped(tmp_path):
    path = str(tmp_path / "image.png")
    Image.new("RGB", (2, 2), (10, 20, 30)).save(path)
    assert detection_utils.read_image(path, "BGR")[0, 0].tolist() == [30, 20, 10]
    given = {"height": 2, "width": 3, "file_name": "image.png"}
    with pytest.raises(detection_utils.SizeMismatchError, match="image.png"):
        detection_utils.check_image_size(given, np.zeros((2, 2, 3)))


def test_augmentations_transform_everything_alike():
    """What happened to the image happened to labels and boxes, and can be repeated on other data."""
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[5:10, 6:12] = 255
    labels = (image[..., 0] > 0).astype(np.uint8)
    given = T.AugInput(image, boxes=np.array([[6.0, 5, 12, 10]], dtype=np.float32), sem_seg=labels)
    chosen = T.AugmentationList([T.RandomFlip(1.0), T.ResizeShortestEdge(40), T.HFlipTransform(60)])(given)
    assert given.image.shape == (40, 60, 3)
    assert given.boxes.tolist() == [[12, 10, 24, 20]]
    rows, columns = np.nonzero(given.sem_seg)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [12, 10, 24, 20]
    assert np.array_equal(chosen.apply_segmentation(labels), given.sem_seg)


def test_augmentation_takes_the_attributes_it_names():
    class Labelled(T.Augmentation):
        def get_transform(self, image, sem_seg):
            return T.HFlipTransform(image.shape[1]) if sem_seg.any() else T.NoOpTransform()

    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    given = T.AugInput(image, sem_seg=np.ones((2, 3), dtype=np.uint8))
    Labelled()(given)
    assert given.image.tolist() == image[:, ::-1].tolist()


def test_padding_values_and_inverse_resize():
    given = T.AugInput(np.zeros((4, 6), dtype=np.uint8), sem_seg=np.zeros((4, 6), dtype=np.uint8))
    T.FixedSizeCrop((8, 5), pad_value=9, seg_pad_value=7)(given)
    assert given.image.shape == (8, 5) and set(given.image[4:].ravel()) == {9} and set(given.sem_seg[4:].ravel()) == {7}
    resize = T.ResizeTransform(4, 6, 8, 18)
    points = np.array([[1.5, 2.0]])
    assert resize.apply_coords(points.copy()).tolist() == [[4.5, 4.0]]
    assert resize.inverse().apply_coords(resize.apply_coords(points.copy())).tolist() == points.tolist()


def test_spawned_workers_can_read_the_data():
    """Loader workers that start as fresh processes find the engine."""
    loader = build_detection_test_loader([{"n": torch.tensor(n)} for n in range(3)], mapper=dict, num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert [batch[0]["n"].item() for batch in loader] == [0, 1, 2]
