"""`trade-engine settlement`: how far settling is, what could not be settled, and how it is mended."""

import asyncio
import json
import signal
import sys
from typing import Any

import click
import grpc.aio
from exchange.common.v1 import order_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table

from cli.asking import ask, operator
from cli.output import json_option, print_json, print_table
from cli.running import settings_of_running_stack
from libs.reasons import PASSING
from libs.rpc.client import Peer, open_channel
from libs.rpc.errors import refused_from_call

_TIMEOUT_S = 3600.0
_RECONNECT_S = 0.5


@click.group()
def settlement() -> None:
    """See how far settling is, and mend what could not be settled."""


@settlement.command()
@json_option
def status(as_json: bool) -> None:
    """Tell how far settling is behind matching; exits 1 where dead letters wait."""
    found: settlement_pb2.GetStatusResponse = _ask("GetStatus", settlement_pb2.GetStatusRequest())
    if as_json:
        print_json(found)
    else:
        table = Table("settlement", "")
        table.add_row("settled", str(found.settled))
        table.add_row("unsettled", f"{found.unsettled} (oldest {found.oldest_unsettled_s:.1f} s)")
        table.add_row("per second", f"matched {found.matched_per_s:.1f}, settled {found.settled_per_s:.1f}")
        table.add_row("dead letters", str(found.dead_letters), style="red" if found.dead_letters else "")
        table.add_row("matchers", "answer" if found.matchers_answer else "do not answer")
        for symbol in found.symbols:
            if symbol.matched:
                table.add_row(symbol.symbol, f"{symbol.settled} of {symbol.matched}")
        print_table(table)
    if found.dead_letters:
        sys.exit(1)


