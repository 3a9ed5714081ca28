#!/usr/bin/env bash
# All that is to be measured on a GPU, in one command: bash benchmarks/gpu.sh [--wheels FOLDER] [--help | options]
# Nothing is installed for good: the package runs from this checkout, missing ones from a temporary folder of wheels.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
options=()
while (($#)); do
  if [[ $1 == --wheels ]]; then
    wheels=${2:?--wheels needs a folder of .whl files}
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    PYTHONPATH=$PYTHONPATH:$site
    shift 2
  else
    options+=("$1")
    shift
  fi
done
"$python" -m benchmarks.gpu ${options[@]+"${options[@]}"}
