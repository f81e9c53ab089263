#!/usr/bin/env bash
# Tuned baselines and what was meta-trained on test tasks, for at most $SECONDS_AT_MOST: tested.tgz,
# from which the next go resumes with RUN.
#
# TASKS and METHODS choose, and THETAS gives what is learned, as experiments/generalisation/run.py has them.
source "$(dirname "$0")/environment.sh"
run=$(mktemp -d)
if [ -n "${RUN:-}" ]; then tar -xzf "$RUN" -C "$run"; fi
results=experiments/gpu/results
flags=(--out_dir "$run" --tasks "${TASKS:-mlp_t1000,mlp,mlp_k2,mlp_h16,digits}"
  --methods "${METHODS:-LocalSGD,SlowMo,DiLoCo,FedAdam,DataParallelSGD,DataParallelAdam}")
for theta in ${THETAS-LOptR=lopt-r-1 LAggR=lagg-r-1 "LOptA=$results/lopt_a:local_learning_rate=0.5" \
  "LOptR_28=$results/lopt_r:local_learning_rate=0.1"}; do
  flags+=(--theta "$theta")
done
timeout "${SECONDS_AT_MOST:-480}" "$PYTHON" experiments/generalisation/run.py "${flags[@]}" || echo "ended with $?"
tar -czf "$OUT/tested.tgz" -C "$run" .
cat "$run/table.md" 2>/dev/null || find "$run" -name '*.json'
