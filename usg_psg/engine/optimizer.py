"""AdamW with the parameter groups and the clipping of SPEC section 14."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import nn

NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Trained parameters with their learning rate and weight decay, equal settings in one group.

    Normalisation layers use WEIGHT_DECAY_NORM; embeddings and everything with fewer than two axes besides (biases,
    logit scales) use WEIGHT_DECAY_EMBED; the backbone's learning rate is multiplied by BACKBONE_MULTIPLIER.
    """
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
            in_backbone = "backbone" in full_name.split(".")
            rate = cfg.SOLVER.BASE_LR * (cfg.SOLVER.BACKBONE_MULTIPLIER if in_backbone else 1.0)
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW that clips before each step.

    Raises:
        ValueError: for another SOLVER.OPTIMIZER or an unknown clip type.
    """
    if cfg.SOLVER.OPTIMIZER != "ADAMW":
        raise ValueError(f"SOLVER.OPTIMIZER must be 'ADAMW', got {cfg.SOLVER.OPTIMIZER!r}")
    optimizer = torch.optim.AdamW(parameter_groups(cfg, model), cfg.SOLVER.BASE_LR)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("full_model", "norm", "value"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be full_model, norm or value, got {clip.CLIP_TYPE!r}")

    def clip_gradients(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        # Runs inside optimizer.step, where a gradient scaler has already divided by its scale.
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if clip.CLIP_TYPE == "full_model":
            torch.nn.utils.clip_grad_norm_(params, clip.CLIP_VALUE, clip.NORM_TYPE)
        elif clip.CLIP_TYPE == "value":
            torch.nn.utils.clip_grad_value_(params, clip.CLIP_VALUE)
        else:
            for parameter in params:
                torch.nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_gradients)
    return optimizer
