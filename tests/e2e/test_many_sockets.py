"""Two hundred sockets on one book rebuild it exactly, through restarts of the edge and of market data."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets
from exchange.matcher.v1 import book_pb2, matcher_pb2

from tests.support.engine import Engine, engine_in
from tests.support.servers import Servers
from tests.support.sockets import SocketBook

CLIENTS = 200
DEPTH = 20


@pytest.fixture
async def roomy(servers: Servers, tmp_path: Path) -> AsyncIterator[Engine]:
    over = {"TRADE_ENGINE_EDGE_WEBSOCKETS_PER_IP": str(CLIENTS + 10)}
    async with engine_in(servers, tmp_path, **over) as engine:
        yield engine


async def follow(url: str, book: SocketBook, reconnects: list[int]) -> None:
    """A client as it should be: after a loss it comes back with the sequence that it has."""
    while True:
        try:
            async with websockets.connect(url, open_timeout=30) as socket:
                subject = {"channel": "book", "symbol": "BTC-USDT", "depth": DEPTH}
                await socket.send(json.dumps({"op": "subscribe", **subject, "after": book.sequence}))
                async for text in socket:
                    update = json.loads(text)
                    if update.get("channel") == "book":
                        book.take(update)
        except (OSError, websockets.WebSocketException):
            reconnects.append(1)
        await asyncio.sleep(random.random())


async def test_all_of_them_have_the_book(roomy: Engine) -> None:
    engine, dice = roomy, random.Random(3)
    user = await engine.user(BTC="10000", USDT="100000000")
    url = f"ws://127.0.0.1:{engine.settings.edge.websocket_port}/ws"
    books = [SocketBook() for _ in range(CLIENTS)]
    reconnects: list[int] = []
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(follow(url, book, reconnects)) for book in books]
        for victim in ("", "edge", "market_data"):
            if victim:
                engine.stack.kill(victim)
                await asyncio.to_thread(engine.stack.wait_healthy, victim)
            for _ in range(30):
                away = 100 - dice.randint(0, 60)
                side, price = ("BUY", 10_000 - away) if dice.random() < 0.5 else ("SELL", 10_000 + away)
                await engine.place(user, f"{side} {dice.randint(1, 9)} @ {price}")
        request = matcher_pb2.GetBookRequest(symbol="BTC/USDT", depth=DEPTH)
        book = (await engine.matcher.GetBook(request, metadata=engine.service)).book
        wanted = {"asks": _levels(book.asks), "bids": _levels(book.bids)}
        async with asyncio.timeout(60):
            while any(book.sides != wanted for book in books):
                for client in clients:
                    if client.done():
                        client.result()
                await asyncio.sleep(0.1)
        for client in clients:
            client.cancel()
    assert len(reconnects) >= CLIENTS, "all of them lost their socket once"
    assert {len(side) > 0 for side in wanted.values()} == {True}


def _levels(levels: list[book_pb2.BookLevel]) -> dict[str, str]:
    return {level.price: level.quantity for level in levels}
