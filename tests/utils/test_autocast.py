"""Casts of what enters several products of mixed precision."""

import pytest
import torch

from usg_psg.utils.autocast import to_autocast_dtype

from ..programs import run


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tensor_gets_the_type_that_products_have(dtype):
    x = torch.randn(2, 2)
    assert to_autocast_dtype(x) is x
    with torch.autocast("cpu", dtype=dtype):
        assert to_autocast_dtype(x).dtype == (x @ x).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert to_autocast_dtype(x) is x


PRECISIONS = """
import sys, torch
from usg_psg.utils.autocast import tensor_float32
products = torch.backends.cuda.matmul
if sys.argv[1]:
    torch.set_float32_matmul_precision(sys.argv[1])
def state():
    return [getattr(products, "fp32_precision", None), products.allow_tf32, torch.get_float32_matmul_precision()]
before = state()
try:
    with tensor_float32():
        print(products.allow_tf32)
        raise KeyError
except KeyError:
    pass
assert state() == before, (before, state())
"""


@pytest.mark.parametrize("precision", ["", "highest", "high", "medium"])
def test_products_have_their_precision_back_after_the_block(precision):
    done = run("-c", PRECISIONS, precision, fresh=True)
    assert done.returncode == 0, done.stderr
    asked = precision == "highest" and hasattr(torch.backends.cuda.matmul, "fp32_precision")
    assert done.stdout.split() == [str(not asked)]
