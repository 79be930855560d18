"""Casts of what enters several products of mixed precision."""

import pytest
import torch

from usg_psg.utils.autocast import tensor_float32, to_autocast_dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tensor_gets_the_type_that_products_have(dtype):
    x = torch.randn(2, 2)
    assert to_autocast_dtype(x) is x
    with torch.autocast("cpu", dtype=dtype):
        assert to_autocast_dtype(x).dtype == (x @ x).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert to_autocast_dtype(x) is x


def test_products_have_their_precision_back_after_the_block():
    products = torch.backends.cuda.matmul
    assert not products.allow_tf32
    with pytest.raises(KeyError), tensor_float32():
        assert products.allow_tf32
        raise KeyError
    assert not products.allow_tf32


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch has one interface")
def test_precision_set_through_the_other_interface_is_left_alone():
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        with tensor_float32():
            pass
        assert products.fp32_precision == "ieee"
    finally:
        products.fp32_precision = before
        products.allow_tf32 = False
