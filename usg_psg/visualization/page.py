"""Scene graphs as one HTML page that needs no network: images, masks, lists and graphs to look through.

Letters: H W pixels, R relations.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..masks import area, resize_rle
from ..scene_graph import SceneGraph
from ..utils.text import printable
from .colors import class_color, text_color
from .graph import WEAK_SCORE
from .overlay import scaled
from .page_labels import page_labels

ASSETS = Path(__file__).parent / "assets"
# In the order in which they need each other.
SCRIPTS = ("list.js", "image_view.js", "layout.js", "graph.js", "search.js", "timeline.js", "page.js")
ITEMS_HERE = "<!-- items -->\n"
MARKS = ("hit", "missed", "wrong")
MAX_SIDE = 1600  # larger images are scaled down together with their masks
THUMBNAIL = (204, 136)  # twice the size at which it is shown
MAX_OBJECTS = 65535  # the page keeps the object of each pixel in 16 bits


@dataclass(frozen=True)
class PageItem:
    """One image of a page.

    Attributes:
        name: shown as given, but for `printable`.
        image: (H, W, 3) uint8 RGB, of the graph's size.
        graph: what to show.
        truth: annotation of the same image; the page switches between the two.
        marks: "hit" or "wrong" for each relation of `graph`.
        truth_marks: "hit" or "missed" for each relation of `truth`.
        scores: whether objects and relations of `graph` have scores worth showing; those of `truth` have none.
        title: what the page calls `graph`.
        note: a line beside the name.
    """

    name: str
    image: np.ndarray
    graph: SceneGraph
    truth: SceneGraph | None = None
    marks: Sequence[str] | None = None
    truth_marks: Sequence[str] | None = None
    scores: bool = True
    title: str = "Predicted"
    note: str = ""

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.image.ndim != 3 or shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image {self.name!r}: expected (H, W, 3) uint8 RGB, got {shape} {self.image.dtype}")
        for graph, marks, field in ((self.graph, self.marks, "marks"), (self.truth, self.truth_marks, "truth_marks")):
            if graph is not None and (graph.height, graph.width) != shape[:2]:
                raise ValueError(
                    f"image {self.name!r}: expected {graph.height}x{graph.width} as the graph says, "
                    f"got {shape[0]}x{shape[1]}"
                )
            if marks is None:
                continue
            if graph is None or len(marks) != len(graph.relations) or not set(marks) <= set(MARKS):
                raise ValueError(f"image {self.name!r}, {field}: expected one of {', '.join(MARKS)} for each relation")


class PageWriter:
    """Writes a page image by image; what was added is on the page even if the program stops in between.

    Use it as a context manager. The page appears under its name when it is closed, and not if nothing was added.

    Args:
        path: the .html file; its folder must exist.
        title: heading of the page.
        max_relations: relations per image and graph, the first ones of each, from 0; None for all.
        score_threshold: least score at which the page starts; its reader may choose another.
    """

    def __init__(
        self,
        path: Path | str,
        title: str,
        max_relations: int | None = None,
        score_threshold: float = WEAK_SCORE,
    ):
        if max_relations is not None and max_relations < 0:
            raise ValueError(f"max_relations: expected 0 or more, got {max_relations}")
        self.path = Path(path)
        self.max_relations = max_relations
        self.score_threshold = score_threshold
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._entries: list[tuple[Any, dict]] = []
        self._timelines: list[list] = []
        head, self._tail = _shell(title)
        self._file = open(self._temporary, "wb")
        self._file.write(head.encode())
        self._good = self._file.tell()

    def __len__(self) -> int:
        """Images added so far."""
        return len(self._entries)

    def __enter__(self) -> PageWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, item: PageItem, order: Any = None) -> None:
        """Write one image; the list is sorted by the `order` of all, smallest first, or else as images were added.

        Raises:
            ValueError: if the item has more objects than a page can tell apart.
        """
        element = f"item-{len(self._entries)}"
        content = encode_item(item, self.max_relations)  # before writing, so that a bad item leaves nothing behind
        entry = {"id": element, "name": printable(item.name), "note": item.note, "thumb": _thumbnail(item.image)}
        self._file.write(_script(element, content).encode())
        self._good = self._file.tell()
        self._entries.append((float(len(self._entries)) if order is None else order, entry))

    def add_timeline(self, rows: Sequence[tuple[str, Any, Any, float]]) -> None:
        """Show intervals beside the frames of a video: rows of text, `order` of first and last image, score."""
        self._timelines.append([(printable(text), *interval) for text, *interval in rows])

    def _placed_timelines(self) -> Iterator[dict]:
        """The timelines in positions among the images; intervals without one are left out."""
        orders = sorted(order for order, _ in self._entries)
        for rows in self._timelines:
            placed = []
            for text, first, last, score in rows:
                begin, end = bisect_left(orders, first), bisect_right(orders, last) - 1
                if begin <= end:
                    placed.append((text, begin, end, score))
            if placed:
                first, last = min(row[1] for row in placed), max(row[2] for row in placed)
                yield {"first": first, "last": last, "rows": placed}

    def discard(self) -> None:
        """Take back what was added and leave no file; what stood under the name before stays."""
        self._entries.clear()
        self._timelines.clear()
        self.close()

    def close(self) -> None:
        """Finish the page; a second call does nothing."""
        if self._file.closed:
            return
        entries = [entry for _, entry in sorted(self._entries, key=lambda pair: pair[0])]
        self._file.seek(self._good)  # an item whose writing was interrupted goes
        self._file.truncate()
        index = {
            "items": entries,
            "least": self.score_threshold,
            "weak": WEAK_SCORE,
            "timelines": list(self._placed_timelines()),
        }
        self._file.write((_script("index", index) + self._tail).encode())
        self._file.close()
        if entries:
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink()


def write_page(
    path: Path | str,
    items: Iterable[PageItem],
    title: str,
    max_relations: int | None = None,
    score_threshold: float = WEAK_SCORE,
) -> int:
    """Write a page of at least one image; arguments as of `PageWriter`, items are read one by one.

    Returns:
        Number of images.

    Raises:
        ValueError: if there is no image, or one is not valid; nothing is written then.
    """
    with PageWriter(path, title, max_relations, score_threshold) as writer:
        try:
            for item in items:
                writer.add(item)
        except BaseException:
            writer.discard()
            raise
    if not len(writer):
        raise ValueError("items: expected at least one image")
    return len(writer)


def encode_item(item: PageItem, max_relations: int | None = None) -> dict:
    """An item as the page's script reads it: name, size [height, width], image as a data URI, layers (see `_layer`)."""
    for graph in (item.graph, item.truth):
        if graph is not None and len(graph.objects) > MAX_OBJECTS:
            raise ValueError(f"image {item.name!r}, objects: expected at most {MAX_OBJECTS}, got {len(graph.objects)}")
    height, width = item.image.shape[:2]
    size = scaled(item.image.shape, min(1.0, MAX_SIDE / max(height, width)))
    image = item.image
    if size != (height, width):
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    layers = [_layer(item.graph, item.title, item.marks, item.scores, size, max_relations)]
    if item.truth is not None:
        layers.append(_layer(item.truth, "Annotated", item.truth_marks, False, size, max_relations))
    return {"name": printable(item.name), "size": list(size), "image": _data_uri(image, quality=88), "layers": layers}


