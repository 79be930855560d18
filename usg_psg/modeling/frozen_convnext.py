"""Parts of a frozen ConvNeXt in forms that a GPU runs faster: blocks as one compiled operator each, where there is
one, and the stem's convolution as a matrix product."""

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


class FrozenPatches(nn.Module):
    """A convolution whose patches do not overlap as a matrix product, from the same weights, without gradients.

    For three channels in 16 bits, cuDNN has no kernel that uses an H200's tensor cores: the stem took 0.5 ms for 16
    images of 640 x 640 pixels, ten times what reading and writing take.

    Args:
        convolution: one that `has_patches` accepts.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.kernel_size = convolution.kernel_size
        self.weight = _constant(convolution.weight.permute(0, 2, 3, 1).flatten(1))
        self.bias = None if convolution.bias is None else _constant(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / k, W / k), channels last in memory."""
        height, width = self.kernel_size
        x = x[..., : x.shape[2] // height * height, : x.shape[3] // width * width]
        patches = x.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 3, 5, 1)
        rows, columns = patches.shape[1:3]
        # Never as (B, H / k, W / k, D): torch.compile would take four axes for an image, and copy it.
        y = F.linear(patches.flatten(3).flatten(1, 2), self.weight, self.bias)
        return y.transpose(1, 2).unflatten(2, (rows, columns))


def has_patches(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that reads each pixel once, in patches side by side."""
    return (
        type(layer) is nn.Conv2d
        and layer.stride == layer.kernel_size
        and layer.padding == (0, 0)
        and layer.dilation == (1, 1)
        and layer.groups == 1
    )


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


def replace_stem(trunk: nn.ModuleDict) -> bool:
    """Put `FrozenPatches` in the place of the stem's convolution, if that is one of patches; whether it was."""
    stem: Any = trunk["stem"]
    found = isinstance(stem, nn.Sequential) and has_patches(stem[0])
    if found:
        stem[0] = FrozenPatches(stem[0])
    return found


def use_faster_parts(trunk: nn.ModuleDict) -> None:
    """Put `FrozenPatches` and, where the operator is compiled, `FrozenBlock`s into a trunk on a GPU; log how many."""
    device = next(trunk.parameters()).device
    if device.type != "cuda":
        return
    replace_stem(trunk)
    if "compiled" in available_backends(device):
        logger.info("%d of %d blocks of the frozen ConvNeXt run as compiled operators", *replace_plain_blocks(trunk))
