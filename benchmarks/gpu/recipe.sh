#!/usr/bin/env bash
# The full InfoPro recipe (160 epochs, batch 1024, all of CIFAR-10), in pieces of limited time.
#
#   benchmarks/gpu/recipe.sh STATE.tar SECONDS [options of `localgrad compare`]
#
# Takes up STATE.tar where it exists, runs for at most SECONDS, saves STATE.tar again. Call it until it
# prints the table; then: python benchmarks/collect.py runs/infopro/compare.json benchmarks/results/...
set -euo pipefail
state=$(realpath -m "$1"); seconds=$2; shift 2
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
[ -f "$state" ] && tar -xf "$state"
code=0
timeout --signal=TERM --kill-after=60 "$seconds" python3 -m localgrad compare \
  --config recipes/infopro-resnet32-k16.yaml --out runs/infopro --resume "$@" || code=$?
tar -cf "$state.part" runs/infopro && mv "$state.part" "$state"
# 124 and 130: the time was up and the run is saved
[ "$code" = 124 ] || [ "$code" = 130 ] || exit "$code"
