"""Whether readers slow matching down: orders/s without any, and with 1,000 subscribers to a book who never read."""

import argparse
import asyncio

import grpc.aio
import uvloop
from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc
from rich.console import Console

from bench.settlement import BATCH, Load
from bench.support import Clock, running_stack, write_results
from cli.stack import Stack
from libs.rpc.client import open_channel
from libs.runtime import collect_garbage_rarely
from tests.support.engine import Engine

CHANNELS = 10
OPENED_AT_ONCE = 50
console = Console(stderr=True)


async def subscribe(channels: list[grpc.aio.Channel], engine: Engine, count: int) -> list[grpc.aio.UnaryStreamCall]:
    """So many streams of one book; the first message of each is read, and nothing after that."""
    stubs = [market_data_pb2_grpc.MarketDataServiceStub(channel) for channel in channels]
    request = market_data_pb2.StreamBookRequest(symbol="BTC/USDT", depth=20)
    streams = [stubs[number % len(stubs)].StreamBook(request, metadata=engine.service) for number in range(count)]
    for start in range(0, count, OPENED_AT_ONCE):
        await asyncio.gather(*(stream.read() for stream in streams[start : start + OPENED_AT_ONCE]))
    return streams


async def measure(stack: Stack, subscribers: int, trades: int) -> tuple[dict[str, float], dict[str, object]]:
    engine = Engine(stack)
    load = Load(engine)
    await load.fund()
    await load.place_trades(BATCH)
    rates: list[float] = []
    channels = [open_channel(engine.settings.marketdata.target()) for _ in range(CHANNELS)]
    streams: list[grpc.aio.UnaryStreamCall] = []
    for readers in (0, subscribers, 0):  # the yardstick before and after
        streams = await subscribe(channels, engine, readers)
        clock = Clock()
        await load.place_trades(trades)
        rates.append(2 * trades / clock.seconds())
        console.print(f"{rates[-1]:.0f} orders/s with {readers} subscribers who do not read")
        for stream in streams:
            stream.cancel()
        await load.until_settled(BATCH + trades * len(rates))
    for channel in channels:
        await channel.close()
    await engine.close()
    without = (rates[0] + rates[2]) / 2
    return (
        {"orders_with_subscribers_vs_without": round(rates[1] / without, 2)},
        {"subscribers": subscribers, "orders_per_s_without": [round(rates[0]), round(rates[2])],
         "orders_per_s_with": round(rates[1]), "orders": 2 * trades},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1000, help="how many; marketdata.streams_max is the limit")
    parser.add_argument("--trades", type=int, default=10_000, help="trades of two orders each, per measurement")
    options = parser.parse_args()
    collect_garbage_rarely()
    with running_stack() as stack:
        keys, raw = uvloop.run(measure(stack, options.subscribers, options.trades))
    write_results("subscribers", keys, raw)


if __name__ == "__main__":
    main()
