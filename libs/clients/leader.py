"""A shard's leader: found through its lease, followed when it moves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio
import structlog
from exchange.matcher.v1 import matcher_pb2_grpc

from libs.config import Tls
from libs.db.pool import DatabaseAway, Pool
from libs.lately import Lately
from libs.patience import patiently
from libs.reasons import PASSING, RefusedError, away
from libs.rpc.client import WAIT, Peer, open_channel
from libs.rpc.errors import refused_from_call

SELECT_OWNER = "SELECT address FROM matcher.shards WHERE shard = $1"
LOOK_AFTER_S = 0.5
# However many calls and streams ask who leads, the database is asked ten times a second.
SEEN_FOR_S = 0.1

log = structlog.get_logger()


class ShardLeader:
    """Calls whoever leads a shard now."""

    def __init__(self, *, pool: Pool, peer: Peer, shard: int, patience_s: float, tls: Tls) -> None:
        self.shard = shard
        self._tls = tls
        self._pool = pool
        self._peer = peer
        self._patience_s = patience_s
        self._address = ""
        self._owner = Lately(self._ask_owner, for_s=SEEN_FOR_S)
        self._is_away = False  # as its last call found, with all patience
        self._channel: grpc.aio.Channel | None = None
        self._stub: matcher_pb2_grpc.MatcherServiceAsyncStub | None = None

    async def call(self, method: str, request: object) -> Any:
        """The response, for requests that may be sent again.

        Raises RefusedError; a passing fault after `patience_s`, with the outcome unknown. A shard that is away has used up
        its patience until it answers again: it would keep waiting who also has business with others.
        """
        tried = False

        async def ask() -> Any:
            nonlocal tried
            again, tried = tried, True
            if again or self._stub is None or self._is_away:
                await self._find()
            call = self._peer.begin(getattr(self._stub, method), request)
            with self._while_it_leads(call):
                return await call

        try:
            patience_s = 0 if self._is_away else self._patience_s
            answer = await patiently(ask, is_passing=_is_passing, patience_s=patience_s, wait=WAIT)
        except RefusedError as error:
            self._is_away = _is_passing(error)
            raise
        self._is_away = False
        return answer

    async def stream(self, method: str, request: object, *, timeout_s: float) -> AsyncIterator[Any]:
        """The responses of a server stream that ends within `timeout_s`; not tried again. Raises RefusedError."""
        await self._find()
        try:
            async for response in getattr(self._stub, method)(
                request, timeout=timeout_s, metadata=self._peer.metadata()
            ):
                yield response
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency="matcher") from error

    async def follow(self, method: str, request: object) -> AsyncIterator[Any]:
        """The responses of an endless server stream, while this leader leads. Raises RefusedError when it breaks off."""
        await self._find()
        call = getattr(self._stub, method)(request, metadata=self._peer.metadata())
        with self._while_it_leads(call):
            async for response in call:
                yield response

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    @contextlib.contextmanager
    def _while_it_leads(self, call: Any) -> Iterator[None]:
        """Around waiting for a call: a leader that is paused or cut off answers nothing, so it ends once another leads.

        Raises RefusedError then, and where the call fails.
        """
        loop, address = asyncio.get_running_loop(), self._address
        watching: list[asyncio.Task[None]] = []
        timer = loop.call_later(
            LOOK_AFTER_S, lambda: watching.append(loop.create_task(self._cancel_when_moved(call, address)))
        )
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency="matcher") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _away("matcher") from None  # the call was cancelled, not we: another leads
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()
            call.cancel()

    async def _cancel_when_moved(self, call: Any, address: str) -> None:
        while True:
            with contextlib.suppress(RefusedError):
                if await self._owner.see() not in {"", address}:
                    call.cancel()
                    return
            await asyncio.sleep(LOOK_AFTER_S)

    async def _ask_owner(self) -> str:
        try:
            return str(await self._pool.fetchval(SELECT_OWNER, self.shard) or "")
        except DatabaseAway as error:
            raise _away("postgresql") from error

    async def _find(self) -> None:
        address = await self._owner.see()
        if not address:
            raise _away("matcher")
        if address != self._address:
            log.info("matcher found", address=address, shard=self.shard)
            before, self._channel = self._channel, open_channel(address, self._tls)
            self._address = address
            self._stub = matcher_pb2_grpc.MatcherServiceStub(self._channel)
            if before is not None:
                await before.close()


def _away(dependency: str) -> RefusedError:
    return RefusedError(away(dependency))


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, RefusedError) and error.refused.reason in PASSING
