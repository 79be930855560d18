"""Checks, counts, indexes and cleans a data set in PSG's format."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from ..data import PSG_VOCABULARY
from ..data.psg_json import write_index
from ..data.validation.check_dataset import check_dataset, format_report, one_line, report_to_dict
from ..data.validation.repair import repair_dataset
from ..data.validation.statistics import dataset_statistics, format_statistics, predicate_figure
from ..utils.files import write_json


def with_bar(function: Callable, args: Namespace, **options: Any) -> Any:
    """Call function(json, image_root, ...) under a progress bar, with the arguments of `check` and `fix`."""
    tqdm.monitor_interval = 0  # no thread: the worker processes are forked
    with tqdm(unit="image", smoothing=0.05) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        options.update(workers=args.workers, timeout=args.timeout, progress=progress)
        return function(args.json, args.image_root, **options)


def run_check(args: Namespace) -> int:
    """List every problem; status 1 if there is an error."""
    vocabulary = PSG_VOCABULARY if args.psg_names else None
    report = with_bar(check_dataset, args, limit_examples=args.limit_examples, vocabulary=vocabulary)
    print(format_report(report))
    if args.report:
        write_json(args.report, report_to_dict(report))
    if not report.complete:
        return 130
    return 1 if report.num_errors else 0


def run_index(args: Namespace) -> None:
    """Pack the file for the loader."""
    path = write_index(args.json)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def run_stats(args: Namespace) -> None:
    """Count, print and draw."""
    statistics = dataset_statistics(args.json)
    if args.complete:
        for split, every in dataset_statistics(args.complete)["splits"].items():
            annotated = statistics["splits"][split]
            annotated["annotated_share"] = round(100 * annotated["relations"] / max(every["relations"], 1), 1)
    print(tabulate(format_statistics(statistics), headers=("", *statistics["splits"]), intfmt=","))
    if args.output:
        args.output.mkdir(exist_ok=True)
        write_json(args.output / "statistics.json", statistics)
        predicate_figure(statistics).savefig(args.output / "predicates.png", dpi=120, bbox_inches="tight")
        print(f"statistics.json and predicates.png are in {args.output}")


def run_fix(args: Namespace) -> None:
    """Write the clean copy and the list of what it lacks."""
    content, changes = with_bar(repair_dataset, args)
    log = args.log or Path(f"{args.output}.changes.json")
    write_json(log, {"input": str(args.json), "output": str(args.output), "changes": [asdict(c) for c in changes]})
    write_json(args.output, content, indent=None)
    for change in changes:
        print(one_line(change.describe()))
    counts = Counter(change.what for change in changes)
    removed = ", ".join(f"{what} {count:,}" for what, count in counts.items()) or "nothing"
    print(f"{args.output}: {len(content['data']):,} images; removed: {removed}; all changes are in {log}")
