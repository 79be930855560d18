"""Parses images and videos, and writes drawings, JSON and a page of them."""

from __future__ import annotations

import glob
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from tqdm import tqdm

from ..data.video import VIDEO_SUFFIXES, count_frames, is_video
from ..engine.launch import check_gpus
from ..engine.terminal import setup_logging
from ..graph_formats import check_formats
from ..utils.files import JSONLines, remove_temporary_files
from ..utils.program import INTERRUPTED, Interruption
from ..utils.text import counted, printable, short_paths
from ..visualization import PageWriter
from . import config_of
from .demo_share import File, Result, has_utf8_name, load_predictor, parse_share, results_of_share
from .processes import processes

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_inputs(inputs: list[str]) -> list[Path]:
    """Files, images and videos of folders, and what glob patterns match, each once, in order.

    Raises:
        ValueError: if one of them gives nothing.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES and f.is_file())
        elif path.is_file():
            files = [path]
        else:
            files = sorted(f for f in map(Path, glob.glob(name, recursive=True)) if f.is_file())
        if not files:
            raise FileNotFoundError(f"no images found: --input {name}: {_what_was_tried(path)}")
        found.update(dict.fromkeys(files))
    return list(found)


def _what_was_tried(path: Path) -> str:
    if path.is_dir():
        return f"the folder {path.absolute()} has no file {', '.join(sorted(SUFFIXES | VIDEO_SUFFIXES))}"
    what = "no file matches" if glob.has_magic(str(path)) else "there is no file or folder"
    return f"{what} {path.absolute()}"


def unique_stems(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """A file name for each path; those that share a stem get a number behind it."""
    used: set[str] = set()
    for path in paths:
        stem, number = path.stem, 1
        while stem in used:
            number += 1
            stem = f"{path.stem}_{number}"
        used.add(stem)
        yield path, stem


def count_images(path: Path, step: int, limit: int | None) -> int | None:
    """How many images a file holds, as far as it says; None if unknown."""
    return count_frames(path, step, limit) if is_video(path) and has_utf8_name(path) else 1


class Run:
    """One run over files: takes the results of its processes, and counts what was done.

    Args:
        args: of the program.
        total: images and frames of all files; None if the files do not say.
        page, lines: where the results go.
    """

    def __init__(
        self, args: Namespace, total: int | None, page: PageWriter | None = None, lines: JSONLines | None = None
    ):
        self.args, self.total, self.page, self.lines = args, total, page, lines
        self.parsed = self.failed = self.earlier = 0
        self.seconds = 0.0

    def take(self, results: Iterator[Result]) -> None:
        """Write and count each result as it comes."""
        begin = time.monotonic()
        with tqdm(total=self.total, unit="image", smoothing=0.05) as bar:
            for result in results:
                if result.timeline is not None:
                    if self.page is not None and result.timeline:
                        self.page.add_timeline(result.timeline)
                    continue
                self._take_one(result)
                bar.initial += result.earlier  # no part of the speed
                bar.update()
                self.seconds = time.monotonic() - begin

    def _take_one(self, result: Result) -> None:
        if self.page is not None and result.item is not None and len(self.page) < self.args.page_images:
            self.page.add(result.item, result.order)
        if result.error:
            self.failed += 1
            error = result.error.removeprefix(f"{result.name}: ")
            tqdm.write(printable(f"{result.name}: left out: {error}"), file=sys.stderr)
        elif result.earlier:
            self.earlier += 1
        else:
            if self.lines is not None:
                self.lines.append(result.line)
            self.parsed += 1
            if result.text:
                tqdm.write(printable(result.text))

    def summary(self, complete: bool) -> str:
        """How many images were parsed, and of how many; before the end, the length of a video may be unknown."""
        tried = self.parsed + self.failed + self.earlier
        total = tried if complete else self.total and max(self.total, tried)
        text = f"{counted(self.parsed, 'image')} parsed"
        if total is not None:
            text = f"{self.parsed} of {counted(total, 'image')} parsed"
        if self.earlier:
            text += f", {self.earlier} finished before"
        return text + (f", {self.parsed / self.seconds:.3g} images/s" if self.seconds and self.parsed else "")


def run(args: Namespace) -> int:
    """0 if everything was parsed, 1 if files were left out or not written, 130 after Ctrl-C."""
    setup_logging()
    check_formats(args.format)
    check_gpus(args.num_gpus)
    paths = find_inputs(args.input)
    shown = short_paths(paths)
    files, before = [], Counter[Path]()
    for n, (path, stem) in enumerate(unique_stems(paths)):
        folder = path.absolute().parent
        video = stem if is_video(path) else folder.name if args.video else ""
        files.append(File(n, path, stem, shown[n], video, before[folder]))
        before[folder] += 1
    counts = [count_images(path, args.frame_step, args.max_frames) for path in paths]
    known = [count for count in counts if count is not None]
    config_of(args)  # which may be wrong, before anything is written
    lines = JSONLines(args.jsonl) if args.jsonl else None
    finished = earlier_lines(lines, args.resume) if lines is not None else None
    if args.output:
        Path(args.output).mkdir(parents=True, exist_ok=True)
        if args.resume:
            remove_temporary_files(args.output)  # of a run that was killed
    interruption, number = Interruption(), 1 if args.video else min(args.num_gpus, len(files))

    def stopped() -> bool:
        return interruption.asked

    results: AbstractContextManager[Iterator[Result]]
    if number == 1:
        results = nullcontext(results_of_share(load_predictor(args), args, files, finished, stopped))
    else:
        shares = [(args, files[n::number], finished) for n in range(number)]
        results = processes(parse_share, shares, stopped)
    unwritten = None
    with results as found, ExitStack() as stack:
        page = stack.enter_context(new_page(args, paths)) if args.output else None
        done = Run(args, sum(known) if len(known) == len(counts) else None, page, lines)
        stack.enter_context(interruption)
        try:
            done.take(found)
            interruption.check()
        except KeyboardInterrupt:
            interruption.asked = True
        except OSError as error:  # what cannot be read is left out; what cannot be written ends the run
            unwritten = error
    begin = "interrupted: " if interruption.asked else f"stopped, {unwritten}: " if unwritten else ""
    print(printable(f"{begin}{done.summary(complete=not begin)}: {args.output or args.jsonl}"))
    if page is not None and len(page) < done.parsed + done.earlier:
        print(f"index.html shows the first {counted(len(page), 'image')} (--page-images)")
    if interruption.asked:
        return INTERRUPTED
    return 1 if done.failed or unwritten else 0


def new_page(args: Namespace, paths: list[Path]) -> PageWriter:
    """The page of the output folder."""
    named = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    title = f"Scene graphs: {named}"
    return PageWriter(Path(args.output) / "index.html", title, args.page_relations, args.score_threshold)


def earlier_lines(lines: JSONLines, resume: bool) -> set[tuple[str, int | None]]:
    """File and frame of each graph that an interrupted run has written.

    Raises:
        ValueError: if there are some and the run is not to go on with them, or a line is no graph of a file.
    """
    finished = set()
    for number, line in enumerate(lines.read(), start=1):
        if not resume:
            raise ValueError(f"--jsonl: {lines.path} has graphs already: --resume goes on with it, or remove it")
        if not isinstance(line.get("file_name"), str):
            raise ValueError(f"{lines.path}, line {number}: expected a scene graph with a file_name")
        finished.add((line["file_name"], line.get("frame")))
    return finished
