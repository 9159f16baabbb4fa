#!/bin/sh
# `wallet`, `matcher`, ... alone: run that service; `health`: is the service that runs here serving; else: the trade-engine
# command, whose `settlement status` is not the service.
set -eu
case "$*" in
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
