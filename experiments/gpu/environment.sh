# Sourced by each step: where its results go, and what a bare machine without a network lacks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${OUT:?names the folder for the results, as in OUT=out $0}"
mkdir -p "$OUT"
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD:$PWD/experiments/gpu:$PWD/experiments/benchmarks${PYTHONPATH:+:$PYTHONPATH}
if compgen -G '.whl/*.whl' >/dev/null && ! "$PYTHON" -c 'import learned_optimization' 2>/dev/null; then
  site=$(mktemp -d)
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
  export PYTHONPATH=$PYTHONPATH:$site
fi
if [ -d .data ] && [ -z "${COMM_LOPT_DATA:-}" ]; then export COMM_LOPT_DATA=$PWD/.data; fi
