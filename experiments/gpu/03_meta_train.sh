#!/usr/bin/env bash
# LOpt-A by the paper's settings, for at most $SECONDS_AT_MOST: run.tgz, from which the next go resumes.
#
# CONFIGS names other gin files: "experiments/fashion_mnist_paper.gin optimizers/lagg_a.gin" is LAgg-A's,
# experiments/fashion_mnist_relative.gin LOptR's. RUN names a run.tgz of an earlier go.
source "$(dirname "$0")/environment.sh"
run=$(mktemp -d)
if [ -n "${RUN:-}" ]; then tar -xzf "$RUN" -C "$run"; fi
flags=(--train_log_dir "$run" --resume)
for file in ${CONFIGS:-experiments/fashion_mnist_paper.gin}; do flags+=(--config_file "$file"); done
if [ "${SIZE:-}" = tiny ]; then
  flags+=(--config_file tasks/digits_mlp.gin)
  for binding in num_workers=2 num_local_steps=1 num_meta_steps=2 num_tasks=1 truncation_length=2 \
    min_rounds=2 max_rounds=4 num_rounds=4 \
    meta_train.validation_every=0 ThetaAdamW.warmup_steps=0; do
    flags+=(--gin_bindings "$binding")
  done
fi
# It finishes its meta-step, saves, and ends with 143.
timeout --signal TERM "${SECONDS_AT_MOST:-480}" "$PYTHON" -m comm_lopt meta-train "${flags[@]}" || [ $? = 124 ]
tar -czf "$OUT/run.tgz" -C "$run" .
tail -n 1 "$run/metrics.csv"
