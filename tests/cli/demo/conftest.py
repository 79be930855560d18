"""The demo program in this process, with a small model."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from usg_psg.cli import demo_share
from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.predictor import SceneGraphPredictor
from usg_psg_cli import program

from ...programs import ROOT
from ...visualization.scenes import stripes
from .files import CONFIG


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    """Environment and options of a model with random weights."""
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=1, num_val=1, size=(96, 128), preset="easy", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["MODEL.DEVICE", "cpu"])
        USGCheckpointer(SceneGraphPredictor(cfg, allow_random=True).model, str(root)).save("model")
    options = ["MODEL.WEIGHTS", str(root / "model.pth"), "MODEL.DEVICE", "cpu", "TEST.USG.OBJECT_THRESHOLD", "0.0"]
    return {"DETECTRON2_DATASETS": str(root)}, [*options, "INPUT.MIN_SIZE_TEST", "64"]


@pytest.fixture
def run(model, monkeypatch):
    """The program in this process: arguments to exit status."""
    environment, options = model
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: program("demo")(["--config-file", str(ROOT / CONFIG), *arguments, "--opts", *options])


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures, which take a second each, are not drawn."""
    nothing = SimpleNamespace(savefig=lambda path, **_: Path(path).touch())
    monkeypatch.setattr(demo_share, "draw_overlay", lambda image, graph: image)
    monkeypatch.setattr(demo_share, "draw_graph", lambda graph: nothing)


@pytest.fixture
def sees_stripes(undrawn, monkeypatch):
    """The predictor finds the same stripes in any image."""
    sizes = lambda images: [(i["height"], i["width"]) for i in images]  # noqa: E731
    monkeypatch.setattr(SceneGraphPredictor, "run", lambda self, images: [stripes(*size) for size in sizes(images)])


@pytest.fixture
def folder(tmp_path):
    """Eight images of two sizes and one that is broken."""
    folder = tmp_path / "in"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n in range(8):
        pixels = generator.integers(0, 256, (48, 64 + 40 * (n % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder
