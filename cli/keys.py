"""`trade-engine keys`: API keys of users, for operators."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from exchange.common.v1 import access_pb2
from exchange.gateway.v1 import api_key_pb2, api_key_pb2_grpc
from google.protobuf.message import Message
from rich.table import Table

from cli.asking import ask
from cli.output import json_option, print_json, print_table
from cli.users import user_id_of

_SCOPES = {"read": access_pb2.SCOPE_READ, "trade": access_pb2.SCOPE_TRADE}


@click.group()
def keys() -> None:
    """Make, list and revoke API keys that bots sign their requests with."""


@keys.command()
@click.argument("user")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(list(_SCOPES)),
    default=("read",),
    show_default=True,
    help="What it may do; as often as needed.",
)
@click.option("--ip", "ips", multiple=True, help="Only from this address or network; as often as needed.")
@click.option("--days", type=click.IntRange(1), help="Days until it ends by itself; default: never.")
@json_option
def create(
    user: str, name: str, scopes: tuple[str, ...], ips: tuple[str, ...], days: int | None, as_json: bool
) -> None:
    """Make a key NAME for USER (a UUID or a nickname) and print its secret. The same again prints the same again."""
    request = api_key_pb2.CreateApiKeyRequest(
        user_id=user_id_of(user), name=name, scopes=[_SCOPES[scope] for scope in scopes], allowed_ips=ips
    )
    if days is not None:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        request.expires_at.FromDatetime(midnight + timedelta(days=days))
    made: api_key_pb2.CreateApiKeyResponse = _ask("CreateApiKey", request)
    if as_json:
        print_json(made)
    else:
        click.echo(f"key:    {made.key.key_id}\nsecret: {made.secret}")


@keys.command("list")
@click.argument("user")
@json_option
def list_keys(user: str, as_json: bool) -> None:
    """List the keys of USER: those that can be used, newest first, then the others."""
    found: api_key_pb2.ListApiKeysResponse = _ask(
        "ListApiKeys", api_key_pb2.ListApiKeysRequest(user_id=user_id_of(user))
    )
    if as_json:
        print_json(found)
        return
    table = Table("key", "name", "scopes", "from", "until", "revoked")
    for key in found.keys:
        table.add_row(
            key.key_id, key.name, " ".join(name for name, number in _SCOPES.items() if number in key.scopes),
            " ".join(key.allowed_ips) or "anywhere",
            key.expires_at.ToJsonString() if key.HasField("expires_at") else "",
            key.revoked_at.ToJsonString() if key.HasField("revoked_at") else "",
            style="dim" if key.HasField("revoked_at") else "",
        )  # fmt: skip
    print_table(table)


@keys.command()
@click.argument("user")
@click.argument("key_id")
@json_option
def revoke(user: str, key_id: str, as_json: bool) -> None:
    """Revoke the key KEY_ID of USER for good."""
    request = api_key_pb2.RevokeApiKeyRequest(user_id=user_id_of(user), key_id=key_id)
    revoked: api_key_pb2.RevokeApiKeyResponse = _ask("RevokeApiKey", request)
    if as_json:
        print_json(revoked)
    else:
        click.echo(f"revoked at {revoked.key.revoked_at.ToJsonString()}")


def _ask(method: str, request: Message) -> Any:
    return ask("gateway", api_key_pb2_grpc.ApiKeyServiceStub, method, request)
