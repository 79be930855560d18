"""Random calls of the operators, the definition as an explicit sum over pixels, and the compiled library for tests."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.cpp_extension import is_ninja_available

from mask2former_ops import backends, compilation, deformops
from mask2former_ops.reference import arithmetic_dtype

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


def _on(backend: str, device: str):
    marks = [NEEDS_GPU] if device == "cuda" else []
    return pytest.param((backend, device), id=f"{backend}-{device}", marks=marks)


# For the fixture `device`: @pytest.mark.parametrize("device", KERNELS, indirect=True)
GPU_KERNELS = [_on("compiled", "cuda"), _on("deformops", "cuda")]
KERNELS = [_on("compiled", "cpu"), *GPU_KERNELS]
EVERY_BACKEND = [_on("pytorch", "cpu"), _on("pytorch", "cuda"), *KERNELS]


@dataclass(frozen=True)
class Shape:
    """N images, levels, M heads, D channels of a head, Lq queries (None: the tokens), P points."""

    levels: tuple[tuple[int, int], ...]
    batch: int = 2
    heads: int = 2
    width: int = 32
    queries: int | None = 7
    points: int = 4

    def __str__(self) -> str:
        levels = "+".join(f"{height}x{width}" for height, width in self.levels)
        return f"b{self.batch}-{levels}-m{self.heads}-d{self.width}-q{self.queries}-p{self.points}"


SHAPES = [
    Shape(((4, 5), (9, 7))),
    Shape(((1, 1),), batch=1, heads=1, queries=1, points=1),
    Shape(((1, 1), (2, 1), (1, 3)), batch=1, points=1),
    Shape(((5, 6), (10, 12), (20, 23)), queries=None, heads=3),
    Shape(((17, 9), (8, 8)), batch=3, queries=None, heads=8, points=4),
    Shape(((6, 4),) * 8, points=8, queries=33, heads=1),
    Shape(((7, 7), (3, 3)), width=16, points=3),
    Shape(((7, 7), (3, 3)), width=64, points=2, queries=None),
    Shape(((5, 5), (4, 2)), width=128, points=5, queries=70),
    Shape(((6, 6),), width=4, heads=5),
    Shape(((6, 6), (2, 2)), width=20, points=7),
    Shape(((3, 8), (4, 4)), width=100, queries=65),
]


def random_call(shape: Shape, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """value, sampling_locations and attention_weights.

    About a quarter of the samples lie outside. None lies within 0.02 pixels of where the derivative with respect to
    the location jumps, so that rounding cannot move one to the other side.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(height * width for height, width in shape.levels)
    queries = tokens if shape.queries is None else shape.queries
    value = torch.randn(shape.batch, tokens, shape.heads, shape.width, generator=generator, dtype=torch.float64)
    grid = (shape.batch, queries, shape.heads, len(shape.levels), shape.points)
    sizes = torch.tensor([[width, height] for height, width in shape.levels], dtype=torch.float64)[:, None]
    cell = torch.floor(torch.rand(*grid, 2, generator=generator, dtype=torch.float64) * (sizes + 5)) - 3
    inside_cell = 0.02 + 0.96 * torch.rand(*grid, 2, generator=generator, dtype=torch.float64)
    locations = (cell + inside_cell + 0.5) / sizes
    weights = torch.rand(grid, generator=generator, dtype=torch.float64) - 0.2
    points_dtype = arithmetic_dtype(dtype)
    return tuple(x.to(device, kind) for x, kind in ((value, dtype), (locations, points_dtype), (weights, points_dtype)))


def random_fused_call(
    shape: Shape, dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """value, reference_points, sampling_offsets and attention_logits."""
    value, locations, _ = random_call(shape, dtype, "cpu", seed)
    generator = torch.Generator().manual_seed(seed + 1)
    batch, queries, heads, levels, points, _ = locations.shape
    sizes = torch.tensor([[width, height] for height, width in shape.levels], dtype=torch.float64)
    # On pixel centres, and offsets with two binary digits that are odd quarters: exact in bfloat16, off the jumps.
    pixels = torch.floor(torch.rand(batch, queries, levels, 2, generator=generator, dtype=torch.float64) * sizes)
    reference = (pixels + 0.5) / sizes
    offsets = torch.randint(-12, 12, (batch, queries, heads, levels, points, 2), generator=generator) / 2 + 0.25
    logits = torch.randn(batch, queries, heads, levels, points, generator=generator)
    call = (value.to(dtype), reference.to(arithmetic_dtype(dtype)), offsets.to(dtype), logits.to(dtype))
    return tuple(x.to(device) for x in call)


def sum_over_pixels(
    value: Tensor, shapes: tuple[tuple[int, int], ...], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The definition, without any interpolation routine: every pixel counts with a hat function of its distance."""
    output, start = 0, 0
    for level, (height, width) in enumerate(shapes):
        pixels = value[:, start : start + height * width].unflatten(1, (height, width))
        start += height * width
        x = sampling_locations[:, :, :, level, :, 0] * width - 0.5
        y = sampling_locations[:, :, :, level, :, 1] * height - 0.5
        columns = torch.arange(width, dtype=x.dtype, device=x.device)
        rows = torch.arange(height, dtype=x.dtype, device=x.device)
        near_x = (1 - (x[..., None] - columns).abs()).clamp(min=0)
        near_y = (1 - (y[..., None] - rows).abs()).clamp(min=0)
        weights = attention_weights[:, :, :, level]
        output = output + torch.einsum("nqmp,nqmpy,nqmpx,nyxmd->nqmd", weights, near_y, near_x, pixels)
    return output.flatten(2)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of `expected`, in float64; not a number stays not a number."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.fixture(scope="session")
def compiled_library():
    """Compiled operators: the installed ones, else compiled for this run into PyTorch's extension cache."""
    if not backends.compiled_status().devices:
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
            pytest.skip("no compiled operators and no C++ compiler")
        if not is_ninja_available():
            pytest.skip("no compiled operators and no ninja to compile them with")
        before = os.environ.get("FORCE_CUDA")
        os.environ["FORCE_CUDA"] = "1" if torch.cuda.is_available() and compilation.nvcc_release() else "0"
        os.environ["USG_PSG_OPS_JIT"] = "1"
        try:
            backends.compiled_status.cache_clear()
            backends.set_backend(None)
            assert "cpu" in backends.compiled_status().devices, backends.compiled_status().reason
        finally:
            del os.environ["USG_PSG_OPS_JIT"]
            if before is None:
                del os.environ["FORCE_CUDA"]
            else:
                os.environ["FORCE_CUDA"] = before
    return backends.compiled_status()


@pytest.fixture
def device(request):
    """Device on which the test runs, on the backend that it is parametrized with."""
    backend, name = request.param
    if backend == "compiled":
        request.getfixturevalue("compiled_library")
    if backend == "deformops" and deformops.missing():
        pytest.skip(deformops.missing())
    backends.set_backend(backend)
    yield name
    backends.set_backend(None)


@pytest.fixture
def compiled(compiled_library):
    """Runs a test on the compiled backend, whatever the environment asks for."""
    backends.set_backend("compiled")
    yield compiled_library
    backends.set_backend(None)
