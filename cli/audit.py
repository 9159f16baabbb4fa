"""`trade-engine audit`: the wallet's own checks, and those that look across the services' tables."""

import json
from dataclasses import asdict, dataclass

import asyncpg
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.output import print_table
from libs.db.pool import prepare_connection
from services.wallet.audit import CHECKS as WALLET_CHECKS

# What partitions that were detached had is counted, and no longer there to be compared.
TRADES_WITHOUT_GAPS = """
SELECT count(*) AS looked_at, count(*) FILTER (WHERE wrong) AS wrong,
       (array_agg(symbol || ': ' || trades || ' trades, numbers ' || first || ' to ' || last || ', settled ' || settled)
        FILTER (WHERE wrong))[1:5] AS examples
FROM (
    SELECT symbol, count(*) AS trades, min(sequence) AS first, max(sequence) AS last, coalesce(settled, 0) AS settled,
           count(*) <> max(sequence) - min(sequence) + 1 OR settled IS DISTINCT FROM max(sequence)
           OR min(sequence) <> 1 AND NOT isfinite(operations.kept_from('settlement.trades')) AS wrong
    FROM settlement.trades LEFT JOIN settlement.tapes USING (symbol) GROUP BY symbol, settled
) AS tapes
"""
TRADES_SETTLED_ONCE = """
SELECT count(*) AS looked_at, count(*) FILTER (WHERE wrong) AS wrong,
       (array_agg(trade_id) FILTER (WHERE wrong))[1:5] AS examples
FROM (
    SELECT coalesce(t.trade_id::text, o.key) AS trade_id, t.trade_id IS NULL OR o.key IS NULL AS wrong
    FROM (
        SELECT trade_id FROM settlement.trades WHERE trade_id >= (SELECT operations.kept_from_id('settlement.trades'))
    ) AS t
    FULL JOIN (
        SELECT key FROM wallet.operations
        WHERE kind = 'SETTLE' AND key >= (SELECT operations.kept_from_id('settlement.trades')::text)
    ) AS o ON o.key = t.trade_id::text
) AS compared
"""
NOTHING_UNSETTLED = """
SELECT count(*) AS looked_at, count(*) AS wrong, (array_agg(letter_id || ': ' || message))[1:5] AS examples
FROM settlement.dead_letters WHERE resolved_at IS NULL
"""
RESERVATIONS_BACK_LIVE_ORDERS = """
SELECT count(*) AS looked_at, count(*) FILTER (WHERE wrong) AS wrong,
       (array_agg(order_id::text) FILTER (WHERE wrong))[1:5] AS examples
FROM (
    SELECT r.order_id, o.order_id IS NULL OR o.status NOT IN (1, 2, 3) AS wrong
    FROM wallet.reservations r LEFT JOIN orders.orders o USING (order_id)
    WHERE r.remaining > 0 AND r.purpose = 'ORDER'
) AS compared
"""
LIVE_ORDERS_HOLD_WHAT_THEY_NEED = """
SELECT count(*) AS looked_at, count(*) FILTER (WHERE wrong) AS wrong,
       (array_agg(order_id::text) FILTER (WHERE wrong))[1:5] AS examples
FROM (
    SELECT o.order_id,
           CASE WHEN o.side = 2 THEN coalesce(r.remaining, 0) <> o.open_quantity - o.filled_quantity
                WHEN o.type IN (1, 4) OR NOT o.waiting
                    THEN coalesce(r.remaining, 0) <> (o.open_quantity - o.filled_quantity) * o.open_price
                -- What waits to buy at any price holds a budget.
                ELSE coalesce(r.remaining, 0) <= 0 END AS wrong
    FROM orders.orders o LEFT JOIN wallet.reservations r USING (order_id) WHERE o.status IN (2, 3)
) AS compared
"""
FILLS_EQUAL_TRADES = """
WITH kept AS MATERIALIZED (
    SELECT greatest(operations.kept_from_id('settlement.trades'), operations.kept_from_id('orders.orders')) AS first_id
)
SELECT count(*) AS looked_at, count(*) FILTER (WHERE wrong) AS wrong,
       (array_agg(order_id::text) FILTER (WHERE wrong))[1:5] AS examples
FROM (
    SELECT coalesce(o.order_id, t.order_id) AS order_id,
           coalesce(o.filled_quantity, 0) <> coalesce(t.quantity, 0) AS wrong
    FROM (SELECT order_id, filled_quantity FROM orders.orders WHERE order_id >= (SELECT first_id FROM kept)) AS o
    FULL JOIN (
        SELECT order_id, sum(quantity) AS quantity FROM (
            SELECT buyer_order_id AS order_id, quantity FROM settlement.trades
            UNION ALL SELECT seller_order_id, quantity FROM settlement.trades
        ) AS sides WHERE order_id >= (SELECT first_id FROM kept) GROUP BY order_id
    ) AS t USING (order_id)
) AS compared
"""
JOURNAL_WITHOUT_GAPS = """
SELECT count(*) AS looked_at, count(*) FILTER (WHERE wrong) AS wrong,
       (array_agg('shard ' || shard || ' at ' || first_sequence) FILTER (WHERE wrong))[1:5] AS examples
FROM (
    SELECT shard, first_sequence,
           first_sequence <> 1 + coalesce(lag(last_sequence) OVER (PARTITION BY shard ORDER BY first_sequence), 0) AS wrong
    FROM matcher.journal
) AS walked
"""
NO_ORDER_STUCK = """
SELECT count(*) AS looked_at, count(*) AS wrong, (array_agg(order_id::text))[1:5] AS examples
FROM orders.orders WHERE status = 1
"""

