"""Checkpoints without frozen weights, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from safetensors import safe_open
from torch import Tensor, nn

from ..data.files import write_whole
from ..data.predicate_frequency import PredicateFrequency
from ..modeling.convert import check_record
from .weights_fit import check_fit

logger = logging.getLogger(__name__)

EMA_KEY = "ema"
FROZEN_KEY = "frozen_backbone"  # identity of weights that a checkpoint leaves out
FREQUENCY_KEY = "predicate_frequency"  # counts of the training data, which may not be there where it is evaluated
CONVERSION_KEY = "conversion"  # record of `modeling/convert.py`, in files of tools/convert_checkpoint.py


def frozen_identity(model: nn.Module) -> dict[str, str] | None:
    """What a checkpoint records of a frozen backbone; None where the backbone is trained (and saved)."""
    backbone = getattr(model, "backbone", None)
    return getattr(backbone, "weights_identity", None) if getattr(backbone, "freeze", False) else None


def _backbone_digest(model: nn.Module) -> str:
    """SHA-256 of the weights, by name: the same wherever they were read from, and on whatever device they lie."""
    digest = hashlib.sha256()
    for name, value in sorted(model.get_submodule("backbone").state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class USGCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with four differences.

    Weights of a frozen backbone are left out (they are the published ones, and most of the file); their name and tag
    are recorded and compared on loading. Files appear under their name only when complete: written beside it,
    flushed to the disk, renamed. Loading never runs code from the file (`weights_only`), and weights that do not fit
    the model are refused, not left out.

    Args:
        as `DetectionCheckpointer`; load_ema: load the moving average of the weights where a checkpoint has one, for
            inference.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        load_ema: bool = False,
        **checkpointables: Any,
    ):
        is_main = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=is_main, **checkpointables)
        self._frozen: dict[str, str] | None = None
        self.load_ema = load_ema
        self._loaded_file = ""

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Save model, optimizer and the like, and kwargs, to `<save_dir>/<name>.pth`.

        Args:
            tag: make it the checkpoint that a resumed run goes on from.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        if self._frozen is None and (identity := frozen_identity(self.model)) is not None:
            self._frozen = {**identity, "digest": _backbone_digest(self.model)}  # of weights that never change
        if self._frozen is not None:
            data["model"] = {k: v for k, v in data["model"].items() if not k.startswith("backbone.")}
            data[FROZEN_KEY] = self._frozen
        if (frequency := getattr(self.model, "predicate_frequency", None)) is not None:
            data[FREQUENCY_KEY] = frequency.record()
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
        path = Path(self.save_dir) / "last_checkpoint"
        write_whole(path, lambda file: file.write(last_filename_basename.encode()))

    def _load_file(self, filename: str) -> dict[str, Any]:
        self._loaded_file = filename
        return read_checkpoint(filename) if is_own_format(filename) else super()._load_file(filename)

    def _load_model(self, checkpoint: Any) -> Any:
        frequency = checkpoint.pop(FREQUENCY_KEY, None)
        if frequency is not None and getattr(self.model, "predicate_frequency", None) is None:
            # A model in training keeps the counts of its own data.
            self.model.set_predicate_frequency(PredicateFrequency.from_record(frequency))
        if not checkpoint.get("matching_heuristics"):  # of Detectron2's model zoo, which Detectron2 matches itself
            checkpoint["model"] = complete_weights(self._loaded_file, checkpoint, self.model, self.load_ema)
        return super()._load_model(checkpoint)


def is_own_format(filename: str) -> bool:
    """Whether `read_checkpoint` reads such files; others are Detectron2's business."""
    return filename.endswith((".pth", ".pt", ".bin", ".safetensors"))


def read_checkpoint(filename: str, *, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint: weights under "model", and what else was saved.

    Args:
        filename: a file of torch.save or safetensors; with weights alone, too.
        mmap: leave tensors in the file until they are used, where its format allows that.

    Raises:
        ValueError: if it cannot be read, would run code, or holds no weights.
    """
    try:
        data = _read_safetensors(filename) if filename.endswith(".safetensors") else _read_torch(filename, mmap)
    except Exception as error:
        raise ValueError(f"checkpoint {filename} cannot be read: {_reason(error)}") from error
    if isinstance(data, dict) and "model" not in data:
        data = {"model": data}
    weights = data["model"] if isinstance(data, dict) else data
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"checkpoint {filename} holds no weights: expected tensors by name, alone or under 'model'")
    return data


def complete_weights(filename: str, checkpoint: dict[str, Any], model: nn.Module, load_ema: bool = False) -> dict:
    """A checkpoint's weights, with the model's own where it leaves some out for a reason that it states.

    Args:
        filename: for errors.
        checkpoint: of `read_checkpoint`; its records of a conversion and of a frozen backbone are taken out.
        model: a USGPar, or the parts of one.
        load_ema: prefer the moving average.

    Raises:
        ValueError: if weights are missing without a reason, do not fit, or belong to another frozen backbone.
    """
    own = model.state_dict()
    weights = {name.removeprefix("module."): value for name, value in checkpoint["model"].items()}
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
        present = frozen_identity(model)
        digest = recorded.pop("digest", None)
        # The same weights may have been given by tag there and by path here.
        if present != recorded and (present is None or _backbone_digest(model) != digest):
            raise ValueError(
                f"checkpoint {filename} was trained on the frozen backbone {recorded}, "
                f"this model has {present or 'a trained one'}; "
                "set MODEL.CLIP.NAME, MODEL.CLIP.PRETRAINED and MODEL.CLIP.FREEZE accordingly"
            )
        weights.update({k: v for k, v in own.items() if k.startswith("backbone.")})
    check_fit(filename, weights, own)
    return weights


def _read_torch(filename: str, mmap: bool) -> Any:
    # Files of before torch 1.6 are no zip archives, which alone can be left in the file.
    mmap = mmap and torch.serialization._is_zipfile(open(filename, "rb"))
    return torch.load(filename, map_location="cpu", weights_only=True, mmap=mmap)


def _reason(error: Exception) -> str:
    """torch's messages are long, and advise to read the file with the protection off."""
    text = str(error)
    if name := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it needs {name[1]}, and only tensors and plain values are read, nothing that can run code"
    if "Weights only load failed" in text or not text.strip():
        return "it is no file of weights, or it is damaged"
    return text.strip().splitlines()[0].partition(". ")[0]


def _read_safetensors(filename: str) -> dict[str, Any]:
    """Weights, or weights and the record of a conversion, which is text in the file's metadata."""
    with safe_open(filename, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        record = (file.metadata() or {}).get(CONVERSION_KEY)
    return weights if record is None else {"model": weights, CONVERSION_KEY: json.loads(record)}
