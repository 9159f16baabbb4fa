"""`trade-engine demo`: the whole engine in a temporary folder, a few thousand orders, and the proof that all adds up."""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc.aio
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.audit import AuditReport, run_audit
from cli.stack import Stack, temporary_folder
from cli.statistics import percentile
from cli.users import deposit_to, user_id_of
from libs.config import Settings
from libs.identity import SERVICE_SCOPE, mint_token
from libs.money import format_units
from libs.rpc.client import open_channel

TRADERS = 20
IN_FLIGHT = 32
FUNDS = {"BTC": "1000", "ETH": "10000", "USDT": "100000000"}
MARKETS = {"BTC/USDT": (65_000, 3), "ETH/USDT": (3_200, 2)}
SETTLE_TIMEOUT_S = 60.0
_TOKEN_LIFE_S = 3600


@dataclass
class DemoResult:
    """What the demo did. Times in seconds."""

    orders: int = 0
    refused: int = 0
    cancels: int = 0
    trades: int = 0
    settled: int = 0
    dead_letters: int = 0
    seconds: float = 0.0
    placements: list[float] = field(default_factory=list)
    audit: AuditReport | None = None

    @property
    def passed(self) -> bool:
        """Whether every order was answered, every trade settled, and the books are right."""
        clean = self.audit is not None and self.audit.clean
        return self.refused == 0 and self.trades > 0 and self.trades == self.settled and not self.dead_letters and clean


def run_demo(*, orders: int, seed: int, as_json: bool) -> bool:
    """Run it; returns whether it passed. Raises StackError, EmbeddedError."""
    console = Console(stderr=True, quiet=as_json)
    with temporary_folder("trade-engine-demo-") as folder:
        stack = Stack(
            folder, private_ports=True, log_dir=folder / "logs",
            on_event=lambda text: console.print(f"[dim]{text}[/dim]"),
        )  # fmt: skip
        try:
            stack.start()
            result = asyncio.run(_trade(stack.settings(), orders=orders, seed=seed, console=console))
        finally:
            stack.stop()
    _print_result(result, as_json=as_json)
    return result.passed


