"""The benchmark programs run, and print what they say; their figures mean nothing on scenes this small."""

from argparse import ArgumentParser

import numpy as np
import pytest
from PIL import Image

from usg_psg.cli.benchmark.inference import load
from usg_psg_cli import benchmark_commands

from ..programs import run

QUICKSTART = ["--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
PARTS = ("backbone", "pixel_decoder", "mask_decoder", "class_head", "rpc", "relation_decoder")


def benchmark(*command: str):
    """tools/benchmark.py in a process of its own."""
    return run("tools/benchmark.py", *command)


def table(*command: str) -> dict[str, list[float]]:
    """Rows of the table that a program prints."""
    done = benchmark(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    return {name: [float(value) for value in values] for name, *values in cells[2:]}


@pytest.mark.slow
@pytest.mark.parametrize("num_gpus", [["1"], ["1", "2"]])
def test_training(num_gpus, tmp_path):
    rows = table(
        "train", *QUICKSTART, "--batch-size", "2", "--num-gpus", *num_gpus, "--iterations", "2",
        "--warmup", "1", "--num-scenes", "6", "--data", str(tmp_path),
        "--profile", str(tmp_path / "kernels.txt"),
        "--opts", "INPUT.USG.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TRAIN", "(64,)",
    )  # fmt: skip
    assert {*PARTS, "backward", "optimizer", "wait for data", "matcher, wait"} <= set(rows)
    for number, whole, each in zip(
        num_gpus, rows["images per second"], rows["images per second and process"], strict=True
    ):
        assert whole > 0 and each == pytest.approx(whole / int(number), abs=0.01)
    profile = (tmp_path / "kernels.txt").read_text()
    assert "kernels: 0.0 ms" in profile and "aten::convolution_backward" in profile, "a CPU has no kernels"


def test_inference(tmp_path):
    rows = table(
        "inference", *QUICKSTART, "--size", "64", "--objects", "3", "--iterations", "2",
        "--warmup", "1", "--profile", str(tmp_path / "kernels.txt"),
    )  # fmt: skip
    assert "x  aten::convolution" in (tmp_path / "kernels.txt").read_text()
    assert {*PARTS, "whole, median", "masks and panoptic map", "scene graph, masks encoded"} <= set(rows)
    assert all(value >= 0 for (value,) in rows.values())
    assert rows["segments"] == [3], "the post-processing has work to do, whatever the random weights find"


def test_the_network_sees_the_size_that_is_said():
    parser = ArgumentParser()
    benchmark_commands.inference(parser)
    args = parser.parse_args([*QUICKSTART, "--size", "96", "--objects", "3"])
    image = np.zeros((96, 96, 3), np.uint8)
    assert load(args, args.size).prepare(image)["image"].shape == (3, 96, 96)
    assert load(args).prepare(image)["image"].shape == (3, 128, 128), "the recipe's"


def test_inference_of_a_folder(tmp_path):
    for n in range(5):
        Image.new("RGB", (64, 48 + 32 * (n % 2))).save(tmp_path / f"{n}.jpg")
    command = ["--folder", str(tmp_path), "--batch-size", "1", "2", "--warmup", "1", "--objects", "3"]
    rows = table("inference", *QUICKSTART, *command, "--opts", "INPUT.MIN_SIZE_TEST", "64")
    assert {name: values[0] for name, values in rows.items()} == {"1": 5, "2": 5}
    assert all(values[2] > 0 for values in rows.values())


def test_inference_of_more_objects_than_queries():
    done = benchmark("inference", *QUICKSTART, "--size", "64", "--objects", "1000")
    assert done.returncode == 2 and "--objects: expected 1 to 16" in done.stderr


def test_serving():
    command = ["--size", "64", "64", "--objects", "3", "--clients", "3", "--requests", "10", "--max-batch", "1", "4"]
    rows = table("serve", *QUICKSTART, *command, "--opts", "INPUT.MIN_SIZE_TEST", "64")
    assert rows["1"][0] == 1 and rows["4"][0] > 1, "batches"
    assert all(values[1] > 0 and values[-1] == 0 for values in rows.values()), "none is lost"
