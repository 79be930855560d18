#!/usr/bin/env python
"""Latency from one image to its scene graph, as a whole and by part.

    python tools/benchmark_inference.py --config-file configs/psg/usg_par_convnext_large.yaml \\
        --opts MODEL.CLIP.PRETRAINED "" TEST.USG.DTYPE bfloat16 TEST.USG.COMPILE graphs

The whole is `SceneGraphPredictor`'s time for an image in memory, masks encoded, on the wall clock; the parts are timed
in further calls, on a GPU between CUDA events. Without MODEL.WEIGHTS the weights are random: the threshold for objects
is then set so that --objects queries pass it, which gives the post-processing its usual work.
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import statistics
import sys
import time

import numpy as np
import torch
from part_timer import PartTimer

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import make_psg_shapes_scene
from usg_psg.engine import adapt_to_machine
from usg_psg.modeling.part_runner import PartRunner
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.program import one_line_errors
from usg_psg.scene_graph import SceneGraph


def let_objects_pass(predictor: SceneGraphPredictor, image: np.ndarray, count: int) -> None:
    """Set the threshold between the scores of a random model, so that so many queries may own pixels."""
    model = predictor.model
    scores = []
    handle = model.class_head.register_forward_hook(lambda _m, _i, logits: scores.append(logits.sigmoid().amax(-1)))
    runner, model.runners[False] = model.runners[False], PartRunner()
    predictor(image)
    handle.remove()
    model.runners[False] = runner
    model.object_threshold = scores[-1].flatten().sort(descending=True).values[count - 1].item()
    model.overlap_threshold = 0.0
    model.is_thing.fill_(True)  # else all segments of the one class that such a model sees would be merged


def wall_clock(predictor: SceneGraphPredictor, image: np.ndarray, count: int) -> tuple[list[float], SceneGraph]:
    """Milliseconds of each call, and the last graph."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        graph = predictor(image)  # ends with results on the host
        times.append(1000 * (time.perf_counter() - start))
    return times, graph


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", type=int, default=640, help="height and width of the image")
    parser.add_argument("--objects", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides")
    arguments = parser.parse_args()
    cfg = build_cfg(arguments.config_file, arguments.opts)
    adapt_to_machine(cfg)
    if not cfg.MODEL.WEIGHTS:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("psg_train",)  # as many names as PSG has; no data are read
    image = make_psg_shapes_scene("hard", (arguments.size, arguments.size), 0, "val", 0).image
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    model = predictor.model
    if not cfg.MODEL.WEIGHTS:
        let_objects_pass(predictor, image, arguments.objects)
    wall_clock(predictor, image, arguments.warmup)
    times, graph = wall_clock(predictor, image, arguments.iterations)

    timer = PartTimer(model.device)
    timer.wrap_network(model)
    timer.wrap(model, "_preprocess", "to the device, normalise")
    timer.wrap(model, "_detected_objects", "masks and panoptic map")
    timer.wrap(model, "_relations", "ranking of relations")
    timer.wrap(SceneGraph, "from_output", "scene graph, masks encoded")
    wall_clock(predictor, image, max(arguments.iterations // 2, 1))

    device = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    print(f"{device}, torch {torch.__version__}, {arguments.size} pixels square, one image at a time")
    print(f"{len(graph.objects)} segments, {len(graph.relations)} relations; DTYPE {cfg.TEST.USG.DTYPE},", end=" ")
    print(f"COMPILE {cfg.TEST.USG.COMPILE}, {'random weights' if not cfg.MODEL.WEIGHTS else cfg.MODEL.WEIGHTS}")
    print("| part | ms |\n| --- | ---: |")
    print(f"| whole, median | {statistics.median(times):.2f} |")
    print(f"| whole, slowest of {len(times)} | {max(times):.2f} |")
    for name, milliseconds in timer.milliseconds().items():
        print(f"| {name} | {milliseconds:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
