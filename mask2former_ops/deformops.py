"""The PyPI package `deformops` as a backend on GPUs, where installed: Triton kernels, which need no CUDA compiler."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def missing() -> str:
    """Why the package's kernels cannot run here; empty where they can."""
    if importlib.util.find_spec("deformops") is None:
        return "deformops is not installed (pip install deformops, which needs no compiler)"
    try:
        from deformops.registry import Backend, msda

        if Backend.TRITON.value not in msda.available():
            return f"deformops: {msda.unavailable_reason(Backend.TRITON)}"
        from deformops.backends.triton import msda_query_tiled_fp32acc as kernels

        kernels.Backend()  # the first instance of a Protocol changes its class, which torch.compile cannot trace
        return ""
    except Exception as error:  # another version of it, of Python or of PyTorch
        reason = f"the installed deformops cannot be used: {error!r}"
        logger.warning("Backend left out: %s", reason)
        return reason


def ms_deform_attn_deformops(
    value: Tensor, shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Same arguments and result as `ms_deform_attn_reference`; half types are summed in float32.

    Raises:
        RuntimeError: deterministic algorithms are asked for, and the gradient of `value` is needed.
    """
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if strict and value.requires_grad:
        raise RuntimeError("deformops sums the gradient of value in any order: it has no deterministic backward pass")
    from deformops.registry import Backend, msda

    starts = [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]
    sizes = [size for shape in shapes for size in shape]
    # Filled on the device: a copy from the host could not be part of a CUDA graph.
    table = torch.cat([value.new_full((1,), number, dtype=torch.int32) for number in sizes + starts])
    return msda(
        value,
        table[: len(sizes)].view(-1, 2),
        table[len(sizes) :],
        sampling_locations,
        attention_weights.to(value.dtype),
        # Named, it sums gradients in float32; left to itself, it sums them in bfloat16 from Hopper on.
        backend=Backend.TRITON if value.is_cuda else Backend.EAGER,
    )
