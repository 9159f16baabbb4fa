"""`trade-engine replay`: real order flow through the gateway, and a check that every order filled as the flow says."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc.aio
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc, trading_session_pb2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from cli.lobster import USERS, Flow, FlowError, Step, read_book_rows, read_messages
from cli.output import print_table
from cli.session import Answer, Request, run_session
from cli.statistics import percentile
from cli.users import deposit_id_of, deposit_to, user_id_of
from libs.config import Settings
from libs.identity import SERVICE_SCOPE, mint_token
from libs.money import UNIT, parse_units
from libs.rpc.client import open_channel

FUNDS = {"AAPL": "10000000", "USD": "1000000000"}
_TOKEN_LIFE_S = 86_400
_PAGE = 500
_RECORDED_WITHIN_S = 20.0
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay, and how."""

    file: Path
    book: Path | None
    symbol: str
    limit: int | None
    run_id: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of it. Times in milliseconds; `mismatches` are orders that filled otherwise than the flow says."""

    messages: int
    requests: int
    skipped: int
    refused: int
    trades: int
    mismatches: list[str]
    seconds: float
    p50_ms: float
    p99_ms: float


async def fund(settings: Settings, run_id: str) -> None:
    """Give every user of the flow enough of both assets, once a run."""
    for user in USERS:
        for asset, amount in FUNDS.items():
            key = deposit_id_of(f"{run_id}/{user}/{asset}")
            await deposit_to(settings, user_id_of(user), asset, amount, deposit_id=key)


def all_steps(options: ReplayOptions, flow: Flow) -> Iterator[Step]:
    """The opening book, if there is one, then every message. Raises FlowError."""
    opened = options.book is None
    for message in read_messages(options.file):
        if options.limit is not None and message.number > options.limit:
            return
        if not opened and options.book is not None:
            row = next(read_book_rows(options.book), None)
            if row is None:
                raise FlowError(f"{options.book}: no book in it")
            yield from flow.open_book(row, message)
            opened = True
        yield from flow.steps(message)


async def run_replay(settings: Settings, options: ReplayOptions) -> ReplayReport:
    """Replay a file. Raises SessionError, RefusedError; FlowError before anything is asked of the engine."""
    flow = Flow(options.symbol, options.run_id)
    steps = list(all_steps(options, flow))
    await fund(settings, options.run_id)
    token = mint_token(settings.auth, subject="replay", scopes=SERVICE_SCOPE, life_s=_TOKEN_LIFE_S)
    seconds: list[float] = []
    trades = refused = 0
    console = Console(stderr=True, quiet=options.quiet)
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("replay", total=len(steps))

        def on_answer(request: Request, answer: Answer, took_s: float) -> None:
            nonlocal trades, refused
            del request
            seconds.append(took_s)
            trades += len(answer.fills)
            refused += answer.HasField("error")
            progress.advance(task)

        started = progress.get_time()
        await run_session(settings.gateway.target(), token, _requests(steps), on_answer, tls=settings.tls)
        lasted = progress.get_time() - started
    # What a resting order is filled stands in its record a moment after the taker's answer.
    patiently = AsyncRetrying(
        retry=retry_if_result(bool), stop=stop_after_delay(_RECORDED_WITHIN_S), wait=wait_fixed(_LOOK_EVERY_S),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )  # fmt: skip
    mismatches: list[str] = await patiently(_mismatches, settings, token, flow)
    return ReplayReport(
        messages=sum(1 for step in steps if step.message is not None),
        requests=len(steps),
        skipped=flow.skipped,
        refused=refused,
        trades=trades,
        mismatches=mismatches,
        seconds=round(lasted, 3),
        p50_ms=round(percentile(seconds, 50) * 1000, 2),
        p99_ms=round(percentile(seconds, 99) * 1000, 2),
    )


def print_report(report: ReplayReport, *, as_json: bool) -> None:
    """The report for a person or for a script."""
    if as_json:
        print(json.dumps(asdict(report)))
        return
    table = Table("replay", "")
    for name, value in asdict(report).items():
        shown = f"{len(value)} {'; '.join(value[:5])}" if isinstance(value, list) else str(value)
        table.add_row(name, shown)
    table.add_row("messages/s", f"{report.requests / report.seconds:.0f}" if report.seconds else "-")
    print_table(table)


def _requests(steps: list[Step]) -> Iterator[trading_session_pb2.TradingSessionRequest]:
    for step in steps:
        yield step.request


async def _mismatches(settings: Settings, token: str, flow: Flow) -> list[str]:
    """Orders whose filled quantity is not what the flow's executions add up to."""
    filled: dict[tuple[str, str], int] = {}
    async with open_channel(settings.gateway.target(), settings.tls) as channel:
        stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
        for user in USERS[:-2] + USERS[-1:]:
            async for order in _orders_of(stub, token, user_id_of(user)):
                if order.client_order_id.startswith(f"{flow.run_id}/") and order.filled_quantity != "0":
                    units = parse_units(order.filled_quantity, field="filled_quantity")
                    filled[(order.user_id, order.client_order_id)] = units // UNIT
    return sorted(
        f"{client_id}: filled {filled.get((user, client_id), 0)}, not {flow.expected_fills.get((user, client_id), 0)}"
        for user, client_id in filled.keys() | flow.expected_fills.keys()
        if filled.get((user, client_id), 0) != flow.expected_fills.get((user, client_id), 0)
    )


async def _orders_of(
    stub: "order_gateway_pb2_grpc.OrderGatewayServiceAsyncStub", token: str, user_id: str
) -> AsyncIterator[order_pb2.Order]:
    page_token = ""
    while True:
        request = order_gateway_pb2.ListOrdersRequest(user_id=user_id, page_size=_PAGE, page_token=page_token)
        try:
            response = await stub.ListOrders(request, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"cannot list orders: {error.details()}") from error
        for order in response.orders:
            yield order
        page_token = response.next_page_token
        if not page_token:
            return
