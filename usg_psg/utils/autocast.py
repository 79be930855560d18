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

    Nothing changes on other devices; where a lower precision is allowed already; where PyTorch (2.9 or newer) was asked
    for "ieee" or, by `FLOAT32_PRECISION`, for "highest"; and where both of PyTorch's interfaces have set the precision,
    which may not be mixed.
    """
    products = torch.backends.cuda.matmul
    newer = getattr(products, "fp32_precision", None)
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        before = ""
    if before != "highest" or newer == "ieee":
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if newer is not None:
            products.fp32_precision = newer
