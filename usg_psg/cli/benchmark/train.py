"""Throughput, time by part and peak memory of training steps."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from ...config.checks import check_config
from ...data import build_psg_train_loader
from ...engine import GradientClipper, StepRunner, adapt_to_machine, build_optimizer, launch
from ...engine.trainer import autocast_dtype
from ...losses.matcher import Matching
from ...modeling.compile import run_as_configured
from .. import config_of
from .measure import Timer, device_name, profile_steps, use_psg_sized_vocabulary, use_scenes

ROUNDS = 3  # of which the median counts: in the first steps, memory grows and sizes are new
SLOW = 1.25  # times the median step


def time_parts(model: Any, runner: StepRunner, timer: Timer) -> None:
    """Wrap the parts of a step."""
    timer.wrap_parts(model)
    timer.wrap(model.criterion, "start_matching", "matcher, costs")
    timer.wrap(Matching, "result", "matcher, wait")
    timer.wrap(model.criterion.object_criterion, "forward", "object_criterion")
    timer.wrap(model.criterion.relation_criterion, "forward", "relation_criterion")
    timer.wrap(runner, "backward", "backward")
    if comm.get_world_size() > 1:
        timer.wrap(runner, "exchange", "average of gradients")
    timer.wrap(runner, "update", "optimizer")
    timer.wrap(runner, "run_step", "step")


def summary(
    rounds: list[float], each: list[float], waits: list[float], images: int, processes: int
) -> dict[str, float]:
    """Throughput and steps by name.

    Args:
        rounds: seconds a step of each round.
        each: milliseconds of every step.
        waits: seconds for which steps waited for data.
        images: of a step of all processes.
    """
    seconds, median = statistics.median(rounds), statistics.median(each)
    return {
        "images per second": images / seconds,
        "images per second and process": images / seconds / processes,
        "ms per step": 1000 * seconds,
        "ms per step, median": median,
        "ms per step, slowest": max(each),
        "% of steps, slower by a quarter": 100 * sum(x > SLOW * median for x in each) / len(each),
        "wait for data": 1000 * statistics.mean(waits or [0.0]),
    }


def benchmark(cfg: CfgNode, iterations: int, warmup: int, profile_file: str | None = None) -> dict[str, float]:
    """Throughput, wait for data, peak memory and time by part of one batch size, in every process of a run."""
    torch.manual_seed(0)
    model = run_as_configured(build_model(cfg), cfg)
    use_psg_sized_vocabulary(model)
    runner = StepRunner(
        model,
        build_psg_train_loader(cfg),
        build_optimizer(cfg, model),
        clipper=GradientClipper.from_config(cfg),
        accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        autocast_dtype=autocast_dtype(cfg),
    )
    on_gpu = model.device.type == "cuda"

    def steps(count: int) -> tuple[float, list[float]]:
        waits = []
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            starts.append(timer.now())
            runner.run_step()
            if comm.is_main_process():
                waits.append(storage.latest()["data_time"][0])
            storage.iter = runner.iter = runner.iter + 1
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count, waits

    timer, starts = Timer(model.device), list[Any]()
    with EventStorage() as storage:
        steps(warmup)
        rounds, each, waits = [], list[float](), list[float]()
        for _ in range(ROUNDS):
            starts.clear()
            seconds, of_round = steps(iterations)
            rounds.append(seconds)
            each += itertools.starmap(timer.between, itertools.pairwise([*starts, timer.now()]))
            waits += of_round
        # What the process holds: memory of CUDA graphs does not show among allocated tensors.
        peak = torch.cuda.max_memory_reserved() / 2**30 if on_gpu else None
        if profile_file:  # in every process, since they wait for one another
            text = profile_steps(steps, max(iterations // 8, 1), on_gpu)
            if comm.is_main_process():
                Path(profile_file).write_text(text)
        time_parts(model, runner, timer)
        steps(max(iterations // 2, 1))
    runner.close()
    result = summary(rounds, each, waits, cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())
    if peak is not None:
        result["peak memory reserved, GiB"] = peak
    return {**result, **timer.medians()}


def run_process(cfg: CfgNode, iterations: int, warmup: int, profile_file: str | None, path: str) -> None:
    """Body of a process: benchmark, the main process writes the result."""
    result = benchmark(cfg, iterations, warmup, profile_file)
    if comm.is_main_process():
        Path(path).write_text(json.dumps(result))


def run(args: Namespace) -> None:
    """Measure every configuration, then print the table."""
    cfg = config_of(args)
    check_config(cfg)
    adapt_to_machine(cfg)
    use_scenes(args.data, cfg.INPUT.USG.IMAGE_SIZE, args.num_scenes)
    cfg.DATASETS.TRAIN = ("psg_shapes_train",)
    # Where a run begins: as many steps as are timed here are few of its warm-up.
    cfg.SOLVER.BASE_LR *= cfg.SOLVER.WARMUP_FACTOR
    columns = {}
    for num_gpus, batch_size in itertools.product(args.num_gpus, args.batch_size):
        cfg.SOLVER.IMS_PER_BATCH = num_gpus * batch_size
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            launch(run_process, num_gpus, args=(cfg, args.iterations, args.warmup, args.profile, file.name))
            column = columns[f"{num_gpus} x {batch_size}"] = json.loads(Path(file.name).read_text())
        # At once, since later configurations may take too long or too much memory.
        print(f"{num_gpus} x {batch_size}: {column['images per second']:.2f} images per second", file=sys.stderr)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    workers = f"{cfg.DATALOADER.NUM_WORKERS} loader workers"
    place = f"{device_name(cfg.MODEL.DEVICE)}, {cfg.INPUT.USG.IMAGE_SIZE} pixels square, generated scenes, {workers}"
    names = next(iter(columns.values()))
    rows = [(name, *(column[name] for column in columns.values())) for name in names]
    headers = ("processes x batch; ms by part", *columns)
    print(place, tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f"), sep="\n")
