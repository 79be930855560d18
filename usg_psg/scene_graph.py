"""Scene graphs of images: objects with masks, relations, JSON.

Letters: N objects, H W pixels, R relations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import numpy as np
import torch
from pycocotools import mask as coco_mask

from .masks import compressed_masks
from .utils.text import display_names
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import networkx

FORMAT = "usg_psg scene graph"
VERSION = 1

Record = TypeVar("Record")


def encode_mask(mask: np.ndarray) -> dict:
    """COCO run lengths of a bool mask (H, W), ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(x) for x in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_segments(panoptic: np.ndarray, segments_info: Sequence[dict]) -> list[dict]:
    """`encode_mask` of each segment of a map (H, W): one pass over the map, whose runs are the segments' runs."""
    size = [int(x) for x in panoptic.shape]
    columns = panoptic.ravel(order="F")  # as COCO counts; no copy if the map lies so already
    starts = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    borders = np.concatenate(([0], starts, [columns.size]))
    values = columns[borders[:-1]]
    encoded = []
    for info in segments_info:
        own = np.flatnonzero(values == info["id"])
        edges = np.column_stack((borders[own], borders[own + 1])).ravel()
        counts = np.diff(np.concatenate(([0], edges, [columns.size])))
        counts = counts if counts[-1] else counts[:-1]  # nothing follows a run that reaches the last pixel
        rle = coco_mask.frPyObjects({"size": size, "counts": counts.tolist()}, *size)
        encoded.append({"size": size.copy(), "counts": rle["counts"].decode("ascii")})
    return encoded


@dataclass
class SceneObject:
    """One object: name, category_id (0-based), score in [0, 1], whether it is a thing, and its mask as COCO RLE.

    `label` is the name to show, unique in the image ("person 2"). The graph that holds all objects of the image gives
    it, and it stays with the object in every part of that graph.
    """

    name: str
    category_id: int
    score: float
    isthing: bool
    mask: dict
    label: str = ""

    def mask_array(self) -> np.ndarray:
        """(H, W) bool."""
        return coco_mask.decode(self.mask).astype(bool)


@dataclass
class SceneRelation:
    """One relation: indices of subject and object in `SceneGraph.objects`, predicate name and id (0-based), score."""

    subject: int
    object: int
    predicate: str
    predicate_id: int
    score: float


def _read(kind: type[Record], entries: list, what: str) -> list[Record]:
    """Records of JSON's fields, each of which has the type that the record declares."""
    declared, records = get_type_hints(kind), []
    for index, entry in enumerate(entries):
        try:
            record = kind(**entry)
        except TypeError as error:
            raise ValueError(f"{what} {index}: missing or unknown fields: {error}") from error
        for name, wanted in declared.items():
            value = getattr(record, name)
            if not isinstance(value, (int, float) if wanted is float else wanted):
                raise ValueError(f"{what} {index}, {name}: expected {wanted.__name__}, got {type(value).__name__}")
        records.append(record)
    return records


