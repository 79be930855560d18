"""Where recorded functions are tested, and on what."""

import pytest
import torch

from usg_psg.modeling.cuda_graphs import CudaRecorder

from .tape import TapeRecorder

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=gpu)])
def device(request):
    return request.param


@pytest.fixture
def recorder(device):
    return TapeRecorder if device == "cpu" else CudaRecorder
