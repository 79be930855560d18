"""Every fault of a PSG data set in one pass over its file and pictures."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate

from ...utils.worker_pool import Failure, run_isolated
from ...vocabulary import Vocabulary
from ..psg_json import PARTITION, PSGFile, check_vocabulary, read_psg_json, select_split
from .images import image_faults
from .records import Fault, duplicate_image_faults, unknown_test_image_faults, weight_of

TIMEOUT = 60.0  # seconds for one image
WEIGHTS = ("fault", "mended", "note")


@dataclass
class Report:
    """What a pass found.

    Attributes:
        json_file, image_root: what was checked.
        num_images: images of the file.
        num_checked: images that were looked at, fewer if the pass was interrupted.
        counts: faults by kind; `records.weight_of` tells which are refused, mended, or notes.
        examples: the first faults of each kind, in the file's order.
        images: number of images with faults that the loader refuses.
    """

    json_file: str
    image_root: str
    num_images: int = 0
    num_checked: int = 0
    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, Fault]]] = field(default_factory=lambda: defaultdict(list))
    images: int = 0

    @property
    def complete(self) -> bool:
        """False if the pass was interrupted."""
        return self.num_checked == self.num_images

    @property
    def num_fatal(self) -> int:
        """Faults that the loader refuses."""
        return self.num_of("fault")

    def num_of(self, weight: str) -> int:
        """How many faults of a weight there are."""
        return sum(count for kind, count in self.counts.items() if weight_of(kind) == weight)

    def add(self, position: int, faults: list[Fault], limit: int) -> None:
        """Count the faults of the record at a position (-1: of the file) and keep the first examples of each kind."""
        self.images += position >= 0 and any(f.fatal for f in faults)
        for fault in faults:
            self.counts[fault.kind] += 1
            kept = self.examples[fault.kind]
            kept.append((position, fault))
            # Processes answer in any order; the report does not depend on it.
            if len(kept) > 2 * limit + 16:
                self._cut(fault.kind, limit)

    def finish(self, limit: int) -> Report:
        """Sort and shorten the examples."""
        for kind in self.examples:
            self._cut(kind, limit)
        return self

    def _cut(self, kind: str, limit: int) -> None:
        self.examples[kind] = sorted(self.examples[kind], key=lambda x: x[0])[:limit]

    def rows(self) -> list[tuple[str, str, int]]:
        """(kind, weight, count): faults, then what is mended, then notes, each by count."""
        rows = [(kind, weight_of(kind), count) for kind, count in self.counts.items()]
        return sorted(rows, key=lambda x: (WEIGHTS.index(x[1]), -x[2], x[0]))


def check_dataset(
    json_file: str | Path,
    image_root: str | Path,
    *,
    workers: int = 1,
    limit_examples: int = 5,
    vocabulary: Vocabulary | None = None,
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Find everything that the loader refuses or mends, and what is worth knowing besides.

    Ctrl-C ends the pass; the report then holds what was found, and its `complete` is False.

    Args:
        json_file: psg.json or a file of the same form.
        image_root: folder that its file names are relative to.
        workers: processes; 0 works in this one, where a file that kills or blocks the reader does so to the caller.
        limit_examples: faults of each kind that are kept in full; the others are counted.
        vocabulary: names that the file must have, as in `load_psg_json`; None accepts its own.
        timeout: seconds after which an image counts as unreadable; needs workers.
        progress: called with (images done, images in all).

    Raises:
        FileNotFoundError: if there is no such file or folder.
    """
    report = Report(str(json_file), str(image_root))
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"there is no folder {image_root}")
    try:
        content = read_psg_json(json_file)
        if vocabulary is not None:
            check_vocabulary(content, vocabulary)
    except ValueError as error:
        report.add(-1, [Fault("file", "", "", str(error))], limit_examples)
        return report.finish(limit_examples)
    report.num_images = len(content.records)
    try:
        report.add(-1, list(file_faults(content)), limit_examples)
        for position, faults in each_image(content, image_root, workers, timeout):
            report.add(position, faults, limit_examples)
            report.num_checked += 1
            if progress is not None:
                progress(report.num_checked, report.num_images)
    except KeyboardInterrupt:
        pass
    return report.finish(limit_examples)


def file_faults(content: PSGFile) -> Iterator[Fault]:
    """Faults that concern several records or none, and notes on splits without an image."""
    yield from (fault for _, fault in duplicate_image_faults(enumerate(content.image_ids)))
    yield from unknown_test_image_faults(content.test_image_ids, content.image_ids)
    for split in PARTITION:
        if not select_split(content.image_ids, content.test_image_ids, split):
            yield Fault("empty_split", "", "data", f"the split {split!r} has no image")


def each_image(
    content: PSGFile, image_root: str | Path, workers: int, timeout: float
) -> Iterator[tuple[int, list[Fault]]]:
    """(position, faults of `image_faults`) of every record, in no particular order."""
    check = _ImageCheck(content, os.path.realpath(image_root))
    for position, faults in run_isolated(check, len(content.records), workers, timeout):
        if isinstance(faults, Failure):
            faults = [Fault("reader_failed", content.image_ids[position], "data", faults.message)]
        yield position, faults


@dataclass
class _ImageCheck:
    content: PSGFile
    root: str

    def __call__(self, position: int) -> list[Fault]:
        content = self.content
        return image_faults(content.records[position], content.image_ids[position], content.vocabulary, self.root)


def format_report(report: Report) -> str:
    """The report as text: a table, then the examples of each kind."""
    lines = []
    rows = report.rows()
    if rows:
        lines.append(tabulate([(kind, what, f"{n:,}") for kind, what, n in rows], headers=("kind", "", "count")))
    for kind, weight, count in sorted(rows, key=lambda x: (WEIGHTS.index(x[1]), x[0])):
        examples = report.examples[kind]
        lines.append(f"\n{kind} ({weight}):")
        lines += [f"  {one_line(fault.describe(report.json_file))}" for _, fault in examples]
        if count > len(examples):
            lines.append(f"  and {count - len(examples):,} more")
    if lines:
        lines.append("")
    lines.append(_summary(report))
    return "\n".join(lines)


def _summary(report: Report) -> str:
    text = f"{report.num_checked:,} images checked"
    if not report.complete:
        text = f"interrupted: {report.num_checked:,} of {report.num_images:,} images checked"
    mended, notes = report.num_of("mended"), report.num_of("note")
    return f"{text}: {report.num_fatal:,} faults in {report.images:,} images, {mended:,} mended, {notes:,} notes"


def one_line(text: str) -> str:
    """Text that any terminal can print: control characters and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def report_to_dict(report: Report) -> dict:
    """The report for a JSON file."""
    return {
        "json_file": report.json_file,
        "image_root": report.image_root,
        "images": report.num_images,
        "images_checked": report.num_checked,
        "complete": report.complete,
        "faults": report.num_fatal,
        "images_with_faults": report.images,
        "kinds": [
            {
                "kind": kind,
                "fatal": weight == "fault",
                "weight": weight,
                "count": count,
                "examples": [
                    {**asdict(fault), "fatal": fault.fatal, "text": fault.describe(report.json_file)}
                    for _, fault in report.examples[kind]
                ],
            }
            for kind, weight, count in report.rows()
        ],
    }
