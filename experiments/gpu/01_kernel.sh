#!/usr/bin/env bash
# The learned update on this chip, in at most five minutes: kernel.json and a table.
source "$(dirname "$0")/environment.sh"
{ nvidia-smi || true; } > "$OUT/chip.txt" 2>&1
"$PYTHON" experiments/gpu/kernel.py
