"""Values at points: the compiled kernels beside PyTorch's sampling in float64, gradients, arguments, tracing, graphs.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_ops import sample_features, sample_logits
from mask2former_ops.reference import sample_maps

from .cases import DEVICES, NEEDS_GPU, compiled, compiled_library, relative_error  # noqa: F401

OPERATORS = torch.ops.mask2former_ops
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-3, torch.float16: 4e-4}
# (B, C, h, w), N: one pixel, one row, one column, odd sizes, rows that no warp or block divides, the network's
FEATURES = [
    ((1, 8, 1, 1), 5),
    ((2, 256, 1, 9), 40),
    ((2, 24, 9, 1), 70),
    ((3, 264, 13, 17), 301),
    ((1, 40, 64, 48), 4099),
    ((2, 256, 160, 160), 12544),
]
# (M, h, w), N: as above, more and fewer points than threads, of shared memory and beyond
LOGITS = [
    ((1, 1, 1), 5),
    ((2, 1, 9), 40),
    ((2, 9, 1), 41),
    ((3, 17, 23), 2500),
    ((2, 64, 48), 4099),
    ((20, 160, 160), 12544),
    ((3, 256, 256), 12544),
    ((2, 301, 299), 5000),
]


def random_points(maps: int, count: int, size: tuple[int, int]) -> Tensor:
    """A part of them on the centres and the edges of pixels, in the corners of the map, or a little beyond it."""
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(maps, count, 2, generator=generator)
    pixels = torch.tensor([size[1], size[0]])
    corners = points.round()
    kinds = [points, (points * pixels).floor().add(0.5) / pixels, (points * pixels).round() / pixels, corners]
    kinds += [corners * (1 + 2e-7) - (1 - corners) * 1e-7]
    chosen = torch.randint(0, 8, (maps, count, 1), generator=generator)
    for kind, other in enumerate(kinds[1:], 1):
        points = torch.where(chosen == kind, other, points)
    return points


def random_call(shape: tuple[int, ...], count: int, dtype=torch.float32, device="cpu") -> tuple[Tensor, Tensor]:
    maps = 4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return maps.to(device, dtype), random_points(shape[0], count, shape[-2:]).to(device)


def expected_values(maps: Tensor, points: Tensor) -> Tensor:
    """(B, C, N) in float64."""
    grid = 2 * points[:, None].double() - 1
    return F.grid_sample(maps.double(), grid, "bilinear", "border", align_corners=False)[:, :, 0]


def with_gradient(function, logits: Tensor, points: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    values = function(logits, points)
    return values.detach(), torch.autograd.grad(values, logits, grad)[0]


def expected_logits(logits: Tensor, points: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradient in float64."""
    return with_gradient(lambda x, at: expected_values(x[:, None], at)[:, 0], logits.double(), points, grad.double())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "count"), FEATURES)
def test_features(compiled_library, shape, count, dtype, device):  # noqa: F811
    """Of both layouts, to one rounding."""
    if device == "cpu" and shape[-1] == 160:
        shape, count = (1, 16, 160, 160), 3000
    maps, points = random_call(shape, count, dtype, device)
    right = expected_values(maps, points)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        found = sample_features(maps, points)
        assert found.dtype == dtype and not found.requires_grad
        assert relative_error(found, right) < TOLERANCE[dtype]
        last = sample_features(maps.contiguous(memory_format=torch.channels_last), points)
    torch.testing.assert_close(last, found, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_without_a_kernel_pytorch_samples_in_float32():
    maps, points = random_call((2, 8, 6, 5), 30)
    for each in (maps, maps.double(), maps.bfloat16()):
        found = sample_features(each, points)
        assert torch.equal(found, sample_maps(each.float(), points)) and found.is_contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sample_features(maps.half(), points), sample_maps(maps.half().float(), points).bfloat16())
    logits = maps[:, 0].double()
    assert torch.equal(sample_logits(logits, points), sample_maps(logits[:, None], points)[:, 0])


