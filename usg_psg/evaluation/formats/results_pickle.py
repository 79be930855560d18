"""`results.pkl` of OpenPSG, HiLo and Pair-Net: what their `tools/test.py --out` writes, one `Result` per image.

The images are those of the test set, in its order: the annotated ones that have relations. Their evaluator reads five
attributes, and so does this module: `labels` (classes from 1), `masks` (one per label; HiLo and Pair-Net have two for
each triplet, PSGTR the segments of its map), `rel_pair_idxes` (R, 2) of masks, best first, and `rel_dists` (R, P + 1),
whose first column is "no relation". A pair's predicate is the largest of the other columns. `refine_bboxes` is None if
there is no prediction; its last column scores the masks.

Source: OpenPSG openpsg/evaluation/sgg_eval.py and sgg_metrics.py at 34b2a89; Pair-Net c51ff5c; HiLo 8bb8a35.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inputs import Prediction
from .reading import naming
from .stored_results import Unreadable, read_stored_results


def read_results_pickle(path: Path, image_ids: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
    """Predictions of a results.pkl; errors as in `read_predictions`."""
    results = read_stored_results(path)
    for image_id in image_ids:
        with naming(f"{path}, image {image_id!r}"):
            fields = next(results, None)
            if fields is None:
                raise ValueError(f"{_expected(image_ids)}; there is none for this image")
            if fields.get("refine_bboxes") is None:
                continue
            prediction = _prediction(fields, image_id)
        yield image_id, prediction
    with naming(str(path)):
        if next(results, None) is not None:
            raise ValueError(f"{_expected(image_ids)}; there are more")


def _expected(image_ids: Sequence[str]) -> str:
    return f"expected one result for each of the {len(image_ids)} annotated images with relations"


def _prediction(fields: dict[str, Any], image_id: str) -> Prediction:
    labels = _array(fields, "labels", "iu", 1)
    if labels.min(initial=1) < 1:
        raise ValueError(f"labels: expected classes from 1, got {labels.min()}")
    pairs, dists = _array(fields, "rel_pair_idxes", "iu", 2), _array(fields, "rel_dists", "f", 2)
    if pairs.shape[1] != 2:
        raise ValueError(f"rel_pair_idxes: expected rows of 2, got shape {pairs.shape}")
    if len(dists) != len(pairs) or dists.shape[1] < 2:
        raise ValueError(
            f"rel_dists: expected a row for each of the {len(pairs)} pairs, with 'no relation' and the predicates, got "
            f"shape {dists.shape}"
        )
    if np.isnan(dists).any():
        raise ValueError("rel_dists: expected probabilities, got NaN")
    return Prediction(
        labels=labels.astype(np.int64) - 1,
        triplets=np.concatenate([pairs.astype(np.int64), dists[:, 1:].argmax(axis=1)[:, None]], axis=1),
        masks=_masks(fields),
        mask_scores=_scores(fields, len(labels)),
        image_id=image_id,
    )


def _array(fields: dict[str, Any], name: str, kinds: str, ndim: int) -> np.ndarray:
    value = fields.get(name)
    if isinstance(value, list) and not value:
        value = np.zeros((0,) * ndim, dtype=np.int64 if "i" in kinds else np.float64)
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name}: expected a numpy array, got {_named(value)}")
    if value.ndim != ndim or (value.dtype.kind not in kinds and value.size):
        raise ValueError(f"{name}: expected {ndim} dimensions of numbers, got {value.dtype} of shape {value.shape}")
    return value


def _masks(fields: dict[str, Any]) -> np.ndarray:
    """(N, H, W); an array, or a list of arrays of one size."""
    masks = fields.get("masks")
    if isinstance(masks, list) and masks and all(isinstance(m, np.ndarray) for m in masks):
        sizes = {m.shape for m in masks}
        if len(sizes) > 1:
            raise ValueError(f"masks: expected one size, that of the image, got {sorted(sizes)[:4]}")
        masks = np.stack(masks)
    if not isinstance(masks, np.ndarray):
        raise ValueError(f"masks: expected an array of pixels, got {_named(masks)}; results of boxes cannot be scored")
    return masks


def _scores(fields: dict[str, Any], count: int) -> np.ndarray | None:
    """(N,) scores of the masks; None where the boxes are of other objects, or placeholders of zeros."""
    boxes = fields["refine_bboxes"]
    if not isinstance(boxes, np.ndarray) or boxes.shape != (count, 5) or not boxes[:, 4].any():
        return None
    return boxes[:, 4]


def _named(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, Unreadable) else f"a {type(value).__name__}"
