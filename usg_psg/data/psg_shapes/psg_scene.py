"""Scenes of the preset "psg": composed, with all that is true and what an annotator writes down.

PSG's annotators wrote down some of what is true: large, central things and actions rather than what goes without
saying. The preset imitates that. A relation is written down with a probability that grows with its salience and depends
on its predicate; of several true names, an image's annotator uses the habitual one, the same throughout the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..psg_categories import PSG_THING_CLASSES
from .frequencies import COCO_SHAPES, NAME_WEIGHTS, WRITTEN_RATES
from .place_painter import paint_place
from .places import PLACES
from .psg_layout import Canvas, Item, fill
from .scene import Background, Scene
from .truth import SYNONYMS, Relation, SceneTruth

_SCENES_TO_TRY = 60
_DILIGENCE = 0.45  # spread of an annotator's diligence, in natural logarithms
_MIN_THING_AREA = 0.0008
_MIN_STUFF_AREA = 0.003
_THINGS = frozenset(PSG_THING_CLASSES)


@dataclass
class PSGScene(Scene):
    """A scene; `relations` are those that its annotator wrote down.

    Attributes:
        all_relations: everything true, under canonical predicates.
    """

    all_relations: list[Relation]


def make_psg_scene(
    side: int, rng: np.random.Generator, annotator: np.random.Generator, absent: frozenset[str] = frozenset()
) -> PSGScene:
    """One scene of the preset "psg".

    Args:
        side: length of the longer side, pixels.
        rng: decides the picture.
        annotator: decides what is written down.
        absent: classes that must not occur.
    """
    shapes = np.array([share for _, _, share in COCO_SHAPES], dtype=float)
    height, width, _ = COCO_SHAPES[rng.choice(len(COCO_SHAPES), p=shapes / shapes.sum())]
    height, width = round(height * side / 640), round(width * side / 640)
    names = [
        name for name, place in PLACES.items() if not absent.issuperset(place.back) | absent.issuperset(place.ground)
    ]
    if not names:
        raise ValueError(f"hold_out: no place is left without {', '.join(sorted(absent))}")
    weights = np.array([PLACES[name].weight for name in names])
    for _ in range(_SCENES_TO_TRY):
        place = names[rng.choice(len(names), p=weights / weights.sum())]
        background = paint_place(place, height, width, rng, absent)
        low, high, far = (0.9, 2.0, 0.8) if place == "table" else (0.12, 0.75, 0.45)
        if PLACES[place].indoors and place != "table":
            low, high, far = 0.36, 0.8, 0.75
        person = height * np.exp(rng.uniform(np.log(low), np.log(high)))
        canvas = Canvas(background, person, far * rng.uniform(0.7, 1.3), absent, _MIN_THING_AREA, rng)
        fill(canvas, place)
        if canvas.items or rng.random() < 0.02:
            return _compose(background, canvas.items, rng, annotator)
    raise ValueError(f"size: no scene of this preset fits into {height} x {width} pixels")


def _compose(
    background: Background, items: list[Item], rng: np.random.Generator, annotator: np.random.Generator
) -> PSGScene:
    """Paint the things from back to front, and read off segments and relations."""
    picture = background.picture
    things = [item for item in items if item.name in _THINGS]
    patches = [item for item in items if item.name not in _THINGS]  # fences, pillows: of one stuff segment each
    stuff = list(dict.fromkeys([*background.names, *(patch.name for patch in patches)]))
    number: dict[Item | str, int] = {item: i + 1 for i, item in enumerate(things)}
    number.update({name: len(things) + 1 + i for i, name in enumerate(stuff)})
    segments = background.labels.astype(np.int32) + len(things) + 1
    for item in sorted(items, key=lambda i: i.depth):
        item.sprite.paint_on(picture)
        segments[item.outline] = number[item if item in number else item.name]
    segments, kept = _drop_slivers(segments, len(things), len(stuff))
    stuff = [name for name, keep in zip(stuff, kept, strict=True) if keep]
    for patch in patches:
        for _, predicate, other in [*patch.links, (patch, "on", patch.rests)]:
            if isinstance(other, Item):
                other.links.append((patch.name, predicate, other))
    names = [item.name for item in things] + stuff
    relations = SceneTruth(background, things, segments, stuff).relations()
    is_thing = np.array([name in _THINGS for name in names])
    written = written_relations(relations, salience(segments, is_thing), annotator)
    image = degrade(np.clip(picture, 0, 255).astype(np.uint8), rng)
    return PSGScene(image, segments, names, written, relations)


def _drop_slivers(segments: np.ndarray, num_things: int, num_stuff: int) -> tuple[np.ndarray, np.ndarray]:
    """Give tiny remains of stuff to the largest stuff segment; renumbered segments, and which stuff stays."""
    counts = np.bincount(segments.ravel(), minlength=num_things + num_stuff + 1)[num_things + 1 :]
    kept = counts >= _MIN_STUFF_AREA * segments.size
    kept[counts.argmax()] = True
    target = np.arange(num_things + num_stuff + 1)
    new = num_things + np.cumsum(kept)
    target[num_things + 1 :] = np.where(kept, new, new[counts.argmax()])
    return target[segments].astype(np.int32), kept


def salience(segments: np.ndarray, is_thing: np.ndarray) -> np.ndarray:
    """How much each segment catches the eye, about 1 on average: by size, nearness to the middle, and thing-ness.

    Args:
        segments: (H, W) int, position + 1.
        is_thing: (N,) bool.

    Returns:
        (N,) float.
    """
    height, width = segments.shape
    count = len(is_thing)
    flat = segments.ravel() - 1
    area = np.bincount(flat, minlength=count) / flat.size
    rows, columns = np.indices(segments.shape)
    y = np.bincount(flat, rows.ravel(), count) / (area * flat.size) / height
    x = np.bincount(flat, columns.ravel(), count) / (area * flat.size) / width
    middle = np.exp(-2.0 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    return 1.4 * (0.25 + area**0.25) * middle * np.where(is_thing, 1.3, 1.0)


def written_relations(relations: list[Relation], salient: np.ndarray, rng: np.random.Generator) -> list[Relation]:
    """The relations that the annotator of an image writes down, by the names of his habit.

    Args:
        relations: all of them, with canonical predicates.
        salient: (N,) salience of the segments.
        rng: decides what chance decides.
    """
    diligence = rng.lognormal(-(_DILIGENCE**2) / 2, _DILIGENCE)
    habit = {name: np.log(weight) + rng.gumbel() for name, weight in NAME_WEIGHTS.items()}
    written: dict[Relation, None] = {}
    for (subject, object_, predicate), chance in zip(relations, rng.random(len(relations)), strict=True):
        rate = WRITTEN_RATES[predicate] * diligence * salient[subject] * salient[object_]
        if chance < 1 - np.exp(-rate):
            names = (predicate, *SYNONYMS.get(predicate, ()))
            written[subject, object_, max(names, key=habit.__getitem__)] = None
    return list(written)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary light, tint, focus and noise of a finished picture; its segments stay.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: decides how.
    """
    picture: np.ndarray = image.astype(np.float32) / 255
    picture = picture ** rng.uniform(0.75, 1.4) * rng.uniform(0.9, 1.08, 3).astype(np.float32)
    height, width = image.shape[:2]
    side = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    picture *= 1 + rng.uniform(-0.18, 0.18) * side
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.2) * height / 512)
    picture += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0, 0.035))
    return np.clip(picture * 255, 0, 255).astype(np.uint8)
