"""Layout of generated scenes: which groups a scene has, where they go, and the two presets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from . import groups as g
from .backgrounds import paint_background
from .scene import AmbiguousLayoutError, Background, Piece, RelationRules, Scene, compose, pair_relation

LAND = frozenset(("grass-merged", "road", "sand", "floor-wood", "rug-merged"))
MEADOW = frozenset(("grass-merged", "sand"))


@dataclass(frozen=True)
class GroupKind:
    """One entry of a recipe.

    Attributes:
        weight: how often it is drawn, relative to the others.
        build: makes its pieces.
        ground: classes that the foot may stand on; None for places that the builder itself judges.
        zone: (low, high) of the foot's height in the picture, where 0 is the top, 1 the horizon, 2 the bottom.
    """

    weight: float
    build: g.Builder
    ground: Collection[str] | None = LAND
    zone: tuple[float, float] = (1.05, 1.97)


@dataclass(frozen=True)
class Preset:
    """What a data set is made of.

    Attributes:
        recipes: kinds of groups by background.
        background_weights: how often each background is drawn.
        num_groups: smallest and largest number of groups.
        num_things: smallest and largest number of things.
        person: smallest and largest height of a person at the bottom of the picture, in picture heights.
        far: size at the horizon, relative to the bottom.
        visible: part of each thing that must stay visible.
        min_area: smallest visible area of a segment, in picture areas.
        inside: part of each thing's box that lies inside the picture, at least.
        rules: when two things are related.
        degrade: whether light, focus and noise vary.
    """

    recipes: Mapping[str, tuple[GroupKind, ...]]
    background_weights: Mapping[str, float]
    num_groups: tuple[int, int]
    num_things: tuple[int, int]
    person: tuple[float, float]
    far: float
    visible: float
    min_area: float
    inside: float
    rules: RelationRules
    degrade: bool


_AIR = (0.3, 0.85)
_FLYING_KITE = g.single("kite", place="air")
_FLYING_BIRD = g.single("bird", pose="flying", place="air")
_AIRPLANE = g.single("airplane", place="air")

EASY_RECIPES = {
    "meadow": (
        GroupKind(5, g.single("person"), zone=(1.15, 1.97)),
        GroupKind(2.0, g.single("car"), ("road",), (1.15, 1.97)),
        GroupKind(1.2, g.single("car"), ("grass-merged",), (1.2, 1.97)),
        GroupKind(2.5, g.single("dog"), zone=(1.15, 1.97)),
        GroupKind(1.5, g.single("bench"), MEADOW, (1.2, 1.97)),
        GroupKind(1.8, _AIRPLANE, None, (0.35, 0.8)),
        GroupKind(1.2, _FLYING_KITE, None, (0.45, 0.9)),
    )
}

# fmt: off
HARD_RECIPES = {
    "park": (
        GroupKind(5, g.single("person")), GroupKind(2.5, g.single("dog")), GroupKind(1.6, g.holding("umbrella")),
        GroupKind(0.9, g.riding("horse"), MEADOW), GroupKind(0.8, g.single("horse"), MEADOW),
        GroupKind(1.2, g.riding("bicycle")), GroupKind(0.7, g.single("bicycle")),
        GroupKind(1.0, g.single("bench"), MEADOW), GroupKind(1.5, g.seated("bench", "person", "sitting"), MEADOW),
        GroupKind(0.6, g.seated("bench", "cat", "lying"), MEADOW),
        GroupKind(0.3, g.seated("bench", "bird", ""), MEADOW),
        GroupKind(0.3, g.seated("bench", "teddy bear", ""), MEADOW),
        GroupKind(0.8, g.single("dog", pose="lying"), MEADOW), GroupKind(1.2, _FLYING_KITE, None, _AIR),
        GroupKind(1.2, _FLYING_BIRD, None, _AIR), GroupKind(0.7, g.fenced("dog"), MEADOW),
        GroupKind(0.6, g.fenced("horse"), MEADOW), GroupKind(0.8, g.single("sports ball")),
        GroupKind(0.9, g.single("car"), ("grass-merged", "road")), GroupKind(0.5, g.hanging_plant, None, (0.75, 1.1)),
        GroupKind(0.5, g.leaning, None, (1.05, 1.3)), GroupKind(0.5, g.laid_table, MEADOW),
    ),
    "street": (
        GroupKind(4, g.single("car"), ("grass-merged", "road")), GroupKind(1.5, g.single("bus"), ("road",)),
        GroupKind(4, g.single("person")), GroupKind(1.3, g.riding("bicycle"), ("road",)),
        GroupKind(1.0, g.single("dog")), GroupKind(1.5, g.holding("umbrella")),
        GroupKind(0.9, g.attached("clock"), None, (0.6, 0.98)), GroupKind(0.8, _AIRPLANE, None, (0.2, 0.6)),
        GroupKind(0.5, g.leaning, None, (1.02, 1.3)), GroupKind(0.6, g.seated("bench", "person", "sitting"), MEADOW),
    ),
    "coast": (
        GroupKind(3, g.single("person"), ("sand",)), GroupKind(2.5, g.single("boat"), ("sea",)),
        GroupKind(1.5, g.boat_with_sailor, ("sea",)), GroupKind(1.3, g.holding("surfboard"), ("sand",)),
        GroupKind(0.8, g.holding("sports ball"), ("sand",)), GroupKind(1.1, _FLYING_KITE, None, _AIR),
        GroupKind(1.5, _FLYING_BIRD, None, _AIR), GroupKind(1.0, g.single("dog"), ("sand",)),
        GroupKind(0.7, g.single("sports ball"), ("sand",)), GroupKind(0.7, _AIRPLANE, None, _AIR),
        GroupKind(0.8, g.seated("chair", "person", "sitting"), ("sand",)),
        GroupKind(0.6, g.riding("horse"), ("sand",)),
    ),
    "room": (
        GroupKind(2, g.single("person")), GroupKind(1.2, g.single("chair")),
        GroupKind(1.2, g.seated("chair", "person", "sitting")), GroupKind(0.6, g.seated("chair", "cat", "lying")),
        GroupKind(0.5, g.seated("chair", "teddy bear", "")), GroupKind(3, g.laid_table),
        GroupKind(1.2, g.attached("tv"), None, (0.4, 0.85)), GroupKind(1.2, g.attached("clock"), None, (0.3, 0.7)),
        GroupKind(1.0, g.hanging_plant, None, (0.3, 0.6)), GroupKind(1.0, g.single("potted plant")),
        GroupKind(1.2, g.single("cat")), GroupKind(0.9, g.single("dog", pose="lying")),
        GroupKind(0.6, g.single("sports ball")), GroupKind(0.6, g.single("teddy bear")),
        GroupKind(0.7, g.holding("teddy bear")), GroupKind(0.7, g.leaning, None, (1.05, 1.3)),
    ),
}

PRESETS = {
    "easy": Preset(
        EASY_RECIPES, {"meadow": 1.0}, num_groups=(3, 5), num_things=(3, 5), person=(0.38, 0.5), far=0.8, visible=0.7,
        min_area=0.004, inside=0.98, rules=RelationRules((0.004, 0.08), (0.12, 0.16), 0.14), degrade=False),
    "hard": Preset(
        HARD_RECIPES, {"park": 0.42, "street": 0.25, "coast": 0.15, "room": 0.18}, num_groups=(2, 6), num_things=(3, 9),
        person=(0.25, 0.42), far=0.5, visible=0.4, min_area=0.0006, inside=0.85,
        rules=RelationRules((0.02, 0.06), (0.08, 0.1), 0.1), degrade=True),
}
# fmt: on

ROOM_CLOSENESS = 1.4  # people in a room are nearer to the camera
_PLACES_PER_GROUP = 24
_SCENES_TO_TRY = 60


def make_scene(preset: Preset, height: int, width: int, rng: np.random.Generator) -> Scene:
    """One scene of a preset.

    Args:
        preset: what to draw.
        height, width: of the picture, pixels.
        rng: decides everything; the same state gives the same scene.

    Raises:
        ValueError: if no scene fits, because the picture is too small or too narrow for the preset.
    """
    kinds = list(preset.background_weights)
    weights = np.array([preset.background_weights[k] for k in kinds])
    for _ in range(_SCENES_TO_TRY):
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        background = paint_background(kind, height, width, rng)
        pieces = _fill(preset, preset.recipes[kind], background, rng)
        if pieces is None:
            continue
        scene = compose(background, pieces, preset.rules)
        areas = np.bincount(scene.segments.ravel(), minlength=len(scene.names) + 1)[1:]
        if areas.min() >= preset.min_area * height * width:
            return scene
    raise ValueError(f"size: no scene of this preset fits into {height} x {width} pixels")


def _fill(
    preset: Preset, recipe: tuple[GroupKind, ...], background: Background, rng: np.random.Generator
) -> list[Piece] | None:
    """Place groups one after the other; None if too few fit."""
    weights = np.array([kind.weight for kind in recipe])
    person = rng.uniform(*preset.person)
    target = int(rng.integers(preset.num_groups[0], preset.num_groups[1] + 1))
    pieces: list[Piece] = []
    num_groups = 0
    for _ in range(3 * target):
        if num_groups == target:
            break
        kind = recipe[rng.choice(len(recipe), p=weights / weights.sum())]
        placed = _place(preset, kind, background, pieces, num_groups, person, rng)
        if placed and _num_things(pieces) + _num_things(placed) <= preset.num_things[1]:
            pieces += placed
            num_groups += 1
    enough = num_groups >= preset.num_groups[0] and _num_things(pieces) >= preset.num_things[0]
    return pieces if enough else None


def _num_things(pieces: list[Piece]) -> int:
    return sum(p.name != "fence-merged" for p in pieces)


def _place(
    preset: Preset,
    kind: GroupKind,
    background: Background,
    others: list[Piece],
    group: int,
    person: float,
    rng: np.random.Generator,
) -> list[Piece] | None:
    """Try places for a group until one is clear and hides nothing too much."""
    height, width = background.labels.shape
    closeness = ROOM_CLOSENESS if "floor-wood" in background.names else 1.0
    for _ in range(_PLACES_PER_GROUP):
        x, zone = rng.uniform(0.02, 0.98) * width, rng.uniform(*kind.zone)
        horizon = background.horizon
        y = zone * horizon if zone <= 1 else horizon + (zone - 1) * (height - horizon)
        nearness = min(max((y - horizon) / (height - horizon), 0.0), 1.0)
        size = person * closeness * height * (preset.far + (1 - preset.far) * nearness)
        if kind.ground is not None and not _stands(background, x, y, 0.12 * size, kind.ground):
            continue
        pieces = kind.build(g.Site((x, y), size, float(y), group, background), rng)
        if pieces and _fits(preset, pieces, others):
            return pieces
    return None


def _stands(background: Background, x: float, y: float, reach: float, ground: Collection[str]) -> bool:
    """Whether one of the allowed grounds, and no other, lies around the foot."""
    around = {background.at(x + dx, y + dy) for dx in (-reach, 0, reach) for dy in (-0.3 * reach, 0, 0.15 * reach)}
    return len(around) == 1 and around <= set(ground)


def _fits(preset: Preset, pieces: list[Piece], others: list[Piece]) -> bool:
    together = others + pieces
    for piece in pieces:
        alpha = piece.sprite.alpha >= 0.5
        if np.count_nonzero(piece.outline) < preset.inside * np.count_nonzero(alpha):
            return False
    if any(p.name == "fence-merged" for p in pieces) and any(p.name == "fence-merged" for p in others):
        return False
    hidden = np.zeros_like(pieces[0].outline)
    for piece in sorted(together, key=lambda p: -p.depth):
        area = np.count_nonzero(piece.outline)
        shown = np.count_nonzero(piece.outline & ~hidden)
        if shown < preset.visible * area or shown < preset.min_area * hidden.size:
            return False
        hidden |= piece.outline
    mains = [p for p in others if p.is_main]
    try:
        related = [pair_relation(pieces[0], other, preset.rules) for other in mains]
    except AmbiguousLayoutError:
        return False
    apart = [other.group for other, found in zip(mains, related, strict=True) if not found or found[2] == "beside"]
    return not _touch(pieces, [p for p in others if p.group in apart], preset.rules.overlap[1])


def _touch(pieces: list[Piece], others: list[Piece], limit: float) -> bool:
    """Whether parts of groups overlap whose main things do not."""
    for piece in pieces:
        for other in others:
            if piece.is_main and other.is_main:
                continue
            common = np.count_nonzero(piece.outline & other.outline)
            smaller = min(np.count_nonzero(piece.outline), np.count_nonzero(other.outline))
            if common >= limit * smaller:
                return True
    return False


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
