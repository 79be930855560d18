"""Scene graphs to draw."""

from __future__ import annotations

import numpy as np

from usg_psg.predictor import SceneGraph, SceneObject, SceneRelation, encode_mask

NAMES = ("person", "tree-merged", "sky-other-merged", "dining table", "cat", "playingfield", "baseball bat")
PREDICATES = ("on", "standing on", "in front of", "beside", "about to hit", "attached to")


def stripes(height: int = 60, width: int = 80, count: int = 4) -> SceneGraph:
    """Vertical stripes, the first of them stuff, related in a ring."""
    objects = []
    for index in range(count):
        mask = np.zeros((height, width), bool)
        mask[:, index * width // count : (index + 1) * width // count] = True
        name = "grass-merged" if index == 0 else "person"
        objects.append(SceneObject(name, index, 0.9, index > 0, encode_mask(mask)))
    relations = [SceneRelation(i, (i + 1) % count, "standing on", 14, 0.9 - 0.1 * i) for i in range(count)]
    return SceneGraph(height, width, objects, relations)


def random_graph(rng: np.random.Generator, nodes: int, edges: int) -> SceneGraph:
    """Random relations between objects without pixels; pairs and predicates may repeat."""
    empty = encode_mask(np.zeros((4, 4), bool))
    classes = rng.integers(len(NAMES), size=nodes)
    objects = [SceneObject(NAMES[c], int(c), 0.9, True, empty) for c in classes]
    relations = []
    for _ in range(edges):
        subject, object_ = rng.choice(nodes, 2, replace=False).tolist()
        predicate = int(rng.integers(len(PREDICATES)))
        relations.append(SceneRelation(subject, object_, PREDICATES[predicate], predicate, float(rng.random())))
    return SceneGraph(4, 4, objects, relations)


def blobs(rng: np.random.Generator, height: int, width: int, count: int) -> SceneGraph:
    """Random ellipses of all sizes, without overlaps, on a background that is an object too."""
    rows, columns = np.mgrid[:height, :width]
    owner = np.zeros((height, width), int)
    for index in range(1, count):
        y, x = rng.random(2) * (height, width)
        ry, rx = 1.0 + rng.random(2) ** 3 * (height, width) / 3
        owner[((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 <= 1] = index
    objects = [
        SceneObject(NAMES[i % len(NAMES)], i % len(NAMES), 0.9, i > 0, encode_mask(owner == i)) for i in range(count)
    ]
    return SceneGraph(height, width, objects, [])
