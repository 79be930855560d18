"""Masks and owners of pixels: the kernel and PyTorch's way beside a restatement in float64, arguments, tracing.

On a GPU: python -m pytest --noconftest tests/ops
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mask2former_ops import query_masks
from mask2former_ops.reference import query_masks_reference

from .cases import DEVICES, NEEDS_GPU, compiled, compiled_library  # noqa: F401

OPERATOR = torch.ops.mask2former_ops.query_masks
# (Q, h, w), padded, image, output: one number, one row, one column; odd widths; all of it, less, enlarged, shrunk
CASES = [
    ((1, 1, 1), (1, 1), (1, 1), (1, 1)),
    ((3, 1, 9), (4, 36), (4, 33), (4, 33)),
    ((3, 9, 1), (36, 4), (35, 3), (77, 5)),
    ((5, 8, 8), (8, 8), (8, 8), (8, 8)),
    ((4, 20, 20), (10, 10), (9, 7), (9, 7)),
    ((12, 16, 24), (64, 96), (64, 96), (64, 96)),
    ((100, 16, 24), (64, 96), (60, 80), (131, 177)),
    ((300, 5, 7), (20, 28), (19, 27), (19, 27)),
    ((257, 4, 4), (16, 16), (13, 16), (30, 31)),
    ((7, 30, 20), (120, 80), (100, 77), (40, 33)),
    ((30, 160, 160), (640, 640), (640, 427), (640, 427)),
    ((10, 200, 304), (800, 1216), (800, 1199), (427, 640)),
]
# Places of the largest images are rounded to 6e-5 of their pixels, and the random logits are steep.
LOGIT_ERROR = 1e-3


def random_call(shape: tuple[int, int, int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Logits, and weights of which some exclude their query."""
    generator = torch.Generator().manual_seed(0)
    logits, weight = 3 * torch.randn(shape, generator=generator), torch.rand(shape[0], generator=generator)
    return logits.to(device), weight.where(torch.arange(shape[0]) % 3 != 1, -1).to(device)


def hat_weights(size: int, count: int) -> Tensor:
    """(count, size): how much each of `size` numbers in a row counts in each of `count` that cover the same length."""
    at = ((torch.arange(count, dtype=torch.float64) + 0.5) * size / count - 0.5).clamp(0, size - 1)
    return (1 - (at[:, None] - torch.arange(size)).abs()).clamp(min=0)


def resized(logits: Tensor, padded, image, output) -> Tensor:
    """(Q, H, W) in float64, by matrices along each axis."""
    rows, columns = (
        hat_weights(image[axis], output[axis]) @ hat_weights(logits.shape[axis + 1], padded[axis])[: image[axis]]
        for axis in range(2)
    )
    return rows @ logits.cpu().double() @ columns.T


def check(call: tuple, found: tuple[Tensor, Tensor, Tensor]) -> None:
    """What is found is right wherever rounding cannot have decided, and areas are those of what is found."""
    logits, weight, *sizes = call
    masks, owner, areas = (x.cpu() for x in found)
    count = len(logits)
    assert (masks.shape, owner.shape, areas.shape) == ((count, *sizes[2]), sizes[2], (2, count))
    assert (masks.dtype, owner.dtype, areas.dtype) == (torch.bool, torch.int64, torch.int64)
    full = resized(logits, *sizes)
    sure = full.abs() > LOGIT_ERROR
    assert torch.equal(masks & sure, (full > 0) & sure) and sure.float().mean() > 0.9
    values = full.sigmoid() * weight.cpu().double().clamp(min=0)[:, None, None]
    best, winner = values.max(dim=0)
    covered = (owner < count) & masks.gather(0, owner.clamp(max=count - 1)[None])[0]
    assert torch.equal(covered, owner < count), "nobody owns what the own mask does not cover"
    of_owner = values.gather(0, owner.clamp(max=count - 1)[None])[0]
    assert (of_owner[covered] >= best[covered] - LOGIT_ERROR / 2).all()
    runner_up = values.scatter(0, winner[None], -1).amax(dim=0)
    clear = best > runner_up + LOGIT_ERROR / 2
    by_winner = masks.gather(0, winner[None])[0] & (best > 0)
    assert clear.float().mean() > 0.9
    assert torch.equal(owner[clear], winner.masked_fill(~by_winner, count)[clear])
    assert areas[0].tolist() == [int(mask.sum()) for mask in masks]
    assert areas[1].tolist() == [int((owner == query).sum()) for query in range(count)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "padded", "image", "output"), CASES)
def test_masks_owners_and_areas(compiled_library, shape, padded, image, output, device):  # noqa: F811
    call = (*random_call(shape, device), padded, image, output)
    check(call, query_masks(*call))


@pytest.mark.parametrize(("shape", "padded", "image", "output"), CASES[5:8])
def test_some_queries_at_a_time(shape, padded, image, output, monkeypatch):
    call = (*random_call(shape), padded, image, output)
    expected = query_masks_reference(*call)
    monkeypatch.setattr("mask2former_ops.reference.MASK_PIXELS", 5 * output[0] * output[1] + 1)
    for one, other in zip(query_masks_reference(*call), expected, strict=True):
        assert torch.equal(one, other)


