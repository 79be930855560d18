"""Runs the commands that lead from nothing to scene graphs."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from pathlib import Path

from .steps import run_step

RECIPE = "quickstart/usg_par_quickstart.yaml"
SHOWN = ("R@20", "R@50", "R@100", "mR@50")


def run(args: Namespace) -> None:
    """Generate scenes, train on them, draw scene graphs of four others."""
    output = Path(args.output).resolve()
    data = output / "datasets"
    scenes = data / "psg_shapes"
    env = {**os.environ, "DETECTRON2_DATASETS": str(data)}
    begin = time.monotonic()
    words = ["--output", str(scenes), "--preset", "easy", "--overwrite", "--num-train", str(args.num_train)]
    words += ["--num-val", str(args.num_val), "--size", "160", "208"]
    run_step("generate scenes in PSG format", "shapes", words, env)

    words = ["--config-file", RECIPE, "--overwrite", "OUTPUT_DIR", str(output)]
    words += ["SOLVER.MAX_ITER", str(args.iterations)] if args.iterations else []
    run_step("train, then evaluate on held-out scenes", "train", words, env)

    held_out = json.loads((scenes / "psg" / "psg.json").read_text())
    test_ids = set(held_out["test_image_ids"])
    files = [x["file_name"] for x in held_out["data"] if x["image_id"] in test_ids][:4]
    pictures = output / "scene_graphs"
    words = ["--config-file", RECIPE, "--input", *(str(scenes / "coco" / name) for name in files)]
    words += ["--output", str(pictures), "--opts", "MODEL.WEIGHTS", str(output / "model_final.pth")]
    run_step("draw scene graphs of four held-out scenes", "demo", words, env)

    results = json.loads((output / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]
    print(f"\n=== finished in {(time.monotonic() - begin) / 60:.1f} minutes")
    print("held-out scenes: " + "   ".join(f"{name} {results[f'single/{name}']:.1f}" for name in SHOWN))
    print(f"pictures: {pictures}")
