"""Scene graphs to draw and to put on the page."""

from __future__ import annotations

import numpy as np

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph, SceneObject, SceneRelation

NAMES = ("person", "tree-merged", "sky-other-merged", "dining table", "cat", "playingfield", "baseball bat")
PREDICATES = ("on", "standing on", "in front of", "beside", "about to hit", "attached to")


def random_scene(
    num_objects: int = 5,
    num_relations: int = 12,
    size: tuple[int, int] = (48, 64),
    names: tuple[str, ...] = ("person", "grass-merged", "dog"),
    predicates: tuple[str, ...] = ("on", "beside", "holding"),
    seed: int = 0,
) -> tuple[np.ndarray, SceneGraph, np.ndarray]:
    """Regions with ragged borders, some in several parts.

    Returns:
        image (H, W, 3) uint8; the graph, scores falling from 1; label map (H, W), n + 1 inside object n and 0 outside.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = rng.random((num_objects + 1, 2)) * size
    distance = [(rows - y) ** 2 + (columns - x) ** 2 + rng.normal(0, 40, size) for y, x in centres]
    labels = np.argmin(distance, axis=0)  # the last centre is nobody's
    labels = np.where(labels == num_objects, 0, labels + 1)
    objects = [
        SceneObject(names[n % len(names)], n % len(names), 0.9, n % len(names) != 1, encode_mask(labels == n + 1))
        for n in range(num_objects)
    ]
    relations = []
    for n in range(num_relations):
        subject = int(rng.integers(num_objects))
        object_ = int((subject + rng.integers(1, num_objects)) % num_objects)
        p = n % len(predicates)
        relations.append(SceneRelation(subject, object_, predicates[p], p, 1 - n / num_relations))
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return image, SceneGraph(*size, objects, relations), labels


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
