#!/usr/bin/env bash
# Trains on one or several machines of a SLURM cluster: one torchrun per machine, one process per GPU.
#
#   sbatch --nodes 2 --gpus-per-node 8 tools/slurm_train.sh --config-file configs/psg/usg_par_best.yaml \
#       OUTPUT_DIR /shared/usg_par
#
# Submit it from the repository's root, with the project's environment active; --partition, --account and --time go before
# the script's name. OUTPUT_DIR must be on a disk that all machines see. It always resumes, so a new experiment needs a new
# OUTPUT_DIR: SLURM's warning (SIGUSR1, three minutes before the time limit) makes the run save its state and end, and the
# job goes back into the queue.
# PROCESSES_PER_NODE sets the number of processes where SLURM does not report GPUs (default: GPUs per machine, else 1).
#SBATCH --job-name=usg_psg
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))

# `B:` sends the warning to this script alone, which tells the trainings to end; torchrun waits this long for them.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120
warned=
trap 'warned=1; scancel --signal=TERM "$SLURM_JOB_ID.0" || true' USR1

srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-endpoint "$head_node:$port" --rdzv-id "$SLURM_JOB_ID" \
    tools/train_net.py --resume "$@" &
status=0
wait $! || status=$?
if [ -n "$warned" ]; then
    wait $! || true  # the first wait ended with the signal
    echo "out of time: back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit $status
