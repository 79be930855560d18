"""Scene graphs of a video's frames as one graph: objects that keep their identity, relations with intervals.

Letters: F frames, T objects of the video, N objects of a frame, S = h w pixels of masks scaled down.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from scipy.ndimage import shift
from scipy.optimize import linear_sum_assignment

from .masks import decode_masks, resize_nearest
from .scene_graph import SceneGraph, SceneObject
from .utils.text import spoken_name

FORMAT = "usg_psg video scene graph"
VERSION = 1
SIDE = 160  # pixels of the longer side at which masks are compared
MIN_IOU = 0.3  # of masks of one object in two frames
LARGEST = 5  # things whose median speed is the camera's
OTHER_CLASS = 0.5  # an overlap with a mask of another category counts half


@dataclass(frozen=True)
class VideoFrame:
    """A frame: its number in the video, seconds (None if unknown), the id of each object of the frame's own graph."""

    number: int
    seconds: float | None
    objects: list[int]


@dataclass(frozen=True)
class VideoObject:
    """An object: id from 1, category that its frames agree on, mean score, first and last frame, how many have it."""

    id: int
    label: str
    name: str
    category_id: int
    isthing: bool
    score: float
    first: int
    last: int
    frames: int


@dataclass(frozen=True)
class VideoRelation:
    """A relation between objects (ids) from frame `first` to `last`, in `frames` of the frames between.

    `score` is the mean over all frames read from first to last, 0 where the relation was not found.
    """

    subject: int
    object: int
    predicate: str
    predicate_id: int
    first: int
    last: int
    frames: int
    score: float


