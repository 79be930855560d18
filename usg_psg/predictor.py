"""Images to scene graphs that can be saved, drawn and searched, without the training machinery around them.

Letters: N objects, H W pixels, R relations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from pycocotools import mask as coco_mask

from .data import get_psg_metadata, read_vocabulary
from .engine import USGCheckpointer, adapt_to_machine
from .modeling.vocabulary import embed_names, vocabulary_embeddings
from .names import display_names

if TYPE_CHECKING:
    import networkx

FORMAT = "usg_psg scene graph"
VERSION = 1

Vocabulary = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # things, stuff, predicates


def encode_mask(mask: np.ndarray) -> dict:
    """COCO run lengths of a bool mask (H, W), ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(x) for x in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_segments(panoptic: np.ndarray, segments_info: Sequence[dict]) -> list[dict]:
    """`encode_mask` of each segment of a map (H, W), all in one call."""
    columns = np.asfortranarray(panoptic)
    masks = np.empty((*panoptic.shape, len(segments_info)), dtype=bool, order="F")
    for index, info in enumerate(segments_info):
        np.equal(columns, info["id"], out=masks[:, :, index])
    encoded = coco_mask.encode(masks.view(np.uint8)) if segments_info else []
    return [{"size": [int(x) for x in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in encoded]


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
    def from_output(
        cls,
        output: dict,
        thing_classes: Sequence[str],
        stuff_classes: Sequence[str],
        predicate_classes: Sequence[str],
    ) -> SceneGraph:
        """The graph between the segments of the panoptic map, of the model's output of one image.

        Queries that lost their pixels to a better one are duplicates, so their relations are left out; where two
        queries became one segment, the best relation of each pair of segments and predicate stays.

        Args:
            output: see `USGPar.forward`.
            thing_classes, stuff_classes: category ids count things, then stuff.
            predicate_classes: names.
        """
        names = [*thing_classes, *stuff_classes]
        panoptic, segments_info = output["panoptic_seg"]
        panoptic = panoptic.cpu().numpy()
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
        columns = (output["relations"][key].tolist() for key in ("subject", "object", "predicate", "score"))
        relations: dict[tuple[int, int, int], SceneRelation] = {}
        for subject, object_, predicate, score in zip(*columns, strict=True):
            subject, object_ = segment[subject], segment[object_]
            if subject >= 0 and object_ >= 0 and subject != object_:
                key = (subject, object_, predicate)
                relation = SceneRelation(subject, object_, predicate_classes[predicate], predicate, score)
                relations.setdefault(key, relation)  # best first, so the first is the best
        return cls(*panoptic.shape, objects, list(relations.values()))

    def constrained(self) -> SceneGraph:
        """Only the best predicate of each ordered pair (the graph constraint of the recall metrics)."""
        seen: set[tuple[int, int]] = set()
        kept = []
        for relation in self.relations:
            if (relation.subject, relation.object) not in seen:
                seen.add((relation.subject, relation.object))
                kept.append(relation)
        return SceneGraph(self.height, self.width, self.objects, kept)

    def top(self, count: int | None = None, score_threshold: float = 0.0) -> SceneGraph:
        """The best relations, with the objects that take part in them only; indices are renumbered, labels are not."""
        relations = [r for r in self.relations if r.score >= score_threshold][:count]
        used = sorted({r.subject for r in relations} | {r.object for r in relations})
        new = {old: index for index, old in enumerate(used)}
        moved = [SceneRelation(new[r.subject], new[r.object], r.predicate, r.predicate_id, r.score) for r in relations]
        return SceneGraph(self.height, self.width, [self.objects[i] for i in used], moved)

    def to_json(self) -> str:
        """Text that `from_json` reads back unchanged."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> SceneGraph:
        """Read `to_json`'s text.

        Raises:
            ValueError: if the text is something else; the message says what is wrong.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a scene graph: its format is not {FORMAT!r}")
        if data.get("version") != VERSION:
            raise ValueError(f"scene graph version {data.get('version')!r}, this program reads {VERSION}")
        try:
            graph = cls(
                data["height"],
                data["width"],
                [SceneObject(**x) for x in data["objects"]],
                [SceneRelation(**x) for x in data["relations"]],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"scene graph with missing or unknown fields: {error}") from error
        for index, thing in enumerate(graph.objects):
            if not isinstance(thing.mask, dict) or thing.mask.get("size") != [graph.height, graph.width]:
                raise ValueError(f"object {index}: its mask is not of the graph's size, {graph.height}x{graph.width}")
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


class SceneGraphPredictor:
    """A model with its weights and vocabulary: `predictor(image) -> SceneGraph`.

    Args:
        cfg: a recipe with MODEL.WEIGHTS; the names are those of MODEL.USG.VOCABULARY if it is set, or else of
            DATASETS.TEST[0], until `set_vocabulary`.

    Raises:
        ValueError: if MODEL.WEIGHTS is empty; `allow_random` builds the model all the same.
        FileNotFoundError: if there is no such checkpoint.
    """

    def __init__(self, cfg: CfgNode, *, allow_random: bool = False):
        if not cfg.MODEL.WEIGHTS and not allow_random:
            raise ValueError("MODEL.WEIGHTS is empty: give the path of a checkpoint")
        cfg = cfg.clone()
        cfg.defrost()
        adapt_to_machine(cfg)
        cfg.DATASETS.TRAIN = ()  # the names of the training data, which may be others, do not matter
        if cfg.MODEL.USG.VOCABULARY:
            self.metadata = read_vocabulary(cfg.MODEL.USG.VOCABULARY).vocabulary
            cfg.DATASETS.TEST = ()  # the file's names stand alone
        else:
            self.metadata = get_psg_metadata(cfg.DATASETS.TEST[0])
        if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS and not os.path.isfile(cfg.MODEL.WEIGHTS):
            raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {cfg.MODEL.WEIGHTS}")
        self.cfg = cfg
        self.own_vocabulary: Vocabulary = tuple(
            tuple(getattr(self.metadata, kind)) for kind in ("thing_classes", "stuff_classes", "predicate_classes")
        )
        self.vocabulary = self.own_vocabulary
        self.model = build_model(cfg).eval()
        USGCheckpointer(self.model, load_ema=cfg.SOLVER.EMA.ENABLED).load(cfg.MODEL.WEIGHTS)
        self.resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    def set_vocabulary(
        self, thing_classes: Sequence[str], stuff_classes: Sequence[str], predicate_classes: Sequence[str]
    ) -> None:
        """Look for other objects and relations from now on, without retraining.

        Args:
            thing_classes: countable objects; commas separate synonyms.
            stuff_classes: amorphous ones, of which all pixels are one object.
            predicate_classes: relations.

        Raises:
            ValueError: if there is no object or no predicate, or a name is empty.
        """
        vocabulary = (tuple(thing_classes), tuple(stuff_classes), tuple(predicate_classes))
        if vocabulary == self.vocabulary:
            return
        if vocabulary == self.own_vocabulary:  # with the prompts of its file, if it came from one
            embeddings = vocabulary_embeddings(self.cfg, next(iter(self.cfg.DATASETS.TEST), None))
        else:
            embeddings = embed_names(self.cfg, *vocabulary)
        self.model.set_vocabulary(**embeddings)
        self.vocabulary = vocabulary

    def __call__(self, image: np.ndarray) -> SceneGraph:
        """Parse one (H, W, 3) uint8 RGB image."""
        return self.batch([image])[0]

    @torch.no_grad()
    def batch(self, images: Sequence[np.ndarray]) -> list[SceneGraph]:
        """Parse several images, each (H, W, 3) uint8 RGB and of any size, at once; none for none."""
        inputs = []
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"image: expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
            resized = self.resize.get_transform(image).apply_image(image)
            tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
            inputs.append({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
        return [SceneGraph.from_output(output, *self.vocabulary) for output in (self.model(inputs) if inputs else [])]