async def _trade(settings: Settings, *, orders: int, seed: int, console: Console) -> DemoResult:
    result = DemoResult()
    users = [user_id_of(f"demo-trader-{number}") for number in range(TRADERS)]
    for user in users:
        for asset, amount in FUNDS.items():
            await deposit_to(settings, user, asset, amount)
    before = await _settlement_status(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        placing = progress.add_task("orders", total=orders)
        started = time.perf_counter()
        async with open_channel(settings.gateway.target(), settings.tls) as channel:
            traders = _Traders(settings, channel, users, random.Random(seed), result)  # noqa: S311 - a demo's dice
            left = iter(range(orders))
            async with asyncio.TaskGroup() as group:
                for _ in range(IN_FLIGHT):
                    group.create_task(traders.place_all(left, lambda: progress.advance(placing)))
        result.seconds = time.perf_counter() - started
        settling = progress.add_task("settled", total=result.trades)
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            status = await _settlement_status(settings)
            result.settled = status.settled - before.settled
            result.dead_letters = status.dead_letters - before.dead_letters
            progress.update(settling, completed=result.settled)
            if result.settled + result.dead_letters >= result.trades:
                break
            await asyncio.sleep(0.1)
    dsn = settings.database.dsn.get_secret_value()
    while time.monotonic() < deadline:  # the last order events may still be on their way to the orders table
        result.audit = await run_audit(dsn, show_progress=False)
        if result.audit.clean:
            break
        await asyncio.sleep(0.2)
    return result


class _Traders:
    """Places random orders around a price that wanders, and cancels some."""

    def __init__(
        self,
        settings: Settings,
        channel: grpc.aio.Channel,
        users: list[str],
        dice: random.Random,
        result: DemoResult,
    ) -> None:
        self._stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
        token = mint_token(settings.auth, subject="demo", scopes=SERVICE_SCOPE, life_s=_TOKEN_LIFE_S)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._users = users
        self._dice = dice
        self._result = result
        self._run = f"{dice.getrandbits(32):08x}-{time.time_ns()}"
        self._open: deque[order_pb2.Order] = deque(maxlen=1000)

    async def place_all(self, left: Iterator[int], advance: Callable[[], None]) -> None:
        for number in left:
            started = time.perf_counter()
            try:
                response = await self._stub.PlaceOrder(self._order(number), metadata=self._metadata, timeout=30)
            except grpc.aio.AioRpcError as error:
                self._result.refused += 1
                Console(stderr=True).print(f"refused: {error.details()}", style="red")
                continue
            finally:
                self._result.placements.append(time.perf_counter() - started)
                advance()
            self._result.orders += 1
            self._result.trades += len(response.fills)
            if response.order.status in {order_pb2.ORDER_STATUS_OPEN, order_pb2.ORDER_STATUS_PARTIALLY_FILLED}:
                self._open.append(response.order)
            if len(self._open) > 100 and self._dice.random() < 0.2:
                await self._cancel(self._open.popleft())

    def _order(self, number: int) -> order_requests_pb2.PlaceOrderRequest:
        dice = self._dice
        symbol = dice.choice(list(MARKETS))
        middle, decimals = MARKETS[symbol]
        price = middle * (1 + dice.gauss(0, 0.002))
        buying = dice.random() < 0.5
        return order_requests_pb2.PlaceOrderRequest(
            user_id=dice.choice(self._users),
            client_order_id=f"demo-{self._run}-{number}",
            symbol=symbol,
            side=order_pb2.SIDE_BUY if buying else order_pb2.SIDE_SELL,
            type=order_pb2.ORDER_TYPE_LIMIT,
            time_in_force=order_pb2.TIME_IN_FORCE_IOC if dice.random() < 0.15 else order_pb2.TIME_IN_FORCE_GTC,
            price=f"{price:.2f}",
            quantity=f"{dice.randint(1, 50) / 10**decimals:.{decimals}f}",
        )

    async def _cancel(self, order: order_pb2.Order) -> None:
        request = order_requests_pb2.CancelOrderRequest(user_id=order.user_id, order_id=order.order_id)
        try:
            await self._stub.CancelOrder(request, metadata=self._metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # filled in the meantime
                raise
        self._result.cancels += 1


async def _settlement_status(settings: Settings) -> settlement_pb2.GetStatusResponse:
    token = mint_token(settings.auth, subject="demo", scopes=SERVICE_SCOPE, life_s=_TOKEN_LIFE_S)
    async with open_channel(settings.settlement.target(), settings.tls) as channel:
        stub = settlement_pb2_grpc.SettlementServiceStub(channel)
        status: settlement_pb2.GetStatusResponse = await stub.GetStatus(
            settlement_pb2.GetStatusRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10
        )
        return status


def _print_result(result: DemoResult, *, as_json: bool) -> None:
    audit = "clean" if result.audit is not None and result.audit.clean else "FAULTS"
    p50_ms, p99_ms = (percentile(result.placements, percent) * 1000 for percent in (50, 99))
    totals = result.audit.totals if result.audit is not None else {}
    if as_json:
        figures = {
            "passed": result.passed, "orders": result.orders, "cancels": result.cancels, "trades": result.trades,
            "settled": result.settled, "p50Ms": p50_ms, "p99Ms": p99_ms, "audit": audit,
            "fees": {asset: format_units(fees) for asset, (_, fees, _) in totals.items()},
        }  # fmt: skip
        print(json.dumps(figures))
        return
    console = Console()
    table = Table("demo", "", title="What happened")
    table.add_row("orders", f"{result.orders} ({result.orders / result.seconds:.0f}/s, {IN_FLIGHT} in flight)")
    table.add_row("cancels", str(result.cancels))
    table.add_row("trades", str(result.trades))
    table.add_row("settled", str(result.settled))
    table.add_row("placement p50 / p99", f"{p50_ms:.1f} ms / {p99_ms:.1f} ms")
    for asset, (users, fees, deposited) in totals.items():
        shown = f"users {format_units(users)} + fees {format_units(fees)} = deposited {format_units(deposited)}"
        table.add_row(asset, shown)
    console.print(table)
    if result.audit is not None and not result.audit.clean:
        for finding in result.audit.findings:
            if finding.wrong:
                console.print(f"audit: {finding.check}: {finding.wrong} wrong, for example {finding.examples}")
    verdict = "PASS" if result.passed else "FAIL"
    print(f"demo: {verdict} orders={result.orders} trades={result.trades} settled={result.settled} audit={audit}")