@NEEDS_GPU
@pytest.mark.parametrize(("shape", "padded", "image", "output"), CASES)
def test_the_kernel_and_pytorch_differ_by_rounding(compiled, shape, padded, image, output):  # noqa: F811
    call = (*random_call(shape, "cuda"), padded, image, output)
    for one, other in zip(OPERATOR(*call)[:2], query_masks_reference(*call)[:2], strict=True):
        assert (one != other).float().mean() < 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("output", [(30, 29), (41, 17)])
def test_zero_is_covered_and_the_first_of_equal_queries_owns(compiled_library, device, output):  # noqa: F811
    logits, weight = torch.zeros(9, 8, 8, device=device), torch.full((9,), 0.5, device=device)
    weight[:2] = -1
    masks, owner, areas = query_masks(logits, weight, (32, 32), (30, 29), output)
    assert masks.all() and (owner == 2).all()
    assert (areas[0] == owner.numel()).all() and areas[1].tolist() == [0, 0, owner.numel(), *[0] * 6]


@pytest.mark.parametrize("device", DEVICES)
def test_no_candidate_and_no_query(compiled_library, device):  # noqa: F811
    logits, weight = random_call((9, 8, 8), device)
    for value in (-1, 0):
        masks, owner, areas = query_masks(logits, torch.full_like(weight, value), (32, 32), (30, 29), (30, 29))
        assert (owner == 9).all() and not areas[1].any() and torch.equal(areas[0], masks.flatten(1).sum(dim=1))
    masks, owner, areas = query_masks(logits[:0], weight[:0], (32, 32), (30, 29), (30, 29))
    assert masks.shape == (0, 30, 29) and not owner.any() and areas.shape == (2, 0)


@NEEDS_GPU
def test_numbers_that_are_none_break_nothing(compiled):  # noqa: F811
    logits, weight = random_call((9, 8, 8), "cuda")
    logits[0, 2, 3], logits[1], logits[2], weight[3] = torch.nan, torch.inf, -torch.inf, torch.nan
    masks, owner, areas = OPERATOR(logits, weight, (32, 32), (30, 29), (41, 17))
    assert owner.min() >= 0 and owner.max() <= 9 and torch.equal(areas[0], masks.flatten(1).sum(dim=1))


def test_wrong_arguments_are_named():
    logits, weight = random_call((3, 4, 4))
    sizes = (16, 16), (9, 9), (20, 20)
    for call, message in (
        ((logits[0], weight, *sizes), "logits must have shape"),
        ((logits, weight[:2], *sizes), r"weight must have shape \(3,\), got \(2,\)"),
        ((logits, weight.to("meta"), *sizes), "weight must be on cpu as logits are, got meta"),
        ((logits[:, :, :0], weight, *sizes), "logits must have pixels"),
        ((logits, weight, (16, 16), (9,), (20, 20)), r"image_size must be a positive \(H, W\), got \(9,\)"),
        ((logits, weight, (16, 16), (9, 9), (0, 20)), r"output_size must be a positive \(H, W\), got \(0, 20\)"),
        ((logits, weight, (16, 16), (17, 9), (20, 20)), r"image_size must fit into \(16, 16\)"),
    ):
        with pytest.raises(ValueError, match=message):
            query_masks(*call)


@NEEDS_GPU
def test_direct_calls_of_the_operator_are_checked_too(compiled):  # noqa: F811
    logits, weight = random_call((3, 4, 4), "cuda")
    sizes = (16, 16), (9, 9), (20, 20)
    for call, message in (
        ((logits[..., :3], weight, *sizes), "logits must be Float and contiguous"),
        ((logits.half(), weight, *sizes), "logits must be Float and contiguous"),
        ((logits, weight.double(), *sizes), "weight must be Float"),
        ((logits, weight[:2], *sizes), "weight must be Float"),
        ((logits[:, :0].contiguous(), weight, *sizes), "logits must have pixels"),
        ((logits, weight, (16,), (9, 9), (20, 20)), "sizes must be pairs"),
        ((logits, weight, (16, 16), (17, 9), (20, 20)), "image_size must be positive and at most padded_size"),
        ((logits, weight, (16, 16), (9, 9), (0, 20)), "output_size must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            OPERATOR(*call)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("output", [(9, 11), (20, 13)])
def test_opcheck_and_one_graph(compiled_library, device, output):  # noqa: F811
    call = (*random_call((3, 4, 4), device), (16, 16), (9, 11), output)
    torch.library.opcheck(OPERATOR, call)
    traced = torch.compile(lambda: OPERATOR(*call)[1] + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(traced(), OPERATOR(*call)[1] + 1)


@NEEDS_GPU
def test_a_cuda_graph_can_hold_it(compiled):  # noqa: F811
    logits, weight = random_call((20, 40, 40), "cuda")
    sizes = (160, 160), (160, 133), (160, 133)
    OPERATOR(logits, weight, *sizes)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = OPERATOR(logits, weight, *sizes)
    logits.copy_(logits.flip(1))
    for _ in range(2):
        graph.replay()
        for one, other in zip(found, OPERATOR(logits, weight, *sizes), strict=True):
            assert torch.equal(one, other)
