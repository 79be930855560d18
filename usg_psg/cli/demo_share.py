"""A process's share of the files of a demo: parses them, and writes drawings and JSON of each image."""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.video import is_video, read_frames
from ..engine import adapt_to_machine
from ..evaluation.formats.reading import naming
from ..evaluation.given_objects import open_objects
from ..graph_formats import SUFFIXES as GRAPH_SUFFIXES
from ..graph_formats import save_graph
from ..images import read_image
from ..masks import Objects
from ..predictor import SceneGraphPredictor
from ..scene_graph import SceneGraph
from ..tracking import Tracker
from ..utils.files import write_whole
from ..utils.text import printable
from ..visualization import PageItem, draw_graph, draw_overlay
from . import config_of

TIMELINE_ROWS = 100  # relations of a video on the page, the first ones


@dataclass(frozen=True)
class File:
    """An image or a video: its number among the run's, its path, the stem of its results' names, its name to show.

    `video` is the name of the video that it is, or is frame `frame` of; empty for a single image.
    """

    number: int
    path: Path
    stem: str
    shown: str
    video: str = ""
    frame: int = 0


@dataclass(frozen=True)
class Source:
    """One image: a file, or a frame of a video.

    Attributes:
        file: that holds it.
        place: its number among the images of that file, which are parsed.
        frame: number of the frame; None for an image.
        note: says which frame, behind the file's name.
    """

    file: File
    place: int = 0
    frame: int | None = None
    note: str = ""
    seconds: float | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.file.path}{self.note}"

    @property
    def stem(self) -> str:
        """Of the names of its results."""
        return self.file.stem if self.frame is None else f"{self.file.stem}_{self.frame:06d}"

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands on the page."""
        return self.file.number, self.place

    def line(self, graph: SceneGraph) -> str:
        """Its graph as JSON that names the file."""
        of = {"file_name": str(self.file.path), **({} if self.frame is None else {"frame": self.frame})}
        return f"{json.dumps(of)[:-1]}, {graph.to_json()[1:]}"


@dataclass(frozen=True)
class Result:
    """Of one image, or of a video that cannot be read.

    Attributes:
        name, order: of its `Source`.
        error: why it is left out, empty if it is not.
        earlier: an interrupted run had finished it.
        text: to print.
        line: of the JSON lines.
        item: for the page; None where it is not among the first images.
        timeline: of no image, but of a video that has ended: text, first and last order, score of its relations.
    """

    name: str
    order: tuple[int, int]
    error: str = ""
    earlier: bool = False
    text: str = ""
    line: str = ""
    item: PageItem | None = None
    timeline: list[tuple[str, Any, Any, float]] | None = None


def has_utf8_name(path: Path) -> bool:
    """Whether OpenCV can open a file of this name; the process ends where it tries and cannot."""
    return printable(str(path)) == str(path)


def write_results(source: Source, graph: SceneGraph, image: np.ndarray, args: Namespace) -> str:
    """Write the files of one image, the JSON last; if it is interrupted, none of them stays. Returns its relations."""
    output, stem = Path(args.output), source.stem
    shown = graph.constrained().top(args.top_k, args.score_threshold)
    drawing = draw_graph(shown)
    writers: dict[Path, Callable[[Path], object]] = {
        output / f"{stem}_overlay.png": Image.fromarray(draw_overlay(image, shown)).save,
        output / f"{stem}_graph.png": lambda path: drawing.savefig(path, bbox_inches="tight"),
    }
    for suffix in (suffix for name in args.format for suffix in GRAPH_SUFFIXES[name]):
        writers[output / f"{stem}{suffix}"] = lambda path: save_graph(graph, path)
    if args.svg:
        writers[output / f"{stem}_graph.svg"] = lambda path: drawing.savefig(path, bbox_inches="tight")
    text = graph.to_json().encode()
    writers[output / f"{stem}.json"] = lambda path: write_whole(path, lambda file: file.write(text))
    try:
        for path, write in writers.items():
            write(path)
    except BaseException:
        for path in writers:
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    labels = [thing.label for thing in shown.objects]
    rows = [f"  {r.score:.3f}  {labels[r.subject]} - {r.predicate} - {labels[r.object]}" for r in shown.relations]
    return "\n".join([f"{source.name}:", *(rows or [f"  no relation scores {args.score_threshold} or more"])])


def load_predictor(args: Namespace) -> SceneGraphPredictor:
    """The model that the program's arguments name."""
    cfg = config_of(args)
    adapt_to_machine(cfg)
    return SceneGraphPredictor(cfg)


