"""`trade-engine assets` and `trade-engine markets`: what can be held and traded, for operators."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import asyncpg
import click
import grpc.aio
from exchange.common.v1 import symbol_pb2
from exchange.matcher.v1 import matcher_pb2, matcher_pb2_grpc
from exchange.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from google.protobuf.message import Message
from rich.table import Table

from cli.asking import answer_of, operator
from cli.output import as_dict, json_option, print_table
from cli.running import settings_of_running_stack
from libs.config import Settings
from libs.orders import SymbolStatus
from libs.reasons import Reason, Refused, RefusedError, away
from libs.rpc.client import open_channel

LEADERS = "SELECT shard, address FROM matcher.shards WHERE address <> '' ORDER BY shard"
# What a new market has where nothing else is asked for; the smallest quantity is then one lot.
NEW_MARKET = {
    "max_quantity": "1000000",
    "min_notional": "0",
    "maker_fee_bps": 10,
    "taker_fee_bps": 20,
    "market_band_bps": 500,
    "max_open_orders": 20_000,  # a hundredth of what a book holds
}
FILTERS = {
    "tick_size": "Smallest price step.",
    "lot_size": "Smallest quantity step.",
    "min_quantity": "Smallest order.",
    "max_quantity": "Largest order.",
    "min_notional": "Smallest price x quantity of a limit order.",
    "maker_fee_bps": "Fee of the resting party, in hundredths of a percent.",
    "taker_fee_bps": "Fee of the incoming party, in hundredths of a percent.",
    "market_band_bps": "How far from the last trade a market order goes, in hundredths of a percent.",
    "price_band_bps": "How far from the last trade a limit price may be, in hundredths of a percent; 0: as far as it likes.",
    "max_open_orders": "Open orders that one user may have; 0: any number.",
}


@click.group()
def assets() -> None:
    """See and add what can be held."""


@assets.command("list")
@json_option
def list_assets(as_json: bool) -> None:
    """List all assets."""
    known = asyncio.run(_known_assets(settings_of_running_stack()))
    click.echo(json.dumps(known) if as_json else "\n".join(known))


@assets.command("add")
@click.argument("codes", nargs=-1, required=True)
def add_assets(codes: tuple[str, ...]) -> None:
    """Make assets known by their CODES (2 to 12 capital letters and digits), for good; again it changes nothing."""
    settings = settings_of_running_stack()
    for code in codes:
        asyncio.run(_wallet(settings, "PutAsset", wallet_pb2.PutAssetRequest(asset=code)))
        click.echo(f"{code} can be held")


@click.group()
def markets() -> None:
    """See, add and change what can be traded."""


@markets.command("list")
@json_option
def list_markets(as_json: bool) -> None:
    """List all markets with their filters."""

    async def found() -> list[symbol_pb2.Symbol]:
        async with _shards(settings_of_running_stack()) as shards:
            return sorted((symbol for shard in shards for symbol in shard.symbols), key=lambda symbol: symbol.symbol)

    symbols = asyncio.run(found())
    if as_json:
        click.echo(json.dumps([as_dict(symbol) for symbol in symbols]))
        return
    table = Table("market", "status", *(name.replace("_", " ") for name in FILTERS))
    for symbol in symbols:
        values = (str(getattr(symbol, name)) for name in FILTERS)
        table.add_row(symbol.symbol, SymbolStatus(symbol.status).name, *values)
    print_table(table)


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, text in reversed(FILTERS.items()):
        kind = int if name.endswith(("bps", "orders")) else str
        command = click.option(f"--{name.replace('_', '-')}", type=kind, help=text)(command)
    return command


@markets.command()
@click.argument("symbol")
@_filter_options
@click.option("--status", type=click.Choice([status.name for status in SymbolStatus]), help="What may be done in it.")
@click.option("--shard", default=0, show_default=True, help="Where a new market is matched.")
@json_option
def put(symbol: str, status: str | None, shard: int, as_json: bool, **filters: str | int | None) -> None:
    """Add the market SYMBOL (such as BTC/EUR), or change of an existing one what is named.

    A new one needs a tick size and a lot size. Gateways take a change within half a minute.
    """
    changes = {name: value for name, value in filters.items() if value is not None}
    if status is not None:
        changes["status"] = SymbolStatus[status]
    done = asyncio.run(_put(settings_of_running_stack(), symbol, changes, shard))
    click.echo(json.dumps(as_dict(done)) if as_json else f"{symbol} is {SymbolStatus(done.status).name}")


class _Shard(NamedTuple):
    """A shard's leader, and the markets that it has."""

    number: int
    stub: Any
    symbols: list[symbol_pb2.Symbol]


@contextlib.asynccontextmanager
async def _shards(settings: Settings) -> AsyncIterator[list[_Shard]]:
    """All shards, asked themselves: what gateways know may be half a minute old. Raises RefusedError."""
    connection = await asyncpg.connect(settings.database.server_dsn())
    try:
        leaders = await connection.fetch(LEADERS)
    finally:
        await connection.close()
    async with contextlib.AsyncExitStack() as opened:
        shards = []
        for number, address in leaders:
            channel: grpc.aio.Channel = await opened.enter_async_context(open_channel(address, settings.tls))
            stub = matcher_pb2_grpc.MatcherServiceStub(channel)
            told: matcher_pb2.ListSymbolsResponse = await operator(settings, "matcher").call(
                stub.ListSymbols, matcher_pb2.ListSymbolsRequest()
            )
            shards.append(_Shard(number, stub, list(told.symbols)))
        yield shards


async def _put(settings: Settings, name: str, changes: dict[str, Any], number: int) -> symbol_pb2.Symbol:
    async with _shards(settings) as shards:
        found = [(shard, symbol) for shard in shards for symbol in shard.symbols if symbol.symbol == name]
        if found:
            shard, symbol = found[0]
        else:
            here = [shard for shard in shards if shard.number == number]
            if not here:
                raise RefusedError(away(f"shard {number}"))
            shard, symbol = here[0], await _new_market(settings, name)
            changes = {**NEW_MARKET, "min_quantity": changes.get("lot_size", ""), **changes}
        for field, value in changes.items():
            setattr(symbol, field, value)
        request = matcher_pb2.PutSymbolRequest(symbol=symbol)
        answer: matcher_pb2.PutSymbolResponse = await operator(settings, "matcher").call(shard.stub.PutSymbol, request)
        return answer.symbol


async def _new_market(settings: Settings, name: str) -> symbol_pb2.Symbol:
    base, _, quote = name.partition("/")
    known = await _known_assets(settings)
    for field, asset in (("base_asset", base), ("quote_asset", quote)):
        if asset not in known:
            raise RefusedError(Refused(Reason.ASSET_UNKNOWN, field=field, detail={"asset": asset[:20]}))
    return symbol_pb2.Symbol(symbol=name, base_asset=base, quote_asset=quote)


async def _known_assets(settings: Settings) -> list[str]:
    return list((await _wallet(settings, "ListAssets", wallet_pb2.ListAssetsRequest())).assets)


async def _wallet(settings: Settings, method: str, request: Message) -> Any:
    return await answer_of(settings, "wallet", wallet_pb2_grpc.WalletServiceStub, method, request)