@dataclass(frozen=True)
class VideoGraph:
    """A video's frames in order, objects by id, and relations, best first; height and width in pixels."""

    height: int
    width: int
    frames: list[VideoFrame]
    objects: list[VideoObject]
    relations: list[VideoRelation]

    def to_json(self) -> str:
        """JSON of all fields, and of format and version; docs/visualization.md describes it."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})


@dataclass
class _Track:
    """An object so far: sightings, the last mask (h, w), its middle and speed in pixels a frame (y, x)."""

    id: int
    isthing: bool
    mask: np.ndarray
    middle: np.ndarray
    seen: list[int] = field(default_factory=list)  # positions among the frames
    votes: dict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    score: float = 0.0
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def category(self) -> tuple[int, str]:
        """Id and name with the greatest sum of scores."""
        return max(self.votes, key=self.votes.__getitem__)

    @property
    def label(self) -> str:
        return f"{spoken_name(self.category[1])} {self.id}"

    def expected(self, at: int, speed: np.ndarray) -> np.ndarray:
        """The last mask, moved on at a speed to frame position `at`."""
        return shift(self.mask, np.rint(speed * (at - self.seen[-1])), order=0, prefilter=False)

    def see(self, obj: SceneObject, mask: np.ndarray, at: int) -> None:
        middle = _middle(mask)
        if self.seen:
            self.speed = (middle - self.middle) / (at - self.seen[-1])
        self.mask, self.middle = mask, middle
        self.seen.append(at)
        self.votes[obj.category_id, obj.name] += obj.score
        self.score += obj.score


class Tracker:
    """Gives the objects of frame after frame their ids, and keeps which relations held when.

    An object is the one of an earlier frame whose mask, where it was or moved on at its speed, overlaps it best:
    Hungarian matching of mask IoUs, which count half between categories. Objects that found none are tried at the
    median speed of the largest that did, as all of them move with the camera. Things match things; stuff of one
    category is the same wherever it is.

    Args:
        min_iou: least overlap to be the same object.
        max_lost: frames for which an object may be unseen and keep its id.
        max_gap: frames for which a relation may be unseen and its interval goes on.
    """

    def __init__(self, min_iou: float = MIN_IOU, max_lost: int = 30, max_gap: int = 5):
        if not 0 < min_iou <= 1 or max_lost < 0 or max_gap < 0:
            raise ValueError(
                "tracking: expected min_iou in (0, 1], max_lost and max_gap of at least 0, "
                f"got {min_iou}, {max_lost}, {max_gap}"
            )
        self.min_iou, self.max_lost, self.max_gap = min_iou, max_lost, max_gap
        self.size: tuple[int, int] | None = None
        self.frames: list[VideoFrame] = []
        self._tracks: list[_Track] = []
        # Of subject, object, predicate id and name: [position, score] of the frames that have it.
        self._relations: dict[tuple[int, int, int, str], list[tuple[int, float]]] = defaultdict(list)

    def add(self, graph: SceneGraph, number: int, seconds: float | None = None) -> SceneGraph:
        """Take the next frame; returns its graph with labels that stay: the category, then the id.

        Raises:
            ValueError: for another size than the frames before, or a number that is not greater than theirs.
        """
        if self.size not in (None, (graph.height, graph.width)):
            height, width = self.size
            raise ValueError(f"frame {number}: expected {height}x{width}, as before, got {graph.height}x{graph.width}")
        if self.frames and number <= self.frames[-1].number:
            raise ValueError(f"frame {number}: expected a number above {self.frames[-1].number}, the last frame's")
        self.size = (graph.height, graph.width)
        at, masks = len(self.frames), self._masks(graph)
        tracks = self._match(graph.objects, masks, at)
        for track, obj, mask in zip(tracks, graph.objects, masks, strict=True):
            track.see(obj, mask, at)
        ids = [track.id for track in tracks]
        for r in graph.relations:
            sightings = self._relations[ids[r.subject], ids[r.object], r.predicate_id, r.predicate]
            if not sightings or sightings[-1][0] < at:  # best first
                sightings.append((at, r.score))
        self.frames.append(VideoFrame(number, seconds, ids))
        objects = [replace(obj, label=track.label) for obj, track in zip(graph.objects, tracks, strict=True)]
        return replace(graph, objects=objects)

    def graph(self) -> VideoGraph:
        """All frames so far."""
        objects = []
        for track in self._tracks:
            (category_id, name), seen = track.category, track.seen
            ends = (self.frames[seen[0]].number, self.frames[seen[-1]].number)
            score = track.score / len(seen)
            objects.append(
                VideoObject(track.id, track.label, name, category_id, track.isthing, score, *ends, len(seen))
            )
        relations = [
            VideoRelation(subject, object_, name, predicate_id, *interval)
            for (subject, object_, predicate_id, name), sightings in self._relations.items()
            for interval in self._intervals(sightings)
        ]
        relations.sort(key=lambda r: (-r.score * r.frames, r.first))
        height, width = self.size or (0, 0)
        return VideoGraph(height, width, list(self.frames), objects, relations)

    def _masks(self, graph: SceneGraph) -> np.ndarray:
        """(N, h, w) bool, of at most SIDE pixels a side; one pixel at least of what has any."""
        scale = min(1.0, SIDE / max(graph.height, graph.width))
        size = (max(1, round(graph.height * scale)), max(1, round(graph.width * scale)))
        masks = decode_masks([obj.mask for obj in graph.objects], size=(graph.height, graph.width))
        small = np.zeros((len(masks), *size), bool)
        for mask, reduced in zip(masks, small, strict=True):
            reduced[:] = resize_nearest(mask, size)
            if not reduced.any() and mask.any():
                row, column = np.argwhere(mask)[0]
                reduced[row * size[0] // graph.height, column * size[1] // graph.width] = True
        return small

    def _match(self, objects: list[SceneObject], masks: np.ndarray, at: int) -> list[_Track]:
        """The track of each of N objects, new ones where none fits."""
        known = [t for t in self._tracks if not t.isthing or at - t.seen[-1] <= self.max_lost + 1]
        overlap = np.maximum(
            _ious([t.mask for t in known], masks), _ious([t.expected(at, t.speed) for t in known], masks)
        )
        found = self._pair(known, objects, overlap)
        things = sorted((int(masks[n].sum()), n) for n, t in found.items() if t.isthing)[-LARGEST:]
        moves = [(_middle(masks[n]) - found[n].middle) / (at - found[n].seen[-1]) for _, n in things]
        camera = np.median(moves, axis=0) if moves else np.zeros(2)
        taken = {t.id for t in found.values()}
        known = [t for t in known if t.id not in taken]
        left = [n for n in range(len(objects)) if n not in found]
        overlap = _ious([t.expected(at, camera) for t in known], masks[left])
        late = self._pair(known, [objects[n] for n in left], overlap)
        found.update({left[n]: track for n, track in late.items()})
        for n, obj in enumerate(objects):
            if n not in found:
                found[n] = _Track(len(self._tracks) + 1, obj.isthing, masks[n], _middle(masks[n]), speed=camera)
                self._tracks.append(found[n])
        return [found[n] for n in range(len(objects))]

    def _pair(self, tracks: list[_Track], objects: list[SceneObject], overlap: np.ndarray) -> dict[int, _Track]:
        """The best tracks of N objects by the IoU (T, N) of their masks; none for objects that fit none."""
        if not tracks or not objects:
            return {}
        kind, thing = np.array([obj.category_id for obj in objects]), np.array([obj.isthing for obj in objects])
        same = np.array([t.category[0] for t in tracks])[:, None] == kind
        is_thing = np.array([t.isthing for t in tracks])[:, None]
        overlap = np.where(same, overlap, OTHER_CLASS * overlap)
        overlap = np.where(same & ~is_thing, np.maximum(overlap, self.min_iou), overlap)
        overlap[(is_thing != thing) | (overlap < self.min_iou)] = 0.0
        pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
        return {int(n): tracks[t] for t, n in pairs if overlap[t, n] > 0}

    def _intervals(self, sightings: list[tuple[int, float]]) -> Iterable[tuple[int, int, int, float]]:
        """First and last frame number, frames seen and mean score of each stretch without a longer gap."""
        positions = np.array([at for at, _ in sightings])
        for part in np.split(np.arange(len(sightings)), np.flatnonzero(np.diff(positions) > self.max_gap + 1) + 1):
            first, last = positions[part[0]], positions[part[-1]]
            score = sum(sightings[n][1] for n in part) / (last - first + 1)
            yield self.frames[first].number, self.frames[last].number, len(part), float(score)


def track_objects(graphs: Iterable[SceneGraph], **options: float) -> VideoGraph:
    """The graph of a video of one scene graph a frame, numbered from 0; options as of `Tracker`."""
    tracker = Tracker(**options)  # type: ignore[arg-type]
    for number, graph in enumerate(graphs):
        tracker.add(graph, number)
    return tracker.graph()


def _middle(mask: np.ndarray) -> np.ndarray:
    """(y, x) mean of a mask's pixels; 0 for an empty one."""
    return np.argwhere(mask).mean(axis=0) if mask.any() else np.zeros(2)


def _ious(tracks: list[np.ndarray], masks: np.ndarray) -> np.ndarray:
    """(T, N) IoU of T masks (h, w) and masks (N, h, w) bool; 0 between empty ones."""
    if not tracks or not len(masks):
        return np.zeros((len(tracks), len(masks)), np.float32)
    rows, columns = (np.reshape(m, (len(m), -1)).astype(np.float32) for m in (np.array(tracks), masks))
    shared = rows @ columns.T
    union = rows.sum(axis=1)[:, None] + columns.sum(axis=1) - shared
    return shared / np.maximum(union, 1)
