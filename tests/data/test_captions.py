"""Captioned windows: whose pixels they are around, what their texts say, and that no text comes twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usg_psg.data import load_psg_json
from usg_psg.data.annotation import Annotation
from usg_psg.data.captions import CaptionedWindows, regions_of
from usg_psg.data.psg_shapes import VOCABULARIES, generate_psg_shapes
from usg_psg.utils.text import spoken_name

DOG, GRASS, ON = 2, 5, 1


def test_regions_of_an_image():
    label_map = np.zeros((10, 20), np.int64)
    label_map[:4, :4], label_map[6:, 10:] = 1, 2  # a dog of 16 pixels, grass of 40
    annotation = Annotation(np.array([DOG, GRASS]), np.array([[0, 1, ON]]), label_map, np.zeros(2, bool))
    dog, grass, predicate, triplet = regions_of(annotation, np.random.default_rng(0))
    assert [key for key, *_ in (dog, grass, predicate, triplet)] == [(DOG,), (GRASS,), (ON, 0), (DOG, ON, GRASS)]
    assert dog[2] == 4.0 and grass[2] == pytest.approx(40**0.5)
    x, y = grass[1].T
    assert (label_map[np.floor(y).astype(int), np.floor(x).astype(int)] == 2).all()
    assert triplet[1].tolist() == predicate[1].tolist() == [[10.0, 5.0]] * 16 and triplet[2] == 20.0


def test_batches(tmp_path):
    json_file = generate_psg_shapes(tmp_path / "scenes", 12, 0, (64, 80), seed=1)
    records = load_psg_json(json_file, tmp_path / "scenes" / "coco", "trainval")
    vocabulary = VOCABULARIES["easy"]
    windows = CaptionedWindows(records, vocabulary)
    assert windows.pictures.shape == (12, 3, 80, 80) and not windows.pictures[:, :, 64:].any()
    objects = {spoken_name(name) for name in vocabulary.object_classes}
    for size in (6, 1000):
        image, boxes, captions = windows.sample(size, np.random.default_rng(size))
        assert len(image) == len(boxes) == len(captions) == len(set(captions)) <= size
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        assert torch.allclose(width, height) and width.min() >= 31.99 and image.max() < 12
    for n, box, caption in zip(image.tolist(), boxes.tolist(), captions, strict=True):
        names = {spoken_name(vocabulary.object_classes[s["category_id"]]) for s in records[n]["segments_info"]}
        named = {name for name in objects if name in caption}
        assert named <= names, f"{caption} about an image with {names}"
        assert box[2] > 0 and box[0] < 80 and box[3] > 0 and box[1] < 64
    assert any("something" in caption or caption == "on" for caption in captions)


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        CaptionedWindows([], VOCABULARIES["easy"])
