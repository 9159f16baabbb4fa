"""Two wallet processes on one database, hot accounts, concurrent callers; then the same with kill -9 of everything."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from exchange.wallet.v1 import audit_pb2, operation_pb2, wallet_pb2_grpc

from cli.stack import Stack, temporary_folder
from libs.identity import mint_token
from libs.ids import new_id
from libs.rpc.breaker import is_passing
from libs.rpc.client import open_channel

CLIENTS = 8
ACCOUNTS = 20
HOT_S = 30
CRASH_S = 12
BATCH = 20


class Wallets:
    """Two wallet processes, the first with the embedded PostgreSQL that both use."""

    def __init__(self, folder: Path) -> None:
        self.first = Stack(folder, private_ports=True, log_dir=folder / "logs", services=("wallet",))
        self.first.start()
        shared = {name: value for name, value in self.first.environment.items() if "_PORT" not in name}
        self.second = Stack(
            folder / "second", private_ports=True, log_dir=folder / "logs2", services=("wallet",), settings_over=shared
        )
        self.second.start()
        self.stacks = (self.first, self.second)
        self.dsn = self.first.settings().database.dsn.get_secret_value()

    def stop(self) -> None:
        self.second.stop()
        self.first.stop()


@pytest.fixture
def wallets() -> Iterator[Wallets]:
    with temporary_folder("trade-engine-test-") as folder:
        both = Wallets(folder)
        try:
            yield both
        finally:
            both.stop()


class Client:
    """Reserves, releases and settles on hot accounts; asks again with the same keys until it is answered."""

    def __init__(self, stack: Stack, users: list[str], seed: int) -> None:
        settings = stack.settings()
        self._channel = open_channel(settings.wallet.target())
        self._stub = wallet_pb2_grpc.WalletServiceStub(self._channel)
        token = mint_token(settings.auth, subject="tests", scopes="service", life_s=3600)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._users = users
        self._dice = random.Random(seed)
        self.acknowledged: dict[tuple[str, str], Any] = {}
        self.refused: list[str] = []

    async def close(self) -> None:
        await self._channel.close()

    async def call(self, name: str, request: Any) -> Any:
        while True:
            try:
                return await getattr(self._stub, name)(request, metadata=self._metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(0.1)

    async def batch(self, name: str, kind: str, key: str, items: list[Any], request: type) -> None:
        response = await self.call(name, request(items=items))
        for item, result in zip(items, response.results, strict=True):
            if result.HasField("error"):
                self.refused.append(result.error.message)
            else:
                self.acknowledged[kind, getattr(item, key)] = result.response

    async def fund(self) -> None:
        for user in self._users:
            for asset in ("BTC", "USDT"):
                request = operation_pb2.DepositRequest(user_id=user, asset=asset, amount="1000000", deposit_id=new_id())
                await self.call("Deposit", request)

    async def trade(self, until: float) -> None:
        """Rounds of: reserve for both sides, settle most, settle some again, release what is left."""
        while time.monotonic() < until:
            pairs = [(self._dice.sample(self._users, 2), new_id(), new_id()) for _ in range(BATCH)]
            reserves = [
                operation_pb2.ReserveRequest(user_id=user, asset=asset, amount=amount, order_id=order)
                for (buyer, seller), buy, sell in pairs
                for user, asset, amount, order in ((buyer, "USDT", "3", buy), (seller, "BTC", "0.03", sell))
            ]
            await self.batch("BatchReserve", "RESERVE", "order_id", reserves, operation_pb2.BatchReserveRequest)
            trades = [
                operation_pb2.SettleTradeRequest(
                    trade_id=new_id(), buyer_user_id=buyer, seller_user_id=seller, buyer_order_id=buy,
                    seller_order_id=sell, base_asset="BTC", quote_asset="USDT", quantity="0.02", price="100",
                    buyer_fee="0.00004", buyer_fee_asset="BTC", seller_fee="0.002", seller_fee_asset="USDT",
                )
                for (buyer, seller), buy, sell in pairs[: BATCH - 2]
            ]  # fmt: skip
            await self.batch("SettleTrades", "SETTLE", "trade_id", trades, operation_pb2.SettleTradesRequest)
            await self.batch("SettleTrades", "SETTLE", "trade_id", trades[:3], operation_pb2.SettleTradesRequest)
            releases = [
                operation_pb2.ReleaseRequest(user_id=item.user_id, asset=item.asset, order_id=item.order_id,
                                             key=f"{item.order_id}/0")
                for item in reserves
            ]  # fmt: skip
            await self.batch("BatchRelease", "RELEASE", "key", releases, operation_pb2.BatchReleaseRequest)

    async def audit(self) -> list[Any]:
        stream = self._stub.Audit(audit_pb2.AuditRequest(), metadata=self._metadata, timeout=60)
        return [check async for check in stream if check.done == 1]


async def run(wallets: Wallets, seconds: float, disturb: Any = None) -> list[Client]:
    users = [new_id() for _ in range(ACCOUNTS // 2)]  # of two assets each
    clients = [Client(wallets.stacks[number % 2], users, number) for number in range(CLIENTS)]
    await clients[0].fund()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.trade(until))
        if disturb is not None:
            group.create_task(asyncio.to_thread(disturb))
    return clients


async def assert_exact(wallets: Wallets, clients: list[Client]) -> None:
    """The books are right, every acknowledged key is recorded, once, with the answer that was given."""
    checks = await clients[0].audit()
    assert len(checks) == 5
    assert not [check for check in checks if check.violations]
    connection = await asyncpg.connect(wallets.dsn)
    recorded = await connection.fetch("SELECT kind::text, key, answer ->> 'operation_id' AS id FROM wallet.operations")
    open_ones = await connection.fetchval("SELECT count(*) FROM wallet.reservations WHERE open")
    deadlocks = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    ids = {(row["kind"], row["key"]): row["id"] for row in recorded}
    acknowledged = {key: answer for client in clients for key, answer in client.acknowledged.items()}
    assert len(acknowledged) > 500
    assert acknowledged.keys() <= ids.keys()
    wrong = [key for key, answer in acknowledged.items() if key[0] == "RESERVE" and answer.reservation_id != ids[key]]
    assert wrong == []
    assert open_ones == 0
    assert deadlocks == 0
    assert [said for client in clients for said in client.refused] == []


async def test_two_wallets_share_hot_accounts_without_a_deadlock(wallets: Wallets) -> None:
    clients = await run(wallets, HOT_S)
    await assert_exact(wallets, clients)
    for client in clients:
        await client.close()


async def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(wallets: Wallets) -> None:
    killed = []

    def disturb() -> None:
        dice = random.Random(1)
        ends_at = time.monotonic() + CRASH_S - 3
        while time.monotonic() < ends_at:
            time.sleep(dice.uniform(0.5, 1.5))
            victim = dice.choice(["first", "second", "postgres"])
            if victim == "postgres":
                os.kill(wallets.first.postgres.pid, signal.SIGKILL)
            else:
                getattr(wallets, victim).kill("wallet")
            killed.append(victim)
            for stack in wallets.stacks:
                stack.wait_healthy("wallet")

    clients = await run(wallets, CRASH_S, disturb)
    assert len(killed) >= 3
    await assert_exact(wallets, clients)
    for client in clients:
        await client.close()
