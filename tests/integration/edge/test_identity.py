"""Many who are let in at the same moment, with what Redis knows of them."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from libs.config import Auth
from libs.identity import Caller, TokenVerifier
from libs.ids import new_id
from libs.reasons import Reason, RefusedError
from services.edge.identity import Identity
from tests.support.proxy import proxy_before
from tests.support.servers import Servers

AT_ONCE = 400


class Nowhere:
    """Backends that nobody is asked of here."""

    def __init__(self) -> None:
        self._channel = grpc.aio.insecure_channel("127.0.0.1:1")

    def channel(self, _: Any) -> grpc.aio.Channel:
        return self._channel


def identity_on(redis_url: str) -> Identity:
    return Identity(
        verifier=TokenVerifier(Auth.model_validate({"hs256_secret": "x" * 32})), backends=Nowhere(), peer=None, master="",
        redis_url=redis_url,
    )  # type: ignore[arg-type]  # fmt: skip


async def test_any_number_may_be_let_in_at_the_same_moment(servers: Servers) -> None:
    identity = identity_on(servers.redis)
    caller = Caller(new_id(), frozenset({"read"}), key_id=new_id())
    tokens = await asyncio.gather(*(identity.new_socket_token(caller) for _ in range(AT_ONCE)))
    opened = await asyncio.gather(*(identity.by_socket_token(token) for token in tokens))
    assert {(one.user_id, one.scopes, one.key_id) for one in opened} == {(caller.user_id, caller.scopes, caller.key_id)}
    await identity.close()


async def test_an_answer_of_redis_that_is_lost_is_not_taken_for_a_second_use(servers: Servers) -> None:
    """Asked again, Redis would say that the token, or the nonce, was used before: it was, by ourselves."""
    async with proxy_before(servers.redis, usual_port=6379) as (network, url):
        identity = identity_on(url)
        token = await identity.new_socket_token(Caller(new_id(), frozenset({"read"}), key_id=new_id()))
        for use in (lambda: identity.by_socket_token(token), lambda: identity._use_nonce(new_id(), new_id())):
            network.hold_answers()
            asking = asyncio.create_task(use())
            await asyncio.sleep(0.3)
            network.cut()
            network.release()
            with pytest.raises(RefusedError) as refused:
                await asking
            assert refused.value.refused.reason is Reason.DEPENDENCY_UNAVAILABLE
        await identity.close()
