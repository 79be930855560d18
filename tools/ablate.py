#!/usr/bin/env python
"""Train a recipe once as it is and once for each change of one setting; write one table of the results.

    python tools/ablate.py --config-file configs/quickstart/usg_par_quickstart.yaml --output output/ablation
    python tools/ablate.py --config-file ... --output ... --seeds 1 2 3 --rows layer_order --opts SOLVER.MAX_ITER 300
    python tools/ablate.py --config-file ... --output ... --list     # the commands alone; --table: what is finished

Each row is a run of tools/train_net.py, whose command stands in --output/commands.sh. Finished rows are kept: the same
command line goes on where it was stopped, and tries again what failed. The table is --output/table.md. Jobs share the
machine and take its GPUs in turns. Rows that change the batch change their steps, so that all see as many samples.
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from detectron2.config import CfgNode

from usg_psg.cli import config_of
from usg_psg.config import build_cfg
from usg_psg.config.files import leaves
from usg_psg.utils.program import one_line_errors, say
from usg_psg_cli.arguments import add_config, parse_arguments, positive_integer, whole_number

ROOT = Path(__file__).resolve().parents[1]
USG = "MODEL.USG."
JITTER = "INPUT.USG.MIN_SCALE", "INPUT.USG.MAX_SCALE"
PILOT = USG + "MASK_PILOT.ENABLED", "True"
SAMPLER = "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"
SCALES = {
    "objects": USG + "CLASS_HEAD.LOGIT_SCALE",
    "pairs": USG + "RELATION_HEAD.RPC.LOGIT_SCALE",
    "predicates": USG + "RELATION_HEAD.PREDICATE.LOGIT_SCALE",
}
COLUMNS = {
    "R@20": "single/R@20",
    "R@50": "single/R@50",
    "mR@50": "single/mR@50",
    "openpsg R@50": "openpsg/R@50",
    "pairs in the top 20": "oracle/pairs@20",
    "pairs with both ends found": "oracle/pairs@all",
    "objects found": "oracle/objects",
    "PQ": "PQ",
}


def value_of(cfg: CfgNode, key: str) -> Any:
    """What a recipe has under a key with dots."""
    return reduce(lambda node, name: node[name], key.split("."), cfg)


def other(cfg: CfgNode, key: str, *values: str) -> list[str]:
    """Override of a key with the first of the values that the recipe does not have."""
    return [key, next(value for value in values if value != str(value_of(cfg, key)))]


def scaled(cfg: CfgNode, key: str, factor: float, most: float = math.inf) -> list[str]:
    """Override of a key with a multiple of the recipe's value, of the same type and at most this."""
    value = value_of(cfg, key)
    return [key, str(min(round(value * factor, None if isinstance(value, int) else 9), most))]


def num_pairs(cfg: CfgNode, factor: float) -> list[str]:
    """Another K, as far as the queries have pairs."""
    queries = cfg.MODEL.USG.MASK_DECODER.NUM_QUERIES
    return scaled(cfg, USG + "RELATION_HEAD.RPC.NUM_PAIRS", factor, queries * (queries - 1))