@settlement.command("dead-letters")
@click.option("--with-resolved", is_flag=True, help="Also those that were settled after all.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@json_option
def dead_letters(with_resolved: bool, limit: int, as_json: bool) -> None:
    """List what could not be settled, oldest first."""
    request = settlement_pb2.ListDeadLettersRequest(with_resolved=with_resolved, page_size=limit)
    found: settlement_pb2.ListDeadLettersResponse = _ask("ListDeadLetters", request)
    if as_json:
        print_json(found)
        return
    table = Table("letter", "symbol", "reason", "tried", "why")
    for letter in found.letters:
        style = "dim" if letter.HasField("resolved_at") else ""
        table.add_row(letter.letter_id, letter.symbol, letter.reason, str(letter.attempts), letter.message, style=style)
    print_table(table)


@settlement.command()
@click.argument("letters", nargs=-1)
@json_option
def retry(letters: tuple[str, ...], as_json: bool) -> None:
    """Settle dead LETTERS again, or, without any named, the oldest 500; exits 1 where one fails or is unknown."""
    found: settlement_pb2.RetryDeadLettersResponse = _ask(
        "RetryDeadLetters", settlement_pb2.RetryDeadLettersRequest(letter_ids=letters)
    )
    if as_json:
        print_json(found)
    else:
        for letter_id in found.settled:
            print(f"settled: {letter_id}")
        for letter in found.failed:
            print(f"failed:  {letter.letter_id}: {letter.message}")
        for letter_id in found.unknown:
            print(f"unknown: {letter_id}")
    if found.failed or found.unknown:
        sys.exit(1)


@settlement.command()
@click.option("--symbol", default="", help="Only this market; default: all.")
@click.option("--deep", is_flag=True, help="Compare every trade's contents, too: replays the whole journal.")
@json_option
def reconcile(symbol: str, deep: bool, as_json: bool) -> None:
    """Compare journal, tape and ledger, deliver again what is missing; exits 1 where they do not agree afterwards."""
    request = settlement_pb2.ReconcileRequest(symbol=symbol, deep=deep)
    with Console(stderr=True, quiet=as_json).status("reconciling"):
        found: settlement_pb2.ReconcileResponse = _ask("Reconcile", request)
    if as_json:
        print_json(found)
    else:
        columns = ("journaled", "settled", "missing", "repaired", "refused", "unexplained", "different", "compared")
        table = Table("symbol", *columns, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for report in found.symbols:
            if report.journaled or report.unexplained:
                table.add_row(report.symbol, *(str(getattr(report, column)) for column in columns))
        print_table(table)
        Console().print("reconciled: journal, tape and ledger agree" if found.clean else "NOT RECONCILED", style="bold")
    if not found.clean:
        sys.exit(1)


class _Time(click.ParamType[Timestamp]):
    """A moment as RFC 3339 writes it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timestamp:
        """See click.ParamType."""
        moment = Timestamp()
        try:
            moment.FromJsonString(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-22T08:30:00Z", param, ctx)
        return moment


@settlement.command()
@click.option("--symbol", required=True, help="Which market, such as BTC/USDT.")
@click.option("--since", type=_Time(), help="Only those matched at or after this time, such as 2026-11-22T08:30:00Z.")
@click.option("--until", type=_Time(), help="Only those matched before this time.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@click.option("--page", default="", help="Go on with the page that the answer before named.")
@json_option
def trades(  # noqa: PLR0917 - its options
    symbol: str, since: Timestamp | None, until: Timestamp | None, limit: int, page: str, as_json: bool
) -> None:
    """List settled trades from the tape, newest first."""
    request = settlement_pb2.ListTradesRequest(
        symbol=symbol, page_size=limit, page_token=page, from_time=since, until_time=until
    )
    found: settlement_pb2.ListTradesResponse = _ask("ListTrades", request)
    if as_json:
        print_json(found)
        return
    table = Table("number", "matched", "price", "quantity", "taker", "trade", box=box.SIMPLE_HEAD)
    for trade in found.trades:
        taker = "buys" if trade.taker_side == order_pb2.SIDE_BUY else "sells"
        moment = trade.executed_at.ToJsonString()
        table.add_row(str(trade.sequence), moment, trade.price, trade.quantity, taker, trade.trade_id)
    print_table(table)
    if found.next_page_token:
        print(f"more: --page {found.next_page_token}")


@settlement.command()
@click.option("--symbol", required=True, help="Which market, such as BTC/USDT.")
@click.option("--after", type=click.IntRange(0), help="Begin after this trade; default: only new ones.")
def watch(symbol: str, after: int | None) -> None:
    """Print trades as they are settled, one JSON object a line, until Ctrl-C; goes on where it was after a restart."""
    asyncio.run(_watch(settlement_pb2.StreamSettlementsRequest(symbol=symbol, after_sequence=after)))


def _ask(method: str, request: Message) -> Any:
    return ask("settlement", settlement_pb2_grpc.SettlementServiceStub, method, request, timeout_s=_TIMEOUT_S)


async def _watch(request: settlement_pb2.StreamSettlementsRequest) -> None:
    settings = settings_of_running_stack()
    peer = operator(settings, "settlement")
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    async with open_channel(settings.settlement.target(), settings.tls) as channel:
        following = asyncio.create_task(_follow(settlement_pb2_grpc.SettlementServiceStub(channel), peer, request))
        waiting = asyncio.create_task(interrupted.wait())
        await asyncio.wait((following, waiting), return_when=asyncio.FIRST_COMPLETED)
        # Left to its end by the channel that closes: a cancellation alone can get lost where a stream is being opened.
        if following.done():
            following.result()


async def _follow(
    stub: "settlement_pb2_grpc.SettlementServiceAsyncStub", peer: Peer, request: settlement_pb2.StreamSettlementsRequest
) -> None:
    while True:
        try:
            async for response in stub.StreamSettlements(request, metadata=peer.metadata()):
                for trade in response.trades:
                    print(json.dumps(MessageToDict(trade)), flush=True)
                    request.after_sequence = trade.sequence
        except grpc.aio.AioRpcError as error:
            refused = refused_from_call(error, dependency="settlement")
            if refused.refused.reason not in PASSING:
                raise refused from error
            Console(stderr=True).print(f"coming back: {refused}", markup=False, soft_wrap=True)
        await asyncio.sleep(_RECONNECT_S)
