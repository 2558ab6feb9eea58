#!/usr/bin/env bash
# Train on the GPUs of a SLURM job, one process each, from the folder of the repository:
#   sbatch --nodes 2 --gpus-per-node 8 tools/slurm/train.sh --config-file X.yaml [KEY VALUE ...]
# A minute before its time ends the job is put into the queue again, and goes on where it was.
#SBATCH --job-name=segcore
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
set -euo pipefail
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${SLURM_GPUS_ON_NODE:?expected GPUs: sbatch --gpus-per-node 8 ...}" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    --rdzv-endpoint "${nodes%%$'\n'*}:${PORT:-29500}" \
    train_net.py --resume "$@" &
wait $!
