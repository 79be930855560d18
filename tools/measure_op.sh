#!/usr/bin/env bash
# Before the new backward pass of deformable attention is merged: tests, times and memory beside the code before. Not run yet.
#
#   tools/measure_op.sh OUTPUT_FOLDER PART...     parts: build tests before after variants sanitize
#
# BASE is a checkout of the code before. To look at: benchmark_before.txt and benchmark_after.txt ("compiled op", "compiled
# fused", 16 encoder; goal 1.1 ms), measure_*.txt: backward_ms, peak_mib (goal 366), and sort, run, finish, other in microseconds.
# Estimates for an H200 (bf16 op): sort 90 to 160 (was 370), run 520 to 680 (was 750 to 840); peak 345 MiB (was 477).
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd); shift
export BASE=${BASE:-$PWD/.base} LIMIT=${LIMIT:-400} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4 here=$(cd "$(dirname "$0")/.." && pwd) out
export TORCH_CUDA_ARCH_LIST=9.0 FORCE_CUDA=1
site() { echo "/tmp/op_site_$1"; }
build_one() { # NAME CHECKOUT
    rm -rf "/tmp/op_src_$1" && cp -r "$2/mask2former_ops" "/tmp/op_src_$1" || return
    [ -z "${3:-}" ] || (cd "/tmp/op_src_$1/csrc/cuda" && before=$(cat ./*.cu* | md5sum) && eval "$3" && [ "$before" != "$(cat ./*.cu* | md5sum)" ]) ||
        { echo "$1: the edit changed nothing"; return 1; }
    MAX_JOBS=${JOBS:-8} python3 -m pip install -q --no-build-isolation --no-deps --no-index --upgrade --target "$(site "$1")" "/tmp/op_src_$1" \
        > "$out/build_$1.log" 2>&1 || { tail -n 30 "$out/build_$1.log"; return 1; }
    echo "built $1"
}
with() { # NAME CHECKOUT COMMAND...: with a build and its Python code
    (cd "$2" && PYTHONPATH="$(site "$1"):$2${PYTHONPATH:+:$PYTHONPATH}" USG_PSG_OPS_BACKEND=compiled "${@:3}")
}
build() {
    JOBS=7 build_one after "$here" & local a=$!
    JOBS=7 build_one before "$BASE" & local b=$!
    wait $a; local failed=$?; wait $b && return $failed
}
tests() {
    with after "$here" env -u USG_PSG_OPS_BACKEND timeout "$LIMIT" python3 -m pytest --noconftest -q -rfs -x tests/ops \
        --deselect tests/ops/test_convnext_block.py --deselect tests/ops/test_least_certain.py -k "not deformops"
}
benchmark() { with "$1" "$2" timeout "$LIMIT" python3 tools/benchmark.py ops --repeats 20 --batch 16 1 --json "$out/benchmark_$1.json" | tee "$out/benchmark_$1.txt"; }
before() { benchmark before "$BASE" && measure before "$BASE"; }
after() { benchmark after "$here" && measure after "$here"; }
measure() { with "$1" "$2" timeout "$LIMIT" python3 "$out/measure.py" 2>&1 | tee "$out/measure_$1.txt"; }
variants() { # each is compared with `after`, measured again in the same call
    local -A edit=(
        [uncached]='sed -i "s/PlainPoints<true>/PlainPoints<false>/" backward.cu'
        [sort1024]='sed -i "s/kSortThreads = 768/kSortThreads = 1024/; s/kSortBlocks = 2;/kSortBlocks = 1;/; s/kSortBatch = 2/kSortBatch = 4/" sorted_samples.cuh'
        [sort512]='sed -i "s/kSortThreads = 768/kSortThreads = 512/; s/kSortBatch = 2/kSortBatch = 4/" sorted_samples.cuh'
        [scattered]='sed -i "s/kMaxStaged = int64_t{1} << 16/kMaxStaged = 0/" sorted_samples.cuh'
        [run128]='sed -i "s/kLanes < 4 ? 128 : 256/128/" backward.cu'
    ) name pids=()
    for name in "${!edit[@]}"; do JOBS=3 build_one "$name" "$here" "${edit[$name]}" & pids+=($!); done
    for pid in "${pids[@]}"; do wait "$pid"; done
    for name in after "${!edit[@]}" after; do echo "-- $name"; measure "$name" "$here"; done
}
sanitize() {
    local tool
    for tool in memcheck racecheck synccheck; do
        with after "$here" timeout "$LIMIT" compute-sanitizer --tool $tool --error-exitcode 9 python3 -m pytest --noconftest -q tests/ops/test_numbers.py \
            -k "compiled-cuda and (test_op or test_fused_op) and not float64 and (b2-4x5 or b1-1x1 or d16 or d64 or d128)" || return
    done
}
cat > "$out/measure.py" <<'PY'
"""Backward of one call: median time, peak memory beside what it starts with, time of each kernel."""
import statistics, torch
from argparse import Namespace
from torch.profiler import ProfilerActivity, profile
from mask2former_ops import ms_deform_attn, ms_deform_attn_fused, backends
from usg_psg.cli.benchmark.ops import make_inputs
print(torch.cuda.get_device_name(), backends.compiled_status(), flush=True)
levels = [(20, 20), (40, 40), (80, 80)]
args = Namespace(levels=levels, device="cuda")
print("images samples queries dtype entry  forward_ms backward_ms peak_mib  sort run finish other (us)")
for images, samples, queries in ((16, "encoder", None), (16, "uniform", None), (16, "encoder", 300), (1, "encoder", None)):
    for dtype in (torch.bfloat16, torch.float32):
        call = make_inputs(args, images, samples, dtype)
        grad, reference = call["grad"], call["reference"]
        if queries:  # spread over all tokens
            pick = torch.linspace(0, call["locations"].shape[1] - 1, queries, device="cuda").long()
            for key in ("locations", "weights", "offsets", "logits"):
                call[key] = call[key][:, pick].contiguous()
            grad, reference = grad[:, pick].contiguous(), reference[:, pick].contiguous()
        for entry in ("op", "fused"):
            points = ("locations", "weights") if entry == "op" else ("offsets", "logits")
            inputs = [call[k].detach().clone().requires_grad_() for k in ("value", *points)]
            def forward():
                if entry == "op":
                    return ms_deform_attn(inputs[0], levels, None, *inputs[1:])
                return ms_deform_attn_fused(inputs[0], levels, reference, *inputs[1:])
            output = forward()
            backward = lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)
            def median(f):
                for _ in range(5): f()
                times = []
                for _ in range(30):
                    a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    a.record(); f(); b.record(); b.synchronize(); times.append(a.elapsed_time(b))
                return statistics.median(times)
            with torch.no_grad(): f = median(forward)
            b = median(backward)
            torch.cuda.synchronize(); start = torch.cuda.memory_allocated(); torch.cuda.reset_peak_memory_stats()
            backward(); peak = (torch.cuda.max_memory_allocated() - start) / 2**20
            with profile(activities=[ProfilerActivity.CUDA]) as p:
                for _ in range(10): backward()
                torch.cuda.synchronize()
            us = dict.fromkeys(("sort", "run", "finish", "other"), 0.0)
            for e in p.key_averages():
                t = e.self_device_time_total / 10
                us[next((k for k in ("sort", "run", "finish") if k + "_kernel" in e.key), "other")] += t
            print(f"{images:6} {samples:8} {queries or 8400:6} {str(dtype)[6:]:9} {entry:6} {f:9.3f} {b:9.3f} {peak:8.0f} ",
                  *(f"{v:7.0f}" for v in us.values()), flush=True)
PY
status=0
for part in "$@"; do
    declare -F "$part" > /dev/null || { echo "there is no part $part" >&2; exit 2; }
    echo "== $part $(date +%T)"
    "$part" 2>&1 | tee "$out/op_$part.log" | tail -n 60 || { echo "failed: $part"; status=1; }
done
exit $status
