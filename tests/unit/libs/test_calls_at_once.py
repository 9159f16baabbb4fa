"""How many calls one process takes at once, over however many connections."""

import asyncio
from typing import Any

import grpc.aio
import pytest
from exchange.wallet.v1 import wallet_pb2, wallet_pb2_grpc

from cli.processes import free_port
from libs.config import Auth, Wallet
from libs.identity import TokenVerifier, mint_token
from libs.rpc import server
from libs.rpc.client import open_channel
from libs.rpc.server import RpcServer

AUTH = Auth.model_validate({"hs256_secret": "x" * 32})


class Slow(wallet_pb2_grpc.WalletServiceServicer):
    """Answers when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()

    async def ListAssets(  # noqa: N802 - gRPC's name
        self, request: wallet_pb2.ListAssetsRequest, context: Any
    ) -> wallet_pb2.ListAssetsResponse:
        del request, context
        await self.let.wait()
        return wallet_pb2.ListAssetsResponse(assets=["BTC"])


async def test_what_is_too_much_is_refused_and_the_rest_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CALLS_MAX", 3)
    port = free_port()
    serving = RpcServer(
        Wallet(port=port), TokenVerifier(AUTH), wallet_pb2.DESCRIPTOR.services_by_name["WalletService"], internal=True
    )
    slow = Slow()
    wallet_pb2_grpc.add_WalletServiceServicer_to_server(slow, serving.grpc)
    await serving.start()
    token = mint_token(AUTH, subject="tests", scopes="service", life_s=60)

    async def call() -> str:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub = wallet_pb2_grpc.WalletServiceStub(channel)
            try:
                await stub.ListAssets(
                    wallet_pb2.ListAssetsRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10
                )
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - any other refusal is wrong
                return error.details() or ""
            return "answered"

    calls = [asyncio.create_task(call()) for _ in range(5)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 2:
        more, _ = await asyncio.wait(set(calls) - done, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        done |= more
    assert ["OVERLOADED" in task.result() and "calls" in task.result() for task in done] == [True, True]
    slow.let.set()
    assert sorted(await asyncio.gather(*(set(calls) - done))) == ["answered"] * 3
    assert await call() == "answered"
    await serving.drain()
