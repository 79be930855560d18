"""Images to scene graphs by onnxruntime and numpy: a network of `usg-psg export --format onnx`, without PyTorch.

Letters: B images, Q queries, C objects, P predicates, K pairs, H W pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from .images import read_image
from .scene_graph import SceneGraph

SETTINGS_KEY = "usg_psg"  # of the metadata of an ONNX file
NAMES_SUFFIX = ".names.safetensors"  # beside it


@dataclass(frozen=True)
class EmbeddedNames:
    """A vocabulary as the network takes it: names, and arrays by the name of the network's input."""

    object_classes: list[str]
    is_thing: list[bool]
    predicate_classes: list[str]
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> EmbeddedNames:
        """Read a file that `usg-psg export` wrote beside a network, or with --format names.

        Raises:
            FileNotFoundError, ValueError: if there is no such file; if it is none of these.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file of names {path}")
        try:
            with safe_open(path, framework="np") as file:
                names = json.loads((file.metadata() or {})["vocabulary"])
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
            arrays["object_text"], arrays["predicate_text"] = arrays.pop("objects"), arrays.pop("predicates")
            things, stuff, predicates = (names[f"{kind}_classes"] for kind in ("thing", "stuff", "predicate"))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no file of names and their text embeddings: {error}") from error
        return cls([*things, *stuff], [True] * len(things) + [False] * len(stuff), predicates, arrays)


class OnnxPredictor:
    """An exported network with its names: `predictor(image) -> SceneGraph`, as `SceneGraphPredictor` gives it.

    Args:
        model: the .onnx file, or its bytes.
        names: file of names with their embeddings; None for the one beside the model.
        threads: of a CPU; 0 for all.
        providers: of onnxruntime, in order of preference.

    Raises:
        FileNotFoundError, ValueError: if a file is missing; if the model is none of this project.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        names: str | os.PathLike[str] | None = None,
        *,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ):
        import onnxruntime

        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(f"there is no ONNX file {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, list(providers))
        metadata = self.session.get_modelmeta().custom_metadata_map
        if SETTINGS_KEY not in metadata:
            raise ValueError(f"{path} was not written by usg-psg export: its metadata lack {SETTINGS_KEY!r}")
        self.settings: dict[str, Any] = json.loads(metadata[SETTINGS_KEY])
        self.set_names(names or path.with_suffix(NAMES_SUFFIX))

    def set_names(self, path: str | os.PathLike[str]) -> None:
        """Look for the objects and predicates of another file from now on.

        Raises:
            FileNotFoundError, ValueError: as `EmbeddedNames.read`, and if the embeddings are not the network's.
        """
        names = EmbeddedNames.read(path)
        for each in self.session.get_inputs():
            if each.name in ("image", "sizes"):
                continue
            width = each.shape[1:]
            if each.name not in names.arrays or list(names.arrays[each.name].shape[1:]) != width:
                found = names.arrays[each.name].shape if each.name in names.arrays else "none"
                raise ValueError(f"{path}: {each.name}: expected embeddings of width {width}, got {found}")
        self.names = names

    def __call__(self, image: str | os.PathLike[str] | Image.Image | np.ndarray) -> SceneGraph:
        """Parse one image: the path of a file, a PIL image or an (H, W, 3) uint8 RGB array."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[str | os.PathLike[str] | Image.Image | np.ndarray]) -> list[SceneGraph]:
        """Parse several images of any size, each as `__call__` does it; those of one padded size at once."""
        pixels = [_as_rgb(image) for image in images]
        prepared = [self.preprocess([x]) for x in pixels]
        of_size: dict[tuple[int, ...], list[int]] = {}
        for index, (padded, _) in enumerate(prepared):
            of_size.setdefault(padded.shape[2:], []).append(index)
        graphs: dict[int, SceneGraph] = {}
        for padded_size, indices in of_size.items():
            batch, sizes = map(np.concatenate, zip(*(prepared[i] for i in indices), strict=True))
            found = self.run(batch, sizes)
            for row, i in enumerate(indices):
                own = {name: value[row] for name, value in found.items()}
                graphs[i] = self.postprocess(own, padded_size, sizes[row], pixels[i].shape[:2])
        return [graphs[i] for i in range(len(pixels))]

    def run(self, image: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """The network's outputs by name, of what `preprocess` returned."""
        given = {"image": image, "sizes": sizes, **self.names.arrays}
        feeds = {each.name: given[each.name] for each in self.session.get_inputs()}
        return dict(zip((x.name for x in self.session.get_outputs()), self.session.run(None, feeds), strict=True))

    def preprocess(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Resize, normalise and pad images (H, W, 3) uint8 RGB to (B, 3, H, W) float32 and sizes (B, 2) int64."""
        settings = self.settings
        resized = [_resize(x, settings["min_size"], settings["max_size"]) for x in images]
        sizes = np.array([x.shape[:2] for x in resized], dtype=np.int64)
        step = settings["size_divisibility"]
        batch = np.zeros((len(images), 3, *(-(-sizes.max(axis=0) // step) * step)), dtype=np.float32)
        mean, std = (np.array(settings[key], dtype=np.float32) for key in ("pixel_mean", "pixel_std"))
        for target, x in zip(batch, resized, strict=True):
            x = x if settings["image_format"] == "RGB" else x[..., ::-1]
            target[:, : x.shape[0], : x.shape[1]] = ((x - mean) / std).transpose(2, 0, 1)
        return batch, sizes

    def postprocess(
        self, found: dict[str, np.ndarray], padded: Sequence[int], size: Sequence[int], output: Sequence[int]
    ) -> SceneGraph:
        """The graph of one image, by the rules of `usg_psg.inference`.

        Args:
            found: the network's outputs for it.
            padded, size, output: (H, W) of the batch, of the image in it, and of the original.
        """
        settings = self.settings
        class_score = _sigmoid(found["class_logits"])
        score, category = class_score.max(axis=1), class_score.argmax(axis=1)
        candidate = np.greater_equal(score, settings["object_threshold"])
        # One mask of full size at a time: all of them would fill the memory where the image is large.
        area = np.zeros(len(score), dtype=np.int64)
        best, owner = np.full(output, -1, dtype=np.float32), np.full(output, -1, dtype=np.int16)
        for query, logits in enumerate(found["mask_logits"]):
            full = _resize_mask(logits.astype(np.float32), padded, size, output)
            mask = full >= 0
            area[query] = np.count_nonzero(mask)
            if candidate[query]:
                value = _sigmoid(full) * score[query]
                wins = value > best
                np.copyto(best, value, where=wins)
                owner[wins] = np.where(mask[wins], query, -1)
        panoptic, segments_info, segment_ids = _panoptic(
            owner, area, score, category, candidate, self.names.is_thing, settings["overlap_threshold"]
        )
        subject, object_ = found["subject"], found["object"]
        valid = (area[subject] > 0) & (area[object_] > 0)
        subject, object_ = subject[valid], object_[valid]
        logits = found["predicate_logits"][valid] - self.names.arrays.get("predicate_shift", 0)
        pair = score[subject] * score[object_] * _sigmoid(found["pair_logits"][valid])
        triplets = pair[:, None] * _sigmoid(logits)
        if (prior := self.names.arrays.get("triplet_prior")) is not None:
            triplets *= prior[category[subject], category[object_]]
        row, predicate, ranked = _rank(triplets, settings["relations_per_image"])
        relations = {"subject": subject[row], "object": object_[row], "predicate": predicate, "score": ranked}
        return SceneGraph.from_segments(panoptic, segments_info, segment_ids, relations, self.names)


def _as_rgb(image: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright."""
    if isinstance(image, str | os.PathLike | Image.Image):
        return read_image(image if isinstance(image, Image.Image) else os.fspath(image))
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{type(image).__name__} {getattr(image, 'shape', '')} {getattr(image, 'dtype', '')}".strip()
        raise ValueError(f"image: expected a path, a PIL image or an (H, W, 3) uint8 RGB array, got {got}")
    return image


def _resize(image: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """The shorter side becomes min_size, unless the longer one would exceed max_size; as Detectron2 rounds."""
    if not min_size:
        return image
    height, width = image.shape[:2]
    scale = min_size / min(height, width)
    short, long = float(min_size), scale * max(height, width)
    if long > max_size:
        shrink = max_size / long
        short, long = short * shrink, long * shrink
    short, long = (max(int(side + 0.5), 1) for side in (short, long))
    size = (short, long) if height < width else (long, short)
    if size == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _resize_mask(logits: np.ndarray, padded: Sequence[int], size: Sequence[int], output: Sequence[int]) -> np.ndarray:
    """Mask logits (h, w), which cover the padded batch, at the size of the original image; all sizes are (H, W)."""
    full = cv2.resize(logits, (padded[1], padded[0]), interpolation=cv2.INTER_LINEAR)[: size[0], : size[1]]
    return full if full.shape == tuple(output) else cv2.resize(full, (output[1], output[0]))


def _panoptic(
    owner: np.ndarray,
    area: np.ndarray,
    score: np.ndarray,
    category: np.ndarray,
    candidate: np.ndarray,
    is_thing: Sequence[bool],
    overlap_threshold: float,
) -> tuple[np.ndarray, list[dict], np.ndarray]:
    """Map (H, W), segments_info and the segment of each query, as `number_segments` and `panoptic_map` do.

    Args:
        owner: (H, W) query with the highest score, -1 outside of its mask.
        area: (Q,) pixels of each mask.
        score, category, candidate: (Q,) of each query.
        is_thing, overlap_threshold: as there.
    """
    panoptic, segment_ids = np.zeros(owner.shape, dtype=np.int32, order="F"), np.zeros(len(score), dtype=np.int64)
    segments: list[dict] = []
    stuff: dict[int, dict] = {}
    for query in np.flatnonzero(candidate):
        own = owner == query
        kept, label = own.sum(), int(category[query])
        if kept == 0 or kept < overlap_threshold * area[query]:
            continue
        segment = stuff.get(label) or {"id": len(segments) + 1, "category_id": label, "score": 0.0}
        if segment["id"] > len(segments):
            segments.append(segment)
        if not is_thing[label]:
            stuff[label] = segment
        segment["score"] = max(segment["score"], float(score[query]))
        panoptic[own] = segment_ids[query] = segment["id"]
    return panoptic, segments, segment_ids


def _rank(scores: np.ndarray, per_image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair, predicate and score of (K, P) scores, best first, as `rank_relations` chooses them."""
    flat, count = scores.ravel(), scores.shape[1]
    if not flat.size:
        return (np.zeros(0, dtype=np.int64),) * 2 + (flat,)
    pairs = np.argsort(-scores.max(axis=1), kind="stable")[:per_image]
    entries = np.argsort(-flat, kind="stable")[:per_image]
    chosen = np.union1d(entries, pairs * count + scores.argmax(axis=1)[pairs])
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")]
    return chosen // count, chosen % count, flat[chosen]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # the reciprocal of infinity is the right answer
        return 1 / (1 + np.exp(-x, dtype=np.float32))
