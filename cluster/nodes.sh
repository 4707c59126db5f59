#!/bin/bash
# One run on several machines that share a file system. Call it on every machine, with the first one's address:
#
#   NODES=4 PER_NODE=8 ./nodes.sh node0.example
#
# The run folder is runs/v2-lite-16b. When a process is lost, all go on from the newest checkpoint. When this script is lost,
# call it again on that machine. Another folder is --run, behind a -- that keeps torchrun from reading it as its own
# --run-path: torchrun ... -m -- clearseek train ... --run FOLDER
#
# On a private network only: torchrun's launchers run what anybody who reaches port 29400 of the first machine gives them.
set -euo pipefail
HEAD=${1:?the address of the first machine}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # a machine that comes back finds the others: each start has a store of its own
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600   # seconds to save in after SIGTERM or Ctrl-C
exec torchrun --nnodes "${NODES:-4}" --nproc-per-node "${PER_NODE:-8}" --max-restarts 100 \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:29400" --rdzv-id "${RUN_ID:-clearseek}" \
  -m clearseek train v2-lite-16b --set train.expert_gradients=merged --layout dp=16,ep=8,pp=2 \
  --device cuda --continue
