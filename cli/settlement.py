"""`trade-engine settlement`: how far settling is, what could not be settled, and how it is mended."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table

from cli.running import settings_of_running_stack
from libs.identity import service_credential
from libs.rpc.client import Peer, open_channel

_TIMEOUT_S = 3600.0
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def settlement() -> None:
    """See how far settling is, and mend what could not be settled."""


@settlement.command()
@_as_json
def status(as_json: bool) -> None:
    """Tell how far settling is behind matching; exits 1 where dead letters wait."""
    found: settlement_pb2.GetStatusResponse = _ask("GetStatus", settlement_pb2.GetStatusRequest())
    if as_json:
        _print_json(found)
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
        Console().print(table)
    if found.dead_letters:
        sys.exit(1)


@settlement.command("dead-letters")
@click.option("--with-resolved", is_flag=True, help="Also those that were settled after all.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@_as_json
def dead_letters(with_resolved: bool, limit: int, as_json: bool) -> None:
    """List what could not be settled, oldest first."""
    request = settlement_pb2.ListDeadLettersRequest(with_resolved=with_resolved, page_size=limit)
    found: settlement_pb2.ListDeadLettersResponse = _ask("ListDeadLetters", request)
    if as_json:
        _print_json(found)
        return
    table = Table("letter", "symbol", "reason", "tried", "why")
    for letter in found.letters:
        style = "dim" if letter.HasField("resolved_at") else ""
        table.add_row(letter.letter_id, letter.symbol, letter.reason, str(letter.attempts), letter.message, style=style)
    Console().print(table)


@settlement.command()
@click.argument("letters", nargs=-1)
@_as_json
def retry(letters: tuple[str, ...], as_json: bool) -> None:
    """Settle dead LETTERS again, or, without any named, the oldest 500; exits 1 where one fails or is unknown."""
    found: settlement_pb2.RetryDeadLettersResponse = _ask(
        "RetryDeadLetters", settlement_pb2.RetryDeadLettersRequest(letter_ids=letters)
    )
    if as_json:
        _print_json(found)
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
@_as_json
def reconcile(symbol: str, deep: bool, as_json: bool) -> None:
    """Compare journal, tape and ledger, deliver again what is missing; exits 1 where they do not agree afterwards."""
    request = settlement_pb2.ReconcileRequest(symbol=symbol, deep=deep)
    with Console(stderr=True, quiet=as_json).status("reconciling"):
        found: settlement_pb2.ReconcileResponse = _ask("Reconcile", request)
    if as_json:
        _print_json(found)
    else:
        columns = ("journaled", "settled", "missing", "repaired", "refused", "unexplained", "different", "compared")
        table = Table("symbol", *columns, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for report in found.symbols:
            if report.journaled or report.unexplained:
                table.add_row(report.symbol, *(str(getattr(report, column)) for column in columns))
        Console().print(table)
        Console().print("reconciled: journal, tape and ledger agree" if found.clean else "NOT RECONCILED", style="bold")
    if not found.clean:
        sys.exit(1)


@settlement.command()
@click.option("--symbol", required=True, help="Which market, such as BTC/USDT.")
@click.option("--after", type=click.IntRange(0), help="Begin after this trade; default: only new ones.")
def watch(symbol: str, after: int | None) -> None:
    """Print trades as they are settled, one JSON object a line, until Ctrl-C."""
    try:
        asyncio.run(_watch(settlement_pb2.StreamSettlementsRequest(symbol=symbol, after_sequence=after)))
    except KeyboardInterrupt:
        return


def _ask(method: str, request: Message) -> Any:
    return asyncio.run(_with_settlement(lambda stub, peer: peer.call(getattr(stub, method), request)))


async def _watch(request: settlement_pb2.StreamSettlementsRequest) -> None:
    async def read(stub: settlement_pb2_grpc.SettlementServiceAsyncStub, peer: Peer) -> None:
        async for response in stub.StreamSettlements(request, metadata=peer.metadata()):
            for trade in response.trades:
                print(json.dumps(MessageToDict(trade)), flush=True)

    await _with_settlement(read)


async def _with_settlement(work: Callable[[Any, Peer], Awaitable[Any]]) -> Any:
    settings = settings_of_running_stack()
    credential = service_credential(settings.auth, service="cli")
    peer = Peer(name="settlement", credential=credential, timeout_s=_TIMEOUT_S, patience_s=0)
    channel = open_channel(settings.settlement.target(), settings.tls)
    try:
        return await work(settlement_pb2_grpc.SettlementServiceStub(channel), peer)
    finally:
        await channel.close()


def _print_json(message: Message) -> None:
    print(json.dumps(MessageToDict(message, always_print_fields_with_no_presence=True)))
