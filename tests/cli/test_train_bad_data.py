"""tools/train_net.py on damaged data: stops by default, trains on the rest on request, says what it left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from usg_psg.data.psg_json import write_index
from usg_psg.data.psg_shapes import generate_psg_shapes

from .test_train_net import train_net


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Eight training scenes, one of them cut off, loaded from an index."""
    root = tmp_path_factory.mktemp("damaged")
    json_file = generate_psg_shapes(root / "psg_shapes", num_train=8, num_val=2, size=(96, 128), preset="easy", seed=0)
    write_index(json_file)
    image = sorted((root / "psg_shapes" / "coco" / "train2017").glob("*.jpg"))[3]
    image.write_bytes(image.read_bytes()[:-200])
    return root


def test_skip(damaged, tmp_path):
    overrides = ["DATALOADER.BAD_SAMPLES", "skip", "SOLVER.MAX_ITER", "6", "TEST.EVAL_PERIOD", "0"]
    overrides += ["DATALOADER.NUM_WORKERS", "2", "INPUT.MIN_SIZE_TEST", "96"]
    done = train_net(damaged, tmp_path, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    text = done.stdout + done.stderr
    assert "1 images were skipped in training (image_id '" in text
    assert "image file is truncated" in text.rpartition("skipped in training")[2]
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("missing", [False, True])
def test_error(damaged, tmp_path, workers, missing):
    """The one message of the loader, whether it comes from this process or from a worker."""
    folder = damaged
    if missing:
        folder = tmp_path / "data"
        json_file = Path(generate_psg_shapes(folder / "psg_shapes", 2, 1, size=(96, 128), preset="easy", seed=0))
        (json_file.parents[1] / "coco" / "train2017").rename(folder / "elsewhere")
    overrides = ["SOLVER.MAX_ITER", "6", "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", workers]
    done = train_net(folder, tmp_path / "run", *overrides)
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    message = r"there is no such file" if missing else r"not a readable image \(image file is truncated.*"
    assert re.fullmatch(rf"train_net.py: error: \S+\.jpg \(image_id '\d+'\): {message}", last)
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text(), "for whoever looks for the place"