@dataclass
class SceneGraph:
    """Objects and relations of one image, relations best first.

    Attributes:
        height, width: of the image, pixels.
        objects: masks do not overlap.
        relations: several predicates of one pair may stand in it; `constrained` keeps the best one.
    """

    height: int
    width: int
    objects: list[SceneObject]
    relations: list[SceneRelation]

    def __post_init__(self) -> None:
        if not all(thing.label for thing in self.objects):
            labels = display_names([thing.name for thing in self.objects])
            self.objects = [replace(thing, label=label) for thing, label in zip(self.objects, labels, strict=True)]

    @classmethod
    def from_output(cls, output: dict, vocabulary: Vocabulary) -> SceneGraph:
        """The graph between the segments of the panoptic map, of the model's output of one image.

        Queries that lost their pixels to a better one are duplicates, so their relations are left out; where two
        queries became one segment, the best relation of each pair of segments and predicate stays.

        Args:
            output: see `USGPar.forward`.
            vocabulary: names of its categories and predicates.
        """
        names, predicates = vocabulary.object_classes, vocabulary.predicate_classes
        panoptic, segments_info = output["panoptic_seg"]
        # Turned on the device, for `encode_segments`, and as small as it can be.
        dtype = torch.uint8 if len(segments_info) < 256 else torch.int32
        panoptic = panoptic.to(dtype).t().contiguous().cpu().numpy().T
        objects = [
            SceneObject(
                name=names[info["category_id"]],
                category_id=info["category_id"],
                score=float(info["score"]),
                isthing=bool(info["isthing"]),
                mask=mask,
            )
            for info, mask in zip(segments_info, encode_segments(panoptic, segments_info), strict=True)
        ]
        position = {info["id"]: index for index, info in enumerate(segments_info)}
        segment = [position.get(i, -1) for i in output["instances"].segment_ids.tolist()]
        found = output["relations"]
        rows = torch.stack([found["subject"], found["object"], found["predicate"]], dim=1).tolist()
        relations: dict[tuple[int, int, int], SceneRelation] = {}
        for (subject, object_, predicate), score in zip(rows, found["score"].tolist(), strict=True):
            subject, object_ = segment[subject], segment[object_]
            if subject >= 0 and object_ >= 0 and subject != object_:
                key = (subject, object_, predicate)
                relation = SceneRelation(subject, object_, predicates[predicate], predicate, score)
                relations.setdefault(key, relation)  # best first, so the first is the best
        height, width = panoptic.shape
        return cls(height, width, objects, list(relations.values()))

    def constrained(self) -> SceneGraph:
        """Only the best predicate of each ordered pair (the graph constraint of the recall metrics)."""
        seen: set[tuple[int, int]] = set()
        kept = []
        for relation in self.relations:
            if (relation.subject, relation.object) not in seen:
                seen.add((relation.subject, relation.object))
                kept.append(relation)
        return replace(self, relations=kept)

    def top(self, count: int | None = None, score_threshold: float = 0.0) -> SceneGraph:
        """The first `count` relations (None for all) of at least `score_threshold`, between the same objects."""
        relations = [r for r in self.relations if r.score >= score_threshold][:count]
        return replace(self, relations=relations)

    def to_json(self) -> str:
        """Text that `from_json` reads back unchanged."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> SceneGraph:
        """Read `to_json`'s text.

        Raises:
            ValueError: if the text is something else; the message names the object or relation and its field.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a scene graph: its format is not {FORMAT!r}")
        if data.get("version") != VERSION:
            raise ValueError(f"scene graph version {data.get('version')!r}, this program reads {VERSION}")
        for name, kind in (("height", int), ("width", int), ("objects", list), ("relations", list)):
            if not isinstance(data.get(name), kind):
                raise ValueError(f"{name}: expected {kind.__name__}, got {type(data.get(name)).__name__}")
        height, width = data["height"], data["width"]
        objects = _read(SceneObject, data["objects"], "object")
        relations = _read(SceneRelation, data["relations"], "relation")
        for index, thing in enumerate(objects):
            if thing.mask.get("size") != [height, width]:
                raise ValueError(f"object {index}: its mask is not of the graph's size, {height}x{width}")
        for thing, mask in zip(objects, compressed_masks([x.mask for x in objects], "mask of object"), strict=True):
            thing.mask = mask
        graph = cls(height, width, objects, relations)
        known = range(len(graph.objects))
        for index, relation in enumerate(graph.relations):
            if relation.subject not in known or relation.object not in known:
                raise ValueError(f"relation {index} points at an object that does not exist")
        return graph

    def to_networkx(self) -> networkx.MultiDiGraph:
        """Nodes are object indices, edges relations; attributes are the fields of both."""
        import networkx

        graph = networkx.MultiDiGraph()
        for index, thing in enumerate(self.objects):
            graph.add_node(index, **asdict(thing))
        for relation in self.relations:
            graph.add_edge(
                relation.subject,
                relation.object,
                predicate=relation.predicate,
                predicate_id=relation.predicate_id,
                score=relation.score,
            )
        return graph

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB with masks and labels over it, as `visualization.draw_overlay`."""
        from .visualization import draw_overlay

        return draw_overlay(image, self)