def parse_share(
    args: Namespace, files: Sequence[File], finished: set | None, stopped: Callable[[], bool]
) -> Iterator[Result | None]:
    """`results_of_share` in a process of its own, after None, when the model is loaded."""
    predictor = load_predictor(args)
    yield None
    yield from results_of_share(predictor, args, files, finished, stopped)


def results_of_share(
    predictor: SceneGraphPredictor,
    args: Namespace,
    files: Sequence[File],
    finished: set | None,
    stopped: Callable[[], bool],
) -> Iterator[Result]:
    """Parse all images of the files, and write what --output asks for.

    Args:
        predictor: parses them.
        args: of the program.
        files: in the order of their numbers.
        finished: `Source.file` and frame of graphs that are in the JSON lines; None if there are no such lines.
        stopped: asked after each image whether to end.

    Raises:
        OSError: if results cannot be written.
    """
    share = _Share(args, files, finished)
    with naming("--masks"):
        find = open_objects(args.masks, args.image_root) if args.masks else None

    def objects(number: int) -> Objects:
        assert find is not None
        with naming("--masks"):
            return find(share.sources[number].stem)

    try:
        for parsed in predictor.stream(share.images(), args.batch_size, args.threads, objects if find else None):
            yield from share.aside()
            source = share.sources.pop(parsed.index)
            if parsed.error is not None or parsed.graph is None or parsed.image is None:
                yield Result(source.name, source.order, error=str(parsed.error))
            else:
                yield share.written(source, parsed.graph, parsed.image)
            if stopped():
                break
        else:
            yield from share.aside()
        yield from share.end_videos()
    finally:
        list(share.end_videos())  # whatever ended the run


class _Video:
    """The graph of a video that is being parsed."""

    def __init__(self, name: str, args: Namespace):
        self.name, self.args, self.tracker = name, args, Tracker(max_lost=args.max_lost)
        self.orders: dict[int, tuple[int, int]] = {}  # where its frames stand on the page

    def add(self, source: Source, graph: SceneGraph) -> SceneGraph:
        """The next frame; its graph with the labels of the video."""
        if self.args.resume and self.args.output and source.frame and not self.tracker.frames:
            self._add_earlier(source, source.frame)
        number = source.file.frame if source.frame is None else source.frame
        return self._add(number, graph, source.order, source.seconds)

    def _add(self, number: int, graph: SceneGraph, order: tuple[int, int], seconds: float | None) -> SceneGraph:
        drawn = graph.constrained().top(score_threshold=self.args.score_threshold)
        objects = self.tracker.add(drawn, number, seconds).objects
        self.orders[number] = order
        return replace(graph, objects=objects)

    def _add_earlier(self, source: Source, before: int) -> None:
        """The frames that an interrupted run has written."""
        for place, number in enumerate(range(0, before, self.args.frame_step)):
            path = Path(self.args.output) / f"{replace(source, frame=number).stem}.json"
            with contextlib.suppress(OSError, ValueError):  # left out then, or damaged
                graph = SceneGraph.from_json(path.read_text(encoding="utf-8"))
                self._add(number, graph, (source.file.number, place), None)

    def finish(self, output: str | None) -> list[tuple[str, Any, Any, float]]:
        """Write NAME_tracks.json; returns rows for the page."""
        graph = self.tracker.graph()
        if output and graph.frames:
            text = graph.to_json().encode()
            write_whole(Path(output) / f"{self.name}_tracks.json", lambda file: file.write(text))
        labels = {obj.id: obj.label for obj in graph.objects}
        return [
            (
                f"{labels[r.subject]} {r.predicate} {labels[r.object]}",
                self.orders[r.first],
                self.orders[r.last],
                r.score,
            )
            for r in graph.relations[:TIMELINE_ROWS]
        ]


