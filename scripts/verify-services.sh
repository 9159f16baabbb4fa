#!/usr/bin/env bash
# Does the engine that runs here work, from outside in? Health of every part, a deposit, an order there and back, the proof.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
edge=${1:-http://127.0.0.1:8080}
trade-engine health
curl -fsS "$edge/health/ready" > /dev/null && echo "edge: every part is ready"
user="verify-$(date +%s)-$$"
trade-engine deposit "$user" USDT 100
token=$(trade-engine token --user "$user")
ask() { curl -fsS -H "authorization: Bearer $token" "$@"; }
order=$(ask "$edge/api/v1/orders" -d '{"clientOrderId": "verify", "symbol": "BTC/USDT", "side": "SIDE_BUY",
  "type": "ORDER_TYPE_LIMIT", "price": "1", "quantity": "10"}' |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["order"]["orderId"])')
ask -X DELETE "$edge/api/v1/orders/$order" | grep -q ORDER_STATUS_CANCELLED
echo "order $order: placed and cancelled"
ask "$edge/api/v1/wallets/balances" | grep -q '"available":"100"' && echo "its money is free again"
