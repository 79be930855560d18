"""Counts the parameters and FLOPs of each part of a model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from tabulate import tabulate
from torch import nn
from torch.utils._pytree import tree_leaves

from ..config.checks import check_config
from . import config_of


class Part(nn.Module):
    """A step of the model as a module of its own, with tensors in and out, as tracing needs it."""

    def __init__(self, call: Callable[[], Any], module: nn.Module):
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, unused: torch.Tensor) -> list[torch.Tensor]:
        """Every tensor that the call gives."""
        # All of them: what an output left out needs alone would be pruned from the trace, and not be counted.
        return tree_leaves(self.call())


def attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of scaled dot-product attention: queries times keys, weights times values."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    batch_heads = query[0] * query[1]
    return batch_heads * query[2] * key[2] * (query[3] + value[3])


def flops(call: Callable[[], Any], module: nn.Module) -> float:
    """Multiply-adds of one call."""
    analysis = FlopCountAnalysis(Part(call, module), torch.zeros(1))
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return float(analysis.total())


def table(model: Any, height: int, width: int) -> list[tuple[str, int, int, float]]:
    """Rows (part, trained parameters, frozen parameters, multiply-adds) of one image."""
    image = torch.zeros(1, 3, height, width, device=model.device)
    features = model.backbone(image)
    pixels = model.pixel_decoder(features)
    queries = model.mask_decoder(pixels).queries[-1]
    proposals = model.relation_head.propose(queries)
    calls = {
        "backbone": (model.backbone, lambda: model.backbone(image)),
        "pixel_decoder": (model.pixel_decoder, lambda: model.pixel_decoder(features)),
        "mask_decoder": (model.mask_decoder, lambda: model.mask_decoder(pixels)),
        "class_head": (model.class_head, lambda: model.class_head(queries, model.object_text)),
        "relation_head.rpc": (model.relation_head.rpc, lambda: model.relation_head.propose(queries).pair_logits),
        "relation_head, rest": (
            model.relation_head,
            lambda: model.relation_head.decode(queries, proposals, pixels, model.predicate_text),
        ),
    }
    rows = []
    for name, (module, call) in calls.items():
        own = list(module.parameters())
        if name == "relation_head, rest":
            shared = {id(p) for p in model.relation_head.rpc.parameters()}
            own = [p for p in own if id(p) not in shared]
        trained = sum(p.numel() for p in own if p.requires_grad)
        frozen = sum(p.numel() for p in own if not p.requires_grad)
        rows.append((name, trained, frozen, flops(call, module)))
    return rows


def run(args: Namespace) -> None:
    """Print the table."""
    cfg = config_of(args)
    check_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    with torch.no_grad():
        model = build_model(cfg).eval()
        height, width = (-(-side // model.size_divisibility) * model.size_divisibility for side in args.size)
        rows = table(model, height, width)
    rows.append(("total", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    figures = [(name, trained / 1e6, frozen / 1e6, count / 1e9) for name, trained, frozen, count in rows]
    headers = ("part", "trained (M)", "frozen (M)", f"GFLOPs at {height}x{width}")
    print(tabulate(figures, headers, tablefmt="pipe", floatfmt=("", ".2f", ".2f", ".1f")))
