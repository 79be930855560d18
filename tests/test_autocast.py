"""Casts of what enters several products of mixed precision."""

import pytest
import torch

from usg_psg.autocast import for_products


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tensor_gets_the_type_that_products_have(dtype):
    x = torch.randn(2, 2)
    assert for_products(x) is x
    with torch.autocast("cpu", dtype=dtype):
        assert for_products(x).dtype == (x @ x).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert for_products(x) is x
