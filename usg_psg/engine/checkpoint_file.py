"""Read checkpoint files without running code from them, and refuse damaged or malformed ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.files import CONFIG_KEY
from ..training_counts import FREQUENCY_KEY, TRIPLETS_KEY, TrainingCounts, TripletCounts
from ..utils.weights_file import CONVERSION_KEY, SUFFIXES, first_not_finite, read_plain
from ..vocabulary import VOCABULARY_KEY, Vocabulary
from .training_record import TrainingRecord

EMA_KEY = "ema"
TRAINER_KEY = "trainer"  # optimizer, schedule, place in the data: needed to resume a run
FROZEN_KEY = "frozen_backbone"  # identity of weights that a checkpoint leaves out
TRAINED_ON_KEY = "trained_on"  # data sets and names, see `TrainingRecord`


def check_suffix(filename: str) -> None:
    """Refuse files whose format is unknown, by their name."""
    suffix = Path(filename).suffix
    if suffix not in SUFFIXES:
        hint = "; tools/convert_checkpoint.py reads pickles of published models" if suffix == ".pkl" else ""
        raise ValueError(f"checkpoint {filename}: expected a file {', '.join(SUFFIXES)}{hint}")


def read_checkpoint(filename: str, *, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint: weights under "model", and what else was saved.

    Checksums of zip archives (files of torch.save since 1.6) are compared; older files and safetensors have none, so
    that of a damaged one only impossible values are noticed. For a file of 1 GB in memory the checksums take 0.4 s,
    once in a process, and the values 0.1 s on one core.

    Args:
        filename: a file of torch.save or safetensors; with weights alone, too.
        mmap: leave tensors in the file until they are used, where its format allows that.

    Raises:
        ValueError: if it cannot be read, is damaged, would run code, holds no weights or some that are not finite, or
            another of its entries is malformed.
    """
    check_suffix(filename)
    try:
        data = read_plain(filename, mmap)
    except Exception as error:
        raise ValueError(f"checkpoint {filename} cannot be read: {_reason(error)}") from error
    if isinstance(data, dict) and "model" not in data:
        data = {"model": data}
    if not isinstance(data, dict) or not data["model"] or not _is_weights(data["model"]):
        raise ValueError(f"checkpoint {filename} holds no weights: expected tensors by name, alone or under 'model'")
    for key, problem in _malformed_entries(data):
        raise ValueError(f"checkpoint {filename}, {key}: {problem}")
    for weights in (data["model"], data.get(EMA_KEY, {})):
        if (name := first_not_finite(weights)) is not None:
            raise ValueError(f"checkpoint {filename}: {name} holds values that are not finite")
    return data


def require_trainer_state(filename: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to resume from weights alone, which would begin again at the first iteration.

    Raises:
        ValueError: says how to start from the weights.
    """
    if TRAINER_KEY not in checkpoint:
        raise ValueError(
            f"checkpoint {filename} has weights, but no state of a training run: --resume cannot go on from it; to "
            "start from its weights, give it as MODEL.WEIGHTS, without --resume and with another OUTPUT_DIR"
        )


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and (tensor.device.type, tensor.layout, tensor.is_quantized) == ("cpu", torch.strided, False)
        for name, tensor in value.items()
    )


def _malformed_entries(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, problem) of each entry besides the weights that this project would not have written so."""
    frozen, conversion = data.get(FROZEN_KEY, {}), data.get(CONVERSION_KEY, {"source": ""})
    problems = []
    if not _is_weights(data.get(EMA_KEY, {})):
        problems.append((EMA_KEY, "expected tensors by name"))
    if not isinstance(data.get(TRAINER_KEY, {}), dict):
        problems.append((TRAINER_KEY, f"expected a state by name, got {type(data[TRAINER_KEY]).__name__}"))
    if not isinstance(frozen, dict) or not all(isinstance(text, str) for pair in frozen.items() for text in pair):
        problems.append((FROZEN_KEY, "expected texts by name"))
    if not isinstance(conversion, dict) or not isinstance(conversion.get("source"), str):
        problems.append((CONVERSION_KEY, "expected the record of a conversion"))
    if not isinstance(data.get(CONFIG_KEY, ""), str):
        problems.append((CONFIG_KEY, f"expected text, got {type(data[CONFIG_KEY]).__name__}"))
    kinds: dict[str, Any] = {
        FREQUENCY_KEY: TrainingCounts,
        TRIPLETS_KEY: TripletCounts,
        TRAINED_ON_KEY: TrainingRecord,
        VOCABULARY_KEY: Vocabulary,
    }
    for key, kind in kinds.items():
        if key in data:
            try:
                kind.from_record(data[key])
            except ValueError as error:
                problems.append((key, str(error)))
    return problems


def _reason(error: Exception) -> str:
    """torch's messages are long, and advise to read the file with the protection off."""
    text = str(error)
    if name := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it needs {name[1]}, and only tensors and plain values are read, nothing that can run code"
    if "Weights only load failed" in text or not text.strip():
        return "it is no file of weights, or it is damaged"
    return text.strip().splitlines()[0].partition(". ")[0]
