"""Scene graphs of random regions, as the page gets them."""

from __future__ import annotations

import numpy as np

from usg_psg.predictor import SceneGraph, SceneObject, SceneRelation, encode_mask


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
