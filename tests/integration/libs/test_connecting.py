"""A peer that is slow to greet (far away, or busy) is waited for; one that is not there is not."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cli.processes import free_port
from libs.rpc.client import open_channel
from tests.support.proxy import Proxy


@pytest.fixture
async def network() -> AsyncIterator[Proxy]:
    """What lies between a caller and a peer."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    proxy = Proxy(port=free_port(), target=server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await proxy.start()
    yield proxy
    await proxy.stop()
    await server.stop(None)


async def ask(port: int) -> health_pb2.HealthCheckResponse:
    async with open_channel(f"127.0.0.1:{port}") as channel:
        return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)


async def test_a_peer_that_is_slow_to_greet(network: Proxy) -> None:
    network.hold()
    asyncio.get_running_loop().call_later(0.5, network.release)
    assert (await ask(network.port)).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_peer_that_never_greets(network: Proxy) -> None:
    network.hold()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(network.port)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE, "before the call's own deadline"


async def test_a_peer_that_is_not_there() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(free_port())
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
