"""Load on the engine that runs here: orders placed while its book is followed, as ghz does with bench/ghz/*.json."""

import argparse
import asyncio
import json
import time
from collections import Counter

import grpc.aio
import uvloop
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2
from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.support import milliseconds
from cli.running import settings_of_running_stack
from cli.users import user_id_of
from libs.config import Settings
from libs.identity import SERVICE_SCOPE, mint_token
from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.engine import order_from

SYMBOL = "BTC/USDT"


class Outcome:
    """What came back."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.codes: Counter[str] = Counter()
        self.updates = 0
        self.seconds = 0.0


async def place(settings: Settings, *, orders: int, in_flight: int, followers: int, console: Console) -> Outcome:
    outcome, user = Outcome(), user_id_of("load")
    token = mint_token(settings.auth, subject="load", scopes=SERVICE_SCOPE, life_s=3600)
    metadata = (("authorization", f"Bearer {token}"),)
    async with (
        open_channel(settings.gateway.target(), settings.tls) as channel,
        open_channel(settings.marketdata.target(), settings.tls) as books,
    ):
        stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
        numbers = iter(range(orders))
        with Progress(console=console) as progress:
            task = progress.add_task("orders", total=orders)

            async def one() -> None:
                for _ in numbers:
                    request = order_from("BUY 0.1 @ 100", user_id=user, symbol=SYMBOL, client_order_id=new_id())
                    started = time.perf_counter()
                    try:
                        await stub.PlaceOrder(request, metadata=metadata, timeout=30)
                        outcome.codes["OK"] += 1
                    except grpc.aio.AioRpcError as error:
                        outcome.codes[error.code().name] += 1
                    outcome.took.append(time.perf_counter() - started)
                    progress.advance(task)

            async def follow() -> None:
                request = market_data_pb2.StreamBookRequest(symbol=SYMBOL, depth=20)
                reader = market_data_pb2_grpc.MarketDataServiceStub(books)
                async for _ in reader.StreamBook(request, metadata=metadata):
                    outcome.updates += 1

            following = [asyncio.create_task(follow()) for _ in range(followers)]
            started = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(in_flight)))
            outcome.seconds = time.perf_counter() - started
            for task_ in following:
                task_.cancel()
            await asyncio.gather(*following, return_exceptions=True)
        request = order_requests_pb2.CancelOrdersRequest(user_id=user, symbol=SYMBOL)
        while (await stub.CancelOrders(request, metadata=metadata, timeout=60)).results:
            pass
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=20_000, help="how many orders")
    parser.add_argument("--in-flight", type=int, default=128, help="how many at once")
    parser.add_argument("--followers", type=int, default=20, help="readers of the book beside")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    console = Console(stderr=True, quiet=options.json)
    outcome = uvloop.run(
        place(
            settings_of_running_stack(), orders=options.orders, in_flight=options.in_flight, followers=options.followers,
            console=console,
        )
    )  # fmt: skip
    found = {
        "orders_per_s": round(len(outcome.took) / outcome.seconds),
        "p50_ms": milliseconds(outcome.took, 50),
        "p99_ms": milliseconds(outcome.took, 99),
        "book_updates_read": outcome.updates,
        "statuses": dict(outcome.codes),
    }
    if options.json:
        print(json.dumps(found))
        return
    table = Table("load", "")
    for key, value in found.items():
        table.add_row(key, str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
