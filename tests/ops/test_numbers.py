"""The numbers: every backend against the definition in float64, forward and backward.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import pytest
import torch

from mask2former_ops import (
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_reference,
    sampling_locations_from_offsets,
)
from mask2former_ops.deformops import ms_deform_attn_deformops

from .cases import (
    DEVICES,
    EVERY_BACKEND,
    GPU_KERNELS,
    KERNELS,
    SHAPES,
    Shape,
    compiled,  # noqa: F401
    compiled_library,  # noqa: F401
    device,  # noqa: F401
    random_call,
    random_fused_call,
    relative_error,
    sum_over_pixels,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)
NAMES = ("output", "value", "locations", "weights")


def results(function, inputs, grad_output):
    """Output and gradients of all inputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    return (output, *torch.autograd.grad(output, inputs, grad_output.to(output.device, output.dtype)))


def as_double(tensors):
    return [x.detach().cpu().double() for x in tensors]


def grad_output_for(value, queries, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(value.shape[0], queries, value.shape[2] * value.shape[3], generator=generator).to(value.dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_is_the_definition(shape):
    inputs = random_call(shape, torch.float64)
    grad_output = grad_output_for(inputs[0], inputs[1].shape[1])
    found = results(lambda v, x, w: ms_deform_attn_reference(v, shape.levels, x, w), inputs, grad_output)
    expected = results(lambda v, x, w: sum_over_pixels(v, shape.levels, x, w), inputs, grad_output)
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert relative_error(a, b) < 1e-12, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_deformops_is_called_as_it_wants(shape):
    """Its PyTorch code, since its kernels need a GPU."""
    pytest.importorskip("deformops")
    inputs = random_call(shape, torch.float32)
    grad_output = grad_output_for(inputs[0], inputs[1].shape[1])
    found = results(lambda v, x, w: ms_deform_attn_deformops(v, shape.levels, x, w), inputs, grad_output)
    expected = results(lambda v, x, w: sum_over_pixels(v, shape.levels, x, w), as_double(inputs), grad_output.double())
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert relative_error(a, b) <= TOLERANCE[torch.float32], name


@pytest.mark.parametrize("device", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_op(shape, dtype, device):  # noqa: F811
    inputs = random_call(shape, dtype, device)
    grad_output = grad_output_for(inputs[0].cpu(), inputs[1].shape[1])
    found = results(lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w), inputs, grad_output)
    expected = results(lambda v, x, w: sum_over_pixels(v, shape.levels, x, w), as_double(inputs), grad_output.double())
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert relative_error(a, b) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("device", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_op(shape, dtype, device):  # noqa: F811
    value, reference, offsets, logits = random_fused_call(shape, dtype, device)
    grad_output = grad_output_for(value.cpu(), offsets.shape[1])
    found = results(
        lambda v, o, a: ms_deform_attn_fused(v, shape.levels, reference, o, a), (value, offsets, logits), grad_output
    )

    def in_steps(value, offsets, logits):
        locations = sampling_locations_from_offsets(reference.cpu().double(), offsets, shape.levels)
        return sum_over_pixels(value, shape.levels, locations, logits.flatten(3).softmax(-1).view_as(logits))

    expected = results(in_steps, as_double((value, offsets, logits)), grad_output.double())
    for name, a, b in zip(NAMES, found, expected, strict=True):
        # A softmax over one sample has no gradient, so there is no norm to be relative to.
        assert relative_error(a, b) <= TOLERANCE[dtype] or (b.norm() < 1e-9 and a.norm() < 1e-5), name


@pytest.mark.parametrize("device", EVERY_BACKEND, indirect=True)
@pytest.mark.parametrize("width", [32, 20])
def test_a_value_may_have_its_heads_and_channels_on_one_axis(width, device):  # noqa: F811
    shape = Shape(((3, 4), (2, 2)), width=width)
    value, reference, offsets, logits = random_fused_call(shape, torch.float32, device)
    grad_output = grad_output_for(value.cpu(), offsets.shape[1])

    def call(value, offsets, logits):
        return ms_deform_attn_fused(value, shape.levels, reference, offsets, logits)

    expected = results(call, (value, offsets, logits), grad_output)
    found = results(call, (value.flatten(2), offsets, logits), grad_output)
    assert found[1].shape == value.flatten(2).shape
    for name, a, b in zip(NAMES, found, expected, strict=True):
        torch.testing.assert_close(a.view_as(b), b, msg=name)
    with pytest.raises(ValueError, match="value must have shape"):
        call(value.flatten(2)[..., 1:], offsets, logits)
    with pytest.raises(ValueError, match="value must have shape"):
        call(value.flatten(2), offsets[:, :, :0], logits[:, :, :0])


@pytest.mark.parametrize("device", EVERY_BACKEND, indirect=True)
def test_borders_and_outside(device):  # noqa: F811
    height, width = 3, 5
    x = torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, width - 1.0, width - 0.5, float(width), 1e9])
    y = torch.tensor([-1.0, -0.25, 0.0, 1.0, height - 1.0, height - 0.75, float(height)])
    grid = torch.cartesian_prod(x, y)
    locations = ((grid + 0.5) / torch.tensor([width, height])).view(1, -1, 1, 1, 1, 2)
    value = torch.randn(1, height * width, 1, 32)
    weights = torch.ones(locations.shape[:-1])
    found = ms_deform_attn(value.to(device), [(height, width)], [0], locations.to(device), weights.to(device))
    expected = sum_over_pixels(value.double(), [(height, width)], locations.double(), weights.double())
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_locations_that_are_not_finite_count_as_outside(compiled, dtype, device):  # noqa: F811
    shape = Shape(((4, 4),))
    value, locations, weights = random_call(shape, dtype, device)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38], device=device)
    locations = locations.clone()
    locations[:, :4, 0, 0, 0, 0] = bad.to(locations.dtype)
    clean = torch.where(locations.isfinite(), locations, 100.0)
    grad_output = torch.ones(2, 7, 64, dtype=dtype)
    found = results(
        lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w), (value, locations, weights), grad_output
    )
    expected = results(
        lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w), (value, clean, weights), grad_output
    )
    for name, a, b in zip(NAMES, found, expected, strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [32, 20])