class _Share:
    """Which images are to be parsed, and what is known of the others."""

    def __init__(self, args: Namespace, files: Sequence[File], finished: set | None):
        self.args, self.files, self.finished = args, files, finished
        self.sources: dict[int, Source] = {}  # of images that the predictor has, by their number there
        self._aside: list[Result] = []
        self.videos: dict[str, _Video] = {}  # by name; frames of several may come in turns

    def end_videos(self) -> Iterator[Result]:
        """Write the graphs of the videos so far; their intervals for the page."""
        while self.videos:
            video = self.videos.pop(next(iter(self.videos)))
            yield Result("", (0, 0), timeline=video.finish(self.args.output))

    def aside(self) -> Iterator[Result]:
        """Results of images that the predictor does not get."""
        while self._aside:
            yield self._aside.pop(0)

    def images(self) -> Iterator[Path | np.ndarray]:
        """Images to parse: files by their paths, frames as arrays."""
        number = 0
        for source, image in self._all():
            if self.args.resume and (result := self._earlier(source, image)) is not None:
                self._aside.append(result)
                continue
            self.sources[number] = source
            number += 1
            yield image

    def written(self, source: Source, graph: SceneGraph, image: np.ndarray) -> Result:
        """Write the results of an image."""
        text, item = "", None
        try:
            if source.file.video:
                video = self.videos.setdefault(source.file.video, _Video(source.file.video, self.args))
                graph = video.add(source, graph)
            if self.args.output:
                text = write_results(source, graph, image, self.args)
                item = self._item(source, graph, image)
        except ValueError as error:
            return Result(source.name, source.order, error=str(error))
        line = source.line(graph) if self.args.jsonl else ""
        return Result(source.name, source.order, text=text, line=line, item=item)

    def _all(self) -> Iterator[tuple[Source, Path | np.ndarray]]:
        for file in self.files:
            if not is_video(file.path):
                yield Source(file), file.path
                continue
            try:
                if not has_utf8_name(file.path):
                    raise ValueError("videos are read by names in UTF-8 only; rename it")
                frames = read_frames(file.path, self.args.frame_step, self.args.max_frames)
                for place, (frame, seconds, image) in enumerate(frames):
                    time = "" if np.isnan(seconds) else f" ({int(seconds // 60)}:{seconds % 60:05.2f})"
                    since = None if np.isnan(seconds) else seconds
                    yield Source(file, place, frame, f" frame {frame}{time}", since), image
            except (ValueError, OSError) as error:
                self._aside.append(Result(str(file.path), (file.number, 0), error=str(error)))

    def _earlier(self, source: Source, image: Path | np.ndarray) -> Result | None:
        """The result of an image of which everything that is asked for is there; None for others."""
        if self.finished is not None and (str(source.file.path), source.frame) not in self.finished:
            return None
        item = None
        if self.args.output:
            path = Path(self.args.output) / f"{source.stem}.json"  # written after the drawings
            if not path.is_file():
                return None
            if self._is_on_page(source):
                try:
                    graph = SceneGraph.from_json(path.read_text(encoding="utf-8"))
                    pixels = image if isinstance(image, np.ndarray) else read_image(str(image), "RGB")
                    item = self._item(source, graph, pixels)
                except (ValueError, OSError):
                    return None  # of another image of this name, or damaged
        return Result(source.name, source.order, earlier=True, item=item)

    def _is_on_page(self, source: Source) -> bool:
        return sum(source.order) < self.args.page_images

    def _item(self, source: Source, graph: SceneGraph, image: np.ndarray) -> PageItem | None:
        if not self._is_on_page(source):
            return None
        return PageItem(source.file.shown + source.note, image, graph.constrained())  # passed on: no folders
