"""The command `usg-psg serve`: its errors, and a stop of the program by a signal."""

import io
import signal
import socket
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg_cli import program

from ..programs import start

RECIPE = ["--config-file", "quickstart/usg_par_quickstart.yaml"]


def test_without_fastapi_the_program_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "usg_psg.server", raising=False)
    assert program("serve")([*RECIPE, "--weights", "x.pth"]) == 2
    assert capsys.readouterr().err.endswith("pip install -e '.[serve]' in this repository\n")


def test_a_model_that_cannot_be_loaded_ends_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert program("serve")([*RECIPE, "--weights", "missing.pth", "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: data set 'psg_shapes_val': there is no file" in line


@pytest.mark.slow
def test_sigterm_ends_it_after_the_last_answer(tmp_path, monkeypatch):
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=1, num_val=1, size=(96, 128), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = build_cfg(RECIPE[1], ["MODEL.DEVICE", "cpu"])
    USGCheckpointer(SceneGraphPredictor(cfg, allow_random=True).model, str(tmp_path)).save("model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, file = f"http://127.0.0.1:{port}", io.BytesIO()
    Image.new("RGB", (128, 96)).save(file, "JPEG")
    process = start(
        "tools/serve.py", *RECIPE, "--weights", tmp_path / "model.pth", "--port", port, "--max-wait", "2000",
        "--opts", "MODEL.DEVICE", "cpu",
    )  # fmt: skip

    def ask() -> str:
        with urllib.request.urlopen(f"{url}/scene-graph", file.getvalue(), timeout=120) as answer:
            return answer.read().decode()

    def number(name: str) -> float:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            return float(answer.read().decode().split(f"\n{name} ")[1].split()[0])

    try:
        for line in process.stdout:
            if "serving at" in line:
                break
        while True:
            try:
                urllib.request.urlopen(f"{url}/ready").close()
                break
            except OSError:
                assert process.poll() is None
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask) for _ in range(3)]
            while number("usg_psg_queue_length") < 3:
                pass
            process.send_signal(signal.SIGTERM)
            assert [SceneGraph.from_json(each.result(120)).width for each in asked] == [128] * 3
        rest, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in rest + errors
