"""Parses images and videos, and writes drawings, JSON and a page of them."""

from __future__ import annotations

import contextlib
import glob
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data import read_image
from ..data.video import VIDEO_SUFFIXES, count_frames, is_video, read_frames
from ..engine import adapt_to_machine
from ..engine.terminal import setup_logging
from ..graph_formats import SUFFIXES as GRAPH_SUFFIXES
from ..graph_formats import check_formats, save_graph
from ..predictor import SceneGraphPredictor
from ..scene_graph import SceneGraph
from ..utils.program import INTERRUPTED, Interruption
from ..utils.text import counted, printable, short_paths
from ..visualization import PageItem, PageWriter, draw_graph, draw_overlay
from . import config_of

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


def has_utf8_name(path: Path) -> bool:
    """Whether OpenCV can open a file of this name; the process ends where it tries and cannot."""
    return printable(str(path)) == str(path)


def count_images(path: Path, step: int, limit: int | None) -> int | None:
    """How many images `read_images` gives, as far as the file says; None if unknown."""
    return count_frames(path, step, limit) if is_video(path) and has_utf8_name(path) else 1


def read_images(path: Path, stem: str, step: int, limit: int | None) -> Iterator[tuple[str, str, np.ndarray]]:
    """Read what a file holds: an image, or the frames of a video.

    Yields:
        Which frame (empty for an image), stem of its result files, (H, W, 3) uint8 RGB.

    Raises:
        ValueError, OSError: if the file cannot be read.
    """
    if not is_video(path):
        yield "", stem, read_image(str(path), "RGB")
        return
    if not has_utf8_name(path):
        raise ValueError("videos are read by names in UTF-8 only; rename it")
    for number, seconds, frame in read_frames(path, step, limit):
        time = "" if np.isnan(seconds) else f" ({int(seconds // 60)}:{seconds % 60:05.2f})"
        yield f" frame {number}{time}", f"{stem}_{number:06d}", frame


def write_results(name: str, stem: str, graph: SceneGraph, image: np.ndarray, args: Namespace) -> None:
    """The files of one image; if it is interrupted, none of them stays."""
    output = Path(args.output)
    shown = graph.constrained().top(args.top_k, args.score_threshold)
    drawing = draw_graph(shown)
    writers: dict[Path, Callable[[Path], object]] = {
        output / f"{stem}_overlay.png": Image.fromarray(draw_overlay(image, shown)).save,
        output / f"{stem}_graph.png": lambda path: drawing.savefig(path, bbox_inches="tight"),
        output / f"{stem}.json": lambda path: path.write_text(graph.to_json(), encoding="utf-8"),
    }
    for suffix in (suffix for name in args.format for suffix in GRAPH_SUFFIXES[name]):
        writers[output / f"{stem}{suffix}"] = lambda path: save_graph(graph, path)
    if args.svg:
        writers[output / f"{stem}_graph.svg"] = lambda path: drawing.savefig(path, bbox_inches="tight")
    try:
        for path, write in writers.items():
            write(path)
    except BaseException:
        for path in writers:
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    tqdm.write(printable(f"{name}:"))
    for r in shown.relations:
        subject, object_ = shown.objects[r.subject].label, shown.objects[r.object].label
        tqdm.write(f"  {r.score:.3f}  {subject} - {r.predicate} - {object_}")


class Run:
    """One run over files: writes their results and counts what was done."""

    def __init__(self, predictor: SceneGraphPredictor, args: Namespace):
        self.predictor = predictor
        self.args = args
        self.parsed = 0
        self.failed = 0
        self.total: int | None = None  # images and frames of all files, as far as the files say

    def parse(self, paths: list[Path], page: PageWriter) -> None:
        """Every image and frame; what cannot be read or parsed is left out with a message."""
        step, limit = self.args.frame_step, self.args.max_frames
        counts = [count_images(path, step, limit) for path in paths]
        known = [count for count in counts if count is not None]
        self.total = sum(known) if len(known) == len(counts) else None
        with Interruption() as interruption, tqdm(total=self.total, unit="image") as bar:
            for (path, stem), shown in zip(unique_stems(paths), short_paths(paths), strict=True):
                found = read_images(path, stem, step, limit)
                while current := self._next(found, path):
                    interruption.check()
                    frame, stem, image = current
                    self._parse_one(f"{path}{frame}", f"{shown}{frame}", stem, image, page)
                    bar.update()

    def _next(self, images: Iterator[tuple[str, str, np.ndarray]], path: Path) -> tuple[str, str, np.ndarray] | None:
        """The next image of a file; None at its end or, with a message, where it cannot be read."""
        try:
            return next(images, None)
        except (ValueError, OSError) as error:
            self._leave_out(str(path), error)
            return None

    def _parse_one(self, name: str, shown: str, stem: str, image: np.ndarray, page: PageWriter) -> None:
        try:
            graph = self.predictor(image)
            write_results(name, stem, graph, image, self.args)
            if len(page) < self.args.page_images:
                page.add(PageItem(shown, image, graph.constrained()))  # a page is passed on: no folders
        except ValueError as error:
            self._leave_out(name, error)
            return
        self.parsed += 1

    def _leave_out(self, name: str, error: Exception) -> None:
        self.failed += 1
        tqdm.write(printable(f"{name}: left out: {error}"), file=sys.stderr)

    def summary(self, complete: bool) -> str:
        """How many images were parsed, and of how many; before the end, the length of a video may be unknown."""
        tried = self.parsed + self.failed
        total = tried if complete else self.total and max(self.total, tried)
        if total is None:
            return f"{counted(self.parsed, 'image')} parsed"
        return f"{self.parsed} of {counted(total, 'image')} parsed"


def run(args: Namespace) -> int:
    """0 if everything was parsed, 1 if files were left out or not written, 130 after Ctrl-C."""
    setup_logging()
    output = Path(args.output)
    check_formats(args.format)
    paths = find_inputs(args.input)
    cfg = config_of(args)
    adapt_to_machine(cfg)
    output.mkdir(parents=True, exist_ok=True)
    done, interrupted, unwritten = Run(SceneGraphPredictor(cfg), args), False, None
    named = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    page_limits = (args.page_relations, args.score_threshold)
    with PageWriter(output / "index.html", f"Scene graphs: {named}", *page_limits) as page:
        try:
            done.parse(paths, page)
        except KeyboardInterrupt:
            interrupted = True
        except OSError as error:  # what cannot be read is left out; what cannot be written ends the run
            unwritten = error
    begin = "interrupted: " if interrupted else f"stopped, {unwritten}: " if unwritten else ""
    print(printable(f"{begin}{done.summary(complete=not begin)}: {output}"))
    if len(page) < done.parsed:
        print(f"index.html shows the first {counted(len(page), 'image')} (--page-images)")
    if interrupted:
        return INTERRUPTED
    return 1 if done.failed or unwritten else 0
