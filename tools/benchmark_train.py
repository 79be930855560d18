#!/usr/bin/env python
"""Throughput, time by part and peak memory of training steps.

    python tools/benchmark_train.py --config-file configs/psg/usg_par_convnext_large.yaml --batch-size 8 16 \\
        --opts MODEL.CLIP.PRETRAINED ""

Images, masks and relations are random and lie in memory: the data loader is not part of these figures. Weights are
random unless the recipe's can be loaded. With a GPU, times are those between CUDA events.
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from usg_psg.config import build_cfg
from usg_psg.engine import adapt_to_machine, build_optimizer


def random_sample(size: int, num_objects: int, num_relations: int, num_classes: int, num_predicates: int) -> dict:
    """A square image cut into random cells, each an object, with random relations between them."""
    seeds = torch.rand(num_objects, 2)
    axis = (torch.arange(size) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
    owner = torch.cdist(pixels, seeds).argmin(dim=1).view(size, size)
    objects = Instances((size, size))
    objects.gt_classes = torch.randint(0, num_classes, (num_objects,))
    objects.gt_masks = owner[None] == torch.arange(num_objects)[:, None, None]
    subject = torch.randint(0, num_objects, (num_relations,))
    object_ = (subject + torch.randint(1, num_objects, (num_relations,))) % num_objects
    relations = torch.stack([subject, object_, torch.randint(0, num_predicates, (num_relations,))], dim=1)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    return {"image": image, "instances": objects, "relations": relations}


class PartTimer:
    """Time spent in modules, by name, on the device's own clock where there is one."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.spans: dict[str, list] = defaultdict(list)

    def now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wrap(self, owner: object, attribute: str, name: str) -> None:
        """Time every call of owner.attribute."""
        call: Callable = getattr(owner, attribute)

        def timed(*args, **kwargs):
            start = self.now()
            result = call(*args, **kwargs)
            self.spans[name].append((start, self.now()))
            return result

        setattr(owner, attribute, timed)

    def add(self, name: str, start) -> None:
        self.spans[name].append((start, self.now()))

    def milliseconds(self) -> dict[str, float]:
        """Median per call."""
        if self.cuda:
            torch.cuda.synchronize()
        return {
            name: statistics.median(
                start.elapsed_time(end) if self.cuda else 1000 * (end - start) for start, end in spans
            )
            for name, spans in self.spans.items()
        }


def time_parts(model: nn.Module, timer: PartTimer) -> None:
    """Wrap the steps of USGPar's training forward."""
    for name in ("backbone", "pixel_decoder", "mask_decoder", "class_head", "matcher", "object_criterion"):
        timer.wrap(getattr(model, name), "forward", name)
    timer.wrap(model.relation_head, "propose", "rpc")
    timer.wrap(model.relation_head, "decode", "relation_decoder")
    timer.wrap(model.relation_criterion, "forward", "relation_criterion")


def benchmark(cfg: CfgNode, batch_size: int, iterations: int, warmup: int) -> dict[str, float]:
    """Median step time, throughput, peak memory and time by part of one batch size."""
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    device = model.device
    classes, predicates = len(model.object_text), len(model.predicate_text)
    batches = [
        [random_sample(cfg.INPUT.USG.IMAGE_SIZE, 12, 6, classes, predicates) for _ in range(batch_size)]
        for _ in range(2)
    ]
    if device.type == "cuda":
        for sample in (sample for batch in batches for sample in batch):
            sample["image"] = sample["image"].pin_memory()
            sample["instances"].gt_masks = sample["instances"].gt_masks.pin_memory()
        torch.cuda.reset_peak_memory_stats()
    amp = torch.autocast(device.type, getattr(torch, cfg.SOLVER.AMP.DTYPE)) if cfg.SOLVER.AMP.ENABLED else nullcontext()
    timer = PartTimer(device)
    time_parts(model, timer)
    for step in range(warmup + iterations):
        if step == warmup:
            timer.spans.clear()
        start = timer.now()
        with amp:
            losses = model(batches[step % 2])
        timer.add("forward, all", start)
        middle = timer.now()
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        timer.add("backward", middle)
        middle = timer.now()
        optimizer.step()
        timer.add("optimizer", middle)
        timer.add("step", start)
    result = timer.milliseconds()
    result["images per second"] = 1000 * batch_size / result["step"]
    if device.type == "cuda":
        result["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides")
    arguments = parser.parse_args()
    cfg = build_cfg(arguments.config_file, arguments.opts)
    adapt_to_machine(cfg)
    cfg.freeze()
    columns = {}
    for batch_size in arguments.batch_size:
        columns[batch_size] = benchmark(cfg, batch_size, arguments.iterations, arguments.warmup)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    device = torch.cuda.get_device_name() if cfg.MODEL.DEVICE.startswith("cuda") else "CPU"
    print(f"{device}, torch {torch.__version__}, {cfg.INPUT.USG.IMAGE_SIZE} pixels square, random data")
    print("| ms by part | " + " | ".join(f"batch {b}" for b in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
