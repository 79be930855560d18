"""Which things a scene of the preset "psg" has, and where they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...masks import mask_box
from .actions import EVENTS, Event, hand
from .figures import FIGURE_LOOKS
from .frequencies import EVENT_BOOST, PSG_PREDICATE_COUNTS, PSG_RELATIONS_PER_IMAGE
from .looks import LOOKS, Look, draw_look
from .places import LAND, PLACES
from .scene import Background
from .singles import LADEN, SINGLES, TABLE_CHANCE, TABLETOPS, Single
from .sprite import Sprite
from .stuff import draw_fence

PSG_LOOKS: dict[str, Look] = {**LOOKS, **FIGURE_LOOKS}
_SINGLES_LOGNORMAL = (1.0, 0.95)  # of the number of things that stand alone
_MAX_SINGLES = 28
_AT_LEAST = {"table": 3}
_PLACES_TO_TRY = 14
_PAINT = (250, 240, 170)
_STRIDE = 2  # the layout is judged on every second pixel


@dataclass(eq=False)
class Item:
    """A thing, or a patch of stuff such as a fence or a pillow, in a scene.

    Attributes:
        name: class.
        sprite: its picture.
        outline: (H, W) bool, the sprite's mask.
        foot: x, y of its lower middle, pixels.
        depth: larger is nearer; decides who hides whom.
        group: number of the group it was placed with.
        pose: as drawn.
        faces: 1 to the right, -1 to the left.
        rests: "ground", "air", the item that it lies on, or None if a link says what holds it.
        links: (subject, predicate, object): this item and another item or a stuff class, or the reverse.
    """

    name: str
    sprite: Sprite
    outline: np.ndarray
    foot: tuple[float, float]
    depth: float
    group: int
    pose: str = ""
    faces: int = 1
    rests: Item | str | None = None
    links: list[tuple[Item | str, str, Item | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coarse = np.ascontiguousarray(self.outline[::_STRIDE, ::_STRIDE])
        self.coarse_area = np.count_nonzero(self.coarse)


class Canvas:
    """A scene in the making.

    Args:
        background: its stuff.
        person: height in pixels of somebody at the lower edge of the picture.
        far: size at the horizon relative to that.
        absent: classes that must not be drawn.
        min_area: smallest visible area of a thing, in picture areas.
        rng: decides everything.
    """

    def __init__(
        self,
        background: Background,
        person: float,
        far: float,
        absent: frozenset[str],
        min_area: float,
        rng: np.random.Generator,
    ):
        self.background, self.absent, self.rng = background, absent, rng
        self.items: list[Item] = []
        self._person, self._far, self._min_area = person, far, min_area
        self._groups = 0

    def add_event(self, event: Event) -> bool:
        """Place a group; False if it fits nowhere."""
        chosen = [self._choose(part.names) for part in event.parts]
        if None in chosen:
            return False
        for _ in range(_PLACES_TO_TRY):
            x, y, person = self._site(event.zone)
            if event.ground and self.background.at(x, y) not in event.ground:
                continue
            behind = self.background.at(x, y - 0.7 * person * PSG_LOOKS[str(chosen[0])].height)
            if event.behind and behind not in event.behind:
                continue
            if self._keep(self._build(event, [str(name) for name in chosen], (x, y), person, behind)):
                return True
        return False

    def add_single(self, single: Single) -> bool:
        """Place a thing alone; False if it fits nowhere."""
        name = self._choose(single.names)
        if name is None:
            return False
        pose = str(single.poses[self.rng.integers(len(single.poses))])
        for _ in range(_PLACES_TO_TRY):
            x, y, person = self._site(single.zone)
            if single.ground and self.background.at(x, y) not in single.ground:
                continue
            item = self._item(name, (x, y), single.size * person, pose, 1 if self.rng.random() < 0.5 else -1)
            item.rests = "ground" if single.ground else "air"
            if self._keep([item, *self._laid_on(item, single.size * person)]):
                return True
        return False

    def _choose(self, names: tuple[str, ...]) -> str | None:
        allowed = [name for name in names if name not in self.absent]
        return allowed[self.rng.integers(len(allowed))] if allowed else None

    def _site(self, zone: tuple[float, float]) -> tuple[float, float, float]:
        """A foot in a zone, and a person's height there, pixels."""
        height, width = self.background.labels.shape
        horizon = self.background.horizon
        x, z = self.rng.uniform(0.02, 0.98) * width, self.rng.uniform(*zone)
        y = z * horizon if z <= 1 else horizon + (z - 1) * (height - horizon)
        nearness = float(np.clip((y - horizon) / max(1.0, height - horizon), 0, 1))
        return x, y, self._person * (self._far + (1 - self._far) * nearness)

    def _item(
        self, name: str, foot: tuple[float, float], person: float, pose: str, faces: int, angle: float = 0.0
    ) -> Item:
        flip = faces < 0
        if pose == "lying" and name == "person":
            foot, angle, pose = (foot[0] + 0.5 * faces * person, foot[1] - 0.1 * person), -90.0 * faces, ""
        drawn = "" if pose == "painted" else pose
        sprite = draw_look(PSG_LOOKS[name], foot, person, self.rng, pose=drawn, flip=flip, angle=angle)
        if pose == "painted":
            sprite.color = 0.3 * sprite.color + np.float32(0.7) * np.asarray(_PAINT, dtype=np.float32)
        return Item(name, sprite, sprite.mask(*self.background.labels.shape), foot, foot[1], self._groups, pose, faces)

    def _build(
        self, event: Event, names: list[str], foot: tuple[float, float], person: float, behind: str
    ) -> list[Item]:
        side = 1 if self.rng.random() < 0.5 else -1
        items: list[Item] = []
        for number, (part, name) in enumerate(zip(event.parts, names, strict=True)):
            right, up = hand(event.parts[0].pose) if isinstance(part.at, str) else part.at
            if name == "fence-merged":
                items.append(self._fence(items[0], person))
                continue
            height, angle = part.grip * part.size * PSG_LOOKS[name].height * person, np.radians(part.angle)
            x = foot[0] + side * (right * person - np.sin(angle) * height)
            at = (x, foot[1] - up * person + np.cos(angle) * height)
            faces = -side if part.turned else side
            item = self._item(name, at, part.size * person, part.pose, faces, side * part.angle)
            item.depth = foot[1] + (-1e-3 if part.behind else 1e-3) * number
            item.rests = "ground" if part.ground else None
            items.append(item)
        ground = self.background.at(*foot)
        for subject, predicate, other in event.links:
            target = items[other] if isinstance(other, int) else ground if other == "ground" else behind
            items[subject].links.append((items[subject], predicate, target))
        return items

    def _fence(self, animal: Item, person: float) -> Item:
        if not animal.outline.any():
            return animal
        x0, y0, x1, y1 = mask_box(animal.outline)
        x1, y1 = x1 - 1, y1 - 1
        box = (x0 - 0.15 * (x1 - x0), y1 - 0.5 * (y1 - y0), x1 + 0.15 * (x1 - x0), y1 + 0.06 * person)
        sprite = draw_fence(box, self.rng)
        outline = sprite.mask(*self.background.labels.shape)
        return Item("fence-merged", sprite, outline, animal.foot, animal.depth + 1e-3, self._groups)

    def _laid_on(self, holder: Item, person: float) -> list[Item]:
        """Small things on a piece of furniture."""
        if holder.name not in TABLETOPS or self.rng.random() > LADEN.get(holder.name, 0.25):
            return []
        top, names = TABLETOPS[holder.name]
        reach = 0.42 * PSG_LOOKS[holder.name].width
        count = min(int(self.rng.integers(1, 7)), max(1, int(2 * reach / 0.2)))
        items = []
        for right in np.linspace(-reach, reach, count) if count > 1 else (self.rng.uniform(-reach, reach),):
            name = self._choose(names)
            if name is None:
                continue
            foot = (holder.foot[0] + right * person, holder.foot[1] - (top - 0.02) * person)
            item = self._item(name, foot, 1.15 * person, "", 1 if self.rng.random() < 0.5 else -1)
            item.depth, item.rests = holder.depth + 1e-3, holder
            items.append(item)
        return items

    def _keep(self, items: list[Item]) -> bool:
        """Add a group unless something of it or of the others would be hidden or cut off."""
        for item in items:
            whole = np.count_nonzero(item.sprite.alpha >= 0.5)
            if np.count_nonzero(item.outline) < max(0.6 * whole, self._min_area * item.outline.size):
                return False
        hidden = np.zeros_like(self.background.labels[::_STRIDE, ::_STRIDE], dtype=bool)
        for item in sorted([*self.items, *items], key=lambda i: -i.depth):
            shown = item.coarse_area - np.count_nonzero(item.coarse & hidden)
            if shown < max(0.35 * item.coarse_area, self._min_area * hidden.size):
                return False
            hidden |= item.coarse
        if hidden.mean() > 0.8:
            return False
        self.items += items
        self._groups += 1
        return True