# Sizes of the model and how it runs, which a comparison of recipes leaves alone.
SIZES = {*"HIDDEN_DIM FFN_DIM NUM_LAYERS NUM_HEADS NUM_QUERIES NUM_POINTS SIZE_DIVISIBILITY COMPILE".split()}
# The numbers of a recipe's optimiser.
OPTIMIZER = {"BASE_LR", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_EMBED", "CLIP_GRADIENTS.CLIP_VALUE"}


def batches(cfg: CfgNode, size: int) -> list[str]:
    """Batches of another size, in as many steps as give the same number of samples."""
    solver, factor = cfg.SOLVER, size / cfg.SOLVER.IMS_PER_BATCH
    if factor == 1:
        return []
    steps = {"IMS_PER_BATCH": size}
    steps.update((name, max(1, round(solver[name] / factor))) for name in ("MAX_ITER", "WARMUP_ITERS"))
    return [word for name, value in steps.items() for word in (f"SOLVER.{name}", str(value))]


def scaled_batch(factor: float, exponent: float) -> Callable[[CfgNode], list[str]]:
    """Batches larger by a factor, with the learning rate times its power: 1 for linear scaling, 0.5 for the root."""
    return lambda cfg: [
        *batches(cfg, max(1, round(cfg.SOLVER.IMS_PER_BATCH * factor))),
        *scaled(cfg, "SOLVER.BASE_LR", factor**exponent),
    ]


def relation_rate(cfg: CfgNode, factor: float) -> list[str]:
    """Another learning rate of pair proposals and relation decoder alone."""
    rest = [entry for entry in cfg.SOLVER.MULTIPLIERS if entry[0] != "relation_head"]
    return ["SOLVER.MULTIPLIERS", str([*rest, ["relation_head", factor]])]


def choices_of(recipe: str, optimizer: bool = False) -> Callable[[CfgNode], list[str]]:
    """Another recipe's losses, matching, heads and order of layers; sizes, data and number of samples stay the same.

    Args:
        recipe: a file of configs/.
        optimizer: also take its learning rate, weight decay and clipping.
    """

    def overrides(cfg: CfgNode) -> list[str]:
        own, theirs = dict(leaves(cfg)), dict(leaves(build_cfg(recipe)))

        def taken(key: str) -> bool:
            if key.startswith(USG):
                return key.split(".")[-1] not in SIZES
            return optimizer and key.removeprefix("SOLVER.") in OPTIMIZER

        changed = (key for key in own if taken(key) and own[key] != theirs[key])
        return [word for key in changed for word in (key, str(theirs[key]))]

    return overrides


# Each change is stated relative to the recipe, so that it is one in every recipe.
ROWS: dict[str, Callable[[CfgNode], list[str]]] = {
    "baseline": lambda cfg: [],
    "no_matching": lambda cfg: [USG + "MATCHER.NAME", "fixed"],
    "no_pair_loss": lambda cfg: [USG + "LOSS.PAIR_WEIGHT", "0.0"],
    "scale_objects": lambda cfg: other(cfg, SCALES["objects"], "fixed", "learnable"),
    "scale_pairs": lambda cfg: other(cfg, SCALES["pairs"], "fixed", "learnable"),
    "scale_predicates": lambda cfg: other(cfg, SCALES["predicates"], "fixed", "learnable"),
    "scale_all": lambda cfg: [word for key in SCALES.values() for word in other(cfg, key, "fixed", "learnable")],
    "layer_order": lambda cfg: other(cfg, USG + "MASK_DECODER.LAYER_ORDER", "cross_first", "self_first"),
    "deep_supervision": lambda cfg: other(cfg, USG + "MASK_DECODER.DEEP_SUPERVISION", "False", "True"),
    "missed_pairs": lambda cfg: other(cfg, USG + "LOSS.ADD_MISSED_PAIRS", "True", "False"),
    "no_object_half": lambda cfg: scaled(cfg, USG + "LOSS.NO_OBJECT_WEIGHT", 0.5),
    "no_object_tenfold": lambda cfg: scaled(cfg, USG + "LOSS.NO_OBJECT_WEIGHT", 10),
    "pairs_half": lambda cfg: num_pairs(cfg, 0.5),
    "pairs_double": lambda cfg: num_pairs(cfg, 2),
    "rpc_without_attention": lambda cfg: [USG + "RELATION_HEAD.RPC.NUM_LAYERS", "0"],
    "rpc_deeper": lambda cfg: scaled(cfg, USG + "RELATION_HEAD.RPC.NUM_LAYERS", 2),
    "relation_query": lambda cfg: other(cfg, USG + "RELATION_HEAD.QUERY_FORM", "embedded", "concat"),
    "levels_coarse": lambda cfg: other(cfg, USG + "RELATION_HEAD.FEATURE_LEVELS", "[0]", "[0, 1, 2]"),
    "levels_fine": lambda cfg: other(cfg, USG + "RELATION_HEAD.FEATURE_LEVELS", "[2]", "[0, 1, 2]"),
    # A threshold for the few predicates of generated scenes.
    "repeat_factors": lambda cfg: [*SAMPLER, "DATALOADER.REPEAT_THRESHOLD", "0.5"],
    "adjusted_loss": lambda cfg: [USG + "LOSS.PREDICATE_LOGIT_ADJUSTMENT", "1.0"],
    "adjusted_afterwards": lambda cfg: ["TEST.USG.PREDICATE_LOGIT_ADJUSTMENT", "1.0"],
    "pair_weight_quarter": lambda cfg: scaled(cfg, USG + "LOSS.PAIR_WEIGHT", 0.25),
    "pair_weight_fivefold": lambda cfg: scaled(cfg, USG + "LOSS.PAIR_WEIGHT", 5),
    "pair_detached": lambda cfg: other(cfg, USG + "RELATION_HEAD.RPC.DETACH_QUERIES", "True", "False"),
    "pair_prior_tenth": lambda cfg: scaled(cfg, USG + "RELATION_HEAD.RPC.PRIOR_PROB", 0.1),
    "mean_losses": lambda cfg: [*other(cfg, USG + "LOSS.REDUCTION", "mean", "per_target"), PILOT[0], "False"],
    "rate_quarter": lambda cfg: scaled(cfg, "SOLVER.BASE_LR", 0.25),
    "rate_half": lambda cfg: scaled(cfg, "SOLVER.BASE_LR", 0.5),
    "rate_more": lambda cfg: scaled(cfg, "SOLVER.BASE_LR", 1.4),
    "rate_double": lambda cfg: scaled(cfg, "SOLVER.BASE_LR", 2),
    "relations_rate_half": lambda cfg: relation_rate(cfg, 0.5),
    "relations_rate_quarter": lambda cfg: relation_rate(cfg, 0.25),
    "batch_half_linear": scaled_batch(0.5, 1),
    "batch_half_root": scaled_batch(0.5, 0.5),
    "batch_double_linear": scaled_batch(2, 1),
    "batch_double_root": scaled_batch(2, 0.5),
    "batch_fourfold_linear": scaled_batch(4, 1),
    "batch_fourfold_root": scaled_batch(4, 0.5),
    "mask_pilot": lambda cfg: other(cfg, PILOT[0], "True", "False"),
    "piloted_objects": lambda cfg: [*PILOT, USG + "MASK_PILOT.RELATION_WEIGHT", "0.0"],
    "piloted_relations": lambda cfg: [*PILOT, USG + "MASK_PILOT.OBJECT_WEIGHT", "0.0"],
    "piloted_pure": lambda cfg: [*PILOT, USG + "MASK_PILOT.MASK_NOISE", "0.0", USG + "MASK_PILOT.CLASS_NOISE", "0.0"],
    "scales_around_one": lambda cfg: other(cfg, JITTER[0], "0.5", "1.0") + other(cfg, JITTER[1], "1.5", "1.0"),
    "scales_wide": lambda cfg: other(cfg, JITTER[0], "0.1", "1.0") + other(cfg, JITTER[1], "2.0", "1.0"),
    "ema": lambda cfg: other(cfg, "SOLVER.EMA.ENABLED", "True", "False"),
    "mask_decoder_deeper": lambda cfg: scaled(cfg, USG + "MASK_DECODER.NUM_LAYERS", 1.5),
    "mask_decoder_deepest": lambda cfg: scaled(cfg, USG + "MASK_DECODER.NUM_LAYERS", 2.25),
    # The head-to-head: other recipes at this one's size, data and number of samples. `released_tuned` keeps this
    # recipe's optimiser. usg_par_best.yaml's own pair weight is for 250 queries: usg_par_shapes_psg.yaml stands for it.
    "specification": choices_of("psg/usg_par_convnext_large.yaml", optimizer=True),
    "released": lambda cfg: choices_of("psg/usg_par_released.yaml", optimizer=True)(cfg) + batches(cfg, 8),
    "released_tuned": choices_of("psg/usg_par_released.yaml"),
    "class_balanced": lambda cfg: [USG + "LOSS.PREDICATE_BALANCE_BETA", "0.999"],
}


@dataclass(frozen=True)
class Job:
    """One training run: a changed setting, a seed, OUTPUT_DIR, and the command, to be run in the repository's root."""

    row: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    command: tuple[str, ...]

    @property
    def record(self) -> Path:
        """File that says what came out."""
        return self.folder / "row.json"

    def outcome(self) -> dict[str, Any]:
        """The record of this very command, with "metrics" or an "error"; empty if there is none."""
        try:
            record = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and record.get("command") == list(self.command) else {}

    def finished(self) -> dict[str, Any] | None:
        """The record, if the command was run to its end."""
        record = self.outcome()
        return record if "metrics" in record else None


def make_jobs(args: argparse.Namespace, cfg: CfgNode) -> list[Job]:
    """All runs, seed by seed, so that a table with one seed is complete first."""
    jobs = []
    for seed in args.seeds:
        for row in args.rows:
            overrides = ROWS[row](cfg)
            folder = Path(args.output).resolve() / row / f"seed{seed}"
            command = ["python", "tools/train_net.py", "--config-file", args.config_file]
            command += [*["--trust-imports"] * args.trust_imports, *args.opts, *overrides]
            # Nothing but the last evaluation is looked at.
            command += ["SOLVER.CHECKPOINT_PERIOD", "0", "SOLVER.BEST_METRIC", ""]
            command += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
            jobs.append(Job(row, seed, tuple(overrides), folder, tuple(command)))
    return jobs


class Runner:
    """Runs jobs in subprocesses, some at a time; `keep_weights` leaves the trained weights in the folders."""

    def __init__(self, jobs: int, keep_weights: bool):
        self.jobs, self.keep_weights = jobs, keep_weights
        self.env = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ}
        own = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = own.split(",") if own else [str(n) for n in range(torch.cuda.device_count())] or [""]
        self._gpus: SimpleQueue[str] = SimpleQueue()
        for number in range(jobs):
            self._gpus.put(gpus[number % len(gpus)])
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def run(self, jobs: list[Job], after_each: Callable[[], None]) -> None:
        """Run what is not finished; `after_each` is called after every job."""
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                for job, record in zip(jobs, pool.map(self._run, jobs), strict=True):
                    outcome = record.get("error") or f"R@50 {record['metrics']['single/R@50']:.1f}"
                    print(f"{job.row} seed {job.seed}: {outcome}", flush=True)
                    after_each()
            except KeyboardInterrupt:
                self._stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                for process in tuple(self._running):
                    process.terminate()
                say("the same command goes on from here")
                raise

    def _run(self, job: Job) -> dict[str, Any]:
        if (record := job.finished()) is not None:
            return record
        shutil.rmtree(job.folder, ignore_errors=True)  # of a run that was stopped, or of another command
        job.folder.mkdir(parents=True)
        start, output = time.monotonic(), job.folder / "output.txt"
        command, gpu = [sys.executable, *job.command[1:]], self._gpus.get()
        env = {**self.env, "CUDA_VISIBLE_DEVICES": gpu}
        with open(output, "wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
            self._running.add(process)
            if self._stopped:  # meanwhile
                process.terminate()
            status = process.wait()
        self._running.discard(process)
        self._gpus.put(gpu)
        if self._stopped:
            return {"error": "stopped"}
        record = {"command": list(job.command), "seconds": time.monotonic() - start}
        try:
            if status:
                raise RuntimeError(f"exit code {status}: {last_line(output)}")
            record["metrics"] = read_metrics(job.folder)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            record["error"] = str(error)
        job.record.write_text(json.dumps(record))
        if not self.keep_weights:
            for path in job.folder.glob("*.pth"):
                path.unlink()
        return record


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    return (path.read_text(errors="replace").strip() or "no output").splitlines()[-1].strip()[:200]


def read_metrics(folder: Path) -> dict[str, float]:
    """What the evaluation at the end of a run wrote; "NAME: " stands before keys of all data sets but the first.

    Raises:
        ValueError: if the recipe evaluates on no data set.
    """
    metrics: dict[str, float] = {}
    for name in build_cfg(str(folder / "config.yaml")).DATASETS.TEST:
        files = list((folder / "inference").rglob(f"sgdet_{name}.json"))
        if len(files) != 1:
            raise ValueError(f"expected one file of results of {name} in {folder / 'inference'}, found {len(files)}")
        content = json.loads(files[0].read_text())
        prefix = f"{name}: " if metrics else ""
        metrics.update({prefix + key: value for key, value in {**content["metrics"], **content["panoptic"]}.items()})
    if not metrics:
        raise ValueError("DATASETS.TEST is empty: a row is judged by its last evaluation")
    return metrics


def mean_and_deviation(values: list[float]) -> str:
    """The mean, with the standard deviation where there are several values."""
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def table(jobs: list[Job]) -> str:
    """Markdown of what there is so far; R@50 and mR@50 of further data sets come last."""
    finished = {job: record["metrics"] for job in jobs if (record := job.finished()) is not None}
    others = sorted({key.partition(": ")[0] for metrics in finished.values() for key in metrics if ": " in key})
    more = {f"{what}, {name}": f"{name}: single/{what}" for name in others for what in ("R@50", "mR@50")}
    titles = {**COLUMNS, **more}
    lines = ["| row | change | " + " | ".join(titles) + " | runs |", "| --- | --- |" + " ---: |" * (len(titles) + 1)]
    for row in dict.fromkeys(job.row for job in jobs):
        own = [job for job in jobs if job.row == row]
        pairs = zip(own[0].overrides[::2], own[0].overrides[1::2], strict=True)
        change = "<br>".join(f"`{key} {value}`" for key, value in pairs) or "the recipe"
        metrics = [finished[job] for job in own if job in finished]
        known = ([each[key] for each in metrics if each.get(key) is not None] for key in titles.values())
        cells = map(mean_and_deviation, known)
        count = str(len(metrics))
        if failed := [record["error"] for job in own if "error" in (record := job.outcome())]:
            count += f", {len(failed)} failed: {failed[0]}".replace("|", "\\|")
        lines.append(f"| {row} | {change} | " + " | ".join(cells) + f" | {count} |")
    return "\n".join(lines) + "\n"


def define(parser: argparse.ArgumentParser) -> None:
    """Arguments of this program."""
    add_config(parser)
    add = parser.add_argument
    add("--output", required=True, help="folder of the runs and the table")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    add("--seeds", type=whole_number(0), nargs="+", default=[1])
    add("--jobs", type=positive_integer, default=1, help="runs at a time")
    add("--keep-weights", action="store_true")
    add("--table", action="store_true", help="write the table of what is finished and run nothing")
    add("--list", action="store_true", help="print the commands and run nothing")


def run(args: argparse.Namespace) -> int:
    """0 if every run is finished, 1 if not."""
    jobs = make_jobs(args, config_of(args))
    commands = "".join(shlex.join(job.command) + "\n" for job in jobs)
    print(commands, end="", flush=True)
    if args.list:
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # runs are ended as by Ctrl-C, not left behind
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "commands.sh").write_text(commands)

    def write_table() -> None:
        (output / "table.md").write_text(table(jobs))

    write_table()
    if not args.table:
        Runner(args.jobs, args.keep_weights).run(jobs, write_table)
    print(f"\n{table(jobs)}\n{output / 'table.md'}")
    return int(any(job.finished() is None for job in jobs))


main = one_line_errors(lambda argv=None: run(parse_arguments(define, argv, __doc__)))

if __name__ == "__main__":
    raise SystemExit(main())
