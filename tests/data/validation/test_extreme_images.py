"""Images of extreme size or thinness are used, or refused with file and image_id, in bounded time and memory."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from usg_psg.config import build_cfg
from usg_psg.data import PSGDatasetMapper, decode_panoptic_png, encode_panoptic, load_psg_json
from usg_psg.data.validation.check_dataset import check_dataset
from usg_psg.images import check_image, read_image
from usg_psg.predictor import SceneGraphPredictor

from ..psg_files import content, record, write_images, write_json


def claim_size(path, height, width):
    """Let a PNG say that it is of another size; nobody may go on to its pixels."""
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


@pytest.mark.parametrize("height, width", [(12_000, 12_000), (9_460, 9_460), (60_000, 60_000), (1, 90_000_000)])
@pytest.mark.parametrize("read", [read_image, decode_panoptic_png, check_image])
def test_large_pictures_are_refused_unread(tmp_path, read, height, width):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    claim_size(path, height, width)
    arguments = {"image_id": "66", "size": (height, width)}
    with pytest.raises(ValueError) as error:
        read(str(path), **arguments)
    assert str(error.value).startswith(f"{path} (image_id '66'): pictures of more than 89,478,485 pixels")


def test_large_images_are_errors(tmp_path):
    entry = record("66")
    write_images(tmp_path, entry)
    entry.update(height=12_000, width=12_000)
    for key in ("file_name", "pan_seg_file_name"):
        claim_size(tmp_path / entry[key], 12_000, 12_000)
    report = check_dataset(write_json(tmp_path, content([entry], [])), tmp_path, workers=0)
    assert report.counts["too_large_image"] == report.counts["too_large_png"] == 1 == report.images


def thin(tmp_path, height, width):
    """A data set of one image, its two segments one after the other along its length."""
    entry = {**record("66"), "height": height, "width": width, "relations": [[0, 1, 0]]}
    entry["segments_info"] = [
        {"id": i, "category_id": 0, "isthing": 1, "iscrowd": 0, "area": height * width // 2} for i in (1, 2)
    ]
    entry["annotations"] = [{"bbox": [0, 0, width, height], "bbox_mode": 0, "category_id": 0}] * 2
    ids = np.repeat([1, 2], height * width // 2).reshape(height, width)
    for key in ("file_name", "pan_seg_file_name"):
        path = tmp_path / entry[key]
        path.parent.mkdir()
        Image.fromarray(encode_panoptic(ids)).save(path)
    (dataset_dict,) = load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")
    return dataset_dict


@pytest.mark.parametrize("height, width", [(1, 65_500), (65_500, 1), (3, 5_000)])
@pytest.mark.parametrize("augmentation", ["lsj", "shortest_edge"])
def test_thin_images_are_trained_on(tmp_path, augmentation, height, width):
    dataset_dict = thin(tmp_path, height, width)
    opts = ["INPUT.USG.AUGMENTATION", augmentation, "INPUT.MIN_SIZE_TRAIN", "(640,)", "INPUT.RANDOM_FLIP", "none"]
    mapper = PSGDatasetMapper(build_cfg("", [*opts, "INPUT.USG.MIN_SCALE", "0.1"]), is_train=True)
    for seed in range(4):
        np.random.seed(seed)
        sample = mapper(dataset_dict)
        assert min(sample["image"].shape[1:]) >= 1 and max(sample["image"].shape[1:]) <= 1333
        assert len(sample["instances"]) in (1, 2)


def test_thin_images_are_evaluated(tmp_path):
    dataset_dict = thin(tmp_path, 1, 65_500)
    sample = PSGDatasetMapper(build_cfg("", []), is_train=False)(dataset_dict)
    assert tuple(sample["image"].shape) == (3, 1, 800) and (sample["height"], sample["width"]) == (1, 65_500)


def test_predictor_refuses_what_it_cannot_hold():
    predictor = object.__new__(SceneGraphPredictor)  # sizes are checked before a model is needed
    with pytest.raises(ValueError, match="image: expected 1 to 89,478,485 pixels, got 12000 x 12000"):
        predictor.batch([np.broadcast_to(np.uint8(0), (12_000, 12_000, 3))])
    with pytest.raises(ValueError, match="got 0 x 5"):
        predictor.batch([np.zeros((0, 5, 3), np.uint8)])
