"""The wallet: operations/s in batches of 100 beside pgbench on the same server, and the latency of settling."""

import argparse
import asyncio
import random
import time

import grpc.aio
import uvloop
from exchange.wallet.v1 import operation_pb2, wallet_pb2_grpc
from rich.console import Console

from bench.support import Clock, milliseconds, pgbench_tps, running_stack, write_results
from libs.config import Settings
from libs.identity import SERVICE_SCOPE, mint_token
from libs.ids import new_id
from libs.rpc.client import open_channel
from libs.runtime import collect_garbage_rarely

BATCH = 100
CLIENTS = 8
USERS = 200
OPEN_LOOP_PER_S = 1000
OPEN_LOOP_BATCH = 10
console = Console(stderr=True)


class Load:
    """Calls one wallet."""

    def __init__(self, settings: Settings, channel: grpc.aio.Channel) -> None:
        self.stub = wallet_pb2_grpc.WalletServiceStub(channel)
        token = mint_token(settings.auth, subject="bench", scopes=SERVICE_SCOPE, life_s=3600)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.users = [new_id() for _ in range(USERS)]

    async def fund(self) -> None:
        for user in self.users:
            for asset in ("BTC", "USDT"):
                request = operation_pb2.DepositRequest(user_id=user, asset=asset, amount="1000000", deposit_id=new_id())
                await self.stub.Deposit(request, metadata=self.metadata)

    async def reserve_and_release(self, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            orders = [(random.choice(self.users), new_id()) for _ in range(BATCH)]
            reserves = [
                operation_pb2.ReserveRequest(user_id=user, asset="USDT", amount="1.5", order_id=order)
                for user, order in orders
            ]
            answer = await self.stub.BatchReserve(
                operation_pb2.BatchReserveRequest(items=reserves), metadata=self.metadata
            )
            assert not [item for item in answer.results if item.HasField("error")]
            releases = [
                operation_pb2.ReleaseRequest(user_id=user, asset="USDT", amount="1.5", order_id=order, key=f"{order}/0")
                for user, order in orders
            ]
            freed = await self.stub.BatchRelease(
                operation_pb2.BatchReleaseRequest(items=releases), metadata=self.metadata
            )
            assert not [item for item in freed.results if item.HasField("error")]
            done += 2 * BATCH
        return done

    async def prepare_trades(self, count: int) -> list[operation_pb2.SettleTradeRequest]:
        """Trades whose orders hold what they need."""
        trades, reserves = [], []
        for _ in range(count):
            buyer, seller = random.sample(self.users, 2)
            buy, sell = new_id(), new_id()
            reserves += [
                operation_pb2.ReserveRequest(user_id=buyer, asset="USDT", amount="2", order_id=buy),
                operation_pb2.ReserveRequest(user_id=seller, asset="BTC", amount="0.02", order_id=sell),
            ]
            trades.append(
                operation_pb2.SettleTradeRequest(
                    trade_id=new_id(),
                    buyer_user_id=buyer,
                    seller_user_id=seller,
                    buyer_order_id=buy,
                    seller_order_id=sell,
                    base_asset="BTC",
                    quote_asset="USDT",
                    quantity="0.02",
                    price="100",
                    buyer_fee="0.00004",
                    buyer_fee_asset="BTC",
                    seller_fee="0.002",
                    seller_fee_asset="USDT",
                )
            )
        for start in range(0, len(reserves), 1000):
            request = operation_pb2.BatchReserveRequest(items=reserves[start : start + 1000])
            await self.stub.BatchReserve(request, metadata=self.metadata)
        return trades

    async def settle(self, trades: list[operation_pb2.SettleTradeRequest]) -> None:
        answer = await self.stub.SettleTrades(operation_pb2.SettleTradesRequest(items=trades), metadata=self.metadata)
        assert not [item for item in answer.results if item.HasField("error")]


async def measure(settings: Settings, seconds: int) -> dict[str, float]:
    async with open_channel(settings.wallet.target()) as channel:
        load = Load(settings, channel)
        await load.fund()
        await load.reserve_and_release(time.perf_counter() + 1)  # warm up
        clock = Clock()
        until = time.perf_counter() + seconds
        done = sum(await asyncio.gather(*(load.reserve_and_release(until) for _ in range(CLIENTS))))
        reserve_release = done / clock.seconds()
        console.print(f"reserve + release: {reserve_release:.0f} operations/s")

        trades = await load.prepare_trades(BATCH * CLIENTS * seconds * 4)
        batches = iter([trades[start : start + BATCH] for start in range(0, len(trades), BATCH)])
        clock, settled = Clock(), 0

        async def settle_some() -> None:
            nonlocal settled
            for batch in batches:
                await load.settle(batch)
                settled += len(batch)
                if clock.seconds() > seconds:
                    return

        await asyncio.gather(*(settle_some() for _ in range(CLIENTS)))
        settles = settled / clock.seconds()
        console.print(f"settle: {settles:.0f} trades/s")
        took = await open_loop(load, seconds)
    return {
        "reserve_release_per_s": round(reserve_release),
        "settle_per_s": round(settles),
        "settle_p50_ms": milliseconds(took, 50),
        "settle_p99_ms": milliseconds(took, 99),
    }


async def open_loop(load: Load, seconds: int) -> list[float]:
    """1,000 trades/s whether the wallet keeps up or not; latency counts from when a call was due."""
    trades = await load.prepare_trades(OPEN_LOOP_PER_S * seconds)
    took: list[float] = []

    async def call(batch: list[operation_pb2.SettleTradeRequest], due: float) -> None:
        await load.settle(batch)
        took.append(time.perf_counter() - due)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, start in enumerate(range(0, len(trades), OPEN_LOOP_BATCH)):
            due = started + number * OPEN_LOOP_BATCH / OPEN_LOOP_PER_S
            await asyncio.sleep(max(0, due - time.perf_counter()))
            group.create_task(call(trades[start : start + OPEN_LOOP_BATCH], due))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="how long each measurement takes")
    seconds = parser.parse_args().seconds
    collect_garbage_rarely()
    with running_stack(services=("wallet",)) as stack:
        before = pgbench_tps(stack.postgres, clients=CLIENTS, seconds=seconds)
        figures = uvloop.run(measure(stack.settings(), seconds))
        after = pgbench_tps(stack.postgres, clients=CLIENTS, seconds=seconds)
    tps = (before + after) / 2
    keys = {
        "reserve_release_vs_pgbench": round(figures["reserve_release_per_s"] / tps, 2),
        "settle_vs_pgbench": round(figures["settle_per_s"] / tps, 2),
        "settle_p99_ms": figures["settle_p99_ms"],
    }
    raw = {**figures, "pgbench_tps": round(tps), "pgbench_tps_before_after": [round(before), round(after)],
           "clients": CLIENTS, "batch": BATCH, "seconds": seconds}  # fmt: skip
    write_results("wallet", keys, raw)


if __name__ == "__main__":
    main()
