"""Checkpoints without frozen weights, written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from safetensors import safe_open
from torch import nn

from ..data.predicate_frequency import PredicateFrequency
from ..modeling.convert import check_record

logger = logging.getLogger(__name__)

EMA_KEY = "ema"
FROZEN_KEY = "frozen_backbone"  # identity of weights that a checkpoint leaves out
FREQUENCY_KEY = "predicate_frequency"  # counts of the training data, which may not be there where it is evaluated
CONVERSION_KEY = "conversion"  # record of `modeling/convert.py`, in files of tools/convert_checkpoint.py


def frozen_identity(model: nn.Module) -> dict[str, str] | None:
    """What a checkpoint records of a frozen backbone; None where the backbone is trained (and saved)."""
    backbone = getattr(model, "backbone", None)
    return getattr(backbone, "weights_identity", None) if getattr(backbone, "freeze", False) else None


class USGCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with three differences.

    Weights of a frozen backbone are left out (they are the published ones, and most of the file); their name and tag
    are recorded and compared on loading. Files appear under their name only when complete: written beside it,
    flushed to the disk, renamed. Loading never runs code from the file (`weights_only`).

    Args:
        as `DetectionCheckpointer`; save_frozen: save frozen weights too; load_ema: load the moving average of the
            weights where a checkpoint has one, for inference.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_frozen: bool = False,
        load_ema: bool = False,
        **checkpointables: Any,
    ):
        is_main = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=is_main, **checkpointables)
        self.save_frozen = save_frozen
        self.load_ema = load_ema

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Save model, optimizer and the like, and kwargs, to `<save_dir>/<name>.pth`.

        Args:
            tag: make it the checkpoint that a resumed run goes on from.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        identity = frozen_identity(self.model)
        if identity is not None and not self.save_frozen:
            data["model"] = {k: v for k, v in data["model"].items() if not k.startswith("backbone.")}
            data[FROZEN_KEY] = identity
        if (frequency := getattr(self.model, "predicate_frequency", None)) is not None:
            data[FREQUENCY_KEY] = frequency.record()
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        write_whole(path, lambda file: torch.save(data, file))
        if tag:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make `last_checkpoint` name this file."""
        path = Path(self.save_dir) / "last_checkpoint"
        write_whole(path, lambda file: file.write(last_filename_basename.encode()))

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith((".pth", ".pt", ".bin", ".safetensors")):
            return super()._load_file(filename)
        try:
            if filename.endswith(".safetensors"):
                data = _read_safetensors(filename)
            else:
                data = torch.load(filename, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"checkpoint {filename} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise ValueError(f"checkpoint {filename} holds a {type(data).__name__}, expected a dict of weights")
        return data if "model" in data else {"model": data}

    def _load_model(self, checkpoint: Any) -> Any:
        record = checkpoint.pop(CONVERSION_KEY, None)
        if record is not None:
            check_record(record, checkpoint["model"], self.model)
            own = self.model.state_dict()
            missing = {k: v for k, v in own.items() if k not in checkpoint["model"]}
            logger.info("weights converted from %s: %d tensors of the model are not in them and stay as they are",
                        record["source"], len(missing))  # fmt: skip
            checkpoint["model"].update(missing)
        frequency = checkpoint.pop(FREQUENCY_KEY, None)
        if frequency is not None and getattr(self.model, "predicate_frequency", None) is None:
            # A model in training keeps the counts of its own data.
            self.model.set_predicate_frequency(PredicateFrequency.from_record(frequency))
        recorded = checkpoint.pop(FROZEN_KEY, None)
        if self.load_ema:
            if EMA_KEY in checkpoint:
                checkpoint["model"].update(checkpoint[EMA_KEY])
            else:
                logger.warning("the checkpoint has no moving average of the weights, its last ones are used")
        present = frozen_identity(self.model)
        if recorded is not None:
            if present != recorded:
                raise ValueError(
                    f"the checkpoint was trained on the frozen backbone {recorded}, "
                    f"this model has {present or 'a trained one'}; "
                    "set MODEL.CLIP.NAME, MODEL.CLIP.PRETRAINED and MODEL.CLIP.FREEZE accordingly"
                )
            own = self.model.state_dict()
            checkpoint["model"].update({k: v for k, v in own.items() if k.startswith("backbone.")})
        return super()._load_model(checkpoint)


def _read_safetensors(filename: str) -> dict[str, Any]:
    """Weights, or weights and the record of a conversion, which is text in the file's metadata."""
    with safe_open(filename, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        record = (file.metadata() or {}).get(CONVERSION_KEY)
    return weights if record is None else {"model": weights, CONVERSION_KEY: json.loads(record)}


def write_whole(path: Path, write: Any) -> None:
    """Call `write(file)` on a temporary file in path's folder, flush it to the disk and rename it to path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
