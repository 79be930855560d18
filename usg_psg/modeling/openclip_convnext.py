"""The image tower of an OpenCLIP ConvNeXt as a Detectron2 backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ..utils.autocast import DTYPES
from .clip_ensemble import CLIPVisualHead
from .frozen_convnext import use_faster_parts
from .openclip import load_openclip, load_trunk, takes_checkpoint_weights, timm_trunk, weights_identity

if TYPE_CHECKING:
    from timm.models.convnext import ConvNeXt


@BACKBONE_REGISTRY.register()
class OpenCLIPConvNeXt(Backbone):
    """Stem and four stages of a timm ConvNeXt, the trunk of OpenCLIP's image tower (SPEC section 3).

    Frozen means: no gradient, always in eval mode (no drop path), no autograd graph, and, on a GPU, weights, features
    and arithmetic in `frozen_dtype`, whatever autocast is on around; for the types of 16 bits from a second copy of the
    weights. (Autocast would do the norm layers and the sums in float32; `docs/history.md` has what that costs.)
    Frozen weights are left out of checkpoints (`usg_psg/engine/checkpoint.py`).

    Args:
        trunk: a timm ConvNeXt with `stem` and four `stages`; its head is dropped.
        freeze: keep the weights as they are.
        frozen_dtype: "bfloat16", "float16" or "float32".
        weights_identity: name of model and weights, recorded in checkpoints that leave frozen weights out.
        visual_head: the rest of CLIP's image tower, for `CLIPEnsemble`; no child, as checkpoints never hold it.
    """

    FEATURES = ("res2", "res3", "res4", "res5")
    section = "MODEL.CLIP"
    pixel_mean = (122.7709383, 116.7460125, 104.09373615)
    pixel_std = (68.5005327, 66.6321579, 70.32316305)

    @configurable
    def __init__(
        self,
        trunk: ConvNeXt,
        *,
        freeze: bool = True,
        frozen_dtype: str = "bfloat16",
        weights_identity: dict[str, str] | None = None,
        visual_head: CLIPVisualHead | None = None,
    ):
        super().__init__()
        if not (hasattr(trunk, "stem") and len(getattr(trunk, "stages", ())) == 4):
            raise ValueError(f"need a timm ConvNeXt with a stem and four stages, got {type(trunk).__name__}")
        DTYPES.check("frozen_dtype", frozen_dtype)
        if visual_head is not None and not freeze:
            raise ValueError("CLASS_HEAD.CLIP_ENSEMBLE needs CLIP's own features: MODEL.CLIP.FREEZE must be True")
        self._visual_head = [] if visual_head is None else [visual_head]
        self.trunk = nn.ModuleDict({"stem": trunk.stem, "stages": trunk.stages})
        self.trunk.to(memory_format=torch.channels_last)
        self.freeze = freeze
        self.weights_identity = weights_identity or {}
        self.frozen_dtype = getattr(torch, frozen_dtype)
        self._out_features = self.FEATURES
        levels = dict(zip(self.FEATURES, trunk.feature_info, strict=True))
        self._out_feature_channels = {name: info["num_chs"] for name, info in levels.items()}
        self._out_feature_strides = {name: info["reduction"] for name, info in levels.items()}
        self._reduced: list[nn.ModuleDict] = []  # the copy in frozen_dtype; in a list, so that it is no child
        if freeze:
            self.trunk.requires_grad_(False)
            self.trunk.eval()
            self.register_load_state_dict_post_hook(_refresh)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Arguments from MODEL.CLIP; reads the weights, unless a checkpoint has them."""
        name, pretrained = cfg.MODEL.CLIP.NAME, "" if takes_checkpoint_weights() else cfg.MODEL.CLIP.PRETRAINED
        visual_head = None
        if cfg.MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED:
            clip = load_openclip(name, pretrained)
            trunk, visual_head = timm_trunk(clip, name), CLIPVisualHead(clip.visual, clip.logit_scale)
        else:
            trunk = load_trunk(name, pretrained)
        return {
            "trunk": trunk,
            "visual_head": visual_head,
            "freeze": cfg.MODEL.CLIP.FREEZE,
            "frozen_dtype": cfg.MODEL.CLIP.FROZEN_DTYPE,
            "weights_identity": weights_identity(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED),
        }

    @property
    def visual_head(self) -> CLIPVisualHead | None:
        """CLIP's own head, None unless the class ensemble needs it."""
        return next(iter(self._visual_head), None)

    def train(self, mode: bool = True) -> OpenCLIPConvNeXt:
        """Stay in evaluation mode if frozen."""
        super().train(mode)
        if self.freeze:
            self.trunk.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest level."""
        return 32

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of normalised RGB images.

        Args:
            image: (B, 3, H, W), H and W multiples of 32.

        Returns:
            "res2" to "res5": (B, c, H/s, W/s) for strides s of 4, 8, 16, 32, in the type of an autocast around.
        """
        kind = image.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
        if not self.freeze:
            return self._features(self.trunk, image, dtype)
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            if not image.is_cuda or self.frozen_dtype == torch.float32:
                return self._features(self.trunk, image, dtype)
            return self._features(self._in_frozen_dtype(), image.to(self.frozen_dtype), dtype)

    def _features(self, trunk: nn.ModuleDict, image: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        x = trunk["stem"](image.contiguous(memory_format=torch.channels_last))
        features = {}
        for name, stage in zip(self.FEATURES, trunk["stages"].children(), strict=True):
            x = stage(x)
            features[name] = x.to(dtype)
        return features

    def _in_frozen_dtype(self) -> nn.ModuleDict:
        if not self._reduced:
            self._reduced.append(self._reduced_copy())
        return self._reduced[0]

    def _reduced_copy(self) -> nn.ModuleDict:
        copied = _with_scales_folded(self.trunk).to(self.frozen_dtype)
        use_faster_parts(copied)
        return copied

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> OpenCLIPConvNeXt:
        self._reduced.clear()  # the weights are moved or cast
        for head in self._visual_head:
            head._apply(fn, *args, **kwargs)
        super()._apply(fn, *args, **kwargs)
        if self.freeze and self.frozen_dtype != torch.float32 and next(self.trunk.parameters()).is_cuda:
            self._in_frozen_dtype()  # now, since `forward` may be compiled
        return self


@torch.no_grad()
def _with_scales_folded(trunk: nn.ModuleDict) -> nn.ModuleDict:
    """A copy whose blocks' layer scale is part of the linear layer before it: one pass over the features less each."""
    folded = copy.deepcopy(trunk)
    for block in folded.modules():
        gamma, last = getattr(block, "gamma", None), getattr(getattr(block, "mlp", None), "fc2", None)
        if isinstance(gamma, nn.Parameter) and isinstance(last, nn.Linear):
            last.weight.mul_(gamma[:, None])
            last.bias.mul_(gamma)
            block.register_parameter("gamma", None)
    return folded


@torch.no_grad()
def _refresh(backbone: OpenCLIPConvNeXt, _: Any) -> None:
    """Bring loaded weights into the copy, in place: CUDA graphs know its address."""
    for copied in backbone._reduced:
        present = backbone._reduced_copy().parameters()
        for target, source in zip(copied.parameters(), present, strict=True):
            target.copy_(source)
