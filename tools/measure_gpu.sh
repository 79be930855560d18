#!/usr/bin/env bash
# Makes the GPU tables of docs/: builds the operators, checks them, times everything. Random weights, generated data.
#
#   tools/measure_gpu.sh OUTPUT_FOLDER [build ops sanitize train inference amp scaling ...]      default: all
#
# Each part writes OUTPUT_FOLDER/<part>.txt; one that fails does not keep the others from running, and the status tells.
# LIMIT (seconds, default 580) ends a part that takes longer. BUILD_ARGS go to pip, for example --target FOLDER.
set -uo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,8p' "$0" >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} LIMIT=${LIMIT:-580}
export full=${CONFIG:-configs/psg/usg_par_convnext_large.yaml} scenes=${SCENES:-/tmp/usg_psg_scenes} workers=$(($(nproc) > 2 ? $(nproc) - 2 : 1))

build() {
    local arch
    arch=$(python3 -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
    # shellcheck disable=SC2086  # several words
    TORCH_CUDA_ARCH_LIST=$arch python3 -m pip install --no-build-isolation --no-deps ${BUILD_ARGS:-} ./mask2former_ops
}
ops() {
    python3 -m pytest --noconftest -q -rf tests/ops
    python3 tools/benchmark_ops.py
}
sanitize() {
    for tool in memcheck racecheck; do
        compute-sanitizer --tool $tool --error-exitcode 9 python3 -m pytest --noconftest -q tests/ops \
            -k "cuda and test_compiled and b2-4x5" || return
    done
}
train() {
    for compile in none kernels graphs; do
        echo "MODEL.USG.COMPILE $compile"
        python3 tools/benchmark_train.py --config-file $full --batch-size 16 --data "$scenes" --iterations 30 \
            --opts MODEL.CLIP.PRETRAINED "" MODEL.USG.COMPILE $compile DATALOADER.NUM_WORKERS $workers || return
    done
}
inference() {
    python3 tools/benchmark_inference.py --config-file $full --opts MODEL.CLIP.PRETRAINED "" &&
        for compile in none kernels graphs; do
            python3 tools/benchmark_inference.py --config-file $full \
                --opts MODEL.CLIP.PRETRAINED "" TEST.USG.DTYPE bfloat16 TEST.USG.COMPILE $compile || return
        done
}
amp() {
    python3 tools/benchmark_amp.py --config-file $full --iterations 200 --data "$scenes" \
        --opts MODEL.CLIP.PRETRAINED "" SOLVER.IMS_PER_BATCH 8 DATALOADER.NUM_WORKERS $workers
}
scaling() {
    local gpus counts=1
    gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())')
    for n in 2 4 8; do [ "$n" -le "$gpus" ] && counts="$counts $n"; done
    # shellcheck disable=SC2086
    python3 tools/benchmark_train.py --config-file $full --batch-size 16 --num-gpus $counts --data "$scenes" \
        --num-scenes 512 --opts MODEL.CLIP.PRETRAINED "" DATALOADER.NUM_WORKERS $((workers / gpus))
}

status=0
for part in "${@:-build ops sanitize train inference amp scaling}"; do
    for name in $part; do
        if ! declare -F "$name" > /dev/null; then
            echo "there is no part $name" >&2
            exit 2
        fi
        echo "== $name"
        export -f "${name?}"
        { nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; time timeout "$LIMIT" bash -c "$name"; } \
            > "$out/$name.txt" 2>&1 || { echo "failed: $out/$name.txt" && status=1; }
        tail -n 25 "$out/$name.txt"
    done
done
exit $status
