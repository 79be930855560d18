"""Runs the commands that lead from nothing to scene graphs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from statistics import median

import torch
import yaml
from detectron2.utils.events import EventStorage

from usg_psg_cli import main

from ..config import build_cfg
from ..engine import Trainer, adapt_to_machine
from ..utils.program import INTERRUPTED
from .steps import shown

RECIPE = "quickstart/usg_par_quickstart.yaml"
SIZE = ("128", "160")
SHOWN = ("R@20", "R@50", "R@100", "mR@50")
MEASURED_STEPS, LEAST_STEPS = 5, 150
AFTER_TRAINING = 40  # evaluation and drawings take about as long as so many steps


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

    goes_on = args.resume and (output / "last_checkpoint").is_file()
    cpu = [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
    if goes_on:
        steps = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))["SOLVER"]["MAX_ITER"]
    else:
        steps = args.iterations or _affordable_steps([*cpu, "OUTPUT_DIR", str(output)], begin + 60 * args.minutes)
    words = ["--config-file", RECIPE, "--resume" if goes_on else "--overwrite", "OUTPUT_DIR", str(output), *cpu]
    if status := _step("train, then evaluate on held-out scenes", "train", [*words, "SOLVER.MAX_ITER", str(steps)]):
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


def _affordable_steps(opts: list[str], end: float) -> int:
    """Training steps that this machine makes until `end`, a time of `monotonic`; no more than the recipe has.

    PyTorch keeps the number of threads that was faster: all, or one, which other work on the machine slows down less.
    """
    cfg = build_cfg(RECIPE, opts)
    adapt_to_machine(cfg)
    trainer = Trainer(cfg)
    seconds = {}
    with EventStorage():
        for threads in sorted({1, torch.get_num_threads()}):
            torch.set_num_threads(threads)
            seconds[threads] = median(_seconds_of_step(trainer) for _ in range(MEASURED_STEPS))
    trainer._trainer.close()
    threads = min(seconds, key=lambda number: seconds[number])
    torch.set_num_threads(threads)
    steps = int((end - time.monotonic()) / seconds[threads]) - AFTER_TRAINING
    steps = min(max(steps, LEAST_STEPS), cfg.SOLVER.MAX_ITER)
    print(f"\na training step takes {seconds[threads]:.2f} s here: {steps} steps")
    return steps


def _seconds_of_step(trainer: Trainer) -> float:
    start = time.monotonic()
    trainer.run_step()
    trainer.iter += 1
    return time.monotonic() - start


def _shown_scenes(scenes: Path) -> list[str]:
    """Pictures of the four held-out scenes with the most different classes and predicates."""

    def names(record: dict) -> int:
        return len({x["category_id"] for x in record["segments_info"]}) + len({r[2] for r in record["relations"]})

    content = json.loads((scenes / "psg" / "psg.json").read_text())
    test_ids = set(content["test_image_ids"])
    records = [x for x in content["data"] if x["image_id"] in test_ids]
    return [x["file_name"] for x in sorted(records, key=names, reverse=True)[:4]]
