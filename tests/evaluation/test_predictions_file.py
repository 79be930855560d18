"""Damaged prediction files: each is refused with file, image and field, and nothing in them is guessed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from usg_psg.evaluation import Prediction, open_writer, read_predictions

IMAGE = "7"


def write(name: str, folder: Path) -> Path:
    """A file of one image with two masks and one relation."""
    masks = np.zeros((2, 8, 10), dtype=bool)
    masks[0, :, :5] = masks[1, :, 6:] = True
    writer = open_writer(name, folder)
    writer.add(IMAGE, Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), masks, mask_scores=np.array([0.9, 0.8])))
    writer.close()
    return writer.finish(1, {IMAGE: (8, 10)})


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as error:
        list(read_predictions(path, [IMAGE]))
    return str(error.value)


def put(*keys_and_value) -> Callable[[dict], None]:
    """A change of an image's record: keys to a place, and what to write there."""
    *keys, last, value = keys_and_value

    def change(record: dict) -> None:
        for key in keys:
            record = record[key]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("instances", None), "instances: expected a list, got None"),
        (put("instances", {"a": 1}), "instances: expected a list, got {'a': 1}"),
        (put("instances", 0, 5), "instances[0]: expected an object, got 5"),
        (put("instances", 1, "segmentation", None), "segmentation of instances[1]: expected run lengths with size"),
        (put("instances", 0, "segmentation", "counts", 5), "segmentation of instances[0]: expected counts as text"),
        (
            put("instances", 0, "segmentation", "counts", [-5, 85]),
            "instances[0]: expected no negative run length, got -5",
        ),
        (put("instances", 0, "segmentation", "counts", [0, 10**30]), "[0]: expected run lengths that add up to 8 x 10"),
        (
            put("instances", 1, "segmentation", "counts", "01"),
            "[1]: expected run lengths that add up to 8 x 10 pixels, got 1",
        ),
        (put("instances", 1, "segmentation", "size", [8, "10"]), "[1]: expected a size of height and width"),
        (put("instances", 0, "category_id", 10**30), "category_id of instances: expected whole numbers, got [1000"),
        (put("instances", 0, "category_id", 0.0), "category_id of instances: expected whole numbers, got [0.0, 1]"),
        (put("instances", 0, "category_id", "0"), "category_id of instances: expected whole numbers"),
        (put("instances", 0, "score", "0.9"), "score of instances: expected numbers, got ['0.9', 0.8]"),
        (put("instances", 0, "score", float("nan")), "mask_scores: expected 2 numbers"),
        (
            put("instances", 0, "segment_id", 10**12),
            "segment_id: expected 0 or an id of segments_info, got 1000000000000",
        ),
        (put("segments_info", 0, "id", 10**12), "segments_info: lacks the id 1 of the PNG"),
        (put("segments_info", 0, "id", 2), "id of segments_info: expected different ids from 1, got [2, 2]"),
        (put("pan_seg_file_name", 5), "pan_seg_file_name: expected a text, got 5"),
        (put("relations", [[0.9, 1.9, 2.9]]), "relations: expected rows of 3 whole numbers, got [[0.9, 1.9, 2.9]]"),
        (put("relations", [["0", "1", "2"]]), "relations: expected rows of 3 whole numbers"),
        (put("relations", [[0, 1, 2, 5]]), "relations: expected rows of 3 whole numbers, got [[0, 1, 2, 5]]"),
        (put("relations", [[0, 1, 2], [0, 1]]), "relations: expected rows of 3 whole numbers"),
        (put("relations", [[[0], [1], [2]]]), "relations: expected rows of 3 whole numbers"),
        (put("relations", [[], []]), "relations: expected rows of 3 whole numbers"),
        (put("relations_ng", [[0, 1, 2, 5]]), "relations_ng: expected rows of 3 whole numbers"),
        (put("pairs", [[0, 1, 2]]), "pairs: expected rows of 2 whole numbers"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, change, message):
    path = write("json", tmp_path)
    content = json.loads(path.read_text())
    change(content["images"][0])
    path.write_text(json.dumps(content))
    found = refusal(path)
    assert found.startswith(f"{path}, image '{IMAGE}': ") and message in found


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "images: expected a list, got None"),
        ({"a": 1}, "images: expected a list, got {'a': 1}"),
        ([1], "images[0]: expected an object, got 1"),
    ],
)
def test_images_that_are_no_list_of_objects(tmp_path, images, message):
    path = write("json", tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": images}))
    assert refusal(path) == f"{path}: {message}"


def test_large_segment_ids_cost_no_memory(tmp_path):
    path = write("json", tmp_path)
    content = json.loads(path.read_text())
    content["images"][0]["segments_info"].append({"id": 10**12, "category_id": 3})
    path.write_text(json.dumps(content))
    ((_, prediction),) = read_predictions(path, [IMAGE])
    assert prediction.segment_labels.tolist() == [0, 1, 3] and prediction.segment_map.max() == 2


def test_a_missing_picture_is_named_with_file_and_image(tmp_path):
    path = write("json", tmp_path)
    (tmp_path / "panoptic" / f"{IMAGE}.png").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path}, image '{IMAGE}': ")):
        list(read_predictions(path, [IMAGE]))


