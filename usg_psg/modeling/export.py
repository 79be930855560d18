"""The network as one function of tensors, which `torch.export` records for every size (docs/export.md).

Letters: B images, H W pixels of the padded batch, C objects, P predicates, T text width, Q queries, K pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mask2former_ops import get_backend, set_backend

from ..utils.lazy_module import LazyModule
from .usg_par import USGPar

if TYPE_CHECKING:
    import timm
else:
    timm = LazyModule("timm")

OUTPUTS = ("queries", "class_logits", "mask_logits", "subject", "object", "pair_logits", "predicate_logits")


class ExportableNetwork(nn.Module):
    """What `USGPar.forward` computes between preprocessing and postprocessing, with the names to look for as inputs."""

    def __init__(self, model: USGPar):
        super().__init__()
        self.model = model

    def forward(
        self,
        image: Tensor,
        sizes: Tensor,
        object_text: Tensor,
        predicate_text: Tensor,
        clip_weight: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Predictions of a batch.

        Args:
            image: (B, 3, H, W) normalised, zero beyond each image; sides are multiples of the size divisibility.
            sizes: (B, 2) int64 height and width of each image without the padding.
            object_text, predicate_text: (C, T) and (P, T) unit-length embeddings.
            clip_weight: (C,) of `CLIPEnsemble`, for a model that has one.

        Returns:
            `OUTPUTS`: (B, Q, d), (B, Q, C), (B, Q, H/4, W/4), three times (B, K) and (B, K, P).
        """
        model = self.model
        features = model.backbone(image)
        pixel_features = model.pixel_decoder(features)
        objects = model.classify(model.mask_decoder(pixel_features).last_layer(), pixel_features, object_text)
        if model.clip_ensemble is not None:
            head = model.backbone.visual_head
            objects = model.clip_ensemble(objects, features["res5"], object_text, head, clip_weight)
        maps = objects.mask_features
        masks = (objects.mask_embeddings[-1] @ maps.flatten(2)).unflatten(2, (maps.shape[-2], maps.shape[-1]))
        is_instance = _has_pixel(masks, image, sizes)
        priority = is_instance[:, :, None] & is_instance[:, None, :]
        found = model.relate(objects, pixel_features, priority, predicate_text=predicate_text)
        pairs = found.proposals
        return (
            *(objects.queries[-1], objects.class_logits[-1], masks),
            *(pairs.subject_index, pairs.object_index, pairs.selected_logits(), found.predicate_logits),
        )


def _has_pixel(masks: Tensor, image: Tensor, sizes: Tensor) -> Tensor:
    """(B, Q) bool: the mask has a pixel inside the image, at the size that the network saw."""
    height, width = image.shape[-2:]
    full = F.interpolate(masks, size=(height, width), mode="bilinear", align_corners=False)
    rows = torch.arange(height, device=image.device) < sizes[:, :1]
    columns = torch.arange(width, device=image.device) < sizes[:, 1:]
    return ((full >= 0) & (rows[:, None, :, None] & columns[:, None, None, :])).flatten(2).any(dim=-1)


def example_inputs(model: USGPar, batch: int = 2, height: int = 64, width: int = 96) -> dict[str, Tensor]:
    """Inputs of `ExportableNetwork` by name: random images, the model's own names."""
    inputs = {
        "image": torch.randn(batch, 3, height, width, device=model.device),
        "sizes": torch.tensor([[height, width]] * batch, device=model.device),
        # Copies: an input that is a buffer of the model, too, could be taken for it.
        "object_text": model.object_text.clone(),
        "predicate_text": model.predicate_text.clone(),
    }
    return inputs if model.clip_ensemble is None else {**inputs, "clip_weight": model.clip_ensemble.weight.clone()}


def export_network(model: USGPar) -> ExportedProgram:
    """Record the network for any number of images and names and any size.

    Deformable attention is recorded as PyTorch's `grid_sample`, which every format knows. Sides have twice the size
    divisibility or more; ONNX, which has no such guards, takes smaller ones too.

    Raises:
        ValueError: if a part of the model does not allow it.
    """
    step = model.size_divisibility
    inputs = example_inputs(model, height=2 * step, width=3 * step)
    images, objects = Dim("images", max=4096), Dim("objects", max=2**20)
    shapes: dict[str, Any] = {
        "image": {0: images, 2: step * Dim("rows", min=2, max=4096), 3: step * Dim("columns", min=2, max=4096)},
        "sizes": {0: images},
        "object_text": {0: objects},
        "predicate_text": {0: Dim("predicates", max=2**20)},
        "clip_weight": {0: objects},
    }
    shapes = {name: shapes[name] for name in inputs}
    backend = get_backend()
    set_backend("pytorch")
    try:
        with torch.no_grad(), fixed_padding(model):
            network = ExportableNetwork(model).eval()
            return torch.export.export(network, (), inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of tracing, those of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the network of this configuration cannot be exported: {reason}") from error
    finally:
        set_backend(backend)


@contextmanager
def fixed_padding(model: nn.Module) -> Iterator[None]:
    """Inside, timm's convolutions with TensorFlow's padding pad by numbers, not by formulas of the image's size.

    The numbers do not depend on it, since sides are multiples of the strides. With the formulas, recording
    EfficientNet-Lite0 was not done after nine minutes.
    """
    convolutions = [module for module in model.modules() if isinstance(module, timm.layers.Conv2dSame)]
    for module in convolutions:
        module.forward = partial(_pad_and_convolve, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in convolutions:
            del module.forward


def _pad_and_convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    padding: list[int] = []
    for size, stride, dilation in zip(conv.kernel_size[::-1], conv.stride[::-1], conv.dilation[::-1], strict=True):
        both = max(dilation * (size - 1) + 1 - stride, 0)
        padding += [both // 2, both - both // 2]
    return F.conv2d(F.pad(x, padding), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
