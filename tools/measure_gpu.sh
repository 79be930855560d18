#!/usr/bin/env bash
# Makes the GPU tables of docs/: builds the operators, checks them, times everything. Random weights, generated data.
#
#   tools/measure_gpu.sh OUTPUT_FOLDER [build scenes ops sanitize train start inference folders scaling resume ...]   default: all
#
# Each part writes OUTPUT_FOLDER/<part>.txt; one that fails does not keep the others from running, and the status tells.
# LIMIT (seconds, default 900) ends a part that takes longer. BUILD_ARGS go to pip, for example --target FOLDER. SCENES is the
# folder of the generated images, MODES are the ways to run the network that `train` and `inference` compare, WORKERS the
# loader processes. `scaling`, `folders` and `resume` use all GPUs. Two other parts can run side by side on two GPUs, each
# called with its own CUDA_VISIBLE_DEVICES.
set -uo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,10p' "$0" >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 LIMIT=${LIMIT:-900} out
export full=${CONFIG:-configs/psg/usg_par_convnext_large.yaml} small=${SMALL:-configs/shapes/usg_par_shapes_512.yaml}
export scenes=${SCENES:-/tmp/usg_psg_scenes} modes=${MODES:-none graphs kernels+graphs} steps=${STEPS:-30}
export workers=${WORKERS:-$(($(nproc) > 2 ? $(nproc) - 2 : 1))}

