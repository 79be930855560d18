#!/usr/bin/env python
"""Latency from one image to its scene graph, as a whole and by part.

    python tools/benchmark_inference.py --config-file configs/psg/usg_par_convnext_large.yaml \\
        --opts MODEL.CLIP.PRETRAINED "" TEST.USG.DTYPE bfloat16 TEST.USG.COMPILE graphs

The whole is `SceneGraphPredictor`'s time for an image in memory, masks encoded, on the wall clock; the parts are timed
in further calls, on a GPU between CUDA events. Without MODEL.WEIGHTS the weights are random: masks and classes of
--objects made-up objects then replace what the network found, which gives the post-processing its usual work in every
type and mode.
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import dataclasses
import functools
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from part_timer import PartTimer

from usg_psg.cli import config_of
from usg_psg.data.psg_shapes import make_psg_shapes_scene
from usg_psg.engine import adapt_to_machine
from usg_psg.modeling import USGPar
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg.structures import ImageObjects, ObjectPredictions
from usg_psg.utils.program import one_line_errors
from usg_psg_cli.arguments import add_config, positive_integer


def stand_in_objects(model: USGPar, count: int) -> None:
    """Let `count` of the model's queries stand for objects from now on: compact regions that tile the image.

    The other queries have empty masks, so that every pair of objects is proposed, in every type and mode. The network's
    results are computed as usual, then replaced.
    """
    original = model.postprocessor.detected_objects

    @functools.cache
    def stand_ins(batch: int, channels: int, height: int, width: int, queries: int, classes: int, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(0)
        centres = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
        place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
        region = torch.cdist(place, centres).argmin(1).view(height, width)
        features = 20 * F.one_hot(region, channels).movedim(-1, 0) - 10
        query = torch.arange(queries).clamp(max=count)  # the last region is that of no pixel
        logits = torch.full((queries, classes), -8.0)
        logits[torch.arange(count), torch.arange(count) % classes] = 3.0
        made = features.expand(batch, -1, -1, -1), F.one_hot(query, channels).expand(1, batch, -1, -1), logits
        return [x.to(model.device, dtype) for x in made[:2]] + [logits.expand(1, batch, -1, -1).to(model.device)]

    def detected(objects: ObjectPredictions, *rest: Any) -> list[ImageObjects]:
        maps = objects.mask_features
        maps, embeddings, logits = stand_ins(*maps.shape, *objects.class_logits.shape[2:], maps.dtype)
        made = {"mask_features": maps, "mask_embeddings": embeddings, "class_logits": logits}
        return original(dataclasses.replace(objects, **made), *rest)

    model.postprocessor.detected_objects = detected


def wall_clock(predictor: SceneGraphPredictor, image: np.ndarray, count: int) -> tuple[list[float], SceneGraph]:
    """Milliseconds of each call, and the last graph."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        graph = predictor(image)  # ends with results on the host
        times.append(1000 * (time.perf_counter() - start))
    return times, graph


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=positive_integer, default=640, help="height and width of the image")
    parser.add_argument("--objects", type=positive_integer, default=15)
    parser.add_argument("--iterations", type=positive_integer, default=50)
    parser.add_argument("--warmup", type=positive_integer, default=10)
    add_config(parser)
    arguments = parser.parse_args(argv)
    cfg = config_of(arguments)
    adapt_to_machine(cfg)
    if not cfg.MODEL.WEIGHTS:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("psg_train",)  # as many names as PSG has; no data are read
    image = make_psg_shapes_scene("hard", (arguments.size, arguments.size), 0, "val", 0).image
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    model = predictor.model
    if not cfg.MODEL.WEIGHTS:
        most = min(cfg.MODEL.USG.MASK_DECODER.NUM_QUERIES, cfg.MODEL.USG.HIDDEN_DIM - 1)
        if arguments.objects > most:
            parser.error(f"--objects: expected 1 to {most}, the model's queries, got {arguments.objects}")
        stand_in_objects(model, arguments.objects)
    wall_clock(predictor, image, arguments.warmup)
    times, graph = wall_clock(predictor, image, arguments.iterations)

    timer = PartTimer(model.device)
    timer.wrap_network(model)
    timer.wrap(model, "preprocess", "to the device, normalise")
    timer.wrap(model.postprocessor, "detected_objects", "masks and panoptic map")
    timer.wrap(model.postprocessor, "scene_graphs", "ranking of relations")
    timer.wrap(SceneGraph, "from_output", "scene graph, masks encoded")
    wall_clock(predictor, image, max(arguments.iterations // 2, 1))

    device = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    print(f"{device}, torch {torch.__version__}, {arguments.size} pixels square, one image at a time")
    print(f"DTYPE {cfg.TEST.USG.DTYPE}, COMPILE {cfg.TEST.USG.COMPILE}, {cfg.MODEL.WEIGHTS or 'random weights'}")
    print("| | number, ms |\n| --- | ---: |")
    print(f"| segments | {len(graph.objects)} |\n| relations | {len(graph.relations)} |")
    print(f"| whole, median | {statistics.median(times):.2f} |")
    print(f"| whole, slowest of {len(times)} | {max(times):.2f} |")
    for name, milliseconds in timer.milliseconds().items():
        print(f"| {name} | {milliseconds:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
