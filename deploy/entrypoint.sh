#!/bin/sh
# `wallet`, `matcher`, ...: run that service; `health`: is the service that runs here serving; else: the trade-engine command.
set -eu
case "${1:-}" in
wallet | matcher | settlement | order_gateway | market_data | edge)
    echo "$1" >/tmp/service
    exec python -m "services.$1"
    ;;
health)
    exec python -m cli health --service "$(cat /tmp/service)"
    ;;
*)
    exec python -m cli "$@"
    ;;
esac
