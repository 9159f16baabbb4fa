"""The matcher as the gateway calls it: found through its lease, followed when it moves."""

import time
from collections.abc import Sequence
from typing import Any

import grpc.aio
import structlog
from exchange.matcher.v1 import command_pb2, matcher_pb2, matcher_pb2_grpc
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from libs.db.pool import DatabaseAway, Pool
from libs.money import parse_optional
from libs.reasons import PASSING, Reason, Refused, RefusedError
from libs.rpc.client import Peer, open_channel
from services.order_gateway.core.admission import Filters
from services.order_gateway.wire import filters_from

SELECT_OWNER = "SELECT address FROM matcher.shards WHERE shard = $1"
FILTERS_KEPT_S = 30.0

log = structlog.get_logger()


class MatcherClient:
    """Calls whoever leads the shard now. Commands are idempotent by order id, so that each is tried again."""

    def __init__(self, *, pool: Pool, peer: Peer, shard: int, patience_s: float) -> None:
        self._pool = pool
        self._peer = peer
        self._shard = shard
        self._patience_s = patience_s
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._stub: matcher_pb2_grpc.MatcherServiceAsyncStub | None = None
        self._filters: dict[str, Filters] = {}
        self._symbols = matcher_pb2.ListSymbolsResponse()
        self._filters_until = 0.0

    async def submit(self, commands: Sequence[command_pb2.Command]) -> Sequence[command_pb2.CommandResult]:
        """Results in order. Raises RefusedError after `patience_s` of passing faults, with the outcome unknown."""
        request = matcher_pb2.SubmitRequest(commands=commands)
        response: matcher_pb2.SubmitResponse = await self._call("Submit", request)
        return response.results

    async def reference_price(self, symbol: str) -> int:
        """Units; 0 where there is none."""
        request = matcher_pb2.GetReferencePriceRequest(symbol=symbol)
        response: matcher_pb2.GetReferencePriceResponse = await self._call("GetReferencePrice", request)
        return parse_optional(response.price, field="price")

    async def filters(self, symbol: str) -> Filters:
        """A symbol's filters, at most half a minute old. Raises RefusedError(SYMBOL_UNKNOWN)."""
        await self.symbols()
        known = self._filters.get(symbol)
        if known is None:
            raise RefusedError(Refused(Reason.SYMBOL_UNKNOWN, field="symbol", detail={"symbol": symbol[:40]}))
        return known

    async def symbols(self) -> matcher_pb2.ListSymbolsResponse:
        """All symbols, at most half a minute old."""
        if time.monotonic() >= self._filters_until:
            self._symbols = await self._call("ListSymbols", matcher_pb2.ListSymbolsRequest())
            self._filters = {symbol.symbol: filters_from(symbol) for symbol in self._symbols.symbols}
            self._filters_until = time.monotonic() + FILTERS_KEPT_S
        return self._symbols

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def _call(self, method: str, request: object) -> Any:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_passing),
            stop=stop_after_delay(self._patience_s),
            wait=wait_exponential_jitter(multiplier=0.05, max=0.5, jitter=0.05),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                if attempt.retry_state.attempt_number > 1 or self._stub is None:
                    await self._find_owner()
                return await self._peer.call(getattr(self._stub, method), request)
        raise AssertionError("tenacity returns or raises")

    async def _find_owner(self) -> None:
        try:
            address = await self._pool.fetchval(SELECT_OWNER, self._shard)
        except DatabaseAway as error:
            raise RefusedError(Refused(Reason.DEPENDENCY_UNAVAILABLE, detail={"dependency": "postgresql"})) from error
        if not address:
            raise RefusedError(Refused(Reason.DEPENDENCY_UNAVAILABLE, detail={"dependency": "matcher"}))
        if address != self._address:
            log.info("matcher found", address=address, shard=self._shard)
            await self.close()
            self._address = address
            self._channel = open_channel(address)
            self._stub = matcher_pb2_grpc.MatcherServiceStub(self._channel)


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, RefusedError) and error.refused.reason in PASSING
