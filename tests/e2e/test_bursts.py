"""Calls that pile up while a service cannot take them are answered when it can."""

import asyncio
import contextlib
import signal
from collections import Counter

import grpc.aio
from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc

from libs.rpc.client import open_channel
from tests.support.engine import Engine

CONNECTIONS = 3
CALLS_OF_EACH = 1000


async def test_calls_to_a_gateway_that_sleeps_are_answered_when_it_wakes(engine: Engine) -> None:
    """gRPC by itself fails some of them (CANCELLED) from 1,000 on, and all from 3,000."""

    async def call(gateway: order_gateway_pb2_grpc.OrderGatewayServiceStub) -> grpc.StatusCode:
        try:
            await gateway.ListSymbols(order_gateway_pb2.ListSymbolsRequest(), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with contextlib.AsyncExitStack() as opened:
        channels = [
            await opened.enter_async_context(open_channel(engine.settings.gateway.target()))
            for _ in range(CONNECTIONS)
        ]  # fmt: skip
        gateways = [order_gateway_pb2_grpc.OrderGatewayServiceStub(channel) for channel in channels]
        assert [await call(gateway) for gateway in gateways] == [grpc.StatusCode.OK] * CONNECTIONS
        engine.stack.send("order_gateway", signal.SIGSTOP)
        try:
            calls = [asyncio.create_task(call(gateway)) for gateway in gateways for _ in range(CALLS_OF_EACH)]
            await asyncio.sleep(2)
        finally:
            engine.stack.send("order_gateway", signal.SIGCONT)
        assert Counter(await asyncio.gather(*calls)) == {grpc.StatusCode.OK: CONNECTIONS * CALLS_OF_EACH}
