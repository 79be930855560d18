"""Figures of evaluation results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..evaluation.protocols import PROTOCOLS
from ..evaluation.report import result_ks
from ..evaluation.sgdet_metrics import SGDetResults

GROUP_COLOURS = {"head": "#1f77b4", "body": "#ff7f0e", "tail": "#2ca02c"}


def save_plots(folder: Path | str, results: SGDetResults, predicate_classes: Sequence[str]) -> list[Path]:
    """Draw recall over k, recall per predicate against frequency, and confusion among P predicates, as PNG files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "recall_over_k": recall_over_k(results),
        "recall_per_predicate": recall_per_predicate(results, predicate_classes),
        "predicate_confusion": predicate_confusion(results, predicate_classes),
    }
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        paths.append(path)
    return paths


def recall_over_k(results: SGDetResults) -> Figure:
    """R@K and mR@K of each protocol, with and without graph constraint."""
    figure = Figure(figsize=(11, 4))
    axes = figure.subplots(1, 2)
    ks = result_ks(results)
    styles = {"": ("-", "graph constraint"), "Ng": ("--", "none")}
    for axis, metric in zip(axes, ("R", "mR"), strict=True):
        for index, protocol in enumerate(PROTOCOLS):
            for prefix, (style, rule) in styles.items():
                keys = [f"{protocol.name}/{prefix}{metric}@{k}" for k in ks]
                if not results.metrics.keys() >= set(keys):
                    continue  # rules without a ranking of that kind
                values = [results.metrics[key] for key in keys]
                label = f"{protocol.name}, {rule}"
                # Lines that coincide stay visible: later ones are thinner.
                width = 3.5 - 0.6 * index
                axis.plot(ks, values, style, color=f"C{index}", marker="o", markersize=3, lw=width, label=label)
        axis.set(xlabel="K", ylabel=f"{metric}@K (%)", xticks=ks, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def recall_per_predicate(results: SGDetResults, predicate_classes: Sequence[str]) -> Figure:
    """Frequency of each predicate, most frequent first, and its recall at the largest K under `single`."""
    order = np.concatenate(list(results.predicate_groups.values()))
    colours = [GROUP_COLOURS[group] for group, members in results.predicate_groups.items() for _ in members]
    figure = Figure(figsize=(10, 1.5 + 0.17 * len(order)))
    frequency_axis, recall_axis = figure.subplots(1, 2, sharey=True)
    positions = np.arange(len(order))
    frequency_axis.barh(positions, np.maximum(results.predicate_frequency[order], 0.7), color=colours)
    frequency_axis.set(xscale="log", xlabel="relations (head, body and tail by colour)", xlim=(0.7, None))
    frequency_axis.set_yticks(positions, [predicate_classes[i] for i in order], fontsize=7, parse_math=False)
    frequency_axis.invert_yaxis()
    k = result_ks(results)[-1]
    recall = results.predicate_recall["single"]["mR"][-1][order]
    recall_axis.barh(positions, np.nan_to_num(recall), color=colours)
    for position in positions[np.isnan(recall)]:
        recall_axis.annotate("not annotated", (0.5, position), fontsize=6, va="center", color="gray")
    recall_axis.set(xlabel=f"recall@{k} under single (%)", xlim=(0, 100))
    for axis in (frequency_axis, recall_axis):
        axis.grid(axis="x", alpha=0.3)
        axis.margins(y=0.01)
    return figure


def predicate_confusion(results: SGDetResults, predicate_classes: Sequence[str]) -> Figure:
    """Annotated predicates (rows, as shares) against the best predicate predicted for the same pair."""
    present = np.flatnonzero(results.confusion.sum(axis=1))
    figure = Figure(figsize=(4 + 0.17 * len(predicate_classes), 3 + 0.17 * max(len(present), 1)))
    axis = figure.subplots()
    rows = results.confusion[present] if len(present) else np.zeros((1, results.confusion.shape[1]))
    shares = 100.0 * rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    columns = [*predicate_classes, "pair not found"]
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6, parse_math=False)
    axis.set_yticks(range(len(present)), [predicate_classes[int(i)] for i in present], fontsize=6, parse_math=False)
    axis.set(xlabel="predicted", ylabel="annotated")
    figure.colorbar(image, ax=axis, label="% of the annotated relations")
    return figure
