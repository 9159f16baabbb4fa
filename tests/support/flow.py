"""The real order flow, driven step by step, with what the gateway answered."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from exchange.common.v1 import order_pb2

from cli.lobster import Flow, Step, read_book_rows, read_messages
from cli.replay import fund
from cli.session import Answer, run_session
from tests.support.engine import Engine

SYMBOL = "AAPL/USD"


class FlowRun:
    """One run of the flow through one engine."""

    def __init__(self, engine: Engine, data: Path, run_id: str, *, limit: int | None = None) -> None:
        self.engine = engine
        self.flow = Flow(SYMBOL, run_id)
        self.opening, self.steps = self._read(data, limit)
        self.trades_by_taker: dict[str, list[order_pb2.Fill]] = {}

    def _read(self, data: Path, limit: int | None) -> tuple[list[Step], list[list[Step]]]:
        messages = read_messages(data / "aapl-messages.csv")
        first = next(messages)
        opening = list(self.flow.open_book(next(read_book_rows(data / "aapl-book-10.csv")), first))
        wanted = itertools.islice(itertools.chain([first], messages), limit)
        return opening, [list(self.flow.steps(message)) for message in wanted]

    def all_steps(self) -> Iterator[Step]:
        yield from self.opening
        for steps in self.steps:
            yield from steps

    async def send(self, steps: list[Step], *, after: Callable[[int], None] = lambda _: None) -> list[Answer]:
        """Send these steps in order through one session; `after` hears how many were answered."""
        answers: list[Answer] = []

        def on_answer(request, answer: Answer, seconds: float) -> None:
            del request, seconds
            answers.append(answer)
            after(len(answers))

        requests = (step.request for step in steps)
        target, token = self.engine.settings.gateway.target(), self.engine.token("replay", "service")
        await run_session(target, token, requests, on_answer, in_flight_max=64)
        return answers

    async def fund(self) -> None:
        await fund(self.engine.settings, self.flow.run_id)


async def final_state(engine: Engine) -> dict[str, object]:
    """Book, trades, balances and orders, without anything that depends on time or chance."""
    await asyncio.sleep(0)
    trades = await engine.query(
        """
        SELECT t.sequence, t.price, t.quantity, b.client_order_id AS buyer, s.client_order_id AS seller, t.maker_side,
               t.buyer_fee, t.seller_fee
        FROM settlement.trades t
        JOIN orders.orders b ON b.order_id = t.buyer_order_id JOIN orders.orders s ON s.order_id = t.seller_order_id
        WHERE t.symbol = $1 ORDER BY t.sequence
        """,
        SYMBOL,
    )
    balances = await engine.query(
        "SELECT account_id::text, asset, available, reserved FROM wallet.balances ORDER BY account_id, asset"
    )
    orders = await engine.query(
        """
        SELECT user_id::text, client_order_id, status, reason, open_quantity, filled_quantity, filled_notional, released
        FROM orders.orders ORDER BY client_order_id
        """
    )
    return {
        "book": await engine.book(SYMBOL, depth=1000),
        "trades": [tuple(row.values()) for row in trades],
        "balances": [tuple(row.values()) for row in balances],
        "orders": [tuple(row.values()) for row in orders],
    }
