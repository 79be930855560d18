#!/usr/bin/env python
"""From nothing to scene graphs: generate scenes, train a small model, evaluate it, draw four held-out scenes.

Every step is an ordinary command of this repository, printed before it runs, so that it can be repeated with other
settings. `make quickstart` calls this.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from usg_psg.utils.program import one_line_errors, positive_integer

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/quickstart/usg_par_quickstart.yaml"
SHOWN = ("R@20", "R@50", "R@100", "mR@50")


def run(title: str, command: list[str], env: dict[str, str]) -> None:
    """Run one step, whose output goes to the screen."""
    print(f"\n=== {title}\n$ {shlex.join(command)}", flush=True)
    start = time.monotonic()
    status = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, env=env).returncode
    if status:
        sys.exit(f"quickstart stopped: this step failed with exit code {status}")
    print(f"--- {time.monotonic() - start:.0f} s", flush=True)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/quickstart", help="folder for data, checkpoints and pictures")
    parser.add_argument("--iterations", type=positive_integer, help="training steps (default: the recipe's)")
    parser.add_argument("--num-train", type=positive_integer, default=1200, help="generated training scenes")
    parser.add_argument("--num-val", type=positive_integer, default=100, help="generated held-out scenes")
    arguments = parser.parse_args(argv)

    output = (ROOT / arguments.output).resolve()
    data = output / "datasets"
    shapes = data / "psg_shapes"
    env = {**os.environ, "DETECTRON2_DATASETS": str(data)}
    begin = time.monotonic()
    generate = ["python", "tools/make_synthetic_psg.py", "--output", str(shapes), "--preset", "easy", "--overwrite"]
    sizes = ["--num-train", str(arguments.num_train), "--num-val", str(arguments.num_val), "--size", "160", "208"]
    run("generate scenes in PSG format", [*generate, *sizes], env)

    train = ["python", "tools/train_net.py", "--config-file", CONFIG, "--overwrite", "OUTPUT_DIR", str(output)]
    if arguments.iterations:
        train += ["SOLVER.MAX_ITER", str(arguments.iterations)]
    run("train, then evaluate on held-out scenes", train, env)

    held_out = json.loads((shapes / "psg" / "psg.json").read_text())
    test_ids = set(held_out["test_image_ids"])
    files = [x["file_name"] for x in held_out["data"] if x["image_id"] in test_ids][:4]
    pictures = output / "scene_graphs"
    demo = ["python", "tools/demo.py", "--config-file", CONFIG, "--input"]
    demo += [str(shapes / "coco" / name) for name in files]
    demo += ["--output", str(pictures), "--opts", "MODEL.WEIGHTS", str(output / "model_final.pth")]
    run("draw scene graphs of four held-out scenes", demo, env)

    results = json.loads((output / "inference" / "sgdet_psg_shapes_val.json").read_text())["metrics"]
    print(f"\n=== finished in {(time.monotonic() - begin) / 60:.1f} minutes")
    print("held-out scenes: " + "   ".join(f"{name} {results[f'single/{name}']:.1f}" for name in SHOWN))
    print(f"pictures: {pictures}")


if __name__ == "__main__":
    sys.exit(main())
