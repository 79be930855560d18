"""Blocks of a frozen ConvNeXt that run as one compiled operator each, where there is one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former_ops import available_backends, convnext_block

from ..utils.lazy_module import LazyModule

if TYPE_CHECKING:
    import timm
else:
    timm = LazyModule("timm")

logger = logging.getLogger(__name__)


class FrozenBlock(nn.Module):
    """A timm ConvNeXtBlock through `mask2former_ops.convnext_block`, from the same weights, without gradients.

    Args:
        block: one that `is_plain` accepts.
    """

    def __init__(self, block: Any):
        super().__init__()
        self.eps = block.norm.eps
        self.conv_weight = _constant(block.conv_dw.weight[:, 0].permute(1, 2, 0))
        self.conv_bias = _constant(block.conv_dw.bias)
        self.norm_weight, self.norm_bias = _constant(block.norm.weight), _constant(block.norm.bias)
        self.fc1_weight, self.fc1_bias = _constant(block.mlp.fc1.weight), _constant(block.mlp.fc1.bias)
        self.fc2_weight, self.fc2_bias = _constant(block.mlp.fc2.weight), _constant(block.mlp.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, channels last in memory."""
        output = convnext_block(
            x.permute(0, 2, 3, 1).contiguous(),
            self.conv_weight,
            self.conv_bias,
            self.norm_weight,
            self.norm_bias,
            self.eps,
            self.fc1_weight,
            self.fc1_bias,
            self.fc2_weight,
            self.fc2_bias,
        )
        return output.permute(0, 3, 1, 2)


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)


def is_plain(block: nn.Module) -> bool:
    """Whether a module computes what `convnext_block` does: timm's ConvNeXtBlock in evaluation mode, its layer scale
    folded into the last layer, with linear layers, LayerNorm, exact GELU and a convolution of 7x7 at stride 1."""
    if type(block) is not timm.models.convnext.ConvNeXtBlock or any(part.training for part in block.modules()):
        return False
    conv, norm, mlp = block.conv_dw, block.norm, block.mlp
    return (
        block.gamma is None
        and type(block.shortcut) is nn.Identity
        and type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((7, 7), (1, 1), (3, 3), (1, 1))
        and conv.groups == conv.in_channels == conv.out_channels
        and type(norm) in (nn.LayerNorm, timm.layers.LayerNorm)
        and norm.weight is not None
        and type(mlp) is timm.layers.Mlp
        and type(mlp.norm) is nn.Identity
        and type(mlp.fc1) is type(mlp.fc2) is nn.Linear
        and all(layer.bias is not None for layer in (conv, norm, mlp.fc1, mlp.fc2))
        and _is_gelu(mlp.act)
    )


def _is_gelu(activation: nn.Module) -> bool:
    """By what it computes: PyTorch and timm have classes of their own for it, and others for its approximations."""
    x = torch.linspace(-6, 6, 97, device="cpu")
    return torch.equal(activation(x), F.gelu(x))


def replace_plain_blocks(trunk: nn.ModuleDict) -> tuple[int, int]:
    """Put `FrozenBlock`s into a trunk's stages; how many, and of how many blocks."""
    stages: Any = trunk["stages"]
    found = [(stage.blocks, name, block) for stage in stages for name, block in stage.blocks.named_children()]
    plain = [each for each in found if is_plain(each[2])]
    for blocks, name, block in plain:
        setattr(blocks, name, FrozenBlock(block))
    return len(plain), len(found)


def use_compiled_blocks(trunk: nn.ModuleDict) -> None:
    """Put `FrozenBlock`s into a trunk on a device for which the operator is compiled, and log how many."""
    device = next(trunk.parameters()).device
    if device.type == "cuda" and "compiled" in available_backends(device):
        logger.info("%d of %d blocks of the frozen ConvNeXt run as compiled operators", *replace_plain_blocks(trunk))
