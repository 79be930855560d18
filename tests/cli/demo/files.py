"""Inputs of the demo program, and what it leaves in its output folder."""

import json
import re
import signal
from pathlib import Path

import cv2
import numpy as np

from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph

CONFIG = "configs/quickstart/usg_par_quickstart.yaml"


def write_video(path, frames=7, size=(48, 64)):
    """Frame n is a gray of 30 n; Motion-JPEG keeps it to a few levels."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size[::-1])
    assert writer.isOpened()
    for n in range(frames):
        writer.write(np.full((*size, 3), 30 * n % 256, np.uint8))
    writer.release()
    return path


def page_index(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    (index,) = re.findall(r'<script type="application/json" id="index">(.*?)</script>', text)
    return json.loads(index)


def page_names(folder):
    return [entry["name"] for entry in page_index(folder)["items"]]


def press_in_pass(monkeypatch, number):
    """Ctrl-C while the network works for the number-th time."""
    parse, seen = SceneGraphPredictor.run, []

    def press(predictor, prepared):
        seen.append(prepared)
        if len(seen) == number:
            signal.raise_signal(signal.SIGINT)
        return parse(predictor, prepared)

    monkeypatch.setattr(SceneGraphPredictor, "run", press)


def lines_of(path):
    """Graphs by the names of their files."""
    text = path.read_text()
    assert text.endswith("\n")
    return {Path(json.loads(line)["file_name"]).name: SceneGraph.from_json(line) for line in text.splitlines()}


ALL = {f"{n}.png" for n in range(8)}
