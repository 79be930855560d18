"""Helpers for mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .allowed import one_of

DTYPES = one_of("float32", "bfloat16", "float16")  # of the arithmetic on a GPU


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast once here; autocast would cast again for every matrix product.

    Args:
        x: of any shape, float32 or of 16 bits.

    Returns:
        x in the type that autocast gives to products on its device; x itself if it is off.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@contextmanager
def tensor_float32() -> Iterator[None]:
    """Inside, a GPU rounds the factors of float32 matrix products to 11 bits (TF32); sums stay in float32.

    Products of few rows and many numbers take a fifth of the time so. No change on other devices, nor where the
    precision was set through both of PyTorch's interfaces, which may not be mixed.
    """
    products = torch.backends.cuda.matmul
    try:
        before = products.allow_tf32
    except RuntimeError:
        yield
        return
    products.allow_tf32 = True
    try:
        yield
    finally:
        products.allow_tf32 = before
