#!/usr/bin/env python
"""Times of deformable attention, forward and backward, for every available backend, beside the memory-traffic floor.

python tools/benchmark_ops.py                      the GPU if there is one, else the CPU
python tools/benchmark_ops.py --device cpu --batch 1

The floor is the time that a plain copy takes to move the bytes that must be moved once: every input read, every
output written. Two kinds of samples are timed: "encoder", every token looking around its own place with the offsets
that the layer starts training with plus noise, and "uniform", samples anywhere in the image, the worst case for
caches. Backends take turns within one run, and medians are shown.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mask2former_ops import (
    available_backends,
    ms_deform_attn,
    ms_deform_attn_fused,
    sampling_locations_from_offsets,
    set_backend,
)
from usg_psg.utils.program import one_line_errors
from usg_psg_cli.arguments import positive_integer

HEADS, WIDTH, POINTS = 8, 32, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_inputs(args: argparse.Namespace, batch: int, samples: str, dtype: torch.dtype) -> dict[str, Tensor]:
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


def times_of(functions: dict[str, Callable[[], object]], device: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of each function; the functions take turns so that a busy moment hits all alike."""
    found: dict[str, list] = {name: [] for name in functions}
    for round_number in range(repeats + 3):
        for name, function in functions.items():
            if device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                # Filling the queue first keeps the host's own time out of the measurement.
                torch.cuda._sleep(1_000_000)
                start.record()
                function()
                end.record()
                found[name].append((start, end))
            else:
                begin = time.perf_counter()
                function()
                found[name].append(1e3 * (time.perf_counter() - begin))
        if round_number < 3:  # warm-up
            found = {name: [] for name in functions}
    if device == "cuda":
        torch.cuda.synchronize()
        found = {name: [start.elapsed_time(end) for start, end in pairs] for name, pairs in found.items()}
    return {name: statistics.median(values) for name, values in found.items()}


def bandwidth(device: str, repeats: int) -> float:
    """Bytes per millisecond of a plain copy, read and written bytes counted."""
    source = torch.ones((2**28 if device == "cuda" else 2**25,), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / times_of({"copy": lambda: target.copy_(source)}, device, repeats)["copy"]


def variants(args: argparse.Namespace, call: dict[str, Tensor], dtype: torch.dtype) -> dict[str, dict]:
    """Forward and backward functions of each backend and entry, with the bytes each must move."""
    value, grad = call["value"], call["grad"]
    # The value and output exist once forward; backward reads both roles' tensors and writes the value's gradient.
    forward_fixed, backward_fixed = value.nbytes + grad.nbytes, 2 * value.nbytes + grad.nbytes
    plain = {"inputs": (value, call["locations"], call["weights"]), "constant": 0}
    plain["function"] = lambda v, x, w: ms_deform_attn(v, args.levels, None, x, w)
    fused = {"inputs": (value, call["offsets"], call["logits"]), "constant": call["reference"].nbytes}
    fused["function"] = lambda v, o, a: ms_deform_attn_fused(v, args.levels, call["reference"], o, a)
    found = {}
    for backend in available_backends(args.device):
        if backend == "upstream" and dtype != torch.float32:
            continue
        for entry, parts in (("op", plain), ("fused", fused)):
            if entry == "fused" and backend == "upstream":
                continue
            inputs = [x.detach().clone().requires_grad_() for x in parts["inputs"]]
            set_backend(backend)
            output = parts["function"](*inputs)

            def forward(backend=backend, parts=parts, inputs=inputs):
                set_backend(backend)
                with torch.no_grad():
                    parts["function"](*inputs)

            def backward(output=output, inputs=inputs):
                torch.autograd.grad(output, inputs, grad, retain_graph=True)

            points = inputs[1].nbytes + inputs[2].nbytes
            found[f"{backend} {entry}"] = {
                "forward": forward,
                "backward": backward,
                "forward_bytes": forward_fixed + points + parts["constant"],
                "backward_bytes": backward_fixed + 2 * points + parts["constant"],
            }
    return found


def parse_levels(text: str) -> list[tuple[int, int]]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(,[1-9]\d*x[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"expected HxW,HxW,..., got {text!r}")
    return [tuple(int(size) for size in level.split("x")) for level in text.split(",")]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--batch", type=positive_integer, nargs="+", help="images (default: 16 and 1 on a GPU, 1 on a CPU)"
    )
    parser.add_argument("--levels", type=parse_levels, default=[(20, 20), (40, 40), (80, 80)], help="HxW of each level")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: fp32 and bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--samples", nargs="+", default=["encoder", "uniform"], choices=("encoder", "uniform"))
    parser.add_argument("--repeats", type=positive_integer, help="timed rounds (default: 50 on a GPU, 7 on a CPU)")
    parser.add_argument("--threads", type=positive_integer, help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args(argv)
    gpu = args.device == "cuda"
    args.batch = args.batch or ([16, 1] if gpu else [1])
    args.dtypes = args.dtypes or (["fp32", "bf16"] if gpu else ["fp32"])
    args.repeats = args.repeats or (50 if gpu else 7)
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    copy = bandwidth(args.device, args.repeats)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; copy {copy / 1e9:.3f} TB/s; levels {args.levels}; milliseconds")
    head = "images samples  type  backend           forward   floor  backward   floor"
    print(head + "\n" + "-" * len(head))
    rows = []
    for batch in args.batch:
        for samples in args.samples:
            for dtype in args.dtypes:
                found = variants(args, make_inputs(args, batch, samples, DTYPES[dtype]), DTYPES[dtype])
                forward = times_of({k: v["forward"] for k, v in found.items()}, args.device, args.repeats)
                backward = times_of({k: v["backward"] for k, v in found.items()}, args.device, args.repeats)
                for key, parts in found.items():
                    row = {
                        "images": batch,
                        "samples": samples,
                        "dtype": dtype,
                        "backend": key,
                        "forward_ms": forward[key],
                        "forward_floor_ms": parts["forward_bytes"] / copy,
                        "backward_ms": backward[key],
                        "backward_floor_ms": parts["backward_bytes"] / copy,
                    }
                    rows.append(row)
                    print(
                        f"{batch:6} {samples:8} {dtype:5} {key:15} {row['forward_ms']:9.3f} "
                        f"{row['forward_floor_ms']:7.3f} {row['backward_ms']:9.3f} {row['backward_floor_ms']:7.3f}",
                        flush=True,
                    )
    if args.json:
        machine = {"device": name, "torch": torch.__version__, "copy_bytes_per_ms": copy, "levels": args.levels}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
