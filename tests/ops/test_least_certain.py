"""The least certain points: the compiled kernel beside a selection restated in float64, arguments, tracing, graphs.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_ops import least_certain

from .cases import DEVICES, NEEDS_GPU, compiled, compiled_library  # noqa: F401

OPERATOR = torch.ops.mask2former_ops.least_certain
# (M, h, w), N, k: one pixel, one row, one column, odd sizes, more and fewer candidates than threads, all chosen
CASES = [
    ((1, 1, 1), 5, 3),
    ((2, 1, 9), 40, 7),
    ((2, 9, 1), 40, 39),
    ((3, 17, 23), 1000, 750),
    ((2, 64, 48), 4099, 1),
    ((5, 33, 31), 2048, 2048),
    ((4, 160, 160), 37632, 9408),
    ((1, 300, 300), 5000, 2500),  # of float32, beyond shared memory
]


def random_call(shape: tuple[int, int, int], count: int, dtype=torch.float32, device="cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(shape, generator=generator)
    candidates = torch.rand(shape[0], count, 2, generator=generator)
    return logits.to(device, dtype), candidates.to(device)


def certainty(logits: Tensor, points: Tensor) -> Tensor:
    """(M, N) |bilinear value| in float64."""
    grid = 2 * points[:, None].double() - 1
    return F.grid_sample(logits[:, None].double(), grid, "bilinear", "border", align_corners=False)[:, 0, 0].abs()


def check(logits: Tensor, candidates: Tensor, count: int, chosen: Tensor) -> None:
    """`chosen` are distinct candidates with the `count` lowest certainties, but for rounding."""
    assert chosen.shape == (len(logits), count, 2) and chosen.dtype == torch.float32
    scale = float(logits.abs().max())
    for row in range(len(logits)):
        given, found = candidates[row].cpu().tolist(), chosen[row].cpu().tolist()
        assert set(map(tuple, found)) <= set(map(tuple, given)) and len(set(map(tuple, found))) == count
        expected = certainty(logits[row : row + 1], candidates[row : row + 1])[0].sort().values[:count]
        values = certainty(logits[row : row + 1], chosen[row : row + 1])[0].sort().values
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "candidates", "count"), CASES)
def test_the_least_certain_are_chosen(compiled_library, shape, candidates, count, device):  # noqa: F811
    logits, points = random_call(shape, candidates, device=device)
    check(logits, points, count, least_certain(logits, points, count))


@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_sampled_in_float32(compiled, dtype):  # noqa: F811
    logits, points = random_call((3, 40, 56), 3000, dtype, "cuda")
    check(logits, points, 1000, OPERATOR(logits, points, 1000))


@pytest.mark.parametrize("device", DEVICES)
def test_ties_and_numbers_that_are_none(device):
    """Equal values: any of them, each once; infinite and not a number: last, in this order."""
    logits, points = torch.zeros(2, 8, 8, device=device), torch.rand(2, 3000, 2, device=device)
    logits[1] = 1.0
    chosen = least_certain(logits, points, 1234)
    check(logits, points, 1234, chosen)
    half = torch.zeros(1, 1, 40, device=device)
    half[..., 10:20], half[..., 20:] = torch.inf, torch.nan
    x = torch.linspace(0.01, 0.99, 99, device=device)
    points = torch.stack([x, torch.full_like(x, 0.5)], -1)[None]
    finite = int((x < 9.5 / 40).sum())
    assert (least_certain(half, points, finite)[..., 0] < 9.5 / 40).all()


@NEEDS_GPU
def test_twice_the_same_points_in_the_same_order(compiled):  # noqa: F811
    logits, points = random_call((6, 50, 50), 20000, device="cuda")
    logits = logits.round()  # ties
    assert torch.equal(OPERATOR(logits, points, 5000), OPERATOR(logits, points, 5000))


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_choose(device):
    assert least_certain(torch.zeros(0, 4, 4, device=device), torch.rand(0, 5, 2, device=device), 3).shape == (0, 3, 2)
    assert least_certain(torch.zeros(2, 4, 4, device=device), torch.rand(2, 5, 2, device=device), 0).shape == (2, 0, 2)


def test_wrong_arguments_are_named():
    logits, points = random_call((2, 4, 4), 5)
    for call, message in (
        ((logits[0], points, 1), "logits must have shape"),
        ((logits, points[:1], 1), r"candidates must have shape \(M=2, N, 2\), got \(1, 5, 2\)"),
        ((logits, points, 6), "count must be 0 to N=5, got 6"),
    ):
        with pytest.raises(ValueError, match=message):
            least_certain(*call)


@NEEDS_GPU
def test_direct_calls_of_the_operator_are_checked_too(compiled):  # noqa: F811
    logits, points = random_call((2, 4, 4), 5, device="cuda")
    for call, message in (
        ((logits[..., :3], points, 1), "logits must be contiguous"),
        ((logits.double(), points, 1), "logits must be Float, BFloat16 or Half, got Double"),
        ((logits, points.double(), 1), "candidates must be Float"),
        ((logits, points, 6), "count must be 0 to 5, got 6"),
        ((logits[:, :0], points, 1), "logits must have pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            OPERATOR(*call)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_and_one_graph(compiled_library, device):  # noqa: F811
    logits, points = random_call((2, 7, 5), 50, device=device)
    torch.library.opcheck(OPERATOR, (logits, points, 20))
    traced = torch.compile(lambda *call: OPERATOR(*call, 20) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(logits, points), OPERATOR(logits, points, 20) + 1)


@NEEDS_GPU
def test_a_cuda_graph_can_hold_it(compiled):  # noqa: F811
    logits, points = random_call((2, 40, 40), 4000, device="cuda")
    OPERATOR(logits, points, 500)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chosen = OPERATOR(logits, points, 500)
    logits.copy_(logits.flip(1))
    graph.replay()
    check(logits, points, 500, chosen)
