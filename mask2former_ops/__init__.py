"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159) with compiled CUDA and CPU backends.

`MSDeformAttn` is the layer, `ms_deform_attn` the op, `ms_deform_attn_reference` the same op in plain PyTorch.
`least_certain`, `sample_features`, `query_masks` and `convnext_block` are further ops, without gradients;
`sample_logits`, `linear`, `linear_relu` and `add_layer_norm` have gradients. All have compiled CUDA kernels.
`available_backends` and `set_backend` show and choose what runs; docs/ops.md has the build and the measurements.
"""

from .backends import available_backends, backend_report, get_backend, set_backend
from .beside_attention import (
    add_layer_norm,
    convnext_block,
    least_certain,
    linear,
    linear_relu,
    query_masks,
    sample_features,
    sample_logits,
)
from .functional import ms_deform_attn, ms_deform_attn_fused
from .module import MSDeformAttn
from .reference import ms_deform_attn_reference, resize_masks, sampling_locations_from_offsets

__all__ = [
    "MSDeformAttn",
    "add_layer_norm",
    "available_backends",
    "backend_report",
    "convnext_block",
    "get_backend",
    "least_certain",
    "linear",
    "linear_relu",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_reference",
    "query_masks",
    "resize_masks",
    "sample_features",
    "sample_logits",
    "sampling_locations_from_offsets",
    "set_backend",
]
