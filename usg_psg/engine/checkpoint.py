"""Checkpoints without frozen weights, written whole or not at all."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import Tensor, nn

from ..config.files import CONFIG_KEY
from ..modeling import USGPar
from ..modeling.openclip import is_random
from ..modeling.text_embeddings import Phrases, configured_vocabulary, text_identity
from ..pretrained.convert import check_record, without_ddp_prefix
from ..training_counts import TrainingCounts
from ..utils.files import write_whole
from ..utils.weights_file import CONVERSION_KEY
from ..vocabulary import VOCABULARY_KEY, NameEmbeddings, Vocabulary
from .checkpoint_file import (
    EMA_KEY,
    FROZEN_KEY,
    TRAINED_ON_KEY,
    TRAINER_KEY,
    read_checkpoint,
    require_trainer_state,
)
from .state_dict_check import check_state_dict
from .training_record import TrainingRecord

logger = logging.getLogger(__name__)

BACKBONE = "backbone.trunk."  # what of a backbone can be frozen; a pyramid on top of it is trained
FROM_CHECKPOINT = "of a checkpoint"  # identity of frozen weights that no tag or file gives


def frozen_identity(model: nn.Module) -> dict[str, str] | None:
    """Name a frozen backbone whose weights a checkpoint leaves out; None for one whose weights it holds."""
    backbone = getattr(model, "backbone", None)
    identity = getattr(backbone, "weights_identity", None) or {}
    is_left_out = getattr(backbone, "freeze", False) and identity.get("weights") != FROM_CHECKPOINT
    return identity if is_left_out else None


def with_embeddings(cfg: CfgNode, vocabulary: Vocabulary, model: USGPar) -> Vocabulary:
    """A vocabulary with its embeddings, or else those that a model has of it, and the prompts of which they are."""
    phrases, known = Phrases.of(cfg, vocabulary), vocabulary.embeddings
    tower = text_identity(cfg) if known is None else known.tower
    return replace(
        vocabulary,
        object_templates=phrases.object_templates,
        predicate_templates=phrases.predicate_templates,
        embeddings=NameEmbeddings(model.object_text, model.predicate_text, tower),
    )


def _backbone(model: nn.Module) -> dict[str, Any]:
    """Weights that a frozen backbone leaves out of checkpoints, by their names in the backbone."""
    return {k.removeprefix("backbone."): v for k, v in model.state_dict().items() if k.startswith(BACKBONE)}


def backbone_digest(model: nn.Module) -> str:
    """SHA-256 of the weights, by name: the same wherever they were read from, and on whatever device they lie."""
    digest = hashlib.sha256()
    for name, value in sorted(_backbone(model).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class USGCheckpointer(Checkpointer):
    """fvcore's checkpointer, as Detectron2's is, with some differences.

    Weights of a frozen backbone are left out if its library gives them again (they are most of the file); name, tag
    and digest are recorded and compared on loading. Files record what the model was trained on, and appear under their
    name only when complete: written beside it, flushed to the disk, renamed. Loading never runs code from the file
    (`weights_only`); damaged files, weights that do not fit the model, and states that cannot be restored are refused.

    Args:
        as `Checkpointer`; load_ema: load the moving average of the weights where a checkpoint has one, for
            inference; trained_on: of the run that saves, None for what the loaded checkpoint was trained on; cfg: of
            that run, saved with its names and embeddings, all that `SceneGraphPredictor.from_pretrained` needs.

    Attributes:
        trained_on: what the model's weights were trained on, None if that is not known.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        load_ema: bool = False,
        trained_on: TrainingRecord | None = None,
        cfg: CfgNode | None = None,
        **checkpointables: Any,
    ):
        is_main = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=is_main, **checkpointables)
        self._frozen: dict[str, str] | None = None
        self.load_ema = load_ema
        self.trained_on = self._run = trained_on
        self.cfg = cfg
        self._loaded_file = ""
        self._restored: list[str] = []

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Save model, optimizer and the like, and kwargs, to `<save_dir>/<name>.pth`; with `tag`, --resume takes it."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        if self._frozen is None and (identity := frozen_identity(self.model)) is not None:
            self._frozen = {**identity, "digest": backbone_digest(self.model)}  # of weights that never change
        if self._frozen is not None:
            data["model"] = {k: v for k, v in data["model"].items() if not k.startswith(BACKBONE)}
            data[FROZEN_KEY] = self._frozen
        if isinstance(self.model, USGPar) and self.model.training_counts is not None:
            data.update(self.model.training_counts.records())
        if self.trained_on is not None:
            data[TRAINED_ON_KEY] = self.trained_on.record()
        if self.cfg is not None:
            data[CONFIG_KEY] = self.cfg.dump()
            if isinstance(self.model, USGPar):
                names = configured_vocabulary(self.cfg, self.cfg.DATASETS.TRAIN[0])
                data[VOCABULARY_KEY] = with_embeddings(self.cfg, names, self.model).record()
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.info("Saving checkpoint to %s", path)
        write_whole(path, lambda file: torch.save(data, file))
        if tag:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make `last_checkpoint` name this file."""
        content = last_filename_basename.encode()
        write_whole(Path(self.save_dir) / "last_checkpoint", lambda file: file.write(content))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights and the states of checkpointables; returns other entries of the file.

        Args:
            path: a file or address; "" leaves the model as it is.
            checkpointables: keywords of those to restore, None for all.

        Raises:
            ValueError: if the file cannot be used; a trainer's state that it lacks is one of the reasons.
        """
        self._restored = list(self.checkpointables) if checkpointables is None else checkpointables
        rest = super().load(path, checkpointables=[])
        for key in self._restored:
            if key in rest:
                try:
                    self.checkpointables[key].load_state_dict(rest.pop(key))
                except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
                    reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
                    raise ValueError(f"checkpoint {path}, {key}: cannot be restored: {reason}") from error
        backbone = getattr(self.model, "backbone", None)
        identity = getattr(backbone, "weights_identity", None) or {}
        learns = self._run is not None and not getattr(backbone, "freeze", True)
        if is_random(identity) and not learns:
            key = f"{_section(backbone)}.PRETRAINED"
            logger.warning("the backbone, %s, has random weights: %s is empty", identity["model"], key)
        return rest

    def _load_file(self, filename: str) -> dict[str, Any]:
        self._loaded_file = filename
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: Any) -> Any:
        if TRAINER_KEY in self._restored:
            require_trainer_state(self._loaded_file, checkpoint)
        counts = TrainingCounts.pop_from(checkpoint)
        if counts is not None and isinstance(self.model, USGPar) and self.model.training_counts is None:
            self.model.set_training_counts(counts)  # a model in training keeps the counts of its own data
        record = checkpoint.pop(TRAINED_ON_KEY, None)
        loaded = None if record is None else TrainingRecord.from_record(record)
        self.trained_on = loaded if self._run is None else self._run.after(loaded, self._loaded_file)
        if EMA_KEY in checkpoint and not self.load_ema and EMA_KEY not in self._restored:
            starts = self._run is not None and TRAINER_KEY not in self._restored
            why = "training starts from the last ones" if starts else "SOLVER.EMA.ENABLED True takes it"
            logger.warning("%s also has a moving average of the weights, which is not used: %s", self._loaded_file, why)
        has_backbone = any(name.startswith(BACKBONE) for name in without_ddp_prefix(checkpoint["model"]))
        checkpoint["model"] = complete_weights(self._loaded_file, checkpoint, self.model, self.load_ema)
        if has_backbone:
            self._note_backbone(checkpoint["model"])
        return super()._load_model(checkpoint)

    def _note_backbone(self, weights: dict[str, Tensor]) -> None:
        """A backbone that comes from the file and not from its library must be saved again, although it is frozen."""
        backbone = self.model.get_submodule("backbone")
        own = _backbone(self.model)
        if all(torch.equal(value, weights[f"backbone.{name}"].to(value)) for name, value in own.items()):
            return
        identity = getattr(backbone, "weights_identity", None) or {}
        backbone.weights_identity = {**identity, "weights": FROM_CHECKPOINT}
        self._frozen = None


