#!/usr/bin/env python
"""Parse images and videos: for each an overlay of masks and labels, a drawing of the scene graph, and JSON.

    python tools/demo.py --config-file configs/quickstart/usg_par_quickstart.yaml --input photo.jpg folder/ clip.mp4 \\
        --output output/demo --opts MODEL.WEIGHTS output/quickstart/model_final.pth

index.html in the output folder shows all of them and needs nothing else; docs/visualization.md says how to use it.
Ctrl-C ends the run: what is finished stays, and the page of it is written.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import contextlib
import glob
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.utils.logger import setup_logger
from PIL import Image
from tqdm import tqdm

from usg_psg.config import build_cfg
from usg_psg.data import read_image
from usg_psg.data.video import VIDEO_SUFFIXES, count_frames, is_video, read_frames
from usg_psg.engine import adapt_to_machine
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg.utils.program import INTERRUPTED, Interruption, add_trust_argument, one_line_errors, score
from usg_psg.utils.text import counted, printable, short_paths
from usg_psg.visualization import WEAK_SCORE, PageItem, PageWriter, draw_graph, draw_overlay

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


def count_pictures(path: Path, step: int, limit: int | None) -> int | None:
    """How many pictures `read_pictures` gives, as far as the file says; None if unknown."""
    return count_frames(path, step, limit) if is_video(path) and has_utf8_name(path) else 1


def read_pictures(path: Path, stem: str, step: int, limit: int | None) -> Iterator[tuple[str, str, np.ndarray]]:
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


def write_results(name: str, stem: str, graph: SceneGraph, image: np.ndarray, arguments: argparse.Namespace) -> None:
    """The files of one image; if it is interrupted, none of them stays."""
    output = Path(arguments.output)
    shown = graph.constrained().top(arguments.top_k, arguments.score_threshold)
    drawing = draw_graph(shown)
    writers: dict[Path, Callable[[Path], object]] = {
        output / f"{stem}_overlay.png": Image.fromarray(draw_overlay(image, shown)).save,
        output / f"{stem}_graph.png": lambda path: drawing.savefig(path, bbox_inches="tight"),
        output / f"{stem}.json": lambda path: path.write_text(graph.to_json(), encoding="utf-8"),
    }
    if arguments.svg:
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

    def __init__(self, predictor: SceneGraphPredictor, arguments: argparse.Namespace):
        self.predictor = predictor
        self.arguments = arguments
        self.parsed = 0
        self.failed = 0
        self.total: int | None = None  # images and frames of all files, as far as the files say

    def parse(self, paths: list[Path], page: PageWriter) -> None:
        """Every image and frame; what cannot be read or parsed is left out with a message."""
        step, limit = self.arguments.frame_step, self.arguments.max_frames
        counts = [count_pictures(path, step, limit) for path in paths]
        known = [count for count in counts if count is not None]
        self.total = sum(known) if len(known) == len(counts) else None
        with Interruption() as interruption, tqdm(total=self.total, unit="image") as bar:
            for (path, stem), shown in zip(unique_stems(paths), short_paths(paths), strict=True):
                pictures = read_pictures(path, stem, step, limit)
                while picture := self._next(pictures, path):
                    interruption.check()
                    frame, stem, image = picture
                    self._parse_one(f"{path}{frame}", f"{shown}{frame}", stem, image, page)
                    bar.update()

    def _next(self, pictures: Iterator[tuple[str, str, np.ndarray]], path: Path) -> tuple[str, str, np.ndarray] | None:
        """The next picture of a file; None at its end or, with a message, where it cannot be read."""
        try:
            return next(pictures, None)
        except (ValueError, OSError) as error:
            self._leave_out(str(path), error)
            return None

    def _parse_one(self, name: str, shown: str, stem: str, image: np.ndarray, page: PageWriter) -> None:
        try:
            graph = self.predictor(image)
            write_results(name, stem, graph, image, self.arguments)
            if len(page) < self.arguments.page_images:
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


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="recipe of the model")
    parser.add_argument("--input", nargs="+", required=True, help="images, videos, folders, glob patterns")
    parser.add_argument("--output", required=True, help="folder for the results")
    number = partial(parser.add_argument, type=int, metavar="N")
    number("--top-k", default=10, help="relations in the pictures, the JSON has all (default %(default)s)")
    parser.add_argument(
        "--score-threshold",
        type=score,
        default=WEAK_SCORE,
        metavar="S",
        help="least score in the pictures, and at which the page starts (default %(default)s)",
    )
    parser.add_argument("--svg", action="store_true", help="also write the drawing of the graph as SVG")
    number("--frame-step", default=1, help="parse every N-th frame of a video (default %(default)s)")
    number("--max-frames", help="frames of each video (default all)")
    number("--page-relations", default=200, help="relations per image on the page (default %(default)s)")
    number("--page-images", default=300, help="images on the page, the first ones (default %(default)s)")
    parser.add_argument("--vocabulary", metavar="FILE", help="names to look for, see docs/open_vocabulary.md")
    add_trust_argument(parser)
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE overrides")
    arguments = parser.parse_args(argv)
    for name, least in (("top_k", 0), ("frame_step", 1), ("max_frames", 1), ("page_relations", 0), ("page_images", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')}: expected {least} or more, got {value}")
    return arguments


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """0 if everything was parsed, 1 if files were left out or not written, 2 for bad input, 130 after Ctrl-C."""
    arguments = parse_args(argv)
    setup_logger(name="usg_psg")
    output = Path(arguments.output)
    paths = find_inputs(arguments.input)
    cfg = build_cfg(arguments.config_file, arguments.opts, trust_imports=arguments.trust_imports)
    if arguments.vocabulary:
        cfg.MODEL.USG.VOCABULARY = arguments.vocabulary
    adapt_to_machine(cfg)
    output.mkdir(parents=True, exist_ok=True)
    run, interrupted, unwritten = Run(SceneGraphPredictor(cfg), arguments), False, None
    named = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    page_limits = (arguments.page_relations, arguments.score_threshold)
    with PageWriter(output / "index.html", f"Scene graphs: {named}", *page_limits) as page:
        try:
            run.parse(paths, page)
        except KeyboardInterrupt:
            interrupted = True
        except OSError as error:  # what cannot be read is left out; what cannot be written ends the run
            unwritten = error
    begin = "interrupted: " if interrupted else f"stopped, {unwritten}: " if unwritten else ""
    print(printable(f"{begin}{run.summary(complete=not begin)}: {output}"))
    if len(page) < run.parsed:
        print(f"index.html shows the first {counted(len(page), 'image')} (--page-images)")
    if interrupted:
        return INTERRUPTED
    return 1 if run.failed or unwritten else 0


if __name__ == "__main__":
    sys.exit(main())
