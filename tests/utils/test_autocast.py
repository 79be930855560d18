"""Casts of what enters several products of mixed precision."""

import pytest
import torch

from usg_psg.utils.autocast import to_autocast_dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tensor_gets_the_type_that_products_have(dtype):
    x = torch.randn(2, 2)
    assert to_autocast_dtype(x) is x
    with torch.autocast("cpu", dtype=dtype):
        assert to_autocast_dtype(x).dtype == (x @ x).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert to_autocast_dtype(x) is x
