"""Latency from an image to its scene graph, and throughput of a folder."""

from __future__ import annotations

import dataclasses
import functools
import time
from argparse import Namespace
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate

from ...data.psg_shapes import make_psg_shapes_scene
from ...engine import adapt_to_machine
from ...predictor import SceneGraphPredictor
from ...scene_graph import SceneGraph
from ...structures import ImageObjects, ObjectPredictions
from .. import config_of
from ..demo import find_inputs
from .measure import Timer, device_name, profile_steps


def stand_in_objects(model: Any, count: int) -> None:
    """Let `count` of the model's queries stand for objects from now on: compact regions that tile the image.

    The other queries have empty masks, so that every pair of objects is proposed, in every type and mode. The network's
    results are computed as usual, then replaced.
    """
    original = model.postprocessor.detected_objects

    @functools.cache
    def stand_ins(channels: int, height: int, width: int, queries: int, classes: int, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(0)
        centres = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
        place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
        region = torch.cdist(place, centres).argmin(1).view(height, width).to(model.device)
        features = 20 * F.one_hot(region, channels).movedim(-1, 0) - 10
        query = torch.arange(queries).clamp(max=count)  # the last region is that of no pixel
        logits = torch.full((queries, classes), -8.0)
        logits[torch.arange(count), torch.arange(count) % classes] = 3.0
        return [x.to(model.device, dtype) for x in (features, F.one_hot(query, channels))] + [logits.to(model.device)]

    def detected(objects: ObjectPredictions, *rest: Any) -> list[ImageObjects]:
        maps = objects.mask_features
        features, *of_queries = stand_ins(*maps.shape[1:], *objects.class_logits.shape[2:], maps.dtype)
        embeddings, logits = (x.expand(1, len(maps), -1, -1) for x in of_queries)
        made = {"mask_features": features.expand_as(maps), "mask_embeddings": embeddings, "class_logits": logits}
        return original(dataclasses.replace(objects, **made), *rest)

    model.postprocessor.detected_objects = detected


def load(args: Namespace, size: int | None = None) -> SceneGraphPredictor:
    """The model of the arguments, with `stand_in_objects` if its weights are random.

    With a size, a square image of it reaches the network as it is.

    Raises:
        ValueError: if there are more objects than the model has queries.
    """
    cfg = config_of(args)
    if size is not None:
        cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = size
    adapt_to_machine(cfg)
    if not cfg.MODEL.WEIGHTS:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("psg_train",)  # as many names as PSG has; no data are read
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    if not cfg.MODEL.WEIGHTS:
        most = min(cfg.MODEL.USG.MASK_DECODER.NUM_QUERIES, cfg.MODEL.USG.HIDDEN_DIM - 1)
        if args.objects > most:
            raise ValueError(f"--objects: expected 1 to {most}, the model's queries, got {args.objects}")
        stand_in_objects(predictor.model, args.objects)
    return predictor


def run(args: Namespace) -> None:
    """Measure latency, or throughput."""
    predictor = load(args, None if args.folder else args.size)
    cfg = predictor.cfg
    weights = cfg.MODEL.WEIGHTS or "random weights"
    print(
        f"{device_name(predictor.model.device)}, {weights}, DTYPE {cfg.TEST.USG.DTYPE}, COMPILE {cfg.TEST.USG.COMPILE}"
    )
    (throughput if args.folder else latency)(predictor, args)


def throughput(predictor: SceneGraphPredictor, args: Namespace) -> None:
    """Print images per second of two passes over a folder, by batch size: in the first, sizes of images are new."""
    files = find_inputs([str(args.folder)])
    rows = []
    for batch_size in args.batch_size:
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            results = predictor.stream(files, batch_size, args.threads)
            done = sum(bool(parsed.graph and parsed.graph.to_json()) for parsed in results)
            seconds.append(time.perf_counter() - begin)
        rows.append((batch_size, done, *seconds, *(done / each for each in seconds)))
    print(f"{len(files)} files, {args.threads} threads decode")
    names = ("batch size", "images", "first pass, s", "second pass, s", "first, images/s", "second, images/s")
    print(tabulate(rows, names, tablefmt="pipe", floatfmt=".2f"))


def latency(predictor: SceneGraphPredictor, args: Namespace) -> None:
    """Print milliseconds of the whole, then of its parts."""
    image, model = make_psg_shapes_scene("easy", (args.size, args.size), 0, "val", 0).image, predictor.model
    clock = Timer()  # a call ends with results on the host
    for number in range(args.warmup + args.iterations):
        graph = clock.call("warm-up" if number < args.warmup else "whole", predictor, image)
    if args.profile:
        calls = max(args.iterations // 8, 1)
        text = profile_steps(lambda count: [predictor(image) for _ in range(count)], calls, model.device.type == "cuda")
        args.profile.write_text(text)

    timer = Timer(model.device)
    timer.wrap_parts(model)
    timer.wrap(model, "preprocess", "to the device, normalise")
    timer.wrap(model.postprocessor, "detected_objects", "masks and panoptic map")
    timer.wrap(model.postprocessor, "scene_graphs", "ranking of relations")
    timer.wrap(SceneGraph, "from_output", "scene graph, masks encoded")
    for _ in range(max(args.iterations // 2, 1)):
        predictor(image)

    print(f"{args.size} pixels square, one image at a time")
    rows = {
        "segments": len(graph.objects),
        "relations": len(graph.relations),
        "whole, median": clock.medians()["whole"],
        f"whole, slowest of {args.iterations}": max(clock.each("whole")),
        **timer.medians(),
    }
    print(tabulate(rows.items(), ("", "number, ms"), tablefmt="pipe", floatfmt=".2f"))
