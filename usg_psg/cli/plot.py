"""Draws how one or several training runs went."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

METRICS = ("sgdet/single/R@50", "sgdet/single/mR@50", "panoptic/PQ")
LOSSES = {
    "objects": ("loss_class", "loss_mask", "loss_dice"),
    "relations": ("loss_pair", "loss_predicate"),
}
STYLES = {"objects": "-", "relations": "--"}
SANITY = "sanity/pair_recall_in_top_k"
FIRST_STEPS = 10  # whose mean a loss is compared with


@dataclass
class Run:
    """What the logs of one run say.

    Attributes:
        name: for the legend.
        losses: by kind, (steps, values) of the weighted sum of the last layer's terms.
        scalars: by name, (steps, values) of metrics.json.
    """

    name: str
    losses: dict[str, tuple[np.ndarray, np.ndarray]]
    scalars: dict[str, tuple[np.ndarray, np.ndarray]]


def read_lines(path: Path) -> list[dict]:
    """The records of a log; a last line that is cut off is left out.

    Raises:
        ValueError: if the file is missing, damaged elsewhere, or empty, or a line is no object with an iteration.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}: a run's OUTPUT_DIR is needed")
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            break
        if not isinstance(record, dict) or not is_number(record.get("iteration")):
            raise ValueError(f"{path}, line {number}: expected an object with an iteration, got {line[:80]}")
        records.append(record)
    if not records:
        raise ValueError(f"{path} has no complete line yet")
    return records


def is_number(value: object) -> bool:
    """Whether a value of a log can be drawn: NaN and infinite ones can, but whole ones that no float holds cannot."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def read_run(argument: str) -> Run:
    """A run of the command line, "FOLDER" or "NAME=FOLDER"; ValueError as in `read_lines`."""
    name, _, folder = ("", "", argument) if Path(argument).is_dir() else argument.rpartition("=")
    path = Path(folder)
    steps = read_lines(path / "losses.jsonl")
    iterations = np.array([step["iteration"] for step in steps])
    losses = {}
    for kind, terms in LOSSES.items():
        if missing := [term for term in terms for step in steps if not is_number(step.get(term))]:
            raise ValueError(f"{path / 'losses.jsonl'} has no {missing[0]}: it is no run of this project")
        losses[kind] = iterations, np.array([sum(step[term] for term in terms) for step in steps])
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in read_lines(path / "metrics.json"):
        for key, value in record.items():
            if is_number(value):
                points[key].append((record["iteration"], value))
    columns = {key: zip(*values, strict=True) for key, values in points.items()}
    scalars = {key: (np.array(steps), np.array(values)) for key, (steps, values) in columns.items()}
    return Run(name or path.resolve().name, losses, scalars)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` values at each place; of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - width, 0)
    return (total[end] - total[begin]) / (end - begin)


def draw(runs: list[Run], metrics: list[str], smoothing: int) -> Figure:
    """Three plots side by side: losses, annotated pairs among the proposals while training, evaluations."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    losses, proposals, evaluations = figure.subplots(1, 3, sharex=True)
    several = len(runs) > 1
    for number, run in enumerate(runs):
        for place, (kind, (steps, values)) in enumerate(run.losses.items()):
            colour = f"C{number}" if several else f"C{place}"
            share = values / values[:FIRST_STEPS].mean()
            losses.plot(steps, share, color=colour, alpha=0.15, lw=0.7)
            label = f"{run.name}, {kind}" if several else kind
            losses.plot(steps, running_mean(share, smoothing), STYLES[kind], color=colour, label=label)
        if SANITY in run.scalars:
            proposals.plot(*run.scalars[SANITY], color=f"C{number}", label=run.name)
        for place, metric in enumerate(metrics):
            if metric in run.scalars:
                colour, marker = (f"C{number}", "os^Dvx"[place % 6]) if several else (f"C{place}", "o")
                label = f"{run.name}, {metric}" if several else metric
                evaluations.plot(*run.scalars[metric], color=colour, marker=marker, markersize=4, label=label)
    losses.set(ylabel=f"loss / its mean over the first {FIRST_STEPS} steps", yscale="log")
    proposals.set(ylabel="related pairs among the K proposals (%)", ylim=(0, 101))
    evaluations.set(ylabel="evaluation (%)", ylim=(0, 101))
    for axis in (losses, proposals, evaluations):
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.has_data() and (axis is not proposals or several):
            for text in axis.legend(fontsize=7).get_texts():
                text.set_parse_math(False)  # folders may have dollar signs in their names
        elif not axis.has_data():
            axis.text(0.5, 0.5, "nothing logged", ha="center", transform=axis.transAxes, color="gray")
    return figure


def run(args: Namespace) -> None:
    """Write the picture and print its name."""
    known = FigureCanvasBase.get_supported_filetypes()
    if args.output.suffix[1:].lower() not in known:
        raise ValueError(f"--output: expected a file name with an ending of {', '.join(known)}, got {args.output}")
    runs = [read_run(argument) for argument in args.runs]
    logged = {name for run in runs for name in run.scalars}
    if unknown := [name for name in args.metrics if name not in logged and name not in METRICS]:
        there = ", ".join(sorted(name for name in logged if "/" in name)) or "none"
        raise ValueError(f"--metrics: no run logged {unknown[0]}; logged are: {there}")
    figure = draw(runs, args.metrics, args.smoothing)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)
    print(args.output)
