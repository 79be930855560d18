"""The Python in README.md and docs/visualization.md runs as it is written there, next to a quickstart's checkpoint."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.predictor import SceneGraphPredictor

from .programs import ROOT


def python_blocks(name: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


@pytest.fixture
def quickstart_folder(tmp_path, monkeypatch):
    """my_image.jpg, output/quickstart with a checkpoint of random weights and the data set, as the text says."""
    datasets, weights = tmp_path / "output" / "quickstart" / "datasets", tmp_path / "output" / "quickstart"
    generate_psg_shapes(datasets / "psg_shapes", num_train=1, num_val=1, size=(96, 128), preset="easy", seed=0)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(
        tmp_path / "my_image.jpg"
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", "output/quickstart/datasets")
    monkeypatch.chdir(tmp_path)
    # No object of a model without training passes the thresholds.
    lax = ["TEST.USG.OBJECT_THRESHOLD", "0.0", "TEST.USG.OVERLAP_THRESHOLD", "0.0"]
    torch.manual_seed(1)
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", lax)
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    with torch.no_grad():  # fresh masks hardly differ, so one would own every pixel and nothing would be related
        predictor.model.mask_decoder.mask_embed.layers[-1].weight.mul_(40)
    USGCheckpointer(predictor.model, str(weights), cfg=cfg).save("model_final")
    monkeypatch.setenv("DETECTRON2_DATASETS", "nowhere")  # a checkpoint has the names
    return tmp_path


def test_the_readme_s_example_and_those_behind_it_run_as_written(quickstart_folder, capsys):
    (example,) = python_blocks("README.md")
    assert sum(1 for line in example.splitlines() if line.strip()) <= 10
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names["graph"].relations) > 0
    assert all(re.fullmatch(r"[01]\.\d\d \S.* \S.* \S.*", line) for line in lines), lines
    for block in python_blocks("docs/visualization.md"):
        exec(compile(block, "docs/visualization.md", "exec"), names)
    for written in ("overlay.svg", "graph.svg", "page.html"):
        assert (quickstart_folder / written).stat().st_size > 1000
