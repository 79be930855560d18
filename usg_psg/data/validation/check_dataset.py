"""Every problem of a PSG data set in one pass over its file and images."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tabulate import tabulate

from ...utils.worker_pool import Failure, run_isolated
from ...vocabulary import Vocabulary
from ..psg_json import PARTITION, PSGFile, check_vocabulary, read_psg_json, select_split
from .images import validate_image
from .records import Problem, duplicate_images, no_first_segment, severity_of, unknown_test_images

TIMEOUT = 60.0  # seconds for one image
SEVERITIES = ("error", "mended", "warning")


@dataclass
class Report:
    """What a pass over a file found."""

    json_file: str
    image_root: str
    num_images: int = 0
    num_checked: int = 0  # fewer if the pass was interrupted
    counts: Counter = field(default_factory=Counter)  # by kind, see `records.severity_of`
    # The first problems of each kind, with their positions, in the file's order.
    examples: dict[str, list[tuple[int, Problem]]] = field(default_factory=lambda: defaultdict(list))
    images: int = 0  # with errors

    @property
    def complete(self) -> bool:
        """False if the pass was interrupted."""
        return self.num_checked == self.num_images

    @property
    def num_errors(self) -> int:
        """How many problems the loader refuses."""
        return self.num_of("error")

    def num_of(self, severity: str) -> int:
        """How many problems of a severity there are."""
        return sum(count for kind, count in self.counts.items() if severity_of(kind) == severity)

    def add(self, position: int, problems: list[Problem], limit: int) -> None:
        """Count the problems of the record at a position (-1: of the file) and keep the first examples of each kind."""
        self.images += position >= 0 and any(f.is_error for f in problems)
        for problem in problems:
            self.counts[problem.kind] += 1
            kept = self.examples[problem.kind]
            kept.append((position, problem))
            # Processes answer in any order; the report does not depend on it.
            if len(kept) > 2 * limit + 16:
                self._cut(problem.kind, limit)

    def finish(self, limit: int) -> Report:
        """Sort and shorten the examples."""
        for kind in self.examples:
            self._cut(kind, limit)
        return self

    def _cut(self, kind: str, limit: int) -> None:
        self.examples[kind] = sorted(self.examples[kind], key=lambda x: x[0])[:limit]

    def rows(self) -> list[tuple[str, str, int]]:
        """(kind, severity, count): errors, then what is mended, then warnings, each by count."""
        rows = [(kind, severity_of(kind), count) for kind, count in self.counts.items()]
        return sorted(rows, key=lambda x: (SEVERITIES.index(x[1]), -x[2], x[0]))


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
        limit_examples: problems of each kind that are kept in full; the others are counted.
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
        report.add(-1, [Problem("file", "", "", str(error))], limit_examples)
        return report.finish(limit_examples)
    report.num_images = len(content.records)
    try:
        report.add(-1, list(validate_file(content)), limit_examples)
        check = partial(_check_record, content, os.path.realpath(image_root))
        for position, problems in run_isolated(check, len(content.records), workers, timeout):
            if isinstance(problems, Failure):
                problems = [Problem("reader_failed", content.image_ids[position], "data", problems.message)]
            report.add(position, problems, limit_examples)
            report.num_checked += 1
            if progress is not None:
                progress(report.num_checked, report.num_images)
    except KeyboardInterrupt:
        pass
    return report.finish(limit_examples)


def validate_file(content: PSGFile) -> Iterator[Problem]:
    """Problems that concern several records or none, and warnings about splits without an image."""
    yield from (problem for _, problem in duplicate_images(enumerate(content.image_ids)))
    yield from unknown_test_images(content.test_image_ids, content.image_ids)
    for split in PARTITION:
        if not select_split(content.image_ids, content.test_image_ids, split):
            yield Problem("empty_split", "", "data", f"the split {split!r} has no image")
    yield from no_first_segment(content.records)


def _check_record(content: PSGFile, root: str, position: int) -> list[Problem]:
    return validate_image(content.records[position], content.image_ids[position], content.vocabulary, root)


def format_report(report: Report) -> str:
    """The report as text: a table, then the examples of each kind."""
    lines = []
    rows = report.rows()
    if rows:
        lines.append(tabulate([(kind, what, f"{n:,}") for kind, what, n in rows], headers=("kind", "", "count")))
    for kind, severity, count in sorted(rows, key=lambda x: (SEVERITIES.index(x[1]), x[0])):
        examples = report.examples[kind]
        lines.append(f"\n{kind} ({severity}):")
        lines += [f"  {one_line(problem.describe(report.json_file))}" for _, problem in examples]
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
    mended, warnings = report.num_of("mended"), report.num_of("warning")
    return f"{text}: {report.num_errors:,} errors in {report.images:,} images, {mended:,} mended, {warnings:,} warnings"


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
        "errors": report.num_errors,
        "images_with_errors": report.images,
        "kinds": [
            {
                "kind": kind,
                "is_error": severity == "error",
                "severity": severity,
                "count": count,
                "examples": [
                    {**asdict(problem), "is_error": problem.is_error, "text": problem.describe(report.json_file)}
                    for _, problem in report.examples[kind]
                ],
            }
            for kind, severity, count in report.rows()
        ],
    }
