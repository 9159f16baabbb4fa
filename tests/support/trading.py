"""Short ways to make trades, and to look at what came of them."""

import asyncio
import itertools

from libs.bus.interface import Message
from libs.bus.rabbitmq import RabbitPublisher
from tests.support.engine import Engine

_prices = itertools.count(100)


class Pair:
    """A buyer and a seller with money who trade with each other."""

    def __init__(self, engine: Engine, symbol: str = "BTC/USDT") -> None:
        self.engine = engine
        self.symbol = symbol
        self.buyer = self.seller = ""

    async def fund(self) -> "Pair":
        base, quote = self.symbol.split("/")
        self.buyer = await self.engine.user(**{quote: "1000000"})
        self.seller = await self.engine.user(**{base: "1000"})
        return self

    async def trade(self, count: int = 1) -> None:
        """So many trades, each of two orders of their own."""
        for _ in range(count):
            price = next(_prices)
            await self.engine.place(self.seller, f"SELL 0.1 @ {price}", symbol=self.symbol)
            await self.engine.place(self.buyer, f"BUY 0.1 @ {price}", symbol=self.symbol)

    async def balances(self) -> tuple:
        return await self.engine.balances(self.buyer), await self.engine.balances(self.seller)


async def trade_messages(engine: Engine) -> list[Message]:
    """Every trade message that the matcher has made, in order."""
    rows = await engine.query(
        "SELECT exchange, routing_key, message_type, message_id, body FROM matcher.outbox "
        "WHERE exchange = 'trade.events' ORDER BY position"
    )
    return [Message(*row.values()) for row in rows]


async def publish(engine: Engine, messages: list[Message]) -> None:
    publisher = RabbitPublisher(engine.settings.rabbitmq)
    await publisher.publish(messages)
    await publisher.close()


async def until(condition, *, timeout_s: float = 30) -> None:
    """Wait for an async condition."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.1)
