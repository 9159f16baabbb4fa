"""A client of `/ws`, and a book that it keeps as a client should."""

import asyncio
import json
import zlib
from types import TracebackType
from typing import Any, Self

import websockets

from tests.support.engine import Engine


class SocketClient:
    """One connection; messages are kept until somebody asks for them."""

    def __init__(self, engine: Engine, user: str = "", *, scopes: str = "read trade", life_s: int = 3600) -> None:
        self._url = f"ws://127.0.0.1:{engine.settings.edge.websocket_port}/ws"
        token = engine.token(user, scopes, life_s) if user else ""
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._kept: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self.socket = await websockets.connect(self._url, additional_headers=self._headers, max_queue=None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def receive(self, **wanted: Any) -> dict[str, Any]:
        """The next message with these contents; others wait for who asks for them."""
        for place, message in enumerate(self._kept):
            if _fits(message, wanted):
                return self._kept.pop(place)
        async with asyncio.timeout(20):
            while True:
                message = json.loads(await self.socket.recv())
                if _fits(message, wanted):
                    return message
                self._kept.append(message)

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message with an id, and wait for its answer."""
        await self.send(**message)
        return await self.receive(id=message["id"])


def _fits(message: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(message.get(name) == value for name, value in wanted.items())


class SocketBook:
    """A book as a socket tells it: sequences without gaps, checksums that are right."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[str, str]] = {"asks": {}, "bids": {}}
        self.sequence = 0
        self.snapshots = 0

    def take(self, message: dict[str, Any]) -> None:
        assert "error" not in message, message
        if message["type"] == "snapshot":
            self.sides = {"asks": {}, "bids": {}}
            self.snapshots += 1
        else:
            assert message["sequence"] == self.sequence + 1, "no gaps"
        self.sequence = message["sequence"]
        for name, side in self.sides.items():
            for price, quantity in message[name]:
                if quantity == "0":
                    side.pop(price)
                else:
                    side[price] = quantity
        assert self.checksum() == message["checksum"]

    def checksum(self) -> int:
        """As client code for Kraken's WebSocket v2 book computes it."""
        asks = sorted(self.sides["asks"].items(), key=lambda level: float(level[0]))[:10]
        bids = sorted(self.sides["bids"].items(), key=lambda level: -float(level[0]))[:10]
        return zlib.crc32(
            "".join(part.replace(".", "").lstrip("0") for level in asks + bids for part in level).encode()
        )