def _layer(
    graph: SceneGraph,
    title: str,
    marks: Sequence[str] | None,
    scores: bool,
    size: tuple[int, int],
    max_relations: int | None,
) -> dict:
    """Objects as records, their `page_labels`, relations as columns (subject, object, ...), masks at `size`."""
    objects = []
    for obj in graph.objects:
        mask = resize_rle(obj.mask, size)
        color = class_color(obj.name)
        objects.append(
            {
                "name": obj.label,
                "color": _hex(color),
                "ink": _hex(text_color(color)),
                "thing": obj.isthing,
                "score": round(obj.score, 4) if scores else None,
                "area": area(mask),
                "mask": mask["counts"],
            }
        )
    relations = graph.relations[:max_relations]
    predicates = {name: position for position, name in enumerate(dict.fromkeys(r.predicate for r in relations))}
    return {
        "title": title,
        "total": len(graph.relations),
        "objects": objects,
        "tags": page_labels(graph.top(score_threshold=WEAK_SCORE) if scores else graph),
        "predicates": list(predicates),
        "subject": [r.subject for r in relations],
        "object": [r.object for r in relations],
        "predicate": [predicates[r.predicate] for r in relations],
        "score": [round(r.score, 4) for r in relations] if scores else None,
        "mark": None if marks is None else list(marks[: len(relations)]),
    }


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _data_uri(image: np.ndarray, quality: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _thumbnail(image: np.ndarray) -> str:
    scale = min(1.0, max(THUMBNAIL[0] / image.shape[1], THUMBNAIL[1] / image.shape[0]))
    return _data_uri(cv2.resize(image, scaled(image.shape, scale)[::-1], interpolation=cv2.INTER_AREA), quality=70)


def _script(element: str, content: dict) -> str:
    """JSON that cannot end the script element that holds it: names come from anybody."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{element}">{text}</script>\n'


def _shell(title: str) -> tuple[str, str]:
    """The page before and after its items. Only this project's script may run on it, and nothing may be loaded."""
    styles, script = _assets()
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(styles)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # The heading is text, so quotes need no escape; the policy is written by this program.
    template = Template((ASSETS / "page.html").read_text(encoding="utf-8"))
    page = template.substitute(csp=policy, title=html.escape(printable(title)), css=styles, js=script)
    head, tail = page.split(ITEMS_HERE)
    return head, tail


@lru_cache(maxsize=1)
def _assets() -> tuple[str, str]:
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return (ASSETS / "page.css").read_text(encoding="utf-8"), f'(() => {{\n"use strict";\n{script}\n}})();'


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
