#!/usr/bin/env bash
# Trains with torchrun on one machine, or on several without a cluster's scheduler.
#
#   tools/torchrun_train.sh --config-file configs/psg/usg_par_best.yaml OUTPUT_DIR output/psg
#   NODES=2 MASTER=10.0.0.1:29500 tools/torchrun_train.sh ...        # the same command on each of the two machines
#
# PROCESSES_PER_NODE: default one per GPU, one on a machine without GPUs.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=$(python -c 'import torch; print(max(torch.cuda.device_count(), 1))')
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${PROCESSES_PER_NODE:-$gpus}" \
    --rdzv-backend c10d --rdzv-endpoint "${MASTER:-localhost:0}" --rdzv-id usg_psg \
    tools/train_net.py "$@"
