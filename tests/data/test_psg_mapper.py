"""The mapper: image, masks and relations stay together under every transform."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from usg_psg.config import add_usg_config
from usg_psg.data import PSGDataset, PSGDatasetMapper, encode_panoptic, load_psg_json, reindex_relations
from usg_psg.data.psg_mapper import FastResize, FixedSizeCrop, RandomFlip, build_augmentations

from .psg_files import COLORS, IDS, content, quadrants, record, write_images, write_json


@pytest.fixture
def dataset_dict(tmp_path):
    entry = record("17", 60, 80)
    write_images(tmp_path, entry)
    return load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")[0]


def mapper(*augmentations, **kwargs):
    return PSGDatasetMapper(**{"is_train": True, "augmentations": list(augmentations), **kwargs})


def config(**input_keys):
    cfg = get_cfg()
    add_usg_config(cfg)
    cfg.merge_from_list([x for key, value in input_keys.items() for x in (f"INPUT.{key.replace('__', '.')}", value)])
    return cfg


def colored_index(sample):
    """Position + 1 in the file of the segment whose colour is nearest, for each pixel of the image."""
    image = sample["image"].permute(1, 2, 0).numpy().astype(int)
    colors = np.concatenate([COLORS, [[128, 128, 128]]]).astype(int)  # the last one is padding
    return np.abs(image[:, :, None] - colors).sum(-1).argmin(-1)


def check_aligned(sample, tolerance=0.0):
    """Each mask is where the image has its segment's colour.

    With a tolerance, pixels may differ whose colours interpolation mixed: that part of the mask's border length.
    """
    index = colored_index(sample)
    masks = sample["instances"].gt_masks.tensor.numpy()
    assert masks.shape[1:] == index.shape
    for mask, segment in zip(masks, sample["segments_info"], strict=True):
        border = sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in (0, 1))
        wrong = np.count_nonzero(mask != (index == 1 + IDS.index(segment["id"])))
        assert wrong <= tolerance * border, (wrong, border)


def test_no_augmentation(dataset_dict):
    before = copy.deepcopy(dataset_dict)
    sample = mapper()(dataset_dict)
    assert dataset_dict == before
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 60, 80)
    instances = sample["instances"]
    assert instances.image_size == (60, 80)
    assert instances.gt_classes.dtype == torch.int64 and instances.gt_classes.tolist() == [0, 0, 1, 2]  # crowd kept
    assert instances.gt_masks.tensor.dtype == torch.bool
    index = quadrants(60, 80)
    assert np.array_equal(instances.gt_masks.tensor.numpy(), index[None] == np.arange(1, 5)[:, None, None])
    assert sample["relations"].dtype == torch.int64
    assert sample["relations"].tolist() == dataset_dict["relations"]
    check_aligned(sample)


def test_label_maps_go_through_instances_as_bit_masks_do(dataset_dict):
    objects = mapper()(dataset_dict)["instances"]
    masks, some = objects.gt_masks.tensor, torch.tensor([3, 0])
    for chosen, expected in ((objects[1], masks[1:2]), (objects[-1], masks[3:]), (objects[some], masks[some])):
        assert torch.equal(chosen.gt_masks.tensor, expected)
    assert torch.equal(objects.to("cpu").gt_masks.tensor, masks)
    joined = type(objects.gt_masks).cat([objects.gt_masks, objects[2:].gt_masks])  # as `Instances.cat` calls it
    assert torch.equal(joined.tensor, torch.cat([masks, masks[2:]]))


@pytest.mark.parametrize("vertical", [False, True])
def test_flip(dataset_dict, vertical):
    sample = mapper(T.RandomFlip(prob=1.0, horizontal=not vertical, vertical=vertical))(dataset_dict)
    check_aligned(sample)
    first = sample["instances"].gt_masks.tensor[0].numpy()
    moved = (quadrants(60, 80) == 1)[::-1] if vertical else (quadrants(60, 80) == 1)[:, ::-1]
    assert np.array_equal(first, moved)
    assert sample["relations"].tolist() == dataset_dict["relations"]


def test_the_own_flip_is_detectron2s():
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for vertical in (False, True):
        own, other = (kind(1.0, horizontal=not vertical, vertical=vertical) for kind in (RandomFlip, T.RandomFlip))
        own, other = own.get_transform(image), other.get_transform(image)
        assert isinstance(own, type(other))
        assert np.array_equal(own.apply_image(image), other.apply_image(image))
        assert np.array_equal(own.apply_segmentation(image[..., 0]), other.apply_segmentation(image[..., 0]))


@pytest.mark.parametrize("size", [(90, 120), (61, 80), (60, 80), (45, 60), (70, 60), (9, 8)])
def test_the_own_resize_is_within_a_grey_level_of_detectron2s(size):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    own, other = (kind(60, 80, *size) for kind in (FastResize, T.ResizeTransform))
    labels = image[..., 0]
    assert np.array_equal(own.apply_segmentation(labels), other.apply_segmentation(labels))
    found, expected = (x.apply_image(image).astype(int) for x in (own, other))
    assert found.shape == (*size, 3) and np.abs(found - expected).max() <= (size != (60, 80))
    assert (found != expected).mean() < 0.05
    mirrored = image[:, ::-1]
    assert np.array_equal(own.apply_image(mirrored), own.apply_image(mirrored.copy()))


@pytest.mark.parametrize("shape", [(40, 60), (64, 64), (80, 40), (90, 100)])
def test_the_own_crop_is_detectron2s(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    own, other = (kind((64, 64), pad=True, seg_pad_value=0) for kind in (FixedSizeCrop, T.FixedSizeCrop))
    transforms = []
    for kind in (own, other):
        np.random.seed(3)
        transforms.append(kind.get_transform(image))
    own, other = transforms
    assert np.array_equal(own.apply_image(image), other.apply_image(image))
    assert np.array_equal(own.apply_segmentation(image[..., 0]), other.apply_segmentation(image[..., 0]))
    corners = np.array([[0.0, 0.0], [30.0, 20.0]])
    assert np.array_equal(own.apply_coords(corners.copy()), other.apply_coords(corners.copy()))


def test_crop_takes_segments_and_their_relations_away(dataset_dict):
    class RightHalf(T.Augmentation):
        def get_transform(self, image):
            return T.CropTransform(40, 0, 40, 60)

    sample = mapper(RightHalf())(dataset_dict)
    check_aligned(sample)
    # Positions 1 (crowd) and 3 are left and become 0 and 1; no relation had both ends there.
    assert sample["instances"].gt_classes.tolist() == [0, 2]
    assert [s["iscrowd"] for s in sample["segments_info"]] == [True, False]
    assert sample["relations"].shape == (0, 3)
    dataset_dict["relations"].append([3, 1, 2])
    assert mapper(RightHalf())(dataset_dict)["relations"].tolist() == [[1, 0, 2]]


def test_crop_of_nothing(dataset_dict):
    class Frame(T.Augmentation):
        def get_transform(self, image):
            return T.CropTransform(0, 0, 80, 2)

    sample = mapper(Frame())(dataset_dict)
    assert sample["instances"].gt_masks.shape == (0, 2, 80)
    assert sample["instances"].gt_classes.shape == (0,) and sample["relations"].shape == (0, 3)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["lsj", "shortest_edge"])
def test_training_augmentations(dataset_dict, kind, seed):
    cfg = config(USG__AUGMENTATION=kind, USG__IMAGE_SIZE=96, MIN_SIZE_TRAIN=(50, 90), MAX_SIZE_TRAIN=200)
    np.random.seed(seed)
    sample = PSGDatasetMapper(cfg, is_train=True)(dataset_dict)
    if kind == "lsj":
        assert sample["image"].shape == (3, 96, 96)
    check_aligned(sample, tolerance=0.8)
    # Padding belongs to no segment.
    assert sample["instances"].gt_masks.tensor.sum(0).max() <= 1
    if kind == "lsj":
        padded = (sample["image"] == 128).all(0)
        assert not sample["instances"].gt_masks.tensor[:, padded].any()
    for subject, object_, _ in sample["relations"].tolist():
        assert 0 <= subject < len(sample["instances"]) and 0 <= object_ < len(sample["instances"])


def test_enlarging_by_two_keeps_masks_in_place(dataset_dict):
    class Double(T.Augmentation):
        def get_transform(self, image):
            height, width = image.shape[:2]
            return T.ResizeTransform(height, width, 2 * height, 2 * width, Image.NEAREST)

    sample = mapper(Double())(dataset_dict)
    check_aligned(sample)
    assert sample["instances"].gt_masks.tensor.sum().item() == 4 * (56 * 76)


@pytest.mark.parametrize("double", [False, True])
def test_more_than_255_segments(tmp_path, double):
    entry = record("3", 40, 60)
    index = np.arange(40 * 60).reshape(40, 60) // 4 + 1  # 600 segments of four pixels in a row
    entry["segments_info"] = [
        {"id": 1000 + i, "category_id": 2, "iscrowd": 0, "isthing": 0, "area": 4} for i in range(1, 601)
    ]
    entry["annotations"] = [{"bbox": [0, 0, 1, 1], "bbox_mode": 0, "category_id": 2}] * 600
    entry["relations"] = [[0, 599, 0], [255, 256, 1]]
    write_images(tmp_path, entry)
    Image.fromarray(encode_panoptic(index + 1000)).save(tmp_path / entry["pan_seg_file_name"])
    (dataset_dict,) = load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")

    class Resize(T.Augmentation):
        def get_transform(self, image):
            return T.ResizeTransform(40, 60, 80, 120)

    sample = mapper(*([Resize()] if double else [T.RandomFlip(1.0)]))(dataset_dict)
    masks = sample["instances"].gt_masks.tensor.numpy()
    expected = index.repeat(2, 0).repeat(2, 1) if double else index[:, ::-1]
    assert np.array_equal(masks.argmax(0) + 1, expected) and (masks.sum(0) == 1).all()
    assert sample["relations"].tolist() == [[0, 599, 0], [255, 256, 1]]


def test_without_segments_and_relations(tmp_path):
    entry = record("3")
    entry.update(segments_info=[], annotations=[], relations=[])
    write_images(tmp_path, entry)
    Image.new("RGB", (64, 48)).save(tmp_path / entry["pan_seg_file_name"])
    (dataset_dict,) = load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")
    sample = PSGDatasetMapper(config(USG__IMAGE_SIZE=64), is_train=True)(dataset_dict)
    assert sample["instances"].gt_masks.shape == (0, 64, 64)
    assert sample["instances"].gt_classes.dtype == torch.int64
    assert sample["relations"].shape == (0, 3) and sample["relations"].dtype == torch.int64


def test_inference_needs_no_annotations(dataset_dict):
    cfg = config(MIN_SIZE_TEST=120, MAX_SIZE_TEST=1000)
    sample = PSGDatasetMapper(cfg, is_train=False)(dataset_dict)
    assert sample["image"].shape == (3, 120, 160)
    assert (sample["height"], sample["width"], sample["image_id"]) == (60, 80, "17")
    assert "instances" not in sample and "relations" not in sample
    labels, relations, label_map, is_crowd = sample["annotation"]  # for the evaluator, at the image's own size
    assert np.array_equal(label_map, quadrants(60, 80)) and labels.tolist() == [0, 0, 1, 2]
    assert relations.tolist() == dataset_dict["relations"] and is_crowd.shape == (4,)
    bare = PSGDatasetMapper(cfg, is_train=False)({"file_name": dataset_dict["file_name"]})
    assert (bare["height"], bare["width"]) == (60, 80) and "annotation" not in bare
    given = PSGDatasetMapper(is_train=False, augmentations=[], with_annotations=True)(dataset_dict)
    assert len(given["instances"]) == 4


def test_bad_samples(dataset_dict, tmp_path, caplog):
    wrong = {**dataset_dict, "height": 61}
    with pytest.raises(ValueError, match="17.png.*'17'.*61 x 80, the image has 60 x 80"):
        mapper()(wrong)
    Image.new("RGB", (81, 60)).save(dataset_dict["pan_seg_file_name"])
    with pytest.raises(ValueError, match="'17'.*60 x 80, the panoptic PNG has 60 x 81"):
        mapper()(dataset_dict)
    with caplog.at_level(logging.WARNING):
        assert mapper(bad_sample="skip")(dataset_dict) is None
    assert "'17'" in caplog.text
    with pytest.raises(ValueError, match="bad_sample"):
        mapper(bad_sample="ignore")


def test_settings_without_a_choice():
    with pytest.raises(ValueError, match="INPUT.USG.AUGMENTATION.*'mosaic'"):
        build_augmentations(config(USG__AUGMENTATION="mosaic"), True)
    with pytest.raises(ValueError, match="INPUT.RANDOM_FLIP.*'both'"):
        build_augmentations(config(RANDOM_FLIP="both"), True)
    assert len(build_augmentations(config(RANDOM_FLIP="none"), True)) == 2


@given(st.data())
def test_reindex_relations(data):
    num = data.draw(st.integers(1, 8))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    index = st.integers(0, num - 1)
    relations = data.draw(st.lists(st.tuples(index, index, st.integers(0, 5)), max_size=10))
    found = reindex_relations(relations, keep)
    names = np.array(list("abcdefgh")[:num])
    left = names[keep]
    expected = [(names[s], names[o], p) for s, o, p in relations if keep[s] and keep[o]]
    assert found.dtype == np.int64 and found.shape == (len(expected), 3)
    assert [(left[s], left[o], p) for s, o, p in found] == expected


def test_plain_dataset(dataset_dict):
    dataset = PSGDataset([dataset_dict])
    sample = dataset[0]
    assert len(dataset) == 1
    assert sample["image"].shape == (3, 60, 80) and sample["image"].dtype == torch.uint8
    assert sample["gt_labels"].tolist() == [0, 0, 1, 2]
    assert sample["gt_masks"].shape == (4, 60, 80) and sample["gt_masks"].dtype == torch.bool
    assert sample["gt_relations"] == [tuple(r) for r in dataset_dict["relations"]]
    flipped = PSGDataset([dataset_dict], mapper(T.RandomFlip(prob=1.0)))[0]
    assert torch.equal(flipped["gt_masks"], sample["gt_masks"].flip(-1))


def test_annotations_in_a_test(dataset_dict):
    cfg = config(MIN_SIZE_TEST=120, MAX_SIZE_TEST=1000)
    cfg.TEST.TASK = "predcls"
    sample = PSGDatasetMapper(cfg, is_train=False)(dataset_dict)
    assert sample["instances"].gt_masks.shape == (4, 120, 160)
    expected = quadrants(60, 80)[None] == np.arange(1, 5)[:, None, None]
    assert np.array_equal(sample["original_masks"].numpy(), expected)
