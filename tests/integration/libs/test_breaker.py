"""The circuit breaker around calls to a peer that comes and goes, over real gRPC."""

import asyncio

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from libs.config import Circuit
from libs.ids import new_id
from libs.reasons import Reason, RefusedError
from libs.rpc.breaker import STATES
from libs.rpc.client import Peer, open_channel


class Server(health_pb2_grpc.HealthServicer):
    """Answers, refuses, or is not there."""

    def __init__(self) -> None:
        self.calls = 0
        self.code: grpc.StatusCode | None = None

    async def Check(self, _, context):  # noqa: N802
        self.calls += 1
        if self.code is not None:
            await context.abort(self.code, "as told")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def state_of(peer: str) -> str:
    (state,) = [name for name in STATES if REGISTRY.get_sample_value("circuit_state", {"peer": peer, "state": name})]
    return state


@pytest.fixture
async def server():
    servicer = Server()
    grpc_server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        servicer.check = health_pb2_grpc.HealthStub(channel).Check
        yield servicer
    await grpc_server.stop(None)


def peer_with(**circuit) -> tuple[Peer, str]:
    name = f"peer-{new_id()}"
    return Peer(
        name=name, credential=lambda: "x", timeout_s=2, patience_s=0.01, circuit=Circuit(**circuit)
    ), name  # fmt: skip


async def call(peer: Peer, server: Server) -> str:
    try:
        await peer.call_patiently(server.check, health_pb2.HealthCheckRequest())
    except RefusedError as error:
        return f"{error.refused.reason.name} {error.refused.detail.get('circuit', '')}".strip()
    return "answered"


async def test_it_opens_after_a_row_of_failures_and_closes_after_a_trial(server: Server) -> None:
    peer, name = peer_with(failures=5, open_s=0.5)
    assert state_of(name) == "closed"
    server.code = grpc.StatusCode.UNAVAILABLE
    for _ in range(5):
        assert await call(peer, server) == "DEPENDENCY_UNAVAILABLE"
    assert state_of(name) == "open"
    calls = server.calls
    assert await call(peer, server) == "DEPENDENCY_UNAVAILABLE open"
    assert server.calls == calls, "an open circuit calls nobody"
    assert REGISTRY.get_sample_value("circuit_refused_total", {"peer": name}) == 1
    await asyncio.sleep(0.6)
    assert await call(peer, server) == "DEPENDENCY_UNAVAILABLE", "half-open: tried once"
    assert server.calls > calls
    assert await call(peer, server) == "DEPENDENCY_UNAVAILABLE open", "and open again"
    await asyncio.sleep(0.6)
    server.code = None
    assert await call(peer, server) == "answered"
    assert state_of(name) == "closed"
    changes = {
        state: REGISTRY.get_sample_value("circuit_changes_total", {"peer": name, "state": state}) for state in STATES
    }
    assert changes == {"open": 2, "half-open": 2, "closed": 1}


async def test_four_failures_and_an_answer_begin_the_row_anew(server: Server) -> None:
    peer, name = peer_with(failures=5)
    for _ in range(3):
        server.code = grpc.StatusCode.UNAVAILABLE
        for _ in range(4):
            await call(peer, server)
        server.code = None
        assert await call(peer, server) == "answered"
    assert state_of(name) == "closed"


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION])
async def test_a_refusal_is_an_answer(server: Server, code: grpc.StatusCode) -> None:
    peer, name = peer_with(failures=2)
    server.code = code
    for _ in range(5):
        with pytest.raises(RefusedError) as refused:
            await peer.call_patiently(server.check, health_pb2.HealthCheckRequest())
        assert refused.value.refused.reason is not Reason.DEPENDENCY_UNAVAILABLE
    assert (server.calls, state_of(name)) == (5, "closed")


async def test_a_caller_that_gives_up_is_not_a_failure_of_the_peer(server: Server) -> None:
    peer, name = peer_with(failures=1)
    task = asyncio.create_task(peer.call_patiently(server.check, health_pb2.HealthCheckRequest()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state_of(name) == "closed"
