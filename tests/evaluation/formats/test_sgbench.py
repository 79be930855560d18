"""SGBench's archives: ours read by that package, and its own writer's read here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tifffile import imread, imwrite

from usg_psg.evaluation import Prediction, open_writer, read_predictions

from ..files import core_results, export, make_dataset, read_results

SHAPES = [(1, 8, 10), (3, 8, 10), (4, 8, 10), (5, 8, 3), (4, 8, 3), (1, 1, 1)]


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def test_sgbench_itself_reads_the_archive(dataset, tmp_path):
    """Its numbers agree where its definitions do: recall per image under the rules called `openpsg`.

    Two definitions differ: an image whose mask fits two segments (see test_properties), and mean recall, which it
    averages over all predicates but counts absent ones as NaN.
    """
    evaluate = pytest.importorskip("sgbench.file").evaluate
    json_file, samples, records = dataset
    path = export("sgbench", tmp_path / "out", samples, records)
    theirs = evaluate(json_file, path, tmp_path / "coco")
    ours = core_results(samples)
    for k in (20, 50, 100):
        assert ours.metrics[f"openpsg_strict/R@{k}"] == pytest.approx(100 * theirs[f"R@{k}"])
        present = ours.predicate_counts > 0
        mean = np.mean(ours.predicate_recall["openpsg_strict"]["mR"][[10, 20, 50, 100].index(k)][present])
        assert present.all()
        assert mean == pytest.approx(100 * theirs[f"mR@{k}"])


def test_a_foreign_sgbench_archive_without_our_keys(dataset, tmp_path):
    _, samples, records = dataset
    path = export("sgbench", tmp_path / "out", samples, records)
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(foreign, "w") as target:
        content = json.loads(source.read("triplets.json"))
        for record in content["images"]:
            del record["usg_psg"]
            target.writestr(record["seg_filename"], source.read(record["seg_filename"]))
        target.writestr("triplets.json", json.dumps(content))
    expected, found = core_results(samples), read_results(foreign, records)
    for key in ("R@20", "mR@50", "NgR@50", "NgmR@100", "PR@20"):
        assert found.metrics[f"openpsg_strict/{key}"] == expected.metrics[f"openpsg_strict/{key}"]
    assert "oracle/pairs@20" not in found.metrics


def random_masks(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape) < 0.5


def write_archive(path: Path, num_masks: int) -> Path:
    """`<path>/7.tiff` as an archive of one image."""
    annotation = [{"category": n, "bbox": [0, 0, 1, 1]} for n in range(num_masks)]
    record = {"id": "7", "seg_filename": "7.tiff", "annotation": annotation, "triplets": []}
    with zipfile.ZipFile(path / "theirs.zip", "w") as archive:
        archive.write(path / "7.tiff", "7.tiff")
        archive.writestr("triplets.json", json.dumps({"version": 1, "images": [record]}))
    return path / "theirs.zip"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_archives_of_the_packages_own_writer_are_read(shape, tmp_path):
    """It lets tifffile guess, which takes 3 or 4 masks, or columns, for the channels of a colour picture."""
    guess = {"photometric": "minisblack"}
    if shape[-1] in (3, 4):
        guess = {"photometric": "rgb", "planarconfig": "contig"}
    elif shape[0] in (3, 4):
        guess = {"photometric": "rgb", "planarconfig": "separate"}
    masks = random_masks(shape)
    imwrite(tmp_path / "7.tiff", masks.astype(np.uint8), compression="deflate", **guess)
    ((image_id, prediction),) = read_predictions(write_archive(tmp_path, len(masks)), [])
    assert image_id == "7"
    np.testing.assert_array_equal(prediction.masks, masks)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_package_reads_masks_as_they_were_written(shape, tmp_path):
    masks = random_masks(shape)
    writer = open_writer("sgbench", tmp_path)
    writer.add("7", Prediction(np.arange(len(masks)), np.zeros((0, 3), np.int64), masks))
    writer.close()
    with zipfile.ZipFile(writer.finish(1, {})) as archive:
        archive.extract("7.tiff", tmp_path)
    np.testing.assert_array_equal(imread(tmp_path / "7.tiff"), masks)
