#!/bin/bash
set -e
mkdir -p /data/caches/logs

identify=$(sbatch --parsable --dependency=singleton << 'SCRIPT'
#!/bin/bash
#SBATCH --job-name=identify-caches
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --output=/data/caches/logs/%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --time=8:00:00

cancelled=
trap 'kill -USR1 "$task"' USR1
trap 'cancelled=yes' TERM
/opt/sali-cache/bin/python -m batch index /data/videos --out /data/caches --model MODEL --jobs 8 --phase identify --shard "$SLURM_ARRAY_TASK_ID/16" &
task=$!
wait "$task"
while kill -0 "$task" 2> /dev/null; do wait "$task"; done
wait "$task"
code=$?
if [ -z "$cancelled" ] && { [ "$code" = 75 ] || [ "$code" = 138 ]; }; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
SCRIPT
)
echo "identify $identify"

analyze=$(sbatch --parsable --dependency=singleton,afterany:${identify%;*} << 'SCRIPT'
#!/bin/bash
#SBATCH --job-name=analyze-caches
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --output=/data/caches/logs/%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --time=8:00:00

cancelled=
trap 'kill -USR1 "$task"' USR1
trap 'cancelled=yes' TERM
/opt/sali-cache/bin/python -m batch index /data/videos --out /data/caches --model MODEL --jobs 8 --phase analyze --shard "$SLURM_ARRAY_TASK_ID/16" &
task=$!
wait "$task"
while kill -0 "$task" 2> /dev/null; do wait "$task"; done
wait "$task"
code=$?
if [ -z "$cancelled" ] && { [ "$code" = 75 ] || [ "$code" = 138 ]; }; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
SCRIPT
)
echo "analyze $analyze"

prefill=$(sbatch --parsable --dependency=singleton,afterany:${analyze%;*} << 'SCRIPT'
#!/bin/bash
#SBATCH --job-name=prefill-caches
#SBATCH --array=0-3
#SBATCH --cpus-per-task=1
#SBATCH --gres=gpu:1
#SBATCH --output=/data/caches/logs/%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --time=8:00:00
#SBATCH --partition=gpu --cpus-per-task=4

cancelled=
trap 'kill -USR1 "$task"' USR1
trap 'cancelled=yes' TERM
/opt/sali-cache/bin/python -m batch index /data/videos --out /data/caches --model MODEL --jobs 8 --phase prefill --shard "$SLURM_ARRAY_TASK_ID/4" &
task=$!
wait "$task"
while kill -0 "$task" 2> /dev/null; do wait "$task"; done
wait "$task"
code=$?
if [ -z "$cancelled" ] && { [ "$code" = 75 ] || [ "$code" = 138 ]; }; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
SCRIPT
)
echo "prefill $prefill"