@pytest.mark.parametrize("fused", [False, True])
def test_gradcheck(compiled, fused, width, device):  # noqa: F811
    shape = Shape(((3, 4), (2, 2)), batch=1, heads=2, width=width, queries=3, points=2)
    if fused:
        value, reference, offsets, logits = random_fused_call(shape, torch.float64, device)
        inputs = [value, offsets, logits]
        function = lambda v, o, a: ms_deform_attn_fused(v, shape.levels, reference, o, a)  # noqa: E731
    else:
        inputs = random_call(shape, torch.float64, device)
        function = lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w)  # noqa: E731
    inputs = [x.requires_grad_() for x in inputs]
    # Sums of atomic additions come in any order on a GPU.
    assert torch.autograd.gradcheck(function, inputs, nondet_tol=1e-12 if device == "cuda" else 0.0)


@pytest.mark.parametrize("device", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_samples_on_pixel_centres(fused, dtype, device):  # noqa: F811
    """Where rounding decides on the cell, all passes of the sorted backward must find the same one.

    A thread of it takes more than one query of these 400. Gradients with respect to locations jump here and are left
    out.
    """
    shape = Shape(((7, 9), (20, 20)), queries=400)
    value, reference, offsets, logits = random_fused_call(shape, dtype, device)
    offsets = offsets.floor()
    locations = sampling_locations_from_offsets(reference, offsets, shape.levels)
    grad_output = grad_output_for(value.cpu(), shape.queries)

    def in_steps(value, points, weights):
        if fused:
            points = sampling_locations_from_offsets(reference.cpu().double(), points, shape.levels)
            weights = weights.flatten(3).softmax(-1).view_as(weights)
        return sum_over_pixels(value, shape.levels, points, weights)

    if fused:
        inputs = (value, offsets, logits)
        function = lambda v, o, a: ms_deform_attn_fused(v, shape.levels, reference, o, a)  # noqa: E731
    else:
        inputs = (value, locations, logits.to(locations.dtype))
        function = lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w)  # noqa: E731
    found = results(function, inputs, grad_output)
    expected = results(in_steps, as_double(inputs), grad_output.double())
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert name == "locations" or relative_error(a, b) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("device", KERNELS, indirect=True)
def test_many_samples_in_one_cell(device):  # noqa: F811
    """All samples of a level in one cell: the longest possible runs of the sorted backward."""
    shape = Shape(((6, 6), (12, 12)), batch=1, heads=1, queries=700)
    value, locations, weights = random_call(shape, torch.float32, device)
    locations = torch.full_like(locations, 0.4) + torch.rand_like(locations) * 0.01
    grad_output = grad_output_for(value.cpu(), 700)
    inputs = (value, locations, weights)
    found = results(lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w), inputs, grad_output)
    expected = results(lambda v, x, w: sum_over_pixels(v, shape.levels, x, w), as_double(inputs), grad_output.double())
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert relative_error(a, b) <= 1e-5, name


@pytest.mark.parametrize("device", [GPU_KERNELS[0]], indirect=True)
@pytest.mark.parametrize("shape", [Shape(((9, 11),), batch=1, heads=2, queries=9000, points=8)], ids=str)
def test_more_samples_than_shared_memory_orders(shape, device):  # noqa: F811
    """The sort numbers up to 65,536 samples of a level in 16 bits; beyond, it writes 32 bits without shared memory."""
    inputs = random_call(shape, torch.float32, device)
    grad_output = grad_output_for(inputs[0].cpu(), 9000)
    found = results(lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w), inputs, grad_output)
    expected = results(lambda v, x, w: sum_over_pixels(v, shape.levels, x, w), as_double(inputs), grad_output.double())
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert relative_error(a, b) <= 1e-5, name


