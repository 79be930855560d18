"""Scene graphs of images: objects with masks, relations, JSON.

Letters: N objects, H W pixels, R relations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

import numpy as np
from pycocotools import mask as coco_mask

from .masks import check_rles, decode_masks, encode_masks, encode_runs, encode_segments
from .utils.extras import optional
from .utils.text import display_names

if TYPE_CHECKING:
    import fiftyone
    import networkx
    import supervision

FORMAT = "usg_psg scene graph"
VERSION = 1

Record = TypeVar("Record")


class Names(Protocol):
    """What a graph asks of a `Vocabulary`."""

    @property
    def object_classes(self) -> Sequence[str]:
        """C names."""

    @property
    def is_thing(self) -> Sequence[bool]:
        """Of each object class."""

    @property
    def predicate_classes(self) -> Sequence[str]:
        """P names."""


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
        return decode_masks([self.mask])[0]


@dataclass
class SceneRelation:
    """One relation: indices of subject and object in `SceneGraph.objects`, predicate name and id (0-based), score."""

    subject: int
    object: int
    predicate: str
    predicate_id: int
    score: float


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _fields(record: Any) -> dict[str, Any]:
    """Of a dataclass, as they are: `asdict` would copy them all the way down. TypeError for anything else."""
    kind: Any = type(record)
    return {name: getattr(record, name) for name in _field_names(kind)}


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
        objects: masks do not overlap, unless they were given so.
        relations: several predicates of one pair may stand in it; `constrained` keeps the best one.
    """

    height: int
    width: int
    objects: list[SceneObject]
    relations: list[SceneRelation]

    def __post_init__(self) -> None:
        if not all(obj.label for obj in self.objects):
            labels = display_names([obj.name for obj in self.objects])
            self.objects = [replace(obj, label=label) for obj, label in zip(self.objects, labels, strict=True)]

    @classmethod
    def from_output(cls, output: dict, vocabulary: Names) -> SceneGraph:
        """`from_segments` of the model's output of one image, see `USGPar.forward`; with `on_host` in less time."""
        panoptic, segments_info = output["panoptic_seg"]
        size, segment_ids, relations = tuple(panoptic.shape), output["instances"].segment_ids, output["relations"]
        ids, are_small = [info["id"] for info in segments_info], len(segments_info) < 256
        if (found := output.get("panoptic_runs")) is not None:
            starts, values = found
            masks = encode_runs(starts, values.astype(np.uint8) if are_small else values, size, ids)
        else:
            # Turned on the device, for `encode_segments`, and as small as it can be.
            columns = (panoptic.byte() if are_small else panoptic).t().contiguous().cpu().numpy()
            masks = encode_segments(columns.T, ids)
        return cls._of_segments(masks, size, segments_info, segment_ids, relations, vocabulary)

    @classmethod
    def from_segments(
        cls,
        panoptic: np.ndarray,
        segments_info: Sequence[dict],
        segment_ids: Any,
        relations: Mapping[str, Any],
        vocabulary: Names,
    ) -> SceneGraph:
        """The graph between the segments of a panoptic map.

        Queries that lost their pixels to a better one are duplicates, so their relations are left out; where two
        queries became one segment, the best relation of each pair of segments and predicate stays.

        Args:
            panoptic: (H, W) ids of the segments in segments_info, 0 for none; column after column in memory is faster.
            segments_info: id, category_id and score of each segment.
            segment_ids: (N,) segment of each object, 0 for none; an array or a tensor, as in relations.
            relations: "subject" and "object", (R,) numbers of objects, "predicate", "score"; best first.
            vocabulary: names of the ids.
        """
        masks = encode_segments(panoptic, [info["id"] for info in segments_info])
        return cls._of_segments(masks, panoptic.shape, segments_info, segment_ids, relations, vocabulary)

    @classmethod
    def _of_segments(
        cls,
        masks: Sequence[dict],
        size: tuple[int, ...],
        segments_info: Sequence[dict],
        segment_ids: Any,
        relations: Mapping[str, Any],
        vocabulary: Names,
    ) -> SceneGraph:
        """`from_segments` of the segments' run lengths and (H, W)."""
        position = {info["id"]: index for index, info in enumerate(segments_info)}
        segment = [position.get(i, -1) for i in segment_ids.tolist()]
        rows = zip(*(relations[key].tolist() for key in ("subject", "object", "predicate", "score")), strict=True)
        best: dict[tuple[int, int, int], float] = {}
        for subject, object_, predicate, score in rows:
            subject, object_ = segment[subject], segment[object_]
            if subject >= 0 and object_ >= 0 and subject != object_:
                best.setdefault((subject, object_, predicate), score)  # best first, so the first is the best
        return cls.from_rows(
            size,
            [info["category_id"] for info in segments_info],
            masks,
            list(best),
            vocabulary,
            [float(info["score"]) for info in segments_info],
            list(best.values()),
        )

    @classmethod
    def from_given(cls, output: dict, vocabulary: Names) -> SceneGraph:
        """The graph of objects that were given to the model, in their order, whose masks may overlap."""
        instances, found = output["instances"], output["relations"]
        rows = list(zip(*(found[key].tolist() for key in ("subject", "object", "predicate")), strict=True))
        masks = encode_masks(instances.pred_masks.cpu().numpy())
        labels, scores = instances.pred_classes.tolist(), found["score"].tolist()
        return cls.from_rows(instances.image_size, labels, masks, rows, vocabulary, relation_scores=scores)

    @classmethod
    def from_rows(
        cls,
        size: tuple[int, ...],
        labels: Sequence[int],
        masks: Sequence[dict],
        triplets: Sequence[Sequence[int]],
        vocabulary: Names,
        object_scores: Sequence[float] | None = None,
        relation_scores: Sequence[float] | None = None,
    ) -> SceneGraph:
        """The graph of N objects and R relations in numbers.

        Args:
            size: (H, W) of the image.
            labels, masks: N category ids; N COCO run lengths.
            triplets: R rows (subject, object, predicate id), best first.
            vocabulary: names of the ids.
            object_scores, relation_scores: N and R scores; None for 1, as annotations have.

        Raises:
            ValueError: for an id without a name.
        """
        names, is_thing, predicates = vocabulary.object_classes, vocabulary.is_thing, vocabulary.predicate_classes
        for kind, ids, known in (("class", labels, names), ("predicate", [row[2] for row in triplets], predicates)):
            if max(ids, default=0) >= len(known):
                raise ValueError(f"{kind}: expected 0 to {len(known) - 1}, got {max(ids)}")
        scores = [1.0] * len(labels) if object_scores is None else object_scores
        shown = display_names([names[label] for label in labels])
        objects = [
            SceneObject(names[label], label, score, is_thing[label], mask, own)
            for label, score, mask, own in zip(labels, scores, masks, shown, strict=True)
        ]
        scores = [1.0] * len(triplets) if relation_scores is None else relation_scores
        relations = [
            SceneRelation(subject, object_, predicates[predicate], predicate, score)
            for (subject, object_, predicate), score in zip(triplets, scores, strict=True)
        ]
        height, width = size
        return cls(height, width, objects, relations)

    def constrained(self) -> SceneGraph:
        """Only the best predicate of each ordered pair (the graph constraint of the recall metrics)."""
        best: dict[tuple[int, int], SceneRelation] = {}
        for relation in self.relations:
            best.setdefault((relation.subject, relation.object), relation)
        return replace(self, relations=list(best.values()))

    def top(self, count: int | None = None, score_threshold: float = 0.0) -> SceneGraph:
        """The first `count` relations (None for all) of at least `score_threshold`, between the same objects."""
        relations = [r for r in self.relations if r.score >= score_threshold][:count]
        return replace(self, relations=relations)

    def to_json(self) -> str:
        """Text that `from_json` reads back unchanged; TypeError for what JSON has not, such as a tensor."""
        return json.dumps({"format": FORMAT, "version": VERSION, **_fields(self)}, default=_fields)

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
        for index, obj in enumerate(objects):
            if obj.mask.get("size") != [height, width]:
                raise ValueError(f"object {index}: its mask is not of the graph's size, {height}x{width}")
        for obj, mask in zip(objects, check_rles([x.mask for x in objects], "mask of object"), strict=True):
            obj.mask = mask
        graph = cls(height, width, objects, relations)
        known = range(len(graph.objects))
        for index, relation in enumerate(graph.relations):
            if relation.subject not in known or relation.object not in known:
                raise ValueError(f"relation {index} points at an object that does not exist")
        return graph

    def to_networkx(self) -> networkx.MultiDiGraph:
        """Nodes are object indices, edges relations, with their fields as attributes that all formats can hold.

        A mask is the JSON of its run lengths; `rank` of an edge is its position in `relations`. `graph_formats` writes
        files.
        """
        import networkx

        graph = networkx.MultiDiGraph(height=self.height, width=self.width)
        for index, obj in enumerate(self.objects):
            graph.add_node(index, **{**asdict(obj), "mask": json.dumps(obj.mask)})
        for rank, relation in enumerate(self.relations):
            attributes = asdict(relation)
            graph.add_edge(attributes.pop("subject"), attributes.pop("object"), **attributes, rank=rank)
        return graph

    def to_supervision(self) -> supervision.Detections:
        """Detections with masks, boxes x0, y0, x1, y1, category ids and scores.

        data has "class_name" and "label" of each, metadata "relations", as dicts of `SceneRelation`'s fields.
        """
        supervision = optional("supervision", "to_supervision")
        masks = decode_masks([obj.mask for obj in self.objects], size=(self.height, self.width))
        return supervision.Detections(
            xyxy=self._boxes(),
            mask=masks,
            confidence=np.array([obj.score for obj in self.objects], dtype=np.float32),
            class_id=np.array([obj.category_id for obj in self.objects], dtype=int),
            data={
                "class_name": np.array([obj.name for obj in self.objects], dtype=str),
                "label": np.array([obj.label for obj in self.objects], dtype=str),
            },
            metadata={"relations": [asdict(relation) for relation in self.relations]},
        )

    def to_fiftyone(self, filepath: str) -> fiftyone.Sample:
        """A sample of the image at that path.

        Its field `objects` has a detection with mask of each object, `relations` a classification of each relation:
        label is the predicate, subject and object are indices of detections, triplet is the text to show.
        """
        fiftyone = optional("fiftyone", "to_fiftyone")
        detections = []
        for index, (obj, box) in enumerate(zip(self.objects, self._boxes().astype(int).tolist(), strict=True)):
            x0, y0, x1, y1 = box
            place = [x0 / self.width, y0 / self.height, (x1 - x0) / self.width, (y1 - y0) / self.height]
            fields = {"label": obj.name, "confidence": obj.score, "index": index, "name": obj.label}
            mask = obj.mask_array()[y0:y1, x0:x1]
            detections.append(fiftyone.Detection(bounding_box=place, mask=mask, **fields, isthing=obj.isthing))
        relations = []
        for r in self.relations:
            text = f"{self.objects[r.subject].label} {r.predicate} {self.objects[r.object].label}"
            ends = {"subject": r.subject, "object": r.object, "triplet": text}
            relations.append(fiftyone.Classification(label=r.predicate, confidence=r.score, **ends))
        return fiftyone.Sample(
            filepath=filepath,
            objects=fiftyone.Detections(detections=detections),
            relations=fiftyone.Classifications(classifications=relations),
        )

    def _boxes(self) -> np.ndarray:
        """(N, 4) float32 x0, y0, x1, y1 around the masks, pixels."""
        boxes = coco_mask.toBbox([obj.mask for obj in self.objects]) if self.objects else np.zeros((0, 4))
        boxes[:, 2:] += boxes[:, :2]
        return boxes.astype(np.float32)
