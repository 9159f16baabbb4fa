"""The whole engine for tests, and callers that hide the ceremony of tokens and channels."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc, order_requests_pb2
from exchange.matcher.v1 import matcher_pb2, matcher_pb2_grpc
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc, trade_pb2
from exchange.wallet.v1 import operation_pb2, wallet_pb2, wallet_pb2_grpc

from cli.audit import AuditReport, run_audit
from cli.stack import Stack
from libs.db.pool import prepare_connection
from libs.identity import mint_token
from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
QUIET_TIMEOUT_S = 60.0


class Engine:
    """A running stack and its callers. `service` credentials unless a user is named."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = stack.settings()
        self._channels: list[grpc.aio.Channel] = []
        self.gateway = order_gateway_pb2_grpc.OrderGatewayServiceStub(self._channel(self.settings.gateway.target()))
        self.matcher = matcher_pb2_grpc.MatcherServiceStub(self._channel(self.settings.matcher.target()))
        self.settlement = settlement_pb2_grpc.SettlementServiceStub(self._channel(self.settings.settlement.target()))
        self.wallet = wallet_pb2_grpc.WalletServiceStub(self._channel(self.settings.wallet.target()))
        self.service = self.as_caller("tests", "service")

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.settings.edge.port}"

    def token(self, subject: str, scopes: str = "read trade", life_s: int = 3600) -> str:
        return mint_token(self.settings.auth, subject=subject, scopes=scopes, life_s=life_s)

    def as_caller(self, subject: str, scopes: str = "read trade", life_s: int = 3600) -> tuple[tuple[str, str], ...]:
        """Metadata of a caller."""
        return tuple(self.bearer(subject, scopes, life_s).items())

    def bearer(self, subject: str, scopes: str = "read trade", life_s: int = 3600) -> dict[str, str]:
        """Headers of a caller by HTTP."""
        return {"authorization": f"Bearer {self.token(subject, scopes, life_s)}"}

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def deposit(self, user_id: str, **amounts: str) -> None:
        for asset, amount in amounts.items():
            request = operation_pb2.DepositRequest(user_id=user_id, asset=asset, amount=amount, deposit_id=new_id())
            await self.wallet.Deposit(request, metadata=self.service, timeout=10)

    async def user(self, **amounts: str) -> str:
        """A new user with money."""
        user_id = new_id()
        await self.deposit(user_id, **amounts)
        return user_id

    async def place(self, user_id: str, text: str, *, client_order_id: str = "", symbol: str = "BTC/USDT") -> Any:
        """Place an order written as `BUY 0.5 @ 100 [IOC]`, `SELL 1 MARKET` or `BUY MARKET FOR 100`."""
        request = order_from(text, user_id=user_id, symbol=symbol, client_order_id=client_order_id or new_id())
        return await self.gateway.PlaceOrder(request, metadata=self.service, timeout=20)

    async def cancel(self, order: order_pb2.Order) -> order_pb2.Order:
        request = order_requests_pb2.CancelOrderRequest(user_id=order.user_id, order_id=order.order_id)
        return (await self.gateway.CancelOrder(request, metadata=self.service, timeout=20)).order

    async def order(self, order: order_pb2.Order) -> order_pb2.Order:
        request = order_gateway_pb2.GetOrderRequest(user_id=order.user_id, order_id=order.order_id)
        return (await self.gateway.GetOrder(request, metadata=self.service, timeout=10)).order

    async def balances(self, user_id: str) -> dict[str, tuple[str, str]]:
        """(available, reserved) by asset."""
        request = wallet_pb2.GetBalancesRequest(user_id=user_id)
        response = await self.wallet.GetBalances(request, metadata=self.service, timeout=10)
        return {item.asset: (item.available, item.reserved) for item in response.balances}

    async def book(self, symbol: str, depth: int = 10) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(asks, bids) as (price, quantity)."""
        request = matcher_pb2.GetBookRequest(symbol=symbol, depth=depth)
        book = (await self.matcher.GetBook(request, metadata=self.service, timeout=10)).book
        return [(x.price, x.quantity) for x in book.asks], [(x.price, x.quantity) for x in book.bids]

    async def tape(self, symbol: str) -> list[trade_pb2.TapeTrade]:
        request = settlement_pb2.ListTradesRequest(symbol=symbol, page_size=1000)
        return list((await self.settlement.ListTrades(request, metadata=self.service, timeout=10)).trades)

    async def empty_books(self, symbol: str = "") -> None:
        """Cancel everybody's orders, in one market or all: what other tests of the same engine have left."""
        live = "SELECT DISTINCT user_id::text FROM orders.orders WHERE status IN (1, 2, 3) AND ($1 = '' OR symbol = $1)"
        for row in await self.query(live, symbol):
            cancel = order_requests_pb2.CancelOrdersRequest(user_id=row["user_id"], symbol=symbol)
            await self.gateway.CancelOrders(cancel, metadata=self.service, timeout=20)

    async def query(self, sql: str, *values: Any) -> list[Any]:
        """Rows, straight from the database."""
        connection = await asyncpg.connect(self.settings.database.dsn.get_secret_value())
        try:
            await prepare_connection(connection)
            return list(await connection.fetch(sql, *values))
        finally:
            await connection.close()

    async def quiet(self) -> AuditReport:
        """Wait until nothing is on its way any more, and return the audit; after a minute, as it is then."""
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while True:
            report = await run_audit(self.settings.database.dsn.get_secret_value(), show_progress=False)
            if report.clean or time.monotonic() > deadline:
                return report
            await asyncio.sleep(0.1)

    def _channel(self, target: str) -> grpc.aio.Channel:
        channel = open_channel(target)
        self._channels.append(channel)
        return channel


