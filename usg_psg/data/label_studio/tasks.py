"""Scenes as Label Studio's tasks, and the results of a task as a scene.

Letters: N regions, R relations, H W pixels.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from ...masks import decode_masks
from ...scene_graph import SceneGraph
from ...vocabulary import Vocabulary
from ..annotation import reindex_relations
from ..panoptic import read_segment_index_map
from .brush import decode_brush, encode_brush

IMAGE, SEGMENT = "image", "segment"  # names of the tags in the labelling configuration
KINDS = ("annotations", "predictions")
_DIRECTIONS = {"right": ((0, 1),), "left": ((1, 0),), "bi": ((0, 1), (1, 0))}


@dataclass(frozen=True)
class Region:
    """A segment: Label Studio's id of it, category_id (0-based), mask (H, W) bool, and score in [0, 1], if any."""

    id: str
    category_id: int
    mask: np.ndarray
    score: float | None = None


@dataclass(frozen=True)
class Scene:
    """N regions, and R rows (subject, object, predicate): positions in `regions`, and in the predicates."""

    regions: list[Region]
    relations: list[tuple[int, int, int]]


def labeling_config(vocabulary: Vocabulary) -> str:
    """The XML that a project's labelling interface is set up with: a brush of each class, relations with predicates."""
    view = ET.Element("View")
    relations = ET.SubElement(view, "Relations")
    for name in vocabulary.predicate_classes:
        ET.SubElement(relations, "Relation", value=name)
    ET.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true")
    labels = ET.SubElement(view, "BrushLabels", name=SEGMENT, toName=IMAGE)
    for name in vocabulary.object_classes:
        ET.SubElement(labels, "Label", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def scene_of_record(record: dict) -> Scene:
    """The annotation of a dataset dict; reads its PNG. Segments without a pixel go, with their relations."""
    label_map, _ = read_segment_index_map(record)
    masks = [label_map == i + 1 for i in range(len(record["segments_info"]))]
    keep = np.array([mask.any() for mask in masks], dtype=bool)
    infos = zip(record["segments_info"], masks, keep, strict=True)
    regions = [Region(str(info["id"]), info["category_id"], mask) for info, mask, kept in infos if kept]
    rows = reindex_relations(record["relations"], keep).tolist()
    return Scene(regions, [(s, o, p) for s, o, p in dict.fromkeys(map(tuple, rows))])


def scene_of_graph(graph: SceneGraph, vocabulary: Vocabulary) -> Scene:
    """A scene graph's objects and relations, by name; ValueError for a name that the vocabulary lacks."""
    masks = decode_masks([obj.mask for obj in graph.objects], size=(graph.height, graph.width))
    classes, predicates = vocabulary.object_classes, vocabulary.predicate_classes
    for kind, names, known in (
        ("object", [o.name for o in graph.objects], classes),
        ("predicate", [r.predicate for r in graph.relations], predicates),
    ):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{kind} {unknown[0]!r}: it is not in the vocabulary")
    regions = [
        Region(str(i + 1), classes.index(obj.name), mask, obj.score)
        for i, (obj, mask) in enumerate(zip(graph.objects, masks, strict=True))
    ]
    return Scene(regions, [(r.subject, r.object, predicates.index(r.predicate)) for r in graph.relations])


def task_of(data: dict[str, Any], scene: Scene | None, vocabulary: Vocabulary, kind: str, url: str) -> dict[str, Any]:
    """A task for Label Studio's import.

    Args:
        data: image_id, file_name, height and width of the image, and what else is to come back with it.
        scene: drawn already; None leaves all to the annotator.
        vocabulary: names of the scene's numbers.
        kind: "annotations", or "predictions" for an annotator to accept.
        url: what stands before the file name, for Label Studio to find the image.
    """
    task: dict[str, Any] = {"data": {"image": url + quote(data["file_name"]), **data}}
    if scene is None:
        return task
    drawn = {"original_height": data["height"], "original_width": data["width"], "image_rotation": 0}
    result: list[dict[str, Any]] = []
    for region in scene.regions:
        labels = [vocabulary.object_classes[region.category_id]]
        value = {"format": "rle", "rle": encode_brush(region.mask), "brushlabels": labels}
        entry = {"id": region.id, "type": "brushlabels", "from_name": SEGMENT, "to_name": IMAGE, **drawn}
        result.append({**entry, "value": value, **({} if region.score is None else {"score": region.score})})
    ids = [region.id for region in scene.regions]
    pairs: dict[tuple[int, int], list[str]] = {}
    for subject, object_, predicate in scene.relations:
        pairs.setdefault((subject, object_), []).append(vocabulary.predicate_classes[predicate])
    for (subject, object_), labels in pairs.items():
        ends = {"from_id": ids[subject], "to_id": ids[object_]}
        result.append({"type": "relation", **ends, "direction": "right", "labels": labels})
    task[kind] = [{"result": result, **({"model_version": "usg_psg"} if kind == "predictions" else {})}]
    return task


def read_scene(result: object, vocabulary: Vocabulary, size: tuple[int, int], where: str) -> Scene:
    """The regions and relations of a task's `result`, of an image (H, W).

    Raises:
        ValueError: names `where` and the field.
    """
    regions: list[Region] = []
    relations: dict[tuple[int, int, int], None] = {}
    entries = [(f"{where}, result[{n}]", entry) for n, entry in enumerate(list_of(result, f"{where}, result"))]
    for place, entry in entries:
        kind = field_of(entry, "type", str, place)
        if kind == "brushlabels":
            regions.append(_region(entry, vocabulary, size, place))
        elif kind != "relation":
            raise ValueError(f"{place}.type: expected brushlabels or relation, got {kind!r}")
    position = {region.id: i for i, region in enumerate(regions)}
    if len(position) < len(regions):
        raise ValueError(f"{where}, result: two regions have one id")
    for place, entry in entries:
        if entry["type"] == "relation":
            relations.update(dict.fromkeys(_relations(entry, position, vocabulary, place)))
    return Scene(regions, list(relations))


def _region(entry: dict, vocabulary: Vocabulary, size: tuple[int, int], where: str) -> Region:
    found = tuple(field_of(entry, f"original_{side}", int, where) for side in ("height", "width"))
    if found != size:
        raise ValueError(f"{where}.original_height, original_width: expected {size}, got {found}")
    if entry.get("image_rotation"):
        raise ValueError(f"{where}.image_rotation: expected 0, got {entry['image_rotation']!r}")
    value = field_of(entry, "value", dict, where)
    names = list_of(value.get("brushlabels"), f"{where}.value.brushlabels")
    if len(names) != 1:
        raise ValueError(f"{where}.value.brushlabels: expected one class, got {names!r}")
    category = _number_of(names[0], vocabulary.object_classes, f"{where}.value.brushlabels")
    region_id = field_of(entry, "id", str, where)
    try:
        return Region(region_id, category, decode_brush(value.get("rle"), size))
    except ValueError as error:
        raise ValueError(f"{where}.value.rle: {error}") from None


def _relations(entry: dict, position: dict[str, int], vocabulary: Vocabulary, where: str) -> list[tuple[int, int, int]]:
    ends = []
    for key in ("from_id", "to_id"):
        end = field_of(entry, key, str, where)
        if end not in position:
            raise ValueError(f"{where}.{key}: there is no region {end!r}")
        ends.append(position[end])
    if ends[0] == ends[1]:
        raise ValueError(f"{where}.to_id: region {entry['to_id']!r} is related to itself")
    if not (labels := list_of(entry.get("labels"), f"{where}.labels")):
        raise ValueError(f"{where}.labels: expected a predicate, got none")
    direction = entry.get("direction", "right")
    if direction not in _DIRECTIONS:
        raise ValueError(f"{where}.direction: expected {', '.join(_DIRECTIONS)}, got {direction!r}")
    predicates = [_number_of(name, vocabulary.predicate_classes, f"{where}.labels") for name in labels]
    return [(ends[i], ends[j], predicate) for i, j in _DIRECTIONS[direction] for predicate in predicates]


def field_of(entry: object, key: str, kind: type, where: str) -> Any:
    """A value of that type; the ValueError names where it is not."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}.{key}: expected {kind.__name__}, got {str(value)[:60]}")
    return value


def list_of(value: object, where: str) -> list:
    """The value, if it is a list; the ValueError names where it is not."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got {str(value)[:60]}")
    return value


def _number_of(name: object, names: tuple[str, ...], where: str) -> int:
    if name not in names:
        raise ValueError(f"{where}: {name!r} is not in the vocabulary")
    return names.index(str(name))