def event_rates(place: str) -> np.ndarray:
    """How many of each of `EVENTS` a scene of a place has on average, so that predicates occur as often as in PSG."""
    everywhere = sum(p.weight for p in PLACES.values())
    rates = []
    for event in EVENTS:
        wanted = PSG_RELATIONS_PER_IMAGE * PSG_PREDICATE_COUNTS[event.predicate] / sum(PSG_PREDICATE_COUNTS.values())
        reach = sum(p.weight for name, p in PLACES.items() if name in event.places) / everywhere
        rate = event.share * wanted * EVENT_BOOST[event.predicate] / reach
        rates.append(rate if place in event.places else 0.0)
    return np.array(rates)


def fill(canvas: Canvas, place: str) -> None:
    """Place the things of a scene: what acts, furniture, then single things."""
    rng = canvas.rng
    rates = event_rates(place)
    counts = rng.poisson(rates)
    for number in rng.permutation(np.flatnonzero(counts)):
        for _ in range(counts[number]):
            canvas.add_event(EVENTS[number])
    if rng.random() < TABLE_CHANCE.get(place, 0.0):
        canvas.add_single(Single(1.0, ("dining table",), ground=LAND - {"road"}))
    singles = SINGLES[place]
    weights = np.array([s.weight for s in singles])
    if rng.random() < 0.3:  # a herd, a queue, a row of the same
        weights[rng.choice(len(singles), p=weights / weights.sum())] *= 12
    count = int(rng.lognormal(*_SINGLES_LOGNORMAL))
    count = min(max(count, _AT_LEAST.get(place, 0)), _MAX_SINGLES)
    for number in rng.choice(len(singles), size=count, p=weights / weights.sum()):
        canvas.add_single(singles[number])
