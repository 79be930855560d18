"""Any image model of timm as a Detectron2 backbone; plain vision transformers through a simple feature pyramid."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from ..utils.lazy_module import LazyModule
from .layers import OTHERS_THAN_CUDNN
from .openclip import takes_checkpoint_weights, weights_identity
from .timm_models import STRIDES, channels_first, load_timm

if TYPE_CHECKING:
    import timm
else:
    timm = LazyModule("timm")

PATCH = 16  # stride of a pyramid's input


class SimpleFeaturePyramid(nn.Module):
    """One feature map to four: transposed convolutions up, max pooling down, each to `dim` channels.

    Source: ViTDet, arXiv 2203.16527, section 3. Between two transposed convolutions, which halve the channels, are
    layer norm and GELU.

    Args:
        channels, stride: of the map; the stride is a power of two.
        dim: channels of each level.
    """

    def __init__(self, channels: int, stride: int, dim: int):
        super().__init__()
        self.levels = nn.ModuleList(self._level(channels, round(math.log2(stride / to)), dim) for to in STRIDES)

    @staticmethod
    def _level(channels: int, doublings: int, dim: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for step in range(doublings):
            layers += [timm.layers.LayerNorm2d(channels), nn.GELU()] if step else []
            layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
            channels //= 2
        if doublings < 0:
            layers.append(nn.MaxPool2d(2**-doublings))
        layers += [nn.Conv2d(channels, dim, 1, bias=False), timm.layers.LayerNorm2d(dim)]
        layers += [nn.Conv2d(dim, dim, 3, padding=1, bias=False), timm.layers.LayerNorm2d(dim)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, c, h, w) to one (B, dim, h', w') for each of `STRIDES`."""
        return [level(x) for level in self.levels]


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """Feature maps of a timm model at strides 4 to 32.

    Frozen means: no gradient, always in eval mode, and the trunk's weights left out of checkpoints; a pyramid is
    trained. Otherwise all is trained, but batch normalisation keeps pretrained statistics, as in Detectron2's
    detectors, since batches are small.

    A plain transformer's last map, normalised as its own head would get it, goes through `SimpleFeaturePyramid`. If
    the side of its patches is no power of two (14 in DINOv2), images are resized so that a patch covers 16 pixels.

    Args:
        trunk: of `load_timm`.
        freeze: keep the trunk as it is.
        keep_statistics: of batch normalisation, where the trunk is trained.
        pyramid_dim: channels of a pyramid's levels.
        weights_identity: name of model and weights, recorded in checkpoints that leave frozen weights out.
    """

    FEATURES = ("res2", "res3", "res4", "res5")
    section = "MODEL.TIMM"

    @configurable
    def __init__(
        self,
        trunk: Any,
        *,
        freeze: bool = True,
        keep_statistics: bool = True,
        pyramid_dim: int = 256,
        weights_identity: dict[str, str] | None = None,
    ):
        super().__init__()
        self.trunk = trunk.to(memory_format=torch.channels_last)
        self.freeze = freeze
        self.keep_statistics = keep_statistics
        self.weights_identity = weights_identity or {}
        self.pixel_mean, self.pixel_std = ([255 * x for x in trunk.pretrained_cfg[key]] for key in ("mean", "std"))
        channels, strides = trunk.feature_info.channels(), trunk.feature_info.reduction()
        self.patch, self.pyramid = PATCH, None
        if len(strides) == 1:
            (stride,) = strides
            if stride & (stride - 1):
                self.patch, stride = stride, PATCH
            self.pyramid = SimpleFeaturePyramid(channels[0], stride, pyramid_dim)
            channels = [pyramid_dim] * len(STRIDES)
        self._out_features = self.FEATURES
        self._out_feature_channels = dict(zip(self.FEATURES, channels, strict=True))
        self._out_feature_strides = dict(zip(self.FEATURES, STRIDES, strict=True))
        if freeze:
            self.trunk.requires_grad_(False).eval()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Arguments from MODEL.TIMM; reads the weights, unless a checkpoint has them."""
        keys = cfg.MODEL.TIMM
        return {
            "trunk": load_timm(keys.NAME, keys.PRETRAINED, read_weights=not takes_checkpoint_weights()),
            "freeze": keys.FREEZE,
            "keep_statistics": bool(keys.PRETRAINED),
            "pyramid_dim": keys.PYRAMID_DIM,
            "weights_identity": weights_identity(keys.NAME, keys.PRETRAINED, f"timm {timm.__version__}"),
        }

    def train(self, mode: bool = True) -> TimmBackbone:
        """Leave a frozen trunk, and pretrained statistics of batch normalisation, in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.trunk.eval()
        elif self.keep_statistics:
            for module in self.trunk.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest level."""
        return STRIDES[-1]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of normalised RGB images.

        Args:
            image: (B, 3, H, W), H and W multiples of 32.

        Returns:
            "res2" to "res5": (B, c, H/s, W/s) for strides s of 4, 8, 16, 32.
        """
        # See `attend` and `attend_in_training`: cuDNN's attention needs images of one size and no gradients.
        attention = nullcontext() if self.training and self.freeze else sdpa_kernel(OTHERS_THAN_CUDNN)
        with attention, torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            if self.patch != PATCH:
                size = [side // PATCH * self.patch for side in image.shape[-2:]]
                image = F.interpolate(image, size, mode="bilinear", antialias=True)
            maps = channels_first(self.trunk, self.trunk(image.contiguous(memory_format=torch.channels_last)))
        if self.pyramid is not None:
            maps = self.pyramid(maps[-1])
        return dict(zip(self.FEATURES, maps, strict=True))
