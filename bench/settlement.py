"""Trades through RabbitMQ into the ledger: how many a second, how fast a backlog drains, how long one takes under load."""

import argparse
import asyncio
import signal
import time

import uvloop
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2, order_requests_pb2
from rich.console import Console

from bench.support import Clock, milliseconds, running_stack, write_results
from cli.stack import Stack
from libs.ids import new_id
from libs.runtime import collect_garbage_rarely
from tests.support.engine import Engine, order_from
from tests.support.rabbitmq import OwnRabbitMq

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
PAIRS = 16
BATCH = 200
OPEN_LOOP_PER_S = 1000
# As market makers quote; one order a call costs client and gateway half of the machine for the calls alone.
AT_ONCE = 10
DOWN_PER_S = 100
QUIET_S = 120
SETTLED = "SELECT coalesce(sum(settled), 0)::bigint AS n FROM settlement.tapes"
LAGS = """
SELECT extract(epoch FROM settled_at - executed_at)::float8 AS lag FROM settlement.trades WHERE executed_at >= $1
"""
console = Console(stderr=True)


class Load:
    """Buyers and sellers who meet at one price."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sellers: list[str] = []
        self.buyers: list[str] = []

    async def fund(self) -> None:
        for _ in range(PAIRS):
            self.sellers.append(await self.engine.user(BTC="100000", ETH="100000", SOL="100000", XRP="1000000"))
            self.buyers.append(await self.engine.user(USDT="10000000"))

    def pair(self, number: int) -> tuple[order_requests_pb2.PlaceOrderRequest, order_requests_pb2.PlaceOrderRequest]:
        symbol = SYMBOLS[number % len(SYMBOLS)]
        seller, buyer = self.sellers[number % PAIRS], self.buyers[number % PAIRS]
        return (
            order_from("SELL 0.1 @ 100", user_id=seller, symbol=symbol, client_order_id=new_id()),
            order_from("BUY 0.1 @ 100", user_id=buyer, symbol=symbol, client_order_id=new_id()),
        )

    async def place_trades(self, count: int) -> None:
        """So many trades, in batches, two batches at a time."""
        requests = [request for number in range(count) for request in self.pair(number)]
        batches = iter([requests[start : start + BATCH] for start in range(0, len(requests), BATCH)])

        async def send() -> None:
            for batch in batches:
                await _place(self.engine, batch)

        await asyncio.gather(send(), send())

    async def settled(self) -> int:
        return (await self.engine.query(SETTLED))[0]["n"]

    async def until_settled(self, count: int) -> None:
        async with asyncio.timeout(QUIET_S):
            while await self.settled() < count:  # noqa: ASYNC110 - other processes settle
                await asyncio.sleep(0.02)


async def open_loop(load: Load, seconds: int, *, at_once: int) -> tuple[list[float], list[float]]:
    """1,000 orders/s whether the engine keeps up or not, so many in one call.

    Returns (trade to settled, order event to subscriber), in seconds.
    """
    heard: list[float] = []

    async def listen(user: str) -> None:
        request = order_gateway_pb2.StreamOrdersRequest(user_id=user)
        async for response in load.engine.gateway.StreamOrders(request, metadata=load.engine.service):
            now = time.time()
            if not response.snapshot and response.order.status == order_pb2.ORDER_STATUS_FILLED:
                heard.append(now - response.order.updated_at.ToNanoseconds() / 1e9)

    listeners = [asyncio.create_task(listen(user)) for user in (*load.buyers[:2], *load.sellers[:2])]
    await asyncio.sleep(0.5)
    began = (await load.engine.query("SELECT clock_timestamp() AS now"))[0]["now"]
    done = await load.settled()
    started, count = time.perf_counter(), OPEN_LOOP_PER_S * seconds
    requests = [request for number in range(count // 2) for request in load.pair(number)]
    async with asyncio.TaskGroup() as group:
        for number in range(0, count, at_once):
            await asyncio.sleep(max(0, started + number / OPEN_LOOP_PER_S - time.perf_counter()))
            group.create_task(_place(load.engine, requests[number : number + at_once]))
    await load.until_settled(done + count // 2)
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    return [row["lag"] for row in await load.engine.query(LAGS, began)], heard


async def _place(engine: Engine, requests: list[order_requests_pb2.PlaceOrderRequest]) -> None:
    if len(requests) == 1:
        await engine.gateway.PlaceOrder(requests[0], metadata=engine.service, timeout=60)
        return
    message = order_requests_pb2.PlaceOrdersRequest(orders=requests)
    answer = await engine.gateway.PlaceOrders(message, metadata=engine.service, timeout=60)
    assert not [item for item in answer.results if item.HasField("error")], answer.results[0]


async def broker_down(load: Load, broker: OwnRabbitMq, seconds: int) -> tuple[int, int, float]:
    """(orders placed while the broker was dead, trades waiting then, how many of them a second were settled after that)."""
    before = await load.settled()
    await asyncio.to_thread(broker.kill)
    started, placed = time.perf_counter(), 0
    while placed < DOWN_PER_S * seconds:
        await load.place_trades(DOWN_PER_S)
        placed += DOWN_PER_S
        await asyncio.sleep(max(0, started + placed / DOWN_PER_S - time.perf_counter()))
    waiting = before + placed - await load.settled()
    await asyncio.to_thread(broker.start)
    clock = Clock()
    await load.until_settled(before + placed)
    return 2 * placed, waiting, waiting / clock.seconds()


async def measure(
    stack: Stack, broker: OwnRabbitMq, seconds: int, trades: int, down_s: int
) -> tuple[dict[str, float], dict[str, object]]:
    engine = Engine(stack)
    load = Load(engine)
    await load.fund()
    await load.place_trades(500)  # warm up
    await load.until_settled(500)

    clock = Clock()
    await load.place_trades(trades)
    placed_s = clock.seconds()
    await load.until_settled(500 + trades)
    through_s = clock.seconds()
    console.print(f"{trades} trades matched in {placed_s:.1f} s, all settled after {through_s:.1f} s")

    stack.send("settlement", signal.SIGSTOP)
    await load.place_trades(trades)
    stack.send("settlement", signal.SIGCONT)
    clock = Clock()
    before = await load.settled()
    await load.until_settled(500 + 2 * trades)
    drain = (500 + 2 * trades - before) / clock.seconds()
    console.print(f"backlog drained at {drain:.0f} trades/s")

    lags, heard = await open_loop(load, seconds, at_once=AT_ONCE)
    console.print(f"{len(lags)} trades of {AT_ONCE} orders a call; now one order a call")
    lone_lags, lone_heard = await open_loop(load, seconds, at_once=1)
    console.print(f"{len(lone_lags)} trades; now without a broker for {down_s} s")
    down_orders, down_trades, down_drain = await broker_down(load, broker, down_s)
    await engine.close()
    keys = {
        "trade_to_settled_p99_ms": milliseconds(lags, 99),
        "trades_per_s": round(trades / through_s),
        "drain_trades_per_s": round(drain),
    }
    raw: dict[str, object] = {
        "trade_to_settled_p50_ms": milliseconds(lags, 50),
        "order_event_p50_ms": milliseconds(heard, 50),
        "order_event_p99_ms": milliseconds(heard, 99),
        "open_loop_orders_per_s": OPEN_LOOP_PER_S,
        "open_loop_orders_per_call": AT_ONCE,
        "open_loop_trades": len(lags),
        "events_heard": len(heard),
        "one_order_per_call_trade_to_settled_p50_ms": milliseconds(lone_lags, 50),
        "one_order_per_call_trade_to_settled_p99_ms": milliseconds(lone_lags, 99),
        "one_order_per_call_order_event_p50_ms": milliseconds(lone_heard, 50),
        "one_order_per_call_order_event_p99_ms": milliseconds(lone_heard, 99),
        "matched_trades_per_s": round(trades / placed_s),
        "broker_down_s": down_s,
        "broker_down_orders_placed": down_orders,
        "broker_down_trades_waiting": down_trades,
        "broker_down_drain_trades_per_s": round(down_drain),
        "trades": trades,
        "seconds": seconds,
    }
    return keys, raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="how long the open loop lasts")
    parser.add_argument(
        "--trades", type=int, default=10_000, help="how many trades go through, and pile up to be drained"
    )
    parser.add_argument("--down", type=int, default=60, help="seconds that the broker is dead")
    options = parser.parse_args()
    collect_garbage_rarely()
    broker = OwnRabbitMq()
    try:
        broker.start()
        with running_stack(settings_over={"TRADE_ENGINE_RABBITMQ_URL": broker.url}) as stack:
            keys, raw = uvloop.run(measure(stack, broker, options.seconds, options.trades, options.down))
    finally:
        broker.stop()
    write_results("settlement", keys, raw)


if __name__ == "__main__":
    main()
