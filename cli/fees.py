"""`trade-engine fees`: what the house has earned, for operators."""

import json
from typing import Any

import click
from exchange.wallet.v1 import transfer_pb2, wallet_pb2, wallet_pb2_grpc
from google.protobuf.message import Message
from rich.table import Table

from cli.asking import ask
from cli.output import json_option, print_table
from cli.users import user_id_of
from libs.ids import new_id
from services.wallet.core.operations import FEES_ACCOUNT


@click.group()
def fees() -> None:
    """See what the house has earned, and pay it out."""


@fees.command("list")
@json_option
def list_fees(as_json: bool) -> None:
    """List earned fees by asset."""
    found: wallet_pb2.GetBalancesResponse = _ask("GetBalances", wallet_pb2.GetBalancesRequest(user_id=FEES_ACCOUNT))
    if as_json:
        click.echo(json.dumps({balance.asset: balance.available for balance in found.balances}))
        return
    table = Table("asset", "earned")
    for balance in found.balances:
        table.add_row(balance.asset, balance.available)
    print_table(table)


@fees.command()
@click.argument("user")
@click.argument("asset")
@click.argument("amount")
@click.option("--transfer-id", help="Asking again with the same id (a UUID) pays once; default: a new one.")
@json_option
def pay(user: str, asset: str, amount: str, transfer_id: str | None, as_json: bool) -> None:
    """Pay AMOUNT of the earned fees in ASSET to USER (a UUID or a nickname), who can withdraw it."""
    request = transfer_pb2.TransferRequest(
        transfer_id=transfer_id or new_id(), from_user_id=FEES_ACCOUNT, to_user_id=user_id_of(user), asset=asset,
        amount=amount, reason="earned fees",
    )  # fmt: skip
    done: transfer_pb2.TransferResponse = _ask("Transfer", request)
    if as_json:
        click.echo(json.dumps({"transferId": request.transfer_id, "left": done.from_balance.available}))
    else:
        click.echo(f"paid {amount} {asset} to {request.to_user_id}; {done.from_balance.available} are left")


def _ask(method: str, request: Message) -> Any:
    return ask("wallet", wallet_pb2_grpc.WalletServiceStub, method, request)