CHECKS = {
    **{f"ledger: {name}": sql for name, sql in WALLET_CHECKS.items()},
    "journal: commands_without_gaps": JOURNAL_WITHOUT_GAPS,
    "tape: trades_without_gaps": TRADES_WITHOUT_GAPS,
    "tape: trades_settled_once": TRADES_SETTLED_ONCE,
    "tape: nothing_unsettled": NOTHING_UNSETTLED,
    "orders: reservations_back_live_orders": RESERVATIONS_BACK_LIVE_ORDERS,
    "orders: live_orders_hold_what_they_need": LIVE_ORDERS_HOLD_WHAT_THEY_NEED,
    "orders: fills_equal_trades": FILLS_EQUAL_TRADES,
    "orders: none_stuck": NO_ORDER_STUCK,
}
TOTALS = """
SELECT asset, sum(available + reserved) FILTER (WHERE kind = 'USER') AS users,
       coalesce(sum(available) FILTER (WHERE kind = 'FEES'), 0) AS fees,
       coalesce(-sum(available) FILTER (WHERE kind = 'EXTERNAL'), 0) AS deposited
FROM wallet.balances GROUP BY asset ORDER BY asset
"""
TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: rows looked at, rows that are wrong, the first few of them."""

    check: str
    looked_at: int
    wrong: int
    examples: list[str]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All checks, on one snapshot of the database; totals per asset in units: users, fees, deposited."""

    findings: list[Finding]
    totals: dict[str, tuple[int, int, int]]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.wrong == 0 for finding in self.findings)


async def run_audit(dsn: str, *, show_progress: bool = True) -> AuditReport:
    """Run every check on one snapshot. Raises what asyncpg raises where the database does not answer."""
    connection = await asyncpg.connect(dsn)
    console = Console(stderr=True, quiet=not show_progress)
    try:
        await prepare_connection(connection)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("audit", total=len(CHECKS))
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                findings = []
                for name, sql in CHECKS.items():
                    progress.update(task, description=name, advance=1)
                    row = await connection.fetchrow(sql, timeout=TIMEOUT_S)
                    assert row is not None, "every check is one row of counts"
                    findings.append(Finding(name, row["looked_at"], row["wrong"], list(row["examples"] or ())))
                totals = {
                    row["asset"]: (row["users"] or 0, row["fees"], row["deposited"])
                    for row in await connection.fetch(TOTALS, timeout=TIMEOUT_S)
                }
    finally:
        await connection.close()
    return AuditReport(findings, totals)


def print_audit(report: AuditReport, *, as_json: bool) -> None:
    """The report for a person or for a script."""
    if as_json:
        print(json.dumps({"clean": report.clean, "findings": [asdict(finding) for finding in report.findings]}))
        return
    table = Table("check", "rows", "wrong", "for example")
    for finding in report.findings:
        style = "red" if finding.wrong else ""
        table.add_row(
            finding.check, str(finding.looked_at), str(finding.wrong), "; ".join(finding.examples), style=style
        )
    print_table(table)
    print("audit: clean" if report.clean else "audit: FOUND FAULTS")
