"""Whether weights fit a model, told by the parts of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor


def check_state_dict(filename: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights of a checkpoint that are not a model's own, name by name and shape by shape.

    Raises:
        ValueError: counts and first names of missing, unexpected and mis-shaped weights, by part of the model.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    groups = {
        "of another shape": [
            (name, f"{name} {tuple(value.shape)}, the model's is {tuple(own[name].shape)}")
            for name, value in weights.items()
            if name in own and value.shape != own[name].shape
        ],
        "missing": [(name, name) for name in own if name not in weights],
        "unexpected": [(name, name) for name in weights if name not in own],
    }
    for kind, found in groups.items():
        by_part: dict[str, list[str]] = defaultdict(list)
        for name, text in found:
            by_part[_part(name)].append(text)
        for part, texts in by_part.items():
            parts[part].append(_summary(kind, texts))
    if not parts:
        return
    listed = "; ".join(f"{part}: {', '.join(texts)}" for part, texts in parts.items())
    config = Path(filename).parent / "config.yaml"
    hint = f" (trained with {config})" if config.is_file() else ""
    raise ValueError(f"checkpoint {filename} does not fit the model of this configuration{hint}: {listed}")


def _part(name: str) -> str:
    """The part of the model that a weight belongs to: "mask_decoder", "relation_head.rpc"."""
    words = name.split(".")
    return ".".join(words[: 2 if words[0] == "relation_head" and len(words) > 2 else 1])


def _summary(kind: str, texts: Sequence[str]) -> str:
    return f"{len(texts)} {kind} ({texts[0]}{', ...' if len(texts) > 1 else ''})"
