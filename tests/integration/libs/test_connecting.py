"""Connections to peers that are slow, not there, elsewhere by now, or more than they were."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc.aio
import pytest
from exchange.wallet.v1 import wallet_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cli.processes import free_port
from libs.config import Auth, Wallet
from libs.identity import TokenVerifier
from libs.rpc import server as rpc_server
from libs.rpc.client import open_channel
from tests.support.proxy import Proxy


async def serving(address: str) -> grpc.aio.Server:
    """A peer that listens there."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_insecure_port(address)
    await server.start()
    return server


def rpc_server_on(port: int) -> rpc_server.RpcServer:
    verifier = TokenVerifier(Auth.model_validate({"hs256_secret": "x" * 32}))
    service = wallet_pb2.DESCRIPTOR.services_by_name["WalletService"]
    return rpc_server.RpcServer(Wallet(port=port), verifier, service, internal=True)


@pytest.fixture
async def network() -> AsyncIterator[Proxy]:
    """What lies between a caller and a peer."""
    target = free_port()
    server = await serving(f"127.0.0.1:{target}")
    proxy = Proxy(port=free_port(), target=target)
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


class Names(asyncio.DatagramProtocol):
    """A name server (RFC 1035) to which every name has one address, that may change."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        end = data.index(b"\x00", 12) + 5  # of the question: the name, its type and its class
        is_ipv4 = data[end - 4 : end - 2] == b"\x00\x01"
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(self.address)
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, is_ipv4, 0, 0)
        self.transport.sendto(head + data[12:end] + answer * is_ipv4, addr)


async def test_a_peer_that_comes_back_at_another_address_is_found() -> None:
    """As a container that was made anew. By gRPC's default it is looked for after 30 seconds."""
    port = free_port()
    transport, names = await asyncio.get_running_loop().create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    target = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/wallet.test:{port}"
    async with open_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for names.address in ("127.0.0.2", "127.0.0.3"):
            server = await serving(f"{names.address}:{port}")
            async with asyncio.timeout(20):
                await channel.channel_ready()
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            await server.stop(None)
    transport.close()


async def test_calls_come_to_a_peer_that_was_added_and_streams_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one more process behind the same name: a connection that lasts for ever would never go to it."""
    monkeypatch.setattr(rpc_server, "CONNECTION_AGE_MAX_MS", 1000)
    ports = free_port(), free_port()
    first, second = (rpc_server_on(port) for port in ports)
    await asyncio.gather(first.start(), second.start())
    await second.set_serving(False)
    proxy = Proxy(port=free_port(), target=ports[0])
    await proxy.start()
    request = health_pb2.HealthCheckRequest()
    async with open_channel(f"127.0.0.1:{proxy.port}") as channel, asyncio.timeout(60):
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(request)
        told = aiter(watching)
        assert (await anext(told)).status == health_pb2.HealthCheckResponse.SERVING
        proxy.target = ports[1]
        calls = 0
        while (await stub.Check(request, timeout=30)).status == health_pb2.HealthCheckResponse.SERVING:
            calls += 1
        assert calls > 0
        await first.set_serving(False)
        assert (await anext(told)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watching.cancel()
    await asyncio.gather(first.drain(), second.drain())
    await proxy.stop()