@pytest.mark.parametrize("device", [GPU_KERNELS[0]], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_memory_of_the_backward(fused, dtype, device):  # noqa: F811
    """Its gradients included, no more than deformops takes in bfloat16: 366 MiB for 16 images of the pixel decoder."""
    shape = Shape(((20, 20), (40, 40), (80, 80)), batch=4, heads=8, queries=None)
    value, *points = (random_fused_call if fused else random_call)(shape, dtype, device)
    inputs = [x.requires_grad_() for x in (value, *points[-2:])]
    if fused:
        output = ms_deform_attn_fused(value, shape.levels, points[0], *inputs[1:])
    else:
        output = ms_deform_attn(value, shape.levels, None, *inputs[1:])
    grad_output = torch.ones_like(output)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(output, inputs, grad_output)
    assert torch.cuda.max_memory_allocated() - before <= shape.batch * 366 * 2**20 / 16


@pytest.mark.parametrize("device", GPU_KERNELS, indirect=True)
def test_level_too_large_for_the_sort(device):  # noqa: F811
    shape = Shape(((400, 300), (20, 20)), batch=1, heads=1, queries=300)
    inputs = random_call(shape, torch.float32, "cuda")
    grad_output = grad_output_for(inputs[0].cpu(), 300)
    found = results(lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w), inputs, grad_output)
    expected = results(
        lambda v, x, w: ms_deform_attn_reference(v, shape.levels, x, w), as_double(inputs), grad_output.double()
    )
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert relative_error(a, b) <= 2e-5, name  # coordinates up to 400 in float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_views_that_are_not_aligned(compiled, dtype):  # noqa: F811
    shape = Shape(((4, 5), (9, 7)), width=32)
    call = random_call(shape, dtype, "cuda")
    shifted = []
    for tensor in call:
        storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device="cuda")
        shifted.append(storage[1:].view(tensor.shape).copy_(tensor))
        assert shifted[-1].is_contiguous() and shifted[-1].data_ptr() % 16
    grad_output = torch.randn(2, 7, 64, dtype=dtype)
    function = lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w)  # noqa: E731
    output = function(*shifted)
    torch.testing.assert_close(output, function(*call))
    raw = torch.ops.mask2former_ops.ms_deform_attn_backward
    flat = [size for level in shape.levels for size in level]
    found = raw(grad_output.cuda(), shifted[0], flat, *shifted[1:])
    expected = raw(grad_output.cuda(), call[0], flat, *call[1:])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("device", GPU_KERNELS, indirect=True)
def test_runs_on_the_current_stream(device):  # noqa: F811
    shape = Shape(((40, 40), (80, 80)), batch=4, heads=8, queries=None)
    inputs = random_call(shape, torch.float32, "cuda")
    expected = ms_deform_attn(inputs[0] + 1, shape.levels, None, *inputs[1:])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        value = inputs[0] + 1
        output = ms_deform_attn(value, shape.levels, None, *inputs[1:])
    stream.synchronize()
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("device", GPU_KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replays_as_a_cuda_graph(dtype, device):  # noqa: F811
    shape = Shape(((4, 5), (9, 7)))
    inputs = [x.requires_grad_() for x in random_call(shape, dtype, device)]
    grad_output = grad_output_for(inputs[0].cpu(), 7).to(device)

    def step():
        output = ms_deform_attn(inputs[0], shape.levels, None, *inputs[1:])
        return (output.detach(), *torch.autograd.grad(output, inputs, grad_output))

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        step()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        found = step()
    for own, new in zip(inputs, random_call(shape, dtype, device, seed=1), strict=True):
        own.detach().copy_(new)
    graph.replay()
    for name, a, b in zip(NAMES, found, step(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("device", EVERY_BACKEND, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_and_no_images_or_queries(dtype, device):  # noqa: F811
    shape = Shape(((4, 5), (9, 7)))
    call = random_call(shape, dtype, device)
    grad_output = grad_output_for(call[0].cpu(), 7)
    function = lambda v, x, w: ms_deform_attn(v, shape.levels, None, x, w)  # noqa: E731
    views = lambda v, x, w: function(*(y.transpose(0, 1).contiguous().transpose(0, 1) for y in (v, x, w)))  # noqa: E731
    for name, a, b in zip(NAMES, results(views, call, grad_output), results(function, call, grad_output), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for few in ([x[:0] for x in call], [call[0], call[1][:, :0], call[2][:, :0]]):
        output, *grads = results(function, few, grad_output[: len(few[0]), : few[1].shape[1]])
        assert output.dtype == dtype and output.shape == (len(few[0]), few[1].shape[1], 64)
        assert not any(x.count_nonzero() for x in grads)
