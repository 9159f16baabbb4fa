#!/usr/bin/env bash
# Load on the engine that runs on this machine (`make up`): by ghz where it is installed, else by our own generator.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
trade-engine deposit load USDT 1000000000 > /dev/null
if command -v ghz > /dev/null; then
  token=$(trade-engine token --scopes service)
  for what in place cancel book; do
    ghz --config "bench/ghz/$what.json" -m "{\"authorization\": \"Bearer $token\"}"
  done
else
  echo "ghz is not installed; our own generator does it" >&2
  python -m bench.load "$@"
fi