def rewrite(path: Path, **members: bytes) -> None:
    """Replace members of an archive, by the end of their names."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, members.get(name.rpartition(".")[2], data))


@pytest.mark.parametrize(
    ("members", "where", "message"),
    [
        ({"json": b"[]"}, "", "expected an object, got []"),
        ({"json": b"{"}, "", "triplets.json: not a complete JSON file"),
        ({"tiff": b"II*"}, f", image '{IMAGE}'", f"{IMAGE}.tiff: not a readable TIFF"),
        ({"png": b"x"}, f", image '{IMAGE}'", f"{IMAGE}.png: "),
    ],
)
def test_damaged_members_of_an_archive_are_named(tmp_path, members, where, message):
    path = write("sgbench", tmp_path)
    rewrite(path, **members)
    assert refusal(path).startswith(f"{path}{where}: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("triplets", [[0, 1, 2, 5]]), None),  # ours are read from the key usg_psg
        (put("usg_psg", "num_masks", -1), "num_masks: expected 0 to 2, got -1"),
        (put("usg_psg", 5), "usg_psg: expected an object, got 5"),
        (put("usg_psg", "relations", [[0, 1, 2, 5]]), "relations: expected rows of 3 whole numbers"),
        (put("usg_psg", "segment_map", "none.png"), "none.png: none.png: there is no such member"),
        (put("seg_filename", "none.tiff"), "none.tiff: there is no such member"),
        (put("annotation", 0, "category", 0.5), "category of annotation: expected whole numbers"),
    ],
)
def test_records_of_an_archive_that_do_not_fit(tmp_path, change, message):
    path = write("sgbench", tmp_path)
    with zipfile.ZipFile(path) as archive:
        content = json.loads(archive.read("triplets.json"))
    change(content["images"][0])
    rewrite(path, json=json.dumps(content).encode())
    if message is None:
        assert len(list(read_predictions(path, [IMAGE]))) == 1
    else:
        assert refusal(path).startswith(f"{path}, image '{IMAGE}': {message}")


def test_an_archive_that_fails_its_checksum(tmp_path):
    path = write("sgbench", tmp_path)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{IMAGE}.tiff")
    data = bytearray(path.read_bytes())
    data[member.header_offset + 60] ^= 255
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(f"{path}, image '{IMAGE}': {IMAGE}.tiff: cannot be read") and "CRC" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("segments_info", 0, "id", "0"), "id of segments_info: expected whole numbers"),
        (put("segments_info", 5), "segments_info: expected a list, got 5"),
        (put("relations", [[0, 1, 3, 4, 5, 6]]), "relations: expected rows of 3 whole numbers"),
    ],
)
def test_entries_of_a_submission_that_do_not_fit(tmp_path, change, message):
    path = write("openpsg", tmp_path) / "relation.json"
    content = json.loads(path.read_text())
    change(content[0])
    path.write_text(json.dumps(content))
    assert refusal(path).startswith(f"{path}, image '{IMAGE}': {message}")


def test_a_submission_with_a_damaged_picture_or_entry(tmp_path):
    path = write("openpsg", tmp_path) / "relation.json"
    (path.parent / "panseg" / "0.png").write_bytes(b"x")
    assert refusal(path).startswith(f"{path}, image '{IMAGE}': ")
    path.write_text("[5]")
    assert refusal(path) == f"{path}, image '{IMAGE}': expected an object, got 5"
