"""Images to scene graphs, without the training machinery around them.

Letters: H W pixels.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor

from .data.psg_mapper import ResizeToPixels
from .engine import USGCheckpointer, adapt_to_machine, check_run
from .engine.checkpoint import BACKBONE, backbone_digest, frozen_identity, with_embeddings
from .engine.checkpoint_file import FROZEN_KEY, TRAINED_ON_KEY
from .engine.preflight import weights_path
from .engine.training_record import TrainingRecord, use_warnings
from .images import MAX_PIXELS, image_size, read_image
from .masks import Masks, Objects, decode_masks
from .model_folder import model_config, push_folder, save_model
from .modeling.build import backbone_keys
from .modeling.compile import run_as_configured
from .modeling.mask_pilot import shrink_masks
from .modeling.openclip import checkpoint_weights, is_random
from .modeling.text_embeddings import Phrases, configured_vocabulary, embed_vocabulary, text_identity
from .scene_graph import SceneGraph
from .utils.suggestions import did_you_mean
from .utils.weights_file import weight_names
from .vocabulary import Vocabulary

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
WAITING = 16  # full batches' images of other sizes that a rare size waits for
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parsed:
    """One image of `SceneGraphPredictor.stream`: its number, pixels (H, W, 3) uint8 RGB and graph, or the error."""

    index: int
    image: np.ndarray | None = None
    graph: SceneGraph | None = None
    error: Exception | None = None


class SceneGraphPredictor:
    """A model with its weights and vocabulary: `predictor(image) -> SceneGraph`.

    Args:
        cfg: a recipe with MODEL.WEIGHTS; the names are those of MODEL.USG.VOCABULARY if it is set, or else of
            DATASETS.TEST[0], until `set_vocabulary`.

    Raises:
        ValueError: if MODEL.WEIGHTS is empty (`allow_random` builds the model all the same), or `check_run` objects.
        FileNotFoundError: if a file that the config names is missing.
    """

    def __init__(self, cfg: CfgNode, *, allow_random: bool = False):
        if not cfg.MODEL.WEIGHTS and not allow_random:
            raise ValueError("MODEL.WEIGHTS is empty: give the path of a checkpoint")
        cfg = cfg.clone()
        cfg.defrost()
        adapt_to_machine(cfg)
        ensemble = cfg.MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE
        ensemble.SEEN = ensemble.SEEN or next(iter(cfg.DATASETS.TRAIN), "")
        cfg.DATASETS.TRAIN = ()  # the names of the training data, which may be others, do not matter
        if cfg.MODEL.USG.VOCABULARY:
            cfg.DATASETS.TEST = ()  # the file's names stand alone
        elif not cfg.DATASETS.TEST:
            raise ValueError("names to look for are needed: MODEL.USG.VOCABULARY, or a data set in DATASETS.TEST")
        self.own_vocabulary = configured_vocabulary(cfg, next(iter(cfg.DATASETS.TEST), None))
        self.vocabulary = self.own_vocabulary
        self.cfg = cfg
        with checkpoint_weights() if self._needs_no_clip() else nullcontext():
            check_run(cfg)
            self.model = run_as_configured(build_model(cfg), cfg).eval()
        checkpointer = USGCheckpointer(self.model, load_ema=cfg.SOLVER.EMA.ENABLED)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        self._own_embeddings = self.model.vocabulary
        self.own_vocabulary = self.vocabulary = with_embeddings(cfg, self.own_vocabulary, self.model)
        own = Phrases.of(cfg, self.own_vocabulary)
        # Where a checkpoint does not say what it was trained on, the names of the configuration are taken to be known.
        self.trained_on = checkpointer.trained_on or TrainingRecord({}, text_identity(cfg), own)
        self._warned: set[str] = set()
        assert self.own_vocabulary.embeddings is not None
        self._warn(own, self.own_vocabulary.embeddings.tower)
        self.resize = ResizeToPixels(T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST))

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], opts: Sequence[str] = (), *, trust_imports: bool = False, **hub: Any
    ) -> SceneGraphPredictor:
        """A trained model with its config, names and embeddings.

        Args:
            source: a folder that `save_pretrained` wrote, the OUTPUT_DIR of a training, a checkpoint (.pth) of one, or
                "user/model" on the Hugging Face Hub.
            opts: KEY VALUE or KEY=VALUE overrides of the config.
            trust_imports: as `model_config`.
            hub: revision, token, cache_dir, local_files_only and the like of `huggingface_hub.snapshot_download`.

        Raises:
            FileNotFoundError, ValueError: as `model_config`, and as the constructor.
        """
        return cls(model_config(os.fspath(source), opts, trust_imports=trust_imports, **hub))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        with_backbone: bool | None = None,
        results: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a folder that `from_pretrained` takes: weights, config, names with embeddings, model card.

        Args:
            folder: created if it is missing.
            with_backbone: write a frozen backbone's weights, too; None leaves them out if they have a tag.
            results: metrics by name for the card, such as the content of a results JSON.

        Returns:
            the folder.
        """
        state, identity = self.model.state_dict(), frozen_identity(self.model)
        is_local = Path(backbone_keys(self.cfg).PRETRAINED).is_file()
        records: dict[str, Any] = {TRAINED_ON_KEY: self.trained_on.record()}
        if identity is not None and not (with_backbone or is_local or is_random(identity)):
            state = {name: value for name, value in state.items() if not name.startswith(BACKBONE)}
            records[FROZEN_KEY] = {**identity, "digest": backbone_digest(self.model)}
        if self.model.training_counts is not None:
            records.update(self.model.training_counts.records())
        return save_model(Path(folder), self.cfg, state, self.own_vocabulary, records=records, results=results)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None, **options: Any) -> str:
        """`save_pretrained` into a repository of the Hub, created if it is missing; returns the commit's address."""
        with TemporaryDirectory() as folder:
            return push_folder(self.save_pretrained(folder, **options), repo_id, private=private, token=token)

    def _needs_no_clip(self) -> bool:
        """Whether the checkpoint holds the backbone and the vocabulary its embeddings."""
        cfg = self.cfg
        known = self.own_vocabulary.embeddings is not None and not cfg.MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED
        path = weights_path(cfg) if known else ""
        return bool(path) and any(name.startswith(BACKBONE) for name in weight_names(path))

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Look for other objects and relations from now on, without retraining; ValueError for empty names or none.

        A vocabulary without prompts takes those of the model's own for the same names, or else of the config.
        """
        if vocabulary == Vocabulary.from_names(self.own_vocabulary.names):
            vocabulary = self.own_vocabulary
        if vocabulary == self.vocabulary:
            return
        if vocabulary is self.own_vocabulary:
            embeddings = self._own_embeddings
        else:
            embeddings = embed_vocabulary(self.cfg, vocabulary)
            self._warn(Phrases.of(self.cfg, vocabulary), text_identity(self.cfg))
        self.model.set_vocabulary(embeddings)
        self.vocabulary = vocabulary

    def _warn(self, phrases: Phrases, tower: Mapping[str, str]) -> None:
        """Say once of each thing that the model was not trained for that it is."""
        for text in use_warnings(self.trained_on, self.cfg, phrases, tower=tower):
            if text not in self._warned:
                logger.warning(text)
                self._warned.add(text)

    def __call__(
        self, image: ImageLike, masks: Masks | None = None, labels: Sequence[str | int] | None = None
    ) -> SceneGraph:
        """Parse one image; or find the relations of objects that are known.

        Args:
            image: the path of a file, a PIL image or an (H, W, 3) uint8 RGB array.
            masks: of the objects, in the image's size: (N, H, W) bool array, or N COCO run lengths; they may overlap.
                The graph then has these objects, in this order. TEST.USG.PREDCLS_QUERIES says how they are related:
                "matched" leaves objects beyond the model's number of queries without relations.
            labels: N names of the vocabulary in use, or positions in its object_classes.

        Raises:
            FileNotFoundError, ValueError: if there is no such file; if an argument is none of these, or cannot be read.
        """
        return self.run([self.prepare(image, masks, labels)])[0]

    def batch(self, images: Sequence[ImageLike]) -> list[SceneGraph]:
        """Parse several images of any size, each as `__call__` takes and parses it; none for none."""
        if isinstance(images, str | os.PathLike | Image.Image):
            raise ValueError(f"images: expected a list of images, got one, {_described(images)}")
        return self.run([self.prepare(image) for image in images])

    def stream(
        self,
        images: Iterable[ImageLike],
        batch_size: int = 8,
        threads: int = 4,
        objects: Callable[[int], Objects] | None = None,
    ) -> Iterator[Parsed]:
        """Parse any number of images, several in a pass, while threads decode the next ones.

        Images of one padded size share a pass, so results come in another order than the images, if batch_size is
        not 1. A rare size waits while at most `WAITING` times batch_size images do, as paths, PIL images or arrays.

        Args:
            images: each as `__call__` takes it.
            batch_size: most images of a pass.
            threads: that decode and resize.
            objects: masks and labels of the image of this number, as `__call__` takes them; None for none.

        Yields:
            The result of each image, or the ValueError or OSError with which it cannot be read.
        """
        ahead = max(2, -(-2 * threads // batch_size))
        ready: deque[list[tuple[int, Future]]] = deque()
        pool = ThreadPoolExecutor(threads)
        try:
            for group in self._grouped(images, batch_size):
                ready.append([(index, pool.submit(self._read, image, objects, index)) for index, image in group])
                if len(ready) > ahead:
                    yield from self._parsed(ready.popleft())
            while ready:
                yield from self._parsed(ready.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def prepare(self, image: ImageLike, masks: Masks | None = None, labels: Sequence[str | int] | None = None) -> dict:
        """Decode and resize an image for `run`; threads may do it at the same time. As `__call__`."""
        image = _as_rgb(image)
        if not 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS:
            raise ValueError(f"image: expected 1 to {MAX_PIXELS:,} pixels, got {image.shape[0]} x {image.shape[1]}")
        transform = self.resize.get_transform(image)
        unchanged = (transform.new_h, transform.new_w) == image.shape[:2]
        resized = np.require(image if unchanged else transform.apply_image(image), requirements=("C", "W"))
        if self.cfg.INPUT.FORMAT == "BGR":
            resized = np.ascontiguousarray(resized[..., ::-1])
        # The channels stay last in memory: turning them here would take longer than the device does for both.
        tensor = torch.from_numpy(resized).permute(2, 0, 1)
        prepared = {"image": tensor, "height": image.shape[0], "width": image.shape[1]}
        if masks is None and labels is None:
            return prepared
        if masks is None or labels is None:
            raise ValueError(f"{'masks' if masks is None else 'labels'}: expected one for each object, got none")
        given, classes = self._given(masks, labels, image.shape[:2])
        instances = Instances((tensor.shape[1], tensor.shape[2]), gt_classes=torch.tensor(classes, dtype=torch.int64))
        instances.gt_masks = shrink_masks(given, instances.image_size)
        return {**prepared, "instances": instances, "original_masks": given}

    def _given(self, masks: Masks, labels: Sequence[str | int], size: tuple[int, ...]) -> tuple[Tensor, list[int]]:
        """(N, H, W) bool masks and N class ids."""
        original = decode_masks(masks, "masks", size)
        if len(labels) != len(original):
            raise ValueError(f"labels: expected {len(original)}, one for each mask, got {len(labels)}")
        if len(empty := np.flatnonzero(~original.any(axis=(1, 2)))):
            raise ValueError(f"masks[{empty[0]}]: expected at least one pixel inside, got none")
        known, classes = self.vocabulary.object_classes, []
        for n, label in enumerate(labels):
            if isinstance(label, str):
                if label not in known:
                    raise ValueError(f"labels[{n}]: {label!r} is not in the vocabulary{did_you_mean(label, known)}")
                classes.append(known.index(label))
            elif not isinstance(label, int | np.integer) or not 0 <= label < len(known):
                raise ValueError(f"labels[{n}]: expected a name, or a number from 0 to {len(known) - 1}, got {label!r}")
            else:
                classes.append(int(label))
        return torch.tensor(original), classes

    @torch.no_grad()
    def run(self, prepared: Sequence[dict]) -> list[SceneGraph]:
        """Parse what `prepare` returned, in a pass for each padded size: more padding would change an image's graph."""
        groups: dict[tuple, list[int]] = {}
        for position, each in enumerate(prepared):
            kind = self._padded(*each["image"].shape[1:]), "original_masks" in each
            groups.setdefault(kind, []).append(position)
        graphs: dict[int, SceneGraph] = {}
        for positions in groups.values():
            outputs = self.model([prepared[position] for position in positions], on_host=True)
            for position, output in zip(positions, outputs, strict=True):
                known = "original_masks" in prepared[position]
                make = SceneGraph.from_given if known else SceneGraph.from_output
                graphs[position] = make(output, self.vocabulary)
        return [graphs[position] for position in range(len(prepared))]

    def _padded(self, *size: int) -> tuple[int, ...]:
        """(H, W) in strides of an image of this size, as the network sees it alone."""
        return tuple(-(-side // self.model.size_divisibility) for side in size)

    def _grouped(self, images: Iterable[ImageLike], batch_size: int) -> Iterator[list[tuple[int, ImageLike]]]:
        """Numbered images of one padded size, `batch_size` together or, where that takes too long, fewer."""
        groups: dict[Any, list[tuple[int, ImageLike]]] = {}
        for index, image in enumerate(images):
            try:
                if isinstance(image, np.ndarray):
                    size = image.shape[:2]
                else:
                    size = image_size(image if isinstance(image, Image.Image) else os.fspath(image))
                transform = self.resize.get_transform(np.broadcast_to(np.uint8(0), (*size, 3)))
                key = self._padded(transform.new_h, transform.new_w)
            except (ValueError, OSError, TypeError, ArithmeticError):
                key = ()  # `_read` will say why
            group = groups.setdefault(key, [])
            group.append((index, image))
            if len(group) == batch_size:
                yield groups.pop(key)
            elif sum(map(len, groups.values())) > WAITING * batch_size:
                yield groups.pop(next(iter(groups)))  # that of the image that has waited longest
        yield from groups.values()

    def _read(self, image: ImageLike, objects: Callable[[int], Objects] | None, index: int) -> tuple[np.ndarray, dict]:
        pixels = _as_rgb(image)
        return pixels, self.prepare(pixels, *(objects(index) if objects else ()))

    def _parsed(self, group: Sequence[tuple[int, Future]]) -> Iterator[Parsed]:
        read = []
        for index, future in group:
            try:
                read.append((index, *future.result()))
            except (ValueError, OSError) as error:
                yield Parsed(index, error=error)
        graphs = self.run([prepared for *_, prepared in read])
        for (index, pixels, _), graph in zip(read, graphs, strict=True):
            yield Parsed(index, pixels, graph)


def _as_rgb(image: ImageLike) -> np.ndarray:
    """(H, W, 3) uint8 RGB of whatever the predictor takes."""
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image), "RGB")
    if isinstance(image, Image.Image):
        return read_image(image, "RGB")
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"image: expected a path, a PIL image or an (H, W, 3) uint8 RGB array, got {_described(image)}"
        )
    return image


def _described(image: object) -> str:
    """Type of a value; of an array or a tensor also shape and element type."""
    if isinstance(image, str | os.PathLike):
        return repr(os.fspath(image))
    parts = [type(image).__name__, *(str(getattr(image, name)) for name in ("shape", "dtype") if hasattr(image, name))]
    return " ".join(parts)
