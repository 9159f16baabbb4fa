"""Many who are let in at the same moment, with what Redis knows of them."""

import asyncio
from typing import Any

import grpc.aio

from libs.config import Auth
from libs.identity import Caller, TokenVerifier
from libs.ids import new_id
from services.edge.identity import Identity
from tests.support.servers import Servers

AT_ONCE = 400


class Nowhere:
    """Backends that nobody is asked of here."""

    def __init__(self) -> None:
        self._channel = grpc.aio.insecure_channel("127.0.0.1:1")

    def channel(self, _: Any) -> grpc.aio.Channel:
        return self._channel


async def test_any_number_may_be_let_in_at_the_same_moment(servers: Servers) -> None:
    identity = Identity(
        verifier=TokenVerifier(Auth.model_validate({"hs256_secret": "x" * 32})), backends=Nowhere(), peer=None, master="",
        redis_url=servers.redis,
    )  # type: ignore[arg-type]  # fmt: skip
    caller = Caller(new_id(), frozenset({"read"}), key_id=new_id())
    tokens = await asyncio.gather(*(identity.new_socket_token(caller) for _ in range(AT_ONCE)))
    opened = await asyncio.gather(*(identity.by_socket_token(token) for token in tokens))
    assert {(one.user_id, one.scopes, one.key_id) for one in opened} == {(caller.user_id, caller.scopes, caller.key_id)}
    await identity.close()
