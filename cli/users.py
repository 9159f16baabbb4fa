"""Users and money for tours, demos and replays: nicknames, deposits."""

import uuid

from exchange.wallet.v1 import operation_pb2

from libs.clients.wallet import WalletClient
from libs.config import Settings
from libs.identity import service_credential
from libs.ids import new_id
from libs.rpc.client import Peer, open_channel

_NICKNAMES = uuid.UUID("6f1e9f0c-6e0e-4f6e-9c53-3a2f9d0b7a11")
_TIMEOUT_S = 10.0
_PATIENCE_S = 20.0


def user_id_of(name: str) -> str:
    """A UUID as it is; for any other name the UUID that always stands for it."""
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return str(uuid.uuid5(_NICKNAMES, name))


def deposit_id_of(text: str) -> str:
    """An idempotency key made from a text, so that doing it again does nothing."""
    return str(uuid.uuid5(_NICKNAMES, f"deposit/{text}"))


async def deposit_to(settings: Settings, user_id: str, asset: str, amount: str, *, deposit_id: str = "") -> str:
    """Credit a user; returns what is available then. Raises RefusedError."""
    channel = open_channel(settings.wallet.target(), settings.tls)
    peer = Peer(
        name="wallet", credential=service_credential(settings.auth, service="cli"), timeout_s=_TIMEOUT_S,
        patience_s=_PATIENCE_S,
    )  # fmt: skip
    request = operation_pb2.DepositRequest(
        user_id=user_id, asset=asset, amount=amount, deposit_id=deposit_id or new_id()
    )
    try:
        return (await WalletClient(channel, peer).deposit(request)).available_balance
    finally:
        await channel.close()
