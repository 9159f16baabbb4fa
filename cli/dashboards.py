"""Writes the Grafana dashboard from this description: `python -m cli.dashboards`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboards" / "trade-engine.json"
_PLACE = "/exchange.gateway.v1.OrderGatewayService/PlaceOrder"
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3


class Panel(NamedTuple):
    """A graph: its title, its unit as Grafana names it, and queries by legend."""

    title: str
    unit: str
    queries: dict[str, str]


def _quantiles(metric: str, by: str = "") -> dict[str, str]:
    grouped = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"p{percent}{legend}": f"histogram_quantile(0.{percent}, sum by ({grouped}) (rate({metric}[1m])))"
        for percent in (50, 95, 99)
    }


ROWS: dict[str, list[Panel]] = {
    "Volume": [
        Panel("Orders", "ops", {"{{symbol}}": "sum by (symbol) (rate(orders_placed_total[1m]))"}),
        Panel("Trades", "ops", {"{{symbol}}": "sum by (symbol) (rate(orders_matched_total[1m]))"}),
        Panel("Ledger operations", "ops", {"{{kind}}": "sum by (kind) (rate(wallet_operations_total[1m]))"}),
    ],
    "Latency": [
        Panel("Placing an order", "s", _quantiles(f'rpc_server_duration_seconds_bucket{{method="{_PLACE}"}}')),
        Panel("A gateway's steps, p99", "s", {
            "{{step}}": "histogram_quantile(0.99, sum by (le, step) (rate(gateway_step_duration_seconds_bucket[1m])))"}),
        Panel("Matching a batch, and its commit", "s", {
            "matching p99": "histogram_quantile(0.99, sum by (le) (rate(matching_duration_seconds_bucket[1m])))",
            "commit p99": "histogram_quantile(0.99, sum by (le) (rate(journal_commit_duration_seconds_bucket[1m])))"}),
        Panel("Trade to ledger", "s", _quantiles("settlement_lag_seconds_bucket")),
        Panel("HTTP requests", "ops", {"{{status}}": "sum by (status) (rate(http_requests_total[1m]))"}),
        Panel("Batch sizes, p95", "short", {
            "{{batcher}}": "histogram_quantile(0.95, sum by (le, batcher) (rate(batch_items_bucket[1m])))"}),
    ],
    "Order funnel": [
        Panel("Outcomes of calls", "ops", {
            "{{method}} {{code}}": "sum by (method, code) (rate(rpc_server_requests_total[1m]))"}),
        Panel("Stuck orders resolved", "ops", {"{{outcome}}": "sum by (outcome) (rate(orders_resolved_total[5m]))"}),
        Panel("Open orders compared", "ops", {"{{outcome}}": "sum by (outcome) (rate(orders_swept_total[5m]))"}),
    ],
    "Money": [
        Panel("Ledger imbalance (0 is right)", "short", {
            "imbalance": "max(ledger_imbalance)", "unrepaired": "max(settlement_reconcile_unrepaired)",
            "releases refused": "sum(releases_refused_total)"}),
        Panel("Unsettled trades", "short", {
            "unsettled": "max(settlement_unsettled_trades)", "dead letters": "max(settlement_dead_letters)"}),
        Panel("Oldest unsettled", "s", {"oldest": "max(settlement_oldest_unsettled_seconds)"}),
        Panel("Settled", "ops", {"{{outcome}}": "sum by (outcome) (rate(settlement_trades_total[1m]))"}),
        Panel("Last audit", "s", {"age": "time() - max(ledger_audit_last_finished_timestamp_seconds)",
                                  "took": "max(ledger_audit_duration_seconds)"}),
        Panel("Races that were decided under locks", "ops", {
            "lost races": "sum(rate(wallet_lost_races_total[1m]))",
            "locked": "sum(rate(wallet_locked_operations_total[1m]))"}),
    ],
    "Health": [
        Panel("Up", "short", {"{{job}}": "up"}),
        Panel("Outbox", "short", {"messages": "max(outbox_lag_messages)", "seconds": "max(outbox_lag_seconds)"}),
        Panel("Open circuits", "short", {
            "{{job}} to {{peer}}": 'max by (job, peer) (circuit_state{state="open"})'}),
        Panel("Queues", "short", {"{{batcher}}": "max by (batcher) (queue_items)"}),
        Panel("Bus", "ops", {"out {{exchange}}": "sum by (exchange) (rate(bus_published_total[1m]))",
                             "in {{queue}}": "sum by (queue) (rate(bus_consumed_total[1m]))",
                             "tried again {{queue}}": "sum by (queue) (rate(bus_retries_total[1m]))"}),
        Panel("Subscribers", "short", {
            "books": "sum(book_stream_subscribers)", "trades": "sum(trade_stream_subscribers)",
            "orders": "sum(order_stream_subscribers)", "balances": "sum(balance_stream_subscribers)",
            "sockets": "sum(websocket_connections)"}),
        Panel("Journal and snapshot", "short", {
            "journal": "max(matcher_sequence)", "snapshot": "max(matcher_snapshot_sequence)"}),
        Panel("CPU", "percentunit", {"{{job}}": "rate(process_cpu_seconds_total[1m])"}),
        Panel("Memory", "bytes", {"{{job}}": "process_resident_memory_bytes"}),
    ],
}  # fmt: skip


def text() -> str:
    """The file's contents."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, graphs in ROWS.items():
        panels.append({"type": "row", "title": row, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        y += 1
        for number, panel in enumerate(graphs):
            place = {"h": _HEIGHT, "w": _WIDTH, "x": number % _COLUMNS * _WIDTH, "y": y + number // _COLUMNS * _HEIGHT}
            panels.append({
                "type": "timeseries", "title": panel.title, "gridPos": place,
                "datasource": {"type": "prometheus", "uid": "prometheus"},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
                    for place, (legend, query) in enumerate(panel.queries.items())
                ],
            })  # fmt: skip
        y += -(-len(graphs) // _COLUMNS) * _HEIGHT
    for number, panel_content in enumerate(panels, start=1):
        panel_content["id"] = number
    dashboard = {
        "uid": "trade-engine", "title": "Trade Engine", "schemaVersion": 39, "version": 1, "editable": True,
        "refresh": "5s", "time": {"from": "now-30m", "to": "now"}, "timezone": "utc", "tags": [], "panels": panels,
    }  # fmt: skip
    return json.dumps(dashboard, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(PATH)
