"""Speed of checking a data set, and time and memory of loading its file."""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
from argparse import Namespace
from multiprocessing.connection import Connection
from pathlib import Path

from tabulate import tabulate

from ...data import load_psg_json
from ...data.psg_index import index_path
from ...data.psg_json import write_index
from ...data.psg_shapes import generate_psg_shapes
from ...data.validation.check_dataset import check_dataset
from .measure import Timer, own_memory


def check_row(json_file: Path, image_root: Path, workers: int) -> tuple:
    """Images, seconds, and images per minute and core, by the clock and by the processor's time."""
    timer, busy = Timer(), _processor_seconds()
    report = timer.call("check", check_dataset, json_file, image_root, workers=workers)
    seconds, busy = timer.each("check")[0] / 1000, _processor_seconds() - busy
    if report.num_errors:
        raise ValueError(f"{json_file}: the drawn scenes have {report.num_errors} errors")
    per_minute = 60 * report.num_checked
    return report.num_checked, seconds, per_minute / seconds / workers, per_minute / busy


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def replicate(json_file: Path, number: int, output: Path) -> None:
    """Write a file of many records, made of those of another one under new ids."""
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
    figures = ours.recv()
    process.join()
    return name, *figures


def _measure_load(json_file: Path, pipe: Connection) -> None:
    timer, before = Timer(), own_memory() or 0
    dicts = timer.call("load", load_psg_json, json_file, json_file.parent, "trainval")
    for i in range(0, len(dicts), 10):
        dicts[i]
    pipe.send((timer.each("load")[0] / 1000, (own_memory() or 0) - before))


def run(args: Namespace) -> None:
    """Measure and print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        scenes = args.data or Path(folder)
        json_file = scenes / "psg" / "psg.json"
        if not json_file.is_file():
            print(f"drawing {args.images} scenes in {scenes}")
            json_file = Path(generate_psg_shapes(scenes, args.images, 1, (480, 640), "easy", 0, 0))
        rows = [(n + 1, *check_row(json_file, scenes / "coco", args.workers)) for n in range(args.repeats)]
        headers = ("pass", "images", "seconds", "images/min/worker", "images/min of processor time")
        print(tabulate(rows, headers, floatfmt=",.1f"), "\n")
        large, timer = Path(folder, "large.json"), Timer()
        replicate(json_file, args.records, large)
        loads = [load_row("JSON", large)]
        timer.call("index", write_index, large)
        loads.append(load_row("index", large))
        print(tabulate(loads, (f"loading {args.records:,} records", "seconds", "own MiB"), floatfmt=".2f"))
        sizes = [path.stat().st_size / 2**20 for path in (large, index_path(large))]
        seconds = timer.each("index")[0] / 1000
        print(f"made in {seconds:.1f} s: an index of {sizes[1]:.1f} MiB for a file of {sizes[0]:.1f} MiB")
