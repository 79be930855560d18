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
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T

from usg_psg.compat import engine_name


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


def test_list_data_set_gives_out_copies():
    given = [{"x": [1]}, {"x": [2, 2]}]
    dataset = DatasetFromList(given)
    dataset[1]["x"].append(3)
    assert [dataset[0], dataset[1], len(dataset)] == [{"x": [1]}, {"x": [2, 2]}, 2]
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[0], again[1]] == given


def test_test_loader_keeps_the_order():
    loader = build_detection_test_loader([{"n": n} for n in range(5)], mapper=lambda e: e, batch_size=2)
    assert [[each["n"] for each in batch] for batch in loader] == [[0, 1], [2, 3], [4]]


@pytest.mark.skipif(engine_name() != "bundled", reason="Detectron2 draws another image")
def test_evaluation_leaves_no_image_out():
    loader = build_detection_test_loader([1, 2], mapper=lambda n: None if n == 2 else n)
    with pytest.raises(ValueError, match="element 1"):
        list(loader)


def test_loader_from_config():
    DatasetCatalog.register("compat_loader", lambda: [{"n": n} for n in range(6)])
    DatasetCatalog.register("compat_more", lambda: [{"n": 9}])
    try:
        cfg = get_cfg()
        cfg.DATALOADER.NUM_WORKERS = 0
        tested = list(build_detection_test_loader(cfg, "compat_loader", mapper=lambda e: e["n"]))
        assert tested == [[0], [1], [2], [3], [4], [5]]
        both = get_detection_dataset_dicts(["compat_more", "compat_loader"], check_consistency=False)
        assert [each["n"] for each in both] == [9, 0, 1, 2, 3, 4, 5]
        with pytest.raises(KeyError, match="compat_missing"):
            get_detection_dataset_dicts("compat_missing")
    finally:
        DatasetCatalog.remove("compat_loader")
        DatasetCatalog.remove("compat_more")


def test_empty_data_set_is_named():
    DatasetCatalog.register("compat_empty", list)
    try:
        with pytest.raises((ValueError, AssertionError), match="compat_empty"):
            get_detection_dataset_dicts("compat_empty")
    finally:
        DatasetCatalog.remove("compat_empty")


def test_transforms_can_be_repeated_on_other_data():
    """What happened to the image happens to labels and boxes."""
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[5:10, 6:12] = 255
    given = T.AugInput(image)
    chosen = T.AugmentationList([T.RandomFlip(1.0), T.ResizeShortestEdge(40)])(given)
    assert given.image.shape == (40, 60, 3)
    assert chosen.apply_box(np.array([[6.0, 5, 12, 10]])).tolist() == [[36, 10, 48, 20]]
    rows, columns = np.nonzero(chosen.apply_segmentation((image[..., 0] > 0).astype(np.uint8)))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [36, 10, 48, 20]


def test_augmentation_chooses_by_the_image():
    class FlipDark(T.Augmentation):
        def get_transform(self, image):
            return T.NoOpTransform() if image.max() > 100 else T.HFlipTransform(image.shape[1])

    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for given, expected in ((image, image[:, ::-1]), (image + 100, image + 100)):
        augmented = T.AugInput(given)
        FlipDark()(augmented)
        assert augmented.image.tolist() == expected.tolist()


def test_padding_values():
    given = T.AugInput(np.zeros((4, 6), dtype=np.uint8))
    chosen = T.FixedSizeCrop((8, 5), pad_value=9, seg_pad_value=7)(given)
    labels = chosen.apply_segmentation(np.zeros((4, 6), dtype=np.uint8))
    assert given.image.shape == (8, 5) and set(given.image[4:].ravel()) == {9} and set(labels[4:].ravel()) == {7}


@pytest.mark.slow
def test_spawned_workers_can_read_the_data():
    """Loader workers that start as fresh processes find the engine."""
    loader = build_detection_test_loader([{"n": torch.tensor(n)} for n in range(3)], mapper=dict, num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert [batch[0]["n"].item() for batch in loader] == [0, 1, 2]
