"""The matching core alone: messages/s of four flows through the engine, and what a grown book costs.

The yardstick is what Python itself does on this machine at this moment: an order id put into a dict and taken out again.
"""

import argparse
import gc
import time
from collections.abc import Iterator

from rich.console import Console

from bench.support import write_results
from cli.flow import NOW_NS, SYMBOL, Flow
from libs.ids import new_id
from libs.orders import Side
from libs.runtime import collect_garbage_rarely
from services.matcher.core.commands import CancelOrder, NewOrder

console = Console(stderr=True)


def messages_per_s(flow: Flow, count: int) -> float:
    """Best of three, as the machine is noisy: each on the commands that follow."""
    best = 0.0
    for _ in range(3):
        commands = flow.commands(count)
        apply = flow.engine.apply
        gc.collect()
        started = time.perf_counter()
        for command in commands:
            apply(command, NOW_NS)
        best = max(best, count / (time.perf_counter() - started))
    return best


def dict_pairs_per_s(count: int) -> float:
    """The yardstick: ids put into a dict and taken out again; best of three."""
    ids = [new_id() for _ in range(1000)] * (count // 1000)
    best = 0.0
    for _ in range(3):
        known: dict[str, int] = {}
        started = time.perf_counter()
        for order_id in ids:
            known[order_id] = 1
            del known[order_id]
        best = max(best, len(ids) / (time.perf_counter() - started))
    return best


def flows() -> Iterator[tuple[str, Flow]]:
    """Several hundred live levels each, thousands of live orders."""
    yield "realistic", Flow(1, spread_ticks=150, drift_per_order=0.2, live_target=5_000)
    yield "static_deep", Flow(2, spread_ticks=3_000, drift_per_order=0.0, live_target=50_000)
    yield "fast_moving", Flow(3, spread_ticks=100, drift_per_order=0.9, live_target=5_000)
    yield "crash", Flow(4, spread_ticks=200, drift_per_order=1.0, live_target=5_000)


def growth(count: int) -> dict[str, float]:
    """Nanoseconds of inserting and cancelling, with 1,000 and with 1,000,000 orders resting."""
    took: dict[str, float] = {}
    for resting in (1_000, 1_000_000):
        flow = Flow(5, spread_ticks=3_000, drift_per_order=0.0, live_target=resting)
        flow.fill_up()
        new = [flow.order() for _ in range(count)]
        best_insert = best_cancel = float("inf")
        gc.collect()
        for start in range(0, count, count // 4):
            part = [order for order in new[start : start + count // 4] if not _would_take(flow, order)]
            started = time.perf_counter()
            for order in part:
                flow.engine.apply(order, NOW_NS)
            inserted = time.perf_counter()
            cancels = [CancelOrder(order.order_id, order.user_id, order.symbol) for order in part]
            begun = time.perf_counter()
            for cancel in cancels:
                flow.engine.apply(cancel, NOW_NS)
            best_insert = min(best_insert, (inserted - started) / len(part))
            best_cancel = min(best_cancel, (time.perf_counter() - begun) / len(part))
        took[f"insert_ns_at_{resting}"] = round(best_insert * 1e9)
        took[f"cancel_ns_at_{resting}"] = round(best_cancel * 1e9)
    return took


def _would_take(flow: Flow, order: NewOrder) -> bool:
    best = flow.engine.markets[SYMBOL.name].book.best(Side.SELL if order.side is Side.BUY else Side.BUY)
    return best is not None and (order.price >= best.price if order.side is Side.BUY else order.price <= best.price)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000, help="messages per measurement, three each")
    count = parser.parse_args().messages
    collect_garbage_rarely()
    raw: dict[str, object] = {}
    worst = float("inf")
    for name, flow in flows():
        flow.fill_up()
        yardstick = dict_pairs_per_s(count)
        per_s = messages_per_s(flow, count)
        worst = min(worst, per_s)
        market = flow.engine.markets[SYMBOL.name]
        raw[name] = {
            "msgs_per_s": round(per_s),
            "in_dict_pairs": round(yardstick / per_s, 1),
            "live_orders": market.book.orders,
            "live_levels": len(market.book.asks.levels) + len(market.book.bids.levels),
            "trades": market.trades,
        }
        console.print(f"{name}: {raw[name]}")
    grown = growth(min(count, 40_000))
    raw |= grown
    factor = max(
        grown["insert_ns_at_1000000"] / grown["insert_ns_at_1000"],
        grown["cancel_ns_at_1000000"] / grown["cancel_ns_at_1000"],
    )
    write_results("core", {"worst_flow_msgs_per_s": round(worst), "growth_factor": round(factor, 2)}, raw)


if __name__ == "__main__":
    main()