@NEEDS_GPU
def test_features_of_other_types_and_channels(compiled):  # noqa: F811
    """float32 under autocast; and what has no kernel."""
    maps, points = random_call((2, 16, 12, 9), 100, device="cuda")
    expected = expected_values(maps, points)
    assert sample_features(maps, points).transpose(1, 2).is_contiguous()
    with torch.autocast("cuda", torch.bfloat16):
        assert relative_error(sample_features(maps, points), expected) < TOLERANCE[torch.bfloat16]
        assert relative_error(sample_features(maps[:, :5], points), expected[:, :5]) < TOLERANCE[torch.bfloat16]
    for odd in (maps.double(), maps[:, :5]):
        assert sample_features(odd, points).dtype == torch.float32
        assert relative_error(sample_features(odd, points), expected[:, : odd.shape[1]]) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "count"), LOGITS)
def test_logits_and_their_gradient(compiled_library, shape, count, device):  # noqa: F811
    logits, points = random_call(shape, count, device=device)
    grad = torch.randn(shape[0], count, generator=torch.Generator().manual_seed(2)).to(device)
    right = expected_logits(logits, points, grad)
    for found, expected in zip(with_gradient(sample_logits, logits, points, grad), right, strict=True):
        assert found.dtype == torch.float32 and relative_error(found, expected) < 2e-5
    found = OPERATORS.sample_logits_backward(grad, points, *shape[1:])
    assert relative_error(found, right[1]) < 2e-5


@NEEDS_GPU
def test_memory_may_begin_anywhere(compiled):  # noqa: F811
    logits, points = random_call((3, 16, 12), 500, device="cuda")
    shifted = [F.pad(x.flatten(), (1, 0))[1:].view_as(x) for x in (logits, points)]
    assert torch.equal(OPERATORS.sample_logits(*shifted), OPERATORS.sample_logits(logits, points))
    maps, points = random_call((1, 16, 6, 5), 50, device="cuda")
    maps = maps.contiguous(memory_format=torch.channels_last)
    storage = F.pad(maps.permute(0, 2, 3, 1).flatten(), (1, 0))[1:]
    shifted = storage.view(1, 6, 5, 16).permute(0, 3, 1, 2)
    assert torch.equal(OPERATORS.sample_features(shifted, points), OPERATORS.sample_features(maps, points))


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_that_are_no_numbers_stay_where_they_are(compiled_library, device):  # noqa: F811
    logits, points = random_call((2, 8, 8), 300, device=device)
    grad = torch.ones(2, 300, device=device)
    grad[1] = torch.nan
    _, found = with_gradient(sample_logits, logits, points, grad)
    assert found[0].isfinite().all() and found[1].isnan().any()


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_sample(device):
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    assert sample_features(zeros(2, 8, 4, 4), zeros(2, 0, 2)).shape == (2, 8, 0)
    assert sample_logits(zeros(2, 4, 4), zeros(2, 0, 2)).shape == (2, 0)
    logits = zeros(0, 4, 4).requires_grad_()
    sample_logits(logits, zeros(0, 5, 2)).sum().backward()
    assert logits.grad is not None and logits.grad.shape == (0, 4, 4)


