"""One call to a service of the engine that runs here, as its operator."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from cli.running import settings_of_running_stack
from libs.config import Settings
from libs.identity import service_credential
from libs.rpc.client import Peer, open_channel

TIMEOUT_S = 10.0


def operator(settings: Settings, service: str, *, timeout_s: float = TIMEOUT_S) -> Peer:
    """A service as the operator calls it."""
    credential = service_credential(settings.auth, service="cli")
    return Peer(name=service, credential=credential, timeout_s=timeout_s, patience_s=0)


async def answer_of(
    settings: Settings, section: str, stub: Callable[[grpc.aio.Channel], Any], method: str, request: Message,
    *, timeout_s: float = TIMEOUT_S,
) -> Any:  # fmt: skip
    """The answer of the service whose settings are in this section. Raises RefusedError."""
    async with open_channel(getattr(settings, section).target(), settings.tls) as channel:
        return await operator(settings, section, timeout_s=timeout_s).call(getattr(stub(channel), method), request)


def ask(
    section: str,
    stub: Callable[[grpc.aio.Channel], Any],
    method: str,
    request: Message,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """As `answer_of`, of the engine that runs here. Raises StackError where none runs, too."""
    return asyncio.run(answer_of(settings_of_running_stack(), section, stub, method, request, timeout_s=timeout_s))