def order_from(text: str, *, user_id: str, symbol: str, client_order_id: str) -> order_requests_pb2.PlaceOrderRequest:
    """A request from `BUY 0.5 @ 100 [IOC]`, `SELL 1 MARKET` or `BUY MARKET FOR 100`."""
    words = text.split()
    request = order_requests_pb2.PlaceOrderRequest(
        user_id=user_id,
        client_order_id=client_order_id,
        symbol=symbol,
        side=order_pb2.SIDE_BUY if words[0] == "BUY" else order_pb2.SIDE_SELL,
        type=order_pb2.ORDER_TYPE_MARKET if "MARKET" in words else order_pb2.ORDER_TYPE_LIMIT,
    )
    if "FOR" in words:
        request.quote_amount = words[-1]
        return request
    request.quantity = words[1]
    if "@" in words:
        request.price = words[words.index("@") + 1]
    if words[-1] == "IOC":
        request.time_in_force = order_pb2.TIME_IN_FORCE_IOC
    return request


def stack_on(
    servers: Servers, folder: Path, dsn: str, *, rabbitmq: bool = True, make: Callable[..., Stack] = Stack, **over: str
) -> Stack:
    """A stack on the tests' servers, with ports and a database of its own."""
    settings = {
        "TRADE_ENGINE_DATABASE_DSN": dsn,
        "TRADE_ENGINE_REDIS_URL": servers.redis,
        "TRADE_ENGINE_RABBITMQ_URL": servers.rabbitmq if rabbitmq else "",
        "TRADE_ENGINE_RABBITMQ_PREFIX": f"{servers.prefix}{folder.name}.".lower().replace("_", "-")[:40],
        "TRADE_ENGINE_EDGE_RATE_PER_S": "10000",
        "TRADE_ENGINE_EDGE_RATE_BURST": "10000",
        "TRADE_ENGINE_EDGE_HEARTBEAT_S": "3",
        "TRADE_ENGINE_MATCHER_LEASE_MS": "1000",
        **over,
    }
    return make(folder, private_ports=True, log_dir=folder / "logs", settings_over=settings)


# What tests of orders and money do without: it only shows what is there, and starting it takes time.
SHOWING = frozenset({"edge", "market_data"})


@contextlib.asynccontextmanager
async def engine_in(
    servers: Servers, folder: Path, *, without: frozenset[str] = frozenset(), **how: Any
) -> AsyncIterator[Engine]:
    """An engine on a fresh database, as `stack_on` makes it; the database goes with it."""
    dsn = servers.migrated_database()
    stack = stack_on(servers, folder, dsn, **how)
    stack.services = tuple(name for name in stack.services if name not in without)
    async with running(stack) as engine:
        yield engine
    servers.drop_database(dsn)


@contextlib.asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Engine]:
    """Start a stack, hand out its callers, stop it."""
    stack.start()
    engine = Engine(stack)
    try:
        yield engine
    finally:
        await engine.close()
        stack.stop()


def start_beside(engine: Engine, service: str, log: Path, **over: str) -> subprocess.Popen:
    """Another process of one of an engine's services, with settings of its own; whoever starts it ends it."""
    environment = {**os.environ, **engine.stack.environment, **over}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", f"services.{service}"], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
