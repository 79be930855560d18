"""Images to scene graphs, without the training machinery around them.

Letters: H W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from PIL import Image

from .data import read_image
from .data.panoptic import MAX_PIXELS
from .data.psg_mapper import ResizeToPixels
from .engine import USGCheckpointer, adapt_to_machine, check_run
from .engine.checkpoint import BACKBONE, backbone_digest, frozen_identity, with_embeddings
from .engine.checkpoint_file import FREQUENCY_KEY, FROZEN_KEY, TRAINED_ON_KEY
from .engine.preflight import weights_path
from .engine.training_record import TrainingRecord, use_warnings
from .model_folder import model_config, push_folder, save_model
from .modeling.build import backbone_keys
from .modeling.compile import run_as_configured
from .modeling.openclip import checkpoint_weights, is_random
from .modeling.text_embeddings import Phrases, configured_vocabulary, embed_vocabulary, text_identity
from .scene_graph import SceneGraph
from .utils.weights_file import weight_names
from .vocabulary import Vocabulary

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
logger = logging.getLogger(__name__)


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
            trust_imports: import the modules that the config names.
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
        if self.model.predicate_frequency is not None:
            records[FREQUENCY_KEY] = self.model.predicate_frequency.record()
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

    def __call__(self, image: ImageLike) -> SceneGraph:
        """Parse one image: the path of a file, a PIL image or an (H, W, 3) uint8 RGB array.

        Raises:
            FileNotFoundError, ValueError: if there is no such file; if it is none of these, or cannot be read.
        """
        return self.batch([image])[0]

    @torch.no_grad()
    def batch(self, images: Sequence[ImageLike]) -> list[SceneGraph]:
        """Parse several images of any size at once, each as `__call__` takes it; none for none."""
        if isinstance(images, str | os.PathLike | Image.Image):
            raise ValueError(f"images: expected a list of images, got one, {_described(images)}")
        inputs = []
        for image in map(_as_rgb, images):
            if not 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS:
                raise ValueError(f"image: expected 1 to {MAX_PIXELS:,} pixels, got {image.shape[0]} x {image.shape[1]}")
            transform = self.resize.get_transform(image)
            unchanged = (transform.new_h, transform.new_w) == image.shape[:2]
            resized = np.require(image if unchanged else transform.apply_image(image), requirements=("C", "W"))
            if self.cfg.INPUT.FORMAT == "BGR":
                resized = np.ascontiguousarray(resized[..., ::-1])
            # The channels stay last in memory: turning them here would take longer than the device does for both.
            tensor = torch.from_numpy(resized).permute(2, 0, 1)
            inputs.append({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
        return [SceneGraph.from_output(output, self.vocabulary) for output in (self.model(inputs) if inputs else [])]


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
