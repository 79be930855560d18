"""Runs the commands that lead from nothing to scene graphs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch

from usg_psg_cli import main

from ..utils.program import INTERRUPTED
from .steps import shown

RECIPE = "quickstart/usg_par_quickstart.yaml"
SIZE = ("128", "160")
SHOWN = ("R@20", "R@50", "R@100", "mR@50")


def run(args: Namespace) -> int:
    """Generate scenes, train on them, draw scene graphs of four others; returns the exit status."""
    output = Path(args.output).resolve()
    scenes = output / "datasets" / "psg_shapes"
    os.environ["DETECTRON2_DATASETS"] = str(scenes.parent)
    begin = time.monotonic() - time.process_time()  # imports count
    print(f"$ export DETECTRON2_DATASETS={scenes.parent}")
    words = ["--output", str(scenes), "--preset", "easy", "--overwrite", "--num-train", str(args.num_train)]
    words += ["--num-val", str(args.num_val), "--size", *SIZE]
    if status := _step("generate scenes in PSG format", "shapes", words):
        return status

    # With several threads, which wait for each other, a step takes many times as long where other work wants the cores.
    torch.set_num_threads(1)
    words = ["--config-file", RECIPE, "--resume" if args.resume else "--overwrite", "OUTPUT_DIR", str(output)]
    words += [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
    if args.iterations:
        words += ["SOLVER.MAX_ITER", str(args.iterations)]
    else:
        words += ["--minutes", f"{max(args.minutes - _minutes_besides_steps(time.monotonic() - begin), 0.1):.2f}"]
    if status := _step("train, then evaluate on held-out scenes", "train", words):
        return status

    logging.getLogger("usg_psg.predictor").setLevel(logging.ERROR)  # its warning of photographs is said at the end
    pictures, weights = output / "scene_graphs", output / "model_final.pth"
    words = ["--weights", str(weights), "--output", str(pictures), "--input"]
    words += [str(scenes / "coco" / name) for name in _shown_scenes(scenes)]
    if status := _step("draw scene graphs of four held-out scenes", "demo", words):
        return status

    results = json.loads((output / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]
    print(f"\n=== finished in {(time.monotonic() - begin) / 60:.1f} minutes")
    figures = "   ".join(f"{name} {results[f'single/{name}']:.1f}" for name in SHOWN)
    print(f"{args.num_val} held-out scenes, protocol single (docs/evaluation.md): {figures}\n\nNext:")
    if sys.prefix != sys.base_prefix and "VIRTUAL_ENV" not in os.environ:
        print(f"  source {os.path.relpath(sys.prefix)}/bin/activate")
    print(f"  {'open' if sys.platform == 'darwin' else 'xdg-open'} {os.path.relpath(pictures / 'index.html')}")
    words = ["--weights", os.path.relpath(weights), "--input", "my_image.jpg", "--output", "output/demo"]
    print(f"  {shown('demo', words)}   # it knows drawings alone: do not expect it to understand photographs")
    return 0


def _step(title: str, command: str, words: list[str]) -> int:
    """Run a command in this process, which has imported all; show it as a user would type it. Returns its status."""
    print(f"\n=== {title}\n$ {shown(command, words)}", flush=True)
    start = time.monotonic()
    status = main([command, *words])
    hint = "; to go on: make quickstart QUICKSTART_ARGS=--resume" if status == INTERRUPTED else ""
    print(f"--- {time.monotonic() - start:.0f} s{hint}", flush=True)
    return status


def _minutes_besides_steps(spent: float) -> float:
    """Minutes for all but the steps: seconds spent on imports and scenes, and 0.8 of them for evaluation and drawings.

    At least 20 seconds, as the scenes may have been there.
    """
    return (spent + max(20.0, 0.8 * spent)) / 60


def _shown_scenes(scenes: Path) -> list[str]:
    """Pictures of the four held-out scenes with the most different classes and predicates."""

    def names(record: dict) -> int:
        return len({x["category_id"] for x in record["segments_info"]}) + len({r[2] for r in record["relations"]})

    content = json.loads((scenes / "psg" / "psg.json").read_text())
    test_ids = set(content["test_image_ids"])
    records = [x for x in content["data"] if x["image_id"] in test_ids]
    return [x["file_name"] for x in sorted(records, key=names, reverse=True)[:4]]
