"""Builders of optimizers and learning rate schedules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ..config import CfgNode
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = [
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
]

_NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer
) -> type[torch.optim.Optimizer] | torch.optim.Optimizer:
    """Clip each parameter's gradient before a step, as SOLVER.CLIP_GRADIENTS says.

    Args:
        optimizer: an optimizer class, or an optimizer, which is changed.

    Returns:
        the same, or a subclass, or the same optimizer with a changed class.
    """
    settings = cfg.SOLVER.CLIP_GRADIENTS.clone()
    if not settings.ENABLED:
        return optimizer
    if settings.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be value or norm, got {settings.CLIP_TYPE!r}")
    base = optimizer if isinstance(optimizer, type) else type(optimizer)

    def step(self: torch.optim.Optimizer, closure: Callable | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if settings.CLIP_TYPE == "value":
                    clip_grad_value_(parameter, settings.CLIP_VALUE)
                else:
                    clip_grad_norm_(parameter, settings.CLIP_VALUE, settings.NORM_TYPE)
        return base.step(self, closure)

    clipping = type(base.__name__ + "WithGradientClip", (base,), {"step": step})
    if isinstance(optimizer, type):
        return clipping
    optimizer.__class__ = clipping
    return optimizer


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, from the keys of SOLVER."""
    solver = cfg.SOLVER
    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        parameters,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups of a model's trainable parameters; parameters with equal settings share a group.

    Args:
        base_lr, weight_decay: of every group; None leaves the optimizer's own.
        weight_decay_norm: weight decay of normalisation layers.
        bias_lr_factor, weight_decay_bias: of parameters named `bias`.
        lr_factor_func: from a parameter's full name to a factor of base_lr.
        overrides: settings by a parameter's own name (the last part of the full one).
    """
    overrides = dict(overrides or {})
    scaled_bias = bias_lr_factor is not None and bias_lr_factor != 1.0
    if base_lr is None and (scaled_bias or lr_factor_func is not None):
        raise ValueError("base_lr is needed where bias_lr_factor or lr_factor_func scales it")
    bias = {"lr": base_lr * bias_lr_factor} if scaled_bias else {}
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias and "bias" in overrides:
        raise ValueError("overrides['bias'] conflicts with bias_lr_factor or weight_decay_bias")
    if bias:
        overrides["bias"] = bias

    groups: dict[tuple, dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings = {"lr": base_lr, "weight_decay": weight_decay}
            if weight_decay_norm is not None and isinstance(module, _NORM_LAYERS):
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] = base_lr * lr_factor_func(f"{module_name}.{name}")
            settings.update(overrides.get(name, {}))
            settings = {key: value for key, value in settings.items() if value is not None}
            group = groups.setdefault(tuple(settings.items()), {**settings, "params": []})
            group["params"].append(parameter)
    return list(groups.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule SOLVER.LR_SCHEDULER_NAME with warmup, stepped once per iteration."""
    solver = cfg.SOLVER
    schedule = WarmupParamScheduler(
        _schedule(solver),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _schedule(solver: CfgNode) -> ParamScheduler:
    name = solver.LR_SCHEDULER_NAME
    if name == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        if not 0 <= end <= 1:
            raise ValueError(f"SOLVER.BASE_LR_END must lie in [0, BASE_LR], got {solver.BASE_LR_END}")
        return CosineParamScheduler(1, end)
    if name == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(steps) < len(solver.STEPS):
            logging.getLogger(__name__).warning("SOLVER.STEPS above SOLVER.MAX_ITER are ignored: %s", solver.STEPS)
        values = [solver.GAMMA**power for power in range(len(steps) + 1)]
        return MultiStepParamScheduler(values=values, milestones=steps, num_updates=solver.MAX_ITER)
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0, num_decays=solver.NUM_DECAYS, gamma=solver.GAMMA, num_updates=solver.MAX_ITER
        )
    raise ValueError(f"unknown SOLVER.LR_SCHEDULER_NAME {name!r}")