def test_wrong_arguments_are_named():
    maps, points = random_call((2, 8, 4, 4), 5)
    for function, call, message in (
        (sample_features, (maps[0], points), "maps must have shape"),
        (sample_features, (maps, points[:1]), r"points must have shape \(B=2, N, 2\), got \(1, 5, 2\)"),
        (sample_logits, (maps, points), "logits must have shape"),
        (sample_logits, (maps[:, 0], points[0]), r"points must have shape \(M=2, N, 2\), got \(5, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*call)


@NEEDS_GPU
def test_direct_calls_of_the_operators_are_checked_too(compiled):  # noqa: F811
    maps, points = random_call((2, 8, 4, 4), 5, device="cuda")
    last, logits = maps.contiguous(memory_format=torch.channels_last), maps[:, 0].contiguous()
    grad = torch.zeros(2, 5, device="cuda")
    features, values, backward = (
        getattr(OPERATORS, name) for name in ("sample_features", "sample_logits", "sample_logits_backward")
    )
    for function, call, message in (
        (features, (maps, points), "channels last"),
        (features, (last.double(), points), "maps must be Float, BFloat16 or Half, got Double"),
        (features, (last[:, :6].contiguous(memory_format=torch.channels_last), points), "multiple of 4 channels"),
        (features, (last, points.double()), "points must be Float"),
        (features, (last, points.cpu()), "points must be Float, contiguous and on cuda"),
        (values, (logits[..., :3], points), "logits must be Float and contiguous"),
        (values, (logits.double(), points), "logits must be Float"),
        (values, (logits, points[:1]), "points must have shape"),
        (values, (logits[:, :0], points), "maps must have 1 to"),
        (backward, (grad.double(), points, 4, 4), "grad_values must be Float"),
        (backward, (grad[:, :4].contiguous(), points, 4, 4), "points must be as many as grad_values"),
        (backward, (grad, points, 4, 0), "maps must have 1 to"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*call)


@NEEDS_GPU
def test_deterministic_algorithms_refuse_the_gradient_as_pytorchs(compiled):  # noqa: F811
    logits, points = random_call((2, 8, 8), 50, device="cuda")
    grad = torch.ones(2, 50, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        for function in (sample_logits, lambda x, at: sample_maps(x[:, None], at)[:, 0]):
            with pytest.raises(RuntimeError, match="deterministic"):
                with_gradient(function, logits, points, grad)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", DEVICES)
def test_points_have_no_gradient_from_the_operator_and_there_is_no_second_order(compiled_library, device):  # noqa: F811
    logits, points = random_call((2, 8, 8), 50, device=device)
    with pytest.raises(RuntimeError, match="no gradient for points"):
        OPERATORS.sample_logits(logits, points.requires_grad_()).sum().backward()
    sample_logits(logits, points).sum().backward()  # PyTorch's
    assert points.grad is not None
    logits, points = logits.requires_grad_(), points.detach()
    values = OPERATORS.sample_logits(logits, points)
    grad = torch.ones_like(values, requires_grad=True)
    (first,) = torch.autograd.grad(values, logits, grad, create_graph=True)
    with pytest.raises(RuntimeError, match="no second-order gradients"):
        first.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_and_one_graph(compiled_library, device):  # noqa: F811
    maps, points = random_call((2, 8, 7, 5), 50, device=device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    logits = maps[:, 0].contiguous().requires_grad_()
    torch.library.opcheck(OPERATORS.sample_features, (maps, points))
    torch.library.opcheck(OPERATORS.sample_logits, (logits, points))
    torch.library.opcheck(OPERATORS.sample_logits_backward, (torch.ones(2, 50, device=device), points, 7, 5))
    traced = torch.compile(lambda *call: OPERATORS.sample_logits(*call) + 1, fullgraph=True, backend="aot_eager")
    values = OPERATORS.sample_logits(logits, points)
    torch.testing.assert_close(traced(logits, points), values + 1)
    grads = [torch.autograd.grad(each.sum(), logits)[0] for each in (traced(logits, points), values)]
    torch.testing.assert_close(*grads)


@NEEDS_GPU
def test_a_cuda_graph_can_hold_them(compiled):  # noqa: F811
    for shape in ((3, 40, 40), (3, 256, 256)):
        logits, points = random_call(shape, 4000, device="cuda")
        grad = torch.randn(3, 4000, device="cuda")
        maps, _ = random_call((3, 16, 40, 40), 1, torch.bfloat16, "cuda")

        def run(maps=maps, logits=logits, points=points, grad=grad) -> tuple[Tensor, ...]:
            with torch.autocast("cuda", torch.bfloat16):
                return sample_features(maps, points), *with_gradient(sample_logits, logits, points, grad)

        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run()
        for each in (maps, logits, points, grad):
            each.copy_(each.flip(0))
        graph.replay()
        right = (expected_values(maps, points), *expected_logits(logits, points, grad))
        for ours, expected, tolerance in zip(found, right, (TOLERANCE[torch.bfloat16], 2e-5, 2e-5), strict=True):
            assert relative_error(ours, expected) < tolerance
