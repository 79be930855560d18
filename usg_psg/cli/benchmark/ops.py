"""Times of deformable attention by backend, beside the memory-traffic floor."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mask2former_ops import (
    available_backends,
    ms_deform_attn,
    ms_deform_attn_fused,
    sampling_locations_from_offsets,
    set_backend,
)

from .measure import device_name, median_times

HEADS, WIDTH, POINTS = 8, 32, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_inputs(args: Namespace, batch: int, samples: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of one call; the queries are the tokens, as in the pixel decoder."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in args.levels)
    shape = (batch, tokens, HEADS, len(args.levels), POINTS)
    places = []
    for height, width in args.levels:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        places.append(torch.stack([x.flatten() / width, y.flatten() / height], -1))
    reference = torch.cat(places)[None, :, None].expand(batch, -1, len(args.levels), -1).contiguous()
    if samples == "encoder":
        angles = torch.arange(HEADS) * (2 * math.pi / HEADS)
        rings = torch.stack([angles.cos(), angles.sin()], -1)[:, None, None] * torch.arange(1.0, POINTS + 1)[:, None]
        offsets = rings + 0.5 * torch.randn(*shape, 2, generator=generator)
    else:
        anywhere = torch.rand(*shape, 2, generator=generator)
        sizes = torch.tensor([[width, height] for height, width in args.levels], dtype=torch.float32)
        offsets = (anywhere - reference[:, :, None, :, None]) * sizes[:, None]
    value = torch.randn(batch, tokens, HEADS, WIDTH, generator=generator)
    logits = torch.randn(shape, generator=generator)
    grad = torch.randn(batch, tokens, HEADS * WIDTH, generator=generator)
    call = {"value": value, "offsets": offsets, "logits": logits, "grad": grad}
    call = {name: tensor.to(args.device, dtype) for name, tensor in call.items()}
    call["reference"] = reference.to(args.device)
    call["locations"] = sampling_locations_from_offsets(call["reference"], call["offsets"], args.levels)
    call["weights"] = call["logits"].float().flatten(-2).softmax(-1).view(shape)
    return call


@dataclass
class Variant:
    """Forward and backward pass of a backend's function, with the bytes that each must move."""

    forward: Callable[[], object]
    backward: Callable[[], object]
    forward_bytes: int
    backward_bytes: int


def make_variant(backend: str, function: Callable, tensors: tuple, call: dict[str, Tensor], constant: int) -> Variant:
    """The function of `tensors` under a backend; `constant` bytes are read besides, in both directions."""
    inputs = [x.detach().clone().requires_grad_() for x in tensors]
    value, grad = call["value"], call["grad"]
    set_backend(backend)
    output = function(*inputs)

    def forward() -> None:
        set_backend(backend)
        with torch.no_grad():
            function(*inputs)

    points = inputs[1].nbytes + inputs[2].nbytes
    return Variant(
        forward,
        lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True),
        # The value and output exist once forward; backward reads both roles' tensors and writes the value's gradient.
        value.nbytes + grad.nbytes + points + constant,
        2 * value.nbytes + grad.nbytes + 2 * points + constant,
    )


def variants(args: Namespace, call: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Variant]:
    """Every backend and entry that there is."""
    reference, found = call["reference"], {}

    def op(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, args.levels, None, locations, weights)

    def fused(value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return ms_deform_attn_fused(value, args.levels, reference, offsets, logits)

    for backend in available_backends(args.device):
        if backend == "upstream" and dtype != torch.float32:
            continue
        inputs = (call["value"], call["locations"], call["weights"])
        found[f"{backend} op"] = make_variant(backend, op, inputs, call, 0)
        if backend != "upstream":
            inputs = (call["value"], call["offsets"], call["logits"])
            found[f"{backend} fused"] = make_variant(backend, fused, inputs, call, reference.nbytes)
    return found


def extra_memory(function: Callable[[], object]) -> float:
    """MiB of GPU memory at the peak of a call, beside what is in use before it; its results count."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def run(args: Namespace) -> None:
    """Time everything; each row is shown at once."""
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = args.device == "cuda"
    repeats = args.repeats or (50 if gpu else 7)
    if args.threads:
        torch.set_num_threads(args.threads)
    source = torch.ones(2**28 if gpu else 2**25, device=args.device)
    target = torch.empty_like(source)
    copied = median_times({"copy": lambda: target.copy_(source)}, args.device, repeats)["copy"]
    copy = 2 * source.nbytes / copied  # bytes per millisecond, read and written ones counted
    name = device_name(args.device) if gpu else f"{device_name(args.device)}, {torch.get_num_threads()} threads"
    print(f"{name}; copy {copy / 1e9:.3f} TB/s; levels {args.levels}; milliseconds")
    head = "images samples  type  backend           forward   floor  backward   floor" + ("  extra MiB" if gpu else "")
    print(head + "\n" + "-" * len(head))
    rows = []
    for batch in args.batch or ([16, 1] if gpu else [1]):
        for samples in args.samples:
            for dtype in args.dtypes or (["fp32", "bf16"] if gpu else ["fp32"]):
                found = variants(args, make_inputs(args, batch, samples, DTYPES[dtype]), DTYPES[dtype])
                row = {"images": batch, "samples": samples, "dtype": dtype}
                forward = median_times({k: v.forward for k, v in found.items()}, args.device, repeats)
                backward = median_times({k: v.backward for k, v in found.items()}, args.device, repeats)
                for key, variant in found.items():
                    times = (forward[key], variant.forward_bytes / copy, backward[key], variant.backward_bytes / copy)
                    names = ("forward_ms", "forward_floor_ms", "backward_ms", "backward_floor_ms")
                    rows.append({**row, "backend": key, **dict(zip(names, times, strict=True))})
                    figures = "{:9.3f} {:7.3f} {:9.3f} {:7.3f}".format(*times)
                    if gpu:
                        rows[-1]["backward_extra_mib"] = extra_memory(variant.backward)
                        figures += f" {rows[-1]['backward_extra_mib']:10.0f}"
                    print(f"{batch:6} {samples:8} {dtype:5} {key:15} {figures}", flush=True)
    if args.json:
        machine = {"device": name, "torch": torch.__version__, "copy_bytes_per_ms": copy, "levels": args.levels}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
