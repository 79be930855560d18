#!/usr/bin/env python
"""Speed of checking a data set, and time and memory of loading its file with and without an index.

    python tools/benchmark_data.py --images 500 --workers 1 --records 49000

The scenes are drawn first (480 x 640), in a folder that goes afterwards, unless --data names one to keep and use again.
Seconds of the processor are given besides the clock's, as other programs on the machine slow down only the latter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

import usg_psg  # noqa: F401  selects the engine
from usg_psg.data import load_psg_json
from usg_psg.data.psg_index import index_path
from usg_psg.data.psg_json import write_index
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.data.validation.check_dataset import check_dataset
from usg_psg.utils.program import one_line_errors
from usg_psg_cli.arguments import positive_integer


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive_integer, default=300, help="scenes to draw and check, default 300")
    parser.add_argument("--workers", type=positive_integer, default=1, help="processes that check, default 1")
    parser.add_argument("--repeats", type=positive_integer, default=3, help="passes over the scenes, default 3")
    parser.add_argument(
        "--records", type=positive_integer, default=49_000, help="records of the file that is loaded, default 49000"
    )
    parser.add_argument("--data", type=Path, help="folder of the scenes")
    return parser.parse_args(argv)


def check_rows(json_file: Path, image_root: Path, workers: int, repeats: int) -> list[tuple]:
    """Images per minute and core of each pass, by the clock and by the processor's time."""
    rows = []
    for repeat in range(repeats):
        busy, start = _processor_seconds(), time.perf_counter()
        report = check_dataset(json_file, image_root, workers=workers)
        seconds, busy = time.perf_counter() - start, _processor_seconds() - busy
        if report.num_fatal:
            raise ValueError(f"{json_file}: the drawn scenes have {report.num_fatal} faults")
        per_minute = 60 * report.num_checked
        rows.append((repeat + 1, report.num_checked, seconds, per_minute / seconds / workers, per_minute / busy))
    return rows


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def replicate(json_file: Path, number: int, output: Path) -> None:
    """A file of many records, made of those of another one under new ids."""
    content = json.loads(json_file.read_text())
    records = content["data"]
    content["data"] = [{**records[i % len(records)], "image_id": str(10**7 + i)} for i in range(number)]
    content["test_image_ids"] = []
    output.write_text(json.dumps(content))


def load_row(name: str, json_file: Path) -> tuple:
    """Seconds, and MiB of memory of its own that loading costs a process."""
    context = multiprocessing.get_context("spawn")  # shares no memory with this one
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure_load, args=(json_file, theirs))
    process.start()
    theirs.close()
    seconds, memory = ours.recv()
    process.join()
    return name, seconds, memory


def _measure_load(json_file: Path, pipe) -> None:
    before, start = _own_memory(), time.perf_counter()
    dicts = load_psg_json(json_file, json_file.parent, "trainval")
    seconds = time.perf_counter() - start
    for i in range(0, len(dicts), 10):
        dicts[i]
    pipe.send((seconds, _own_memory() - before))


def _own_memory() -> float:
    """MiB that this process does not share with a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon")


def benchmark(args: argparse.Namespace, folder: Path) -> None:
    """Measure and print both tables."""
    scenes = args.data or folder
    json_file = scenes / "psg" / "psg.json"
    if not json_file.is_file():
        print(f"drawing {args.images} scenes in {scenes}")
        json_file = Path(generate_psg_shapes(scenes, args.images, 1, (480, 640), "easy", 0, 0))
    rows = check_rows(json_file, scenes / "coco", args.workers, args.repeats)
    headers = ("pass", "images", "seconds", "images/min/worker", "images/min of processor time")
    print(tabulate(rows, headers=headers, floatfmt=",.1f"), "\n")
    large = folder / "large.json"
    replicate(json_file, args.records, large)
    loads = [load_row("JSON", large)]
    start = time.perf_counter()
    write_index(large)
    seconds = time.perf_counter() - start
    loads.append(load_row("index", large))
    print(tabulate(loads, headers=(f"loading {args.records:,} records", "seconds", "own MiB"), floatfmt=".2f"))
    sizes = [path.stat().st_size / 2**20 for path in (large, index_path(large))]
    print(f"made in {seconds:.1f} s: an index of {sizes[1]:.1f} MiB for a file of {sizes[0]:.1f} MiB")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 if it could."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        benchmark(args, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
