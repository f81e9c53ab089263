#!/usr/bin/env bash
# A meta-step of the paper's problem on this chip, in at most three minutes: meta_step.json and a table.
source "$(dirname "$0")/environment.sh"
"$PYTHON" experiments/gpu/meta_step_on_chip.py
