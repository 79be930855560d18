"""Training in float32, bfloat16 and float16, compared."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections import defaultdict

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from ...data import build_psg_train_loader
from ...engine import GradientClipper, StepRunner, adapt_to_machine, build_optimizer, step_runner
from ...modeling.compile import run_as_configured
from .. import config_of
from .measure import device_name, use_psg_sized_vocabulary, use_scenes

RUNS = {"fp32": None, "noise": None, "bf16": torch.bfloat16, "fp16": torch.float16}
FIRST = 20


def train(cfg: CfgNode, run: str, iterations: int) -> dict:
    """Losses of every step by name, auxiliary layers added to the last; skipped steps; what ended the run early."""
    torch.manual_seed(cfg.SEED)
    cfg = cfg.clone()
    if RUNS[run] is None:
        cfg.MODEL.CLIP.FROZEN_DTYPE = "float32"
    model = run_as_configured(build_model(cfg), cfg)
    use_psg_sized_vocabulary(model)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, optimizer)
    runner = StepRunner(
        model,
        build_psg_train_loader(cfg),
        optimizer,
        clipper=GradientClipper.from_config(cfg),
        autocast_dtype=RUNS[run],
    )
    losses: dict[str, list[float]] = defaultdict(list)
    result = {"losses": losses, "error": "", "skipped": 0.0}
    before = step_runner.STEP_STREAM
    step_runner.STEP_STREAM = before + (run == "noise")  # other random numbers in the steps, the same images
    try:
        with EventStorage() as storage:
            for runner.iter in range(iterations):
                storage.iter = runner.iter
                runner.run_step()
                schedule.step()
                terms: dict[str, float] = defaultdict(float)
                for name, (value, when) in storage.latest().items():
                    if "loss" in name and when == runner.iter:
                        terms[re.sub(r"_\d+$", "", name)] += value
                for name, value in terms.items():
                    losses[name].append(value)
                result["skipped"] = storage.latest()["skipped_steps"][0]
    except FloatingPointError as error:
        result["error"] = str(error)
    finally:
        step_runner.STEP_STREAM = before
        runner.close()
    return result


def first_steps(values: list[float], reference: list[float]) -> float:
    """Mean difference of the first steps, percent of the reference's mean."""
    a, b = torch.tensor(values[:FIRST]), torch.tensor(reference[:FIRST])
    return 100 * float((a - b).abs().mean() / b.mean())


def largest_gap(values: list[float], reference: list[float]) -> float:
    """Largest difference among the means of each tenth of the steps, percent of the reference's."""
    means = [torch.stack([x.mean() for x in torch.tensor(v).chunk(10)]) for v in (values, reference)]
    return 100 * float(((means[0] - means[1]).abs() / means[1]).max())


def report(results: dict[str, dict], iterations: int) -> str:
    """The table of all runs, the first of which the others are compared with."""
    reference, *others = results
    names = list(results[reference]["losses"])
    last, rows = slice(-max(iterations // 5, 1), None), []
    for run, result in results.items():
        losses = result["losses"]
        steps = len(next(iter(losses.values()), []))
        cells = []
        for name in names:
            cells.append(f"{sum(losses[name][last]) / max(len(losses[name][last]), 1):.3f}")
            if run in others and steps == iterations:
                both = losses[name], results[reference]["losses"][name]
                cells[-1] += f" ({first_steps(*both):.2f} %, {largest_gap(*both):.1f} %)"
        rows.append((run, steps, int(result["skipped"]), result["error"] or "none", *cells))
    return tabulate(rows, ("run", "steps", "skipped", "not finite", *names), tablefmt="pipe", disable_numparse=True)


def run(args: Namespace) -> int:
    """0 if no run had a loss that is not finite, else 1."""
    cfg = config_of(args)
    adapt_to_machine(cfg)
    cfg.SEED = max(cfg.SEED, 0)  # the runs have to share one
    use_scenes(args.data, cfg.INPUT.USG.IMAGE_SIZE, args.num_scenes)
    cfg.DATASETS.TRAIN = ("psg_shapes_train",)
    results = {}
    for name in args.runs:
        results[name] = train(cfg, name, args.iterations)
        print(report({name: results[name]}, args.iterations).splitlines()[-1], file=sys.stderr)  # a later one may fail
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    note = "" if cfg.MODEL.DEVICE.startswith("cuda") else ", all runs in float32"
    batch = f"batch {cfg.SOLVER.IMS_PER_BATCH}"
    print(f"{device_name(cfg.MODEL.DEVICE)}{note}, {batch}; mean loss over the last fifth of steps")
    print(f"(difference to {args.runs[0]}: single steps among the first {FIRST}, largest of the means of a tenth)")
    print(report(results, args.iterations))
    if args.json:
        args.json.write_text(json.dumps(results))
    return int(any(result["error"] for result in results.values()))