def complete_weights(filename: str, checkpoint: dict[str, Any], model: nn.Module, load_ema: bool = False) -> dict:
    """Complete a checkpoint's weights with the model's own where it states that some are left out.

    Args:
        filename: for errors.
        checkpoint: of `read_checkpoint`; its records of a conversion and of a frozen backbone are taken out.
        model: a USGPar, or the parts of one; on the meta device, weights of a frozen backbone cannot be compared.
        load_ema: prefer the moving average.

    Raises:
        ValueError: if weights are missing without a reason, do not fit, or belong to another frozen backbone.
    """
    own = model.state_dict()
    weights = without_ddp_prefix(checkpoint["model"])
    record = checkpoint.pop(CONVERSION_KEY, None)
    if record is not None:
        check_record(record, weights, model)
        missing = {k: v for k, v in own.items() if k not in weights}
        logger.info("weights converted from %s: %d tensors of the model are not in them and stay as they are",
                    record["source"], len(missing))  # fmt: skip
        weights.update(missing)
    if load_ema:
        if EMA_KEY in checkpoint:
            weights.update(checkpoint[EMA_KEY])
        else:
            logger.warning("the checkpoint has no moving average of the weights, its last ones are used")
    recorded = checkpoint.pop(FROZEN_KEY, None)
    if recorded is not None:
        _check_backbone(filename, recorded, model)
        weights.update({k: v for k, v in own.items() if k.startswith(BACKBONE)})
    check_state_dict(filename, weights, own)
    return weights


def _section(backbone: nn.Module | None) -> str:
    """Of the configuration keys of a backbone."""
    return getattr(backbone, "section", "MODEL.CLIP")


def _check_backbone(filename: str, recorded: dict[str, str], model: nn.Module) -> None:
    """Refuse a model whose frozen backbone has other weights, whatever it is called, or whose backbone is trained."""
    backbone: Any = getattr(model, "backbone", None)
    is_frozen, present = getattr(backbone, "freeze", False), getattr(backbone, "weights_identity", None)
    name = {key: value for key, value in recorded.items() if key != "digest"}
    digest, section = recorded.get("digest"), _section(backbone)  # old checkpoints have no digest
    if is_frozen and digest is None and present == name:
        return
    if is_frozen and digest is not None and (next(backbone.parameters()).is_meta or backbone_digest(model) == digest):
        return
    if is_frozen and present == name:
        raise ValueError(
            f"checkpoint {filename} was trained on a frozen backbone with other weights than this model's, though both "
            f"are called {name}: give those as {section}.PRETRAINED"
        )
    raise ValueError(
        f"checkpoint {filename} was trained on the frozen backbone {name}, "
        f"this model has {present if is_frozen else 'a trained one'}; "
        f"set {section}.NAME, {section}.PRETRAINED and {section}.FREEZE accordingly"
    )
