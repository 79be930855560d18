#!/usr/bin/env python
"""Dress rehearsal of a recipe on PSG at full size, without its data and weights: does it run, how fast, in what memory.

    python tools/rehearse.py data --folder /tmp/rehearsal
    python tools/rehearse.py train --folder /tmp/rehearsal --name one --config-file psg/usg_par_best_1gpu.yaml
    python tools/rehearse.py train --folder /tmp/rehearsal --name two --config-file psg/usg_par_best.yaml --num-gpus 2
    python tools/rehearse.py evaluate --folder /tmp/rehearsal --name test --config-file psg/usg_par_best.yaml --run one

data: generated scenes with PSG's names and statistics, a psg.json of as many records as PSG's (which share the scenes),
and random weights in the shapes that FC-CLIP publishes, converted for usg_par_best.yaml. train: the recipe as it
stands; killed (SIGKILL) after --kill-at steps, resumed, and stopped (SIGTERM) after --steps; compares the steps that
were made twice. evaluate: the test images with the checkpoint of a training. Each part prints its result and writes it
to FOLDER/results/NAME.json. OpenCLIP's weights are random, too.
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from detectron2.engine import DefaultTrainer

from usg_psg.config import build_cfg
from usg_psg.data.psg_json import write_index
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.utils.files import write_json
from usg_psg.utils.program import one_line_errors
from usg_psg_cli.arguments import parse_arguments, positive_integer

ROOT = Path(__file__).resolve().parents[1]
RANDOM_CLIP = ["MODEL.CLIP.PRETRAINED", ""]
PERIOD = 50  # steps between checkpoints, so that one is there when the run is killed


def make_data(args: argparse.Namespace) -> dict:
    """Scenes, psg.json and weights."""
    sys.path.append(str(ROOT))
    from tests.pretrained.foreign import fcclip_shapes, random_weights

    start, root = time.monotonic(), args.folder / "datasets"
    workers = min(os.cpu_count() or 1, 32) if args.scenes > 50 else 0
    sizes = {"num_train": args.scenes, "num_val": args.test, "size": (args.size, args.size)}
    scenes = generate_psg_shapes(root / "psg_shapes", preset="psg", num_workers=workers, **sizes)
    drawn = time.monotonic() - start
    content = json.loads(scenes.read_text())
    tested = set(content["test_image_ids"])
    train = [record for record in content["data"] if record["image_id"] not in tested]
    copies = [{**train[i % len(train)], "image_id": f"copy-{i}"} for i in range(args.records)]
    content["data"] = [record for record in content["data"] if record["image_id"] in tested] + copies
    (root / "psg").mkdir(exist_ok=True)
    if not (root / "coco").exists():
        (root / "coco").symlink_to(root / "psg_shapes" / "coco")
    write_json(root / "psg" / "psg.json", content, indent=None)
    index = write_index(root / "psg" / "psg.json")
    weights = args.folder / "fcclip_cocopan.pth"
    if not weights.exists():
        torch.save({"model": random_weights(fcclip_shapes(backbone=False))}, weights)
    convert = ["--source", "fcclip", "--input", weights, "--config-file", "psg/usg_par_best.yaml"]
    convert += ["--output", args.folder / "fcclip_init.safetensors", "--opts", *RANDOM_CLIP]
    if not args.without_weights:
        subprocess.run(command("convert", *convert), env=environment(args.folder), check=True)
    return {
        "records": len(content["data"]),
        "scenes": args.scenes + args.test,
        "seconds to draw": round(drawn, 1),
        "seconds in all": round(time.monotonic() - start, 1),
        "psg.json, MiB": round((root / "psg" / "psg.json").stat().st_size / 2**20, 1),
        "index, MiB": round(index.stat().st_size / 2**20, 1),
    }


def command(name: str, *words: object) -> list[str]:
    """A command of this project, in a process of its own."""
    return [sys.executable, "-m", "usg_psg_cli", name, *map(str, words)]


def environment(folder: Path) -> dict[str, str]:
    """Where the data are, and this tree first."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "DETECTRON2_DATASETS": str(folder / "datasets")}


