#!/usr/bin/env python
"""Check, count, index and clean a data set in PSG's format.

    python tools/prepare_psg.py check --json datasets/psg/psg.json --image-root datasets/coco --workers 8
    python tools/prepare_psg.py stats --json datasets/psg/psg.json --output statistics
    python tools/prepare_psg.py index --json datasets/psg/psg.json
    python tools/prepare_psg.py fix   --json datasets/psg/psg.json --image-root datasets/coco --output clean.json

`check` ends with status 0 if the loader takes every image, 1 if not, 2 for wrong arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

import usg_psg  # noqa: F401  selects the engine
from usg_psg.data import PSG_VOCABULARY
from usg_psg.data.psg_json import write_index
from usg_psg.data.validation.check_dataset import TIMEOUT, check_dataset, format_report, one_line, report_to_dict
from usg_psg.data.validation.repair import repair_dataset
from usg_psg.data.validation.statistics import dataset_statistics, format_statistics, predicate_figure
from usg_psg.utils.files import write_json
from usg_psg.utils.program import one_line_errors, positive_integer, positive_number


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="list every fault of the file and its pictures")
    _add_pictures(check)
    check.add_argument(
        "--limit-examples", type=positive_integer, default=5, metavar="N", help="of each kind, default 5"
    )
    check.add_argument("--report", type=Path, metavar="FILE.json", help="also write the report to this file")
    check.add_argument("--psg-names", action="store_true", help="the file must have PSG's names, as psg_train expects")
    check.set_defaults(run=run_check)
    index = commands.add_parser("index", help="write JSON_FILE.index, from which the data set is loaded in no time")
    _add_json(index)
    index.set_defaults(run=run_index)
    stats = commands.add_parser("stats", help="count objects, relations, predicates and pairs")
    _add_json(stats)
    stats.add_argument(
        "--complete",
        type=Path,
        metavar="FILE.json",
        help="the same images with all relations: which share is annotated",
    )
    stats.add_argument("--output", type=Path, metavar="FOLDER", help="also write statistics.json and predicates.png")
    stats.set_defaults(run=run_stats)
    fix = commands.add_parser("fix", help="write a copy without what the loader rejects")
    _add_pictures(fix)
    fix.add_argument("--output", required=True, type=Path, metavar="OUT.json", help="the copy; must not exist")
    fix.add_argument("--log", type=Path, metavar="FILE.json", help="list of all changes, default OUT.json.changes.json")
    fix.set_defaults(run=run_fix)
    args = parser.parse_args(argv)
    args.parser = commands.choices[args.command]
    if not args.json.is_file():
        args.parser.error(f"--json: there is no file {args.json}")
    if getattr(args, "image_root", None) is not None and not args.image_root.is_dir():
        args.parser.error(f"--image-root: there is no folder {args.image_root}")
    if args.command == "fix" and args.output.exists():
        same = " the input" if args.output.samefile(args.json) else ""
        args.parser.error(f"--output: {args.output} exists{same and ', it is' + same}; it is not overwritten")
    for name in ("report", "output", "log"):
        path = getattr(args, name, None)
        if name in ("report", "log") and path is not None and path.exists() and path.samefile(args.json):
            args.parser.error(f"--{name}: {path} is the input")
        if name == "log" and path is not None and path.resolve() == args.output.resolve():
            args.parser.error(f"--log: {path} is --output, too")
        if path is not None and not path.absolute().parent.is_dir():
            args.parser.error(f"--{name}: there is no folder {path.absolute().parent}")
    return args


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", required=True, type=Path, help="psg.json, or a file of the same form")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument("--image-root", required=True, type=Path, help="folder that its file names are relative to")
    parser.add_argument(
        "--workers", type=positive_integer, default=os.cpu_count() or 1, metavar="N", help="default: the cores"
    )
    parser.add_argument(
        "--timeout",
        type=positive_number,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"for one image, default {TIMEOUT:g}",
    )


def with_bar(unit: str, function: Callable) -> object:
    """Call function(progress=...) under a progress bar."""
    tqdm.monitor_interval = 0  # no thread: the worker processes are forked
    with tqdm(unit=unit, smoothing=0.05) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return function(progress=progress)


def run_check(args: argparse.Namespace) -> int:
    """List every fault; status 1 if there is one that the loader rejects."""
    report = with_bar(
        "image",
        lambda progress: check_dataset(
            args.json,
            args.image_root,
            workers=args.workers,
            limit_examples=args.limit_examples,
            vocabulary=PSG_VOCABULARY if args.psg_names else None,
            timeout=args.timeout,
            progress=progress,
        ),
    )
    print(format_report(report))
    if args.report:
        write_json(args.report, report_to_dict(report))
    if not report.complete:
        return 130
    return 1 if report.num_fatal else 0


def run_index(args: argparse.Namespace) -> int:
    """Pack the file for the loader."""
    path = write_index(args.json)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def run_stats(args: argparse.Namespace) -> int:
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
    return 0


def run_fix(args: argparse.Namespace) -> int:
    """Write the clean copy and the list of what it lacks."""
    content, changes = with_bar(
        "image",
        lambda progress: repair_dataset(
            args.json, args.image_root, workers=args.workers, timeout=args.timeout, progress=progress
        ),
    )
    log = args.log or Path(f"{args.output}.changes.json")
    write_json(log, {"input": str(args.json), "output": str(args.output), "changes": [asdict(c) for c in changes]})
    write_json(args.output, content, indent=None)
    for change in changes:
        print(one_line(change.describe()))
    counts = Counter(change.what for change in changes)
    left_out = ", ".join(f"{what} {count:,}" for what, count in counts.items()) or "nothing"
    print(f"{args.output}: {len(content['data']):,} images; left out: {left_out}; all changes are in {log}")
    return 0


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