# No weights to download; one prompt a name, since random text towers gain nothing from more.
with_opts() {
    "$@" MODEL.CLIP.PRETRAINED "${PRETRAINED:-}" MODEL.CLIP.OBJECT_TEMPLATES '["{}"]' MODEL.CLIP.PREDICATE_TEMPLATES '["{}"]' \
        DATALOADER.NUM_WORKERS "${NUM_WORKERS:-$workers}"
}
# train_net FOLDER WORDS...: a training on the generated scenes, whose settings do not follow the number of GPUs.
train_net() {
    DETECTRON2_DATASETS=$scenes/full with_opts python3 tools/train_net.py --config-file $full "${@:2}" OUTPUT_DIR "$1" SEED 1 \
        DATASETS.TRAIN '("psg_shapes_train",)' DATASETS.TEST '()' SOLVER.REFERENCE_WORLD_SIZE 0 TEST.EVAL_PERIOD 0
}
build() {
    local arch
    arch=$(python3 -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
    # shellcheck disable=SC2086  # several words
    TORCH_CUDA_ARCH_LIST=$arch python3 -m pip install --no-build-isolation --no-deps ${BUILD_ARGS:-} ./mask2former_ops
}
scenes() {
    python3 tools/make_synthetic_psg.py --output "$scenes/full/psg_shapes" --preset psg --num-train "${FULL_SCENES:-512}" \
        --num-val 1 --size 640 &&
        python3 tools/make_synthetic_psg.py --output "$scenes/small/psg_shapes" --preset easy \
            --num-train "${SMALL_SCENES:-20000}" --num-val "${VAL_SCENES:-1000}" --size 512
}
ops() {
    python3 -m pytest --noconftest -q -rf tests/ops &&
        python3 -m pytest -q -rf tests/modeling/test_cuda_graphs.py tests/modeling/test_parts.py \
            tests/modeling/test_frozen_convnext.py
    python3 tools/benchmark.py ops
}
sanitize() {
    local others="cpu or float64 or opcheck or gradcheck or graph or process or without_compiled"
    local tests=(python3 -m pytest --noconftest -q tests/ops -k "not ($others)")
    compute-sanitizer --tool memcheck --error-exitcode 9 "${tests[@]}" || return
    # It reports kernels of cuBLAS and PyTorch, too, and ends in an error of its own if told to leave them out.
    compute-sanitizer --tool racecheck "${tests[@]}" > "$out/racecheck.txt" 2>&1
    local status=$?
    tail -n 2 "$out/racecheck.txt"
    ! grep -E "(Read|Write) access at .*mask2former_ops" "$out/racecheck.txt" && return $status
}
train() {
    for mode in $modes; do
        echo "MODEL.USG.COMPILE $mode"
        with_opts python3 tools/benchmark.py train --config-file $full --batch-size ${BATCH:-16} --data "$scenes/full" \
            --iterations $steps $([ "$mode" = none ] && echo --profile "$out/kernels.txt") \
            --opts MODEL.USG.COMPILE $mode || return
    done
}
# Seconds from the command to the end of the first step: kernels compile in the first of three. The backbone is in a file.
start() {
    local mode n begin
    python3 -c "
import torch
from usg_psg.config import build_cfg
from usg_psg.modeling.openclip import load_openclip
torch.save(load_openclip(build_cfg('$full').MODEL.CLIP.NAME).state_dict(), '$out/clip.pt')" || return
    for mode in $modes; do
        for n in 1 2 3; do
            rm -rf "$out/start"
            begin=${EPOCHREALTIME/./}
            PRETRAINED=$out/clip.pt train_net "$out/start" MODEL.USG.COMPILE "$mode" SOLVER.IMS_PER_BATCH ${BATCH:-16} \
                SOLVER.MAX_ITER 3 > "$out/start_log.txt" 2>&1 &
            until [ -s "$out/start/losses.jsonl" ]; do
                kill -0 $! 2> /dev/null || { cat "$out/start_log.txt" && return 1; }
                sleep 0.02
            done
            echo "MODEL.USG.COMPILE $mode, start $n: $(((${EPOCHREALTIME/./} - begin) / 1000)) ms"
            wait $! || return
        done
    done
    rm -rf "$out/start" "$out/clip.pt"
}
inference() {
    with_opts python3 tools/benchmark.py inference --config-file $full --opts &&
        for mode in $modes; do
            with_opts python3 tools/benchmark.py inference --config-file $full \
                --opts TEST.USG.DTYPE bfloat16 TEST.USG.COMPILE $mode || return
        done
}
amp() {
    with_opts python3 tools/benchmark.py amp --config-file $full --iterations ${AMP_STEPS:-200} --data "$scenes/full" \
        --opts SOLVER.IMS_PER_BATCH 8
}
amp_long() {
    with_opts python3 tools/benchmark.py amp --config-file $small --iterations ${AMP_LONG_STEPS:-5000} --runs bf16 fp16 \
        --data "$scenes/small" --opts SOLVER.IMS_PER_BATCH 4 SOLVER.MAX_ITER ${AMP_LONG_STEPS:-5000}
}
scaling() {
    local gpus counts=1
    gpus=$(python3 -c 'import torch; print(max(torch.cuda.device_count(), 2))')
    for n in 2 4 8; do [ "$n" -le "$gpus" ] && counts="$counts $n"; done
    for mode in $modes; do
        echo "MODEL.USG.COMPILE $mode"
        # shellcheck disable=SC2086
        NUM_WORKERS=$((workers / gpus)) with_opts python3 tools/benchmark.py train --config-file $full \
            --batch-size ${BATCH:-16} --num-gpus $counts --data "$scenes/full" --iterations $steps --opts \
            MODEL.USG.COMPILE $mode || return
    done
}
# Images from disk to graphs with encoded masks: on one GPU, then in a process for each GPU, side by side.
folders() {
    local gpus=${GPUS:-$(python3 -c 'import torch; print(torch.cuda.device_count())')}
    folder() {
        with_opts python3 tools/benchmark.py inference --config-file $full --folder "$scenes/full/psg_shapes/coco/train2017" \
            --batch-size "$@" --opts TEST.USG.DTYPE bfloat16 TEST.USG.COMPILE "$mode"
    }
    for mode in $modes; do
        folder 1 4 16 || return
        [ "$gpus" -gt 1 ] || continue
        for ((gpu = 0; gpu < gpus; gpu++)); do CUDA_VISIBLE_DEVICES=$gpu folder 16 > "$out/folder_$gpu.txt" 2>&1 & done
        wait
        tail -n 1 "$out"/folder_?.txt
    done
}
# Losses of a run of 100 steps, of one that is killed at about half and goes on with as many GPUs, and of its continuation
# on fewer GPUs, a step's images passing in parts.
resume() {
    local gpus=${GPUS:-$(python3 -c 'import torch; print(torch.cuda.device_count())')} n
    rm -rf "$out/resume" && mkdir "$out/resume"
    go() { # FOLDER PROCESSES PARTS WORDS...
        train_net "$out/resume/$1" --num-gpus "$2" "${@:4}" MODEL.USG.COMPILE none SOLVER.ACCUMULATION_STEPS "$3" \
            SOLVER.IMS_PER_BATCH $((gpus * ${RESUME_BATCH:-4})) SOLVER.MAX_ITER 100 SOLVER.CHECKPOINT_PERIOD 40
    }
    go whole "$gpus" 1 &&
        rm -f "$out"/resume/whole/*.pth || return
    export -f go
    setsid bash -c "gpus=$gpus; go killed $gpus 1" &
    until [ "$(wc -l < "$out/resume/killed/losses.jsonl" 2> /dev/null || echo 0)" -ge 50 ]; do
        kill -0 $! || return
        sleep 0.1
    done
    kill -KILL -- -$!
    wait
    for ((n = gpus; n > 0; n /= 2)); do
        cp -r "$out/resume/killed" "$out/resume/on_$n" &&
            go on_$n $n $((gpus / n)) --resume || return
        rm -f "$out/resume/on_$n"/*.pth
    done
    rm -f "$out"/resume/killed/*.pth
    python3 - "$out"/resume/{whole,on_*}/losses.jsonl << 'END'
import json, sys
runs = {path: [json.loads(line)["total_loss"] for line in open(path)] for path in sys.argv[1:]}
first = runs[sys.argv[1]]
for path, losses in runs.items():
    off = [abs(a / b - 1) for a, b in zip(losses, first, strict=True)]
    print(path, len(losses), "losses, of the first run's at most", f"{max(off):.2%} off;", *(f"{x:.3f}" for x in losses[9::30]))
END
}
convergence() {
    # shellcheck disable=SC2086
    DETECTRON2_DATASETS=$scenes/small with_opts python3 tools/train_net.py --config-file $small \
        --overwrite OUTPUT_DIR "$out/run" ${TRAIN_OPTS:-} &&
        python3 tools/plot_training.py "$out/run" --output "$out/convergence.png"
    rm -f "$out"/run/*.pth
}

status=0
for part in "${@:-build scenes ops sanitize train start inference folders amp amp_long scaling resume convergence}"; do
    for name in $part; do
        if ! declare -F "$name" > /dev/null; then
            echo "there is no part $name" >&2
            exit 2
        fi
        echo "== $name $(date +%T)"
        export -f "${name?}" with_opts train_net
        {
            nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
            time timeout -k 10 "$LIMIT" bash -c "$name"
        } > "$out/$name.txt" 2>&1 || { echo "failed: $out/$name.txt" && status=1; }
        tail -n 25 "$out/$name.txt"
    done
done
exit $status