class GPUMemory(threading.Thread):
    """Watches the memory of all GPUs, GiB in use at most; empty without nvidia-smi."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak: dict[str, float] = {}

    def run(self) -> None:
        """Ask every half second."""
        query = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
        while True:
            try:
                lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
            except (OSError, subprocess.CalledProcessError):
                return
            for index, used in (line.split(", ") for line in lines):
                self.peak[index] = max(self.peak.get(index, 0.0), round(float(used) / 1024, 1))
            time.sleep(0.5)


def steps_of(run: Path) -> list[dict]:
    """Complete lines of a run's losses."""
    path = run / "losses.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def train_until(words: list[str], args: argparse.Namespace, run: Path, steps: int, number: int) -> tuple[list, int]:
    """Train, and send a signal after so many steps.

    Returns:
        losses of each step, with the time at which it was seen under "seen", and the exit status.

    Raises:
        ChildProcessError: if the training ends by itself before.
    """
    kept, seen = len(steps_of(run)), dict[int, float]()  # a resumed run first cuts off what it will make again
    log = open(run.parent / f"{run.name}.out", "a")
    process = subprocess.Popen(words, env=environment(args.folder), stdout=log, stderr=log, start_new_session=True)
    try:
        while True:
            lines = steps_of(run)
            kept = min(kept, len(lines))
            for line in lines[kept:]:
                seen.setdefault(line["iteration"], time.monotonic())
            if len(lines) >= steps and seen:
                break
            if process.poll() is not None:
                raise ChildProcessError(f"{run}: training ended with status {process.returncode}, see {log.name}")
            time.sleep(0.05)
        os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
        return [{**line, "seen": seen.get(line["iteration"])} for line in steps_of(run)], process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def rehearse_training(args: argparse.Namespace) -> dict:
    """Train, kill, resume, stop."""
    run = args.folder / args.name
    init = [] if args.without_weights else ["MODEL.WEIGHTS", args.folder / "fcclip_init.safetensors"]
    words = ["--config-file", args.config_file, "--num-gpus", args.num_gpus, "OUTPUT_DIR", run, *RANDOM_CLIP, *init]
    words += ["SEED", 1, "DATASETS.TEST", "()", "SOLVER.BEST_METRIC", "", *args.opts]
    cfg = DefaultTrainer.auto_scale_workers(build_cfg(args.config_file, [*RANDOM_CLIP, *args.opts]), args.num_gpus)
    scale = cfg.SOLVER.REFERENCE_WORLD_SIZE and build_cfg(args.config_file).SOLVER.REFERENCE_WORLD_SIZE / args.num_gpus
    words += ["SOLVER.CHECKPOINT_PERIOD", max(round(PERIOD / (scale or 1)), 1)]
    memory = GPUMemory()
    memory.start()
    start = time.monotonic()
    first, killed = train_until(command("train", *words), args, run, args.kill_at, signal.SIGKILL)
    again, status = train_until(command("train", *words, "--resume"), args, run, args.steps, signal.SIGTERM)
    resumed_from = min(line["iteration"] for line in again if line["seen"])
    before = {line["iteration"]: line["total_loss"] for line in first}
    twice = [line for line in again if line["iteration"] >= resumed_from and line["iteration"] in before]
    apart = [abs(line["total_loss"] - before[line["iteration"]]) / abs(before[line["iteration"]]) for line in twice]
    timed = [line["seen"] for line in again if line["seen"]][10:]
    speed = cfg.SOLVER.IMS_PER_BATCH * (len(timed) - 1) / (timed[-1] - timed[0])
    images = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.MAX_ITER
    ends = {name: (again[:20], again[-20:]) for name in sorted(again[0]) if name.startswith(("loss", "total"))}
    return {
        "recipe": args.config_file,
        "GPUs": args.num_gpus,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "images a step": cfg.SOLVER.IMS_PER_BATCH,
        "images a second": round(speed, 2),
        "hours for the schedule": round(images / speed / 3600, 2),
        "memory of each GPU, GiB": memory.peak,
        "status when killed, when stopped": (killed, status),
        "steps, each once": [line["iteration"] for line in again] == list(range(len(again))),
        "resumed from step": resumed_from,
        "steps made twice": len(twice),
        "their largest relative difference": max(apart, default=None),
        "seconds from the start": round(time.monotonic() - start, 1),
        "mean losses of the first and last 20 steps": {
            name: [round(statistics.mean(line[name] for line in lines), 3) for lines in pair]
            for name, pair in ends.items()
            if not name[-1].isdigit()
        },
    }


def rehearse_evaluation(args: argparse.Namespace) -> dict:
    """Evaluate the last checkpoint of a training on the test images."""
    run, output = args.folder / args.run, args.folder / args.name
    weights = run / (run / "last_checkpoint").read_text().strip()
    words = ["--config-file", args.config_file, "--num-gpus", args.num_gpus, "--eval-only", "OUTPUT_DIR", output]
    words += [*RANDOM_CLIP, "MODEL.WEIGHTS", weights, "DATASETS.TEST", "('psg_test',)", *args.opts]
    memory = GPUMemory()
    memory.start()
    start = time.monotonic()
    subprocess.run(command("train", *words), env=environment(args.folder), check=True)
    results = json.loads((output / "inference" / "sgdet_psg_test.json").read_text())
    return {
        "images": results["counts"]["images"],
        "seconds, start included": round(time.monotonic() - start, 1),
        "memory of each GPU, GiB": memory.peak,
        "single/R@50": results["metrics"]["single/R@50"],
        "PQ": results["panoptic"]["PQ"],
    }


PARTS = {"data": make_data, "train": rehearse_training, "evaluate": rehearse_evaluation}


def define(parser: argparse.ArgumentParser) -> None:
    """Arguments of this program."""
    add = parser.add_argument
    add("part", choices=PARTS)
    add("--folder", type=Path, required=True, help="for everything that is made")
    add("--results", type=Path, help="folder of the results (default: FOLDER/results)")
    add("--name", help="of the result, and of a training's folder (default: the part)")
    add("--config-file", default="psg/usg_par_best.yaml")
    add("--num-gpus", type=positive_integer, default=1)
    add("--run", default="train", help="evaluate: name of the training")
    add("--steps", type=positive_integer, default=200)
    add("--kill-at", type=positive_integer, default=120)
    add("--scenes", type=positive_integer, default=1800, help="for training")
    add("--test", type=positive_integer, default=200, help="scenes to evaluate")
    add("--records", type=positive_integer, default=46563, help="training images in psg.json")
    add("--size", type=positive_integer, default=640, help="longer side of the scenes")
    add("--without-weights", action="store_true", help="from random weights, in whatever size --opts say")
    add("--opts", nargs="*", default=[], help="KEY VALUE overrides")


def run(args: argparse.Namespace) -> None:
    """Do a part, print and write its result."""
    args.name = args.name or args.part
    args.folder = args.folder.absolute()
    results = args.results or args.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    if args.without_weights:
        args.opts = ["MODEL.WEIGHTS", "", *args.opts]
    result = PARTS[args.part](args)
    write_json(results / f"{args.name}.json", result)
    print(json.dumps(result, indent=1))


main = one_line_errors(lambda argv=None: run(parse_arguments(define, argv, __doc__)))

if __name__ == "__main__":
    raise SystemExit(main())
