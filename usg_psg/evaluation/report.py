"""Results as a dict for Detectron2, as a JSON file and as a table."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..utils.files import write_json
from .novel_names import PARTS
from .protocols import PROTOCOLS
from .sgdet_metrics import BASELINE, SGDetResults


def results_to_dict(results: SGDetResults, task: str) -> OrderedDict:
    """{task: {key: percent}, "panoptic": {"PQ": percent, ...}}, as Detectron2's writers and hooks take it."""
    output = OrderedDict({task: dict(results.metrics)})
    if results.panoptic:
        output["panoptic"] = dict(results.panoptic)
    return output


def save_results(
    path: Path, results: SGDetResults, task: str, dataset_name: str, predicate_classes: Sequence[str]
) -> None:
    """Write everything as JSON; NaN becomes null. The file is whole or not there."""
    content = {
        "task": task,
        "dataset": dataset_name,
        "counts": results.counts,
        "metrics": results.metrics,
        "panoptic": results.panoptic,
        "predicates": predicate_rows(results, predicate_classes),
        "predicate_groups": {
            name: [predicate_classes[i] for i in group] for name, group in results.predicate_groups.items()
        },
        "confusion": results.confusion.tolist(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _without_nan(content))


def predicate_rows(results: SGDetResults, predicate_classes: Sequence[str]) -> list[dict]:
    """One dict per predicate: name, frequency, annotated triplets, group and recalls by protocol."""
    group_of = {int(i): name for name, group in results.predicate_groups.items() for i in group}
    ks = result_ks(results)
    rows = []
    for i, name in enumerate(predicate_classes):
        row = {
            "name": name,
            "frequency": int(results.predicate_frequency[i]),
            "gt_triplets": int(results.predicate_counts[i]),
            "group": group_of[i],
        }
        for protocol, recalls in results.predicate_recall.items():
            for metric, values in recalls.items():
                short = metric.replace("mR", "R")
                row.update({f"{protocol}/{short}@{k}": float(v) for k, v in zip(ks, values[:, i], strict=True)})
        rows.append(row)
    return rows


def format_summary(results: SGDetResults) -> str:
    """Table of the protocols, with the counts that say what was averaged."""
    counts = results.counts
    lines = [
        _protocol_table(results, ""),
        f"{counts['images']} images, {counts['images_with_relations']} with relations, of which "
        f"{counts['images_without_predictions']} have no predicted relation (skipped by openpsg and openpsg_rows, 0 "
        f"elsewhere); {counts['gt_triplets']} annotated triplets ({counts['gt_duplicate_triplets']} exact duplicates "
        f"removed) of {int((results.predicate_counts > 0).sum())} of {len(results.predicate_counts)} predicates",
    ]
    if "gt_zero_shot_triplets" in counts:
        lines.append(f"zR: {counts['gt_zero_shot_triplets']} of the triplets are of types that training data lack")
    if f"gt_{PARTS[0]}_triplets" in counts:
        lines += [_novel_line(results, part) for part in PARTS]
    oracle = [f"{key.removeprefix('oracle/')} {value:.2f}" for key, value in results.metrics.items() if "oracle" in key]
    lines.append("found: " + ", ".join(oracle))
    for name, rel in (("panoptic", False), ("panoptic, only images with relations", True)):
        values = [f"{key} {v:.2f}" for key, v in results.panoptic.items() if key.endswith("_rel") == rel]
        if values:
            lines.append(f"{name}: " + ", ".join(values))
    if any(key.startswith(f"{BASELINE}/") for key in results.metrics):
        lines += ["frequency baseline, the same objects:", _protocol_table(results, f"{BASELINE}/")]
    return "\n".join(lines + zero_recall(results))


def zero_recall(results: SGDetResults) -> list[str]:
    """A line that says where the way to a hit breaks off, if the first protocol counts none; else no line."""
    metrics, protocol, k = results.metrics, PROTOCOLS[0].name, max(result_ks(results))
    if metrics[f"{protocol}/R@{k}"] != 0:  # NaN without annotated triplets
        return []
    objects, any_class, pairs = (
        metrics["oracle/objects"],
        metrics["oracle/objects_any_class"],
        metrics[f"{protocol}/PR@{k}"],
    )
    if not any_class:
        cause = "no predicted mask fits an annotated one (untrained, or of other images or sizes?)"
    elif not objects:
        fitting = f"masks fit {any_class:.1f} % of the annotated ones"
        cause = f"{fitting}, never with their class (untrained, or classes in another order?)"
    elif not results.counts["predicted_triplets"]:
        cause = f"{objects:.1f} % of the objects are found, but no relation is predicted"
    elif not pairs:
        cause = f"{objects:.1f} % of the objects are found, but no related pair (untrained, or positions from 1?)"
    else:
        cause = f"{pairs:.1f} % of the related pairs are found, but never their predicate (untrained, or from 1?)"
    return [f"{protocol}/R@{k} is 0: {cause}"]


def _novel_line(results: SGDetResults, part: str) -> str:
    protocol = PROTOCOLS[0].name
    keys = [f"{name}@{k}" for k in result_ks(results) for name in ("R", "mR")]
    values = ", ".join(f"{key} {results.metrics[f'{protocol}/{key}/{part}']:.2f}" for key in keys)
    return f"{part}, {results.counts[f'gt_{part}_triplets']} triplets: {protocol} {values}"


def _protocol_table(results: SGDetResults, prefix: str) -> str:
    ks, metrics = result_ks(results), results.metrics
    names = [n for n in ("R", "mR", "F", "NgR", "NgmR", "PR", "zR") if f"{PROTOCOLS[0].name}/{n}@{ks[0]}" in metrics]
    rows = [
        [protocol.name, f"@{k}"] + [metrics.get(f"{prefix}{protocol.name}/{name}@{k}") for name in names]
        for protocol in PROTOCOLS
        for k in ks
    ]
    return tabulate(rows, headers=["protocol", "k", *names], floatfmt=".2f", tablefmt="pipe")


def format_main(results: SGDetResults, task: str, dataset_name: str) -> str:
    """A short table of R and mR under each protocol, which it names, and PQ."""
    ks = [k for k in result_ks(results) if k >= 20] or result_ks(results)
    names = [f"{name}@{k}" for name in ("R", "mR") for k in ks]
    rows = [[p.name, *(results.metrics[f"{p.name}/{name}"] for name in names)] for p in PROTOCOLS]
    title = f"{task} on {dataset_name}, {results.counts['images']:,} images"
    if results.panoptic:
        title += f"; PQ {results.panoptic['PQ']:.2f}"
    table = tabulate(rows, headers=["protocol", *names], floatfmt=".2f", tablefmt="pipe")
    return "\n".join([title, table, *zero_recall(results)])


def format_predicates(results: SGDetResults, predicate_classes: Sequence[str], k: int = 50) -> str:
    """Table of recalls per predicate, most frequent first."""
    ks = result_ks(results)
    if k not in ks:
        raise ValueError(f"k: expected one of {', '.join(map(str, ks))}, got {k}")
    rows = sorted(predicate_rows(results, predicate_classes), key=lambda row: -row["frequency"])
    keys = [f"{p.name}/R@{k}" for p in PROTOCOLS]
    table = [[r["name"], r["group"], r["frequency"], r["gt_triplets"], *(r[key] for key in keys)] for r in rows]
    headers = ["predicate", "group", "frequency", "annotated", *keys]
    return tabulate(table, headers=headers, floatfmt=".1f", tablefmt="pipe")


def result_ks(results: SGDetResults) -> list[int]:
    """The ranks that the recalls were computed at."""
    ranks = (key.removeprefix(f"{PROTOCOLS[0].name}/R@") for key in results.metrics)
    return [int(rank) for rank in ranks if rank.isdecimal()]


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value
