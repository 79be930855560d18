"""AdamW with the parameter groups and the clipping of SPEC section 14."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..config.defaults import CLIP_TYPES, OPTIMIZERS
from ..utils.suggestions import did_you_mean

NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Trained parameters with their learning rate and weight decay, equal settings in one group.

    Normalisation layers use WEIGHT_DECAY_NORM; embeddings and everything with fewer than two axes besides (biases,
    logit scales) use WEIGHT_DECAY_EMBED. Learning rates are multiplied as `rate_factor` says; parameters whose factor
    is 0 are in no group.

    Raises:
        ValueError: if SOLVER.MULTIPLIERS names a module that the model lacks.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name, _ in cfg.SOLVER.MULTIPLIERS:
        if name not in known:
            raise ValueError(f"SOLVER.MULTIPLIERS: the model has no module {name!r}{did_you_mean(name, known)}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full_name = f"{module_name}.{name}"
            decay = cfg.SOLVER.WEIGHT_DECAY
            if isinstance(module, NORMALISATIONS) or "norm" in type(module).__name__.lower():
                decay = cfg.SOLVER.WEIGHT_DECAY_NORM
            elif isinstance(module, nn.Embedding) or parameter.ndim < 2 or name == "level_embed":
                decay = cfg.SOLVER.WEIGHT_DECAY_EMBED
            if factor := rate_factor(cfg, full_name):
                groups.setdefault((cfg.SOLVER.BASE_LR * factor, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def rate_factor(cfg: CfgNode, parameter: str) -> float:
    """Factor of a parameter's learning rate, by its full name.

    The longest module name of SOLVER.MULTIPLIERS that leads to it counts; without one, SOLVER.BACKBONE_MULTIPLIER does
    for the backbone but a pyramid on top of it, which is always new.
    """
    leading = [(name, factor) for name, factor in cfg.SOLVER.MULTIPLIERS if parameter.startswith(f"{name}.")]
    if leading:
        return max(leading, key=lambda entry: len(entry[0]))[1]
    parts = parameter.split(".")
    return cfg.SOLVER.BACKBONE_MULTIPLIER if "backbone" in parts and "pyramid" not in parts else 1.0


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW in PyTorch's fused form where it has one, on GPUs and the CPU. It does not clip, see `GradientClipper`.

    Parameters whose factor is 0 no longer require gradients.

    Raises:
        ValueError: for another SOLVER.OPTIMIZER, a module that the model lacks, or a model without trained parameters.
    """
    OPTIMIZERS.check("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER)
    for name, parameter in model.named_parameters():
        if not rate_factor(cfg, name):
            parameter.requires_grad_(False)
    groups = parameter_groups(cfg, model)
    fused = all(parameter.device.type in ("cuda", "cpu") for group in groups for parameter in group["params"])
    return torch.optim.AdamW(groups, cfg.SOLVER.BASE_LR, fused=fused)


class GradientClipper:
    """Clips gradients as SOLVER.CLIP_GRADIENTS says, and measures them.

    Args:
        kind: "full_model" clips the norm of all gradients together, "norm" that of each parameter, "value" each entry,
            "none" nothing.
        limit: of the norm or the entries.
        norm_type: of the norms.
    """

    def __init__(self, kind: str = "full_model", limit: float = 1.0, norm_type: float = 2.0):
        if kind != "none":
            CLIP_TYPES.check("kind", kind)
        self.kind = kind
        self.limit = limit
        self.norm_type = norm_type

    @classmethod
    def from_config(cls, cfg: CfgNode) -> GradientClipper:
        """The clipper of SOLVER.CLIP_GRADIENTS."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        return cls(clip.CLIP_TYPE if clip.ENABLED else "none", clip.CLIP_VALUE, clip.NORM_TYPE)

    def __call__(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip in place; returns the norm of all gradients together, before clipping, as a scalar tensor."""
        limit = self.limit if self.kind == "full_model" else float("inf")
        total = torch.nn.utils.clip_grad_norm_(parameters, limit, self.norm_type)
        if self.kind == "value":
            torch.nn.utils.clip_grad_value_(parameters, self.limit)
        elif self.kind == "norm":
            for parameter in parameters:
                torch.nn.utils.clip_grad_norm_(parameter, self.limit, self.norm_type)
        return total
