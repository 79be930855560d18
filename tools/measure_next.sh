#!/usr/bin/env bash
# Before this branch is merged: what its operators and its averaging of gradients are worth, beside the state before.
#
#   tools/measure_next.sh OUTPUT_FOLDER PART...     parts: build tests tests2 parts train scaling sanitize
#
# BASE is a checkout of the state before; `train` (one GPU) and `scaling` (1, 2, 4 GPUs) run it first, in the same call. MODES
# are ways to run the network, LIMIT the seconds of a measurement, BUILD_ARGS as of measure_gpu.sh. Not run yet.
set -uo pipefail
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 STEPS=${STEPS:-60} LIMIT=${LIMIT:-400}
here=$PWD BASE=${BASE:-} PY=${PY:-python3}
build() {
    tools/measure_gpu.sh "$OUT" build
    $PY -c "import mask2former_ops.backends as b; print(b.compiled_status()); import torch; \
print([torch._C._dispatch_has_kernel_for_dispatch_key('mask2former_ops::' + n, 'CUDA') for n in ('least_certain', 'convnext_block')])"
}
tests() {
    timeout 500 $PY -m pytest --noconftest -q -rf tests/ops/test_least_certain.py tests/ops/test_convnext_block.py
    timeout 300 $PY -m pytest -q -rf tests/modeling/test_frozen_convnext.py tests/modeling/test_parts.py tests/losses/test_criteria.py \
        tests/modeling/test_cuda_graphs.py tests/engine/test_step_runner.py tests/modeling/test_compile.py tests/losses/test_matcher.py \
        tests/inference
}
tests2() { timeout 300 $PY -m pytest -q -rfs tests/engine/test_averaging.py; }
parts() {
    cat > /tmp/parts_trunk.py <<'P'
import torch, timm, torch.nn as nn
from torch.profiler import profile, ProfilerActivity
from usg_psg.modeling.frozen_convnext import FrozenBlock
from mask2former_ops import least_certain
from mask2former_ops.reference import least_certain_reference

def graphed(f):
    s = torch.cuda.Stream()
    with torch.cuda.stream(s), torch.no_grad():
        for _ in range(3): f()
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(g): f()
    return g

def ms(f, n=50):
    g = graphed(f)
    for _ in range(5): g.replay()
    a, b = torch.cuda.Event(True), torch.cuda.Event(True)
    a.record()
    for _ in range(n): g.replay()
    b.record(); torch.cuda.synchronize()
    return a.elapsed_time(b) / n, g

print(torch.__version__, torch.cuda.get_device_name())
trunk = timm.create_model("convnext_large").eval().cuda()
total = {}
for stage, (size, depth) in enumerate(zip((160, 80, 40, 20), (3, 3, 27, 3))):
    block = trunk.stages[stage].blocks[1]; block.gamma = None
    for p in block.parameters(): p.requires_grad_(False)
    block = block.bfloat16().to(memory_format=torch.channels_last)
    x = torch.randn(16, block.conv_dw.in_channels, size, size, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    frozen = FrozenBlock(block)
    compiled = torch.compile(block)
    with torch.no_grad(): print("difference", ((frozen(x) - block(x)).float().norm() / block(x).float().norm()).item())
    for name, f in (("timm", block), ("inductor", compiled), ("operator", frozen)):
        t, g = ms(lambda: f(x)); total[name] = total.get(name, 0) + t * depth
        print(f"stage {stage} {size}x{size} {name}: {t:.3f} ms a block, {t * depth:.2f} of {depth}")
    t = torch.randn(x.numel() // x.shape[1], x.shape[1], device="cuda", dtype=torch.bfloat16)
    w1, b1, w2, b2 = frozen.fc1_weight.t(), frozen.fc1_bias, frozen.fc2_weight.t(), frozen.fc2_bias
    h = torch.addmm(b1, t, w1)
    for name, f2 in {"fc1 + GELU inside": lambda: torch._addmm_activation(b1, t, w1, use_gelu=True), "fc1": lambda: torch.addmm(b1, t, w1),
                     "GELU alone": lambda: nn.functional.gelu(h), "fc2": lambda: torch.addmm(b2, h, w2), "add": lambda: t.add_(t)}.items():
        print(f"   {name}: {ms(f2)[0]:.4f} ms")
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        for _ in range(10): g.replay()
        torch.cuda.synchronize()
    for e in sorted(p.key_averages(), key=lambda e: -e.device_time_total)[:6]:
        print(f"   {e.device_time_total / 10 / 1000:.4f} ms {e.key[:110]}")
print("all blocks, ms:", {k: round(v, 2) for k, v in total.items()})
for masks in (280, 1120):
    logits = torch.randn(masks, 10, 10, device="cuda"); logits = nn.functional.interpolate(logits[:, None], (160, 160), mode="bilinear")[:, 0].contiguous() * 5
    points = torch.rand(masks, 37632, 2, device="cuda")
    print(masks, "masks, ms: PyTorch %.3f, operator %.3f" % (ms(lambda: least_certain_reference(logits, points, 9408), 10)[0], ms(lambda: least_certain(logits, points, 9408), 10)[0]))
P
    timeout 400 $PY /tmp/parts_trunk.py 2>&1 | tee "$OUT/parts.txt"
}
train() { both train; }
scaling() { both scaling; }
both() {
    for tree in $BASE "$here"; do
        (cd "$tree" && PYTHONPATH=$tree:$PYTHONPATH MODES=${MODES:-kernels+graphs} tools/measure_gpu.sh "$OUT/$([ "$tree" = "$here" ] && echo after || echo before)" "$1")
    done
}
sanitize() {
    for tool in memcheck racecheck synccheck; do
        timeout 200 compute-sanitizer --tool $tool --error-exitcode 9 $PY -m pytest --noconftest -q tests/ops/test_least_certain.py tests/ops/test_convnext_block.py \
            -k "(least_certain_are_chosen and cuda and not 37632) or half_types or ties or (test_numbers and not shape11 and not shape5)" 2>&1 | tail -4
    done
}
for name in "$@"; do echo "== $name $(date +%T)"; $name; done
