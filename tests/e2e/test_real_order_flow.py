"""The real AAPL flow through the gateway: the true book at every checkpoint, the right order filled every time."""

from pathlib import Path

from cli.lobster import EXECUTE, book_levels, read_book_rows, read_messages
from libs.money import parse_units
from tests.support.engine import Engine
from tests.support.flow import SYMBOL, FlowRun


async def test_ten_levels_equal_the_true_book_at_every_checkpoint(fresh_core: Engine, flow_data: Path) -> None:
    engine = fresh_core
    checkpoints = list(read_messages(flow_data / "aapl-messages-10.csv"))
    books = list(read_book_rows(flow_data / "aapl-book-10.csv"))
    assert len(checkpoints) == len(books)
    run = FlowRun(engine, flow_data, "checkpoints", limit=_last_line(flow_data, checkpoints[-1]))
    await run.fund()
    assert not any(answer.HasField("error") for answer in await run.send(run.opening))
    expected_fills: list[tuple[str, str]] = []
    reached = 0
    for message, steps in zip(read_messages(flow_data / "aapl-messages.csv"), run.steps, strict=False):
        for step in steps:
            (answer,) = await run.send([step])
            assert not answer.HasField("error"), (message, answer.error.message)
            if message.kind == EXECUTE:
                assert sum(parse_units(fill.quantity, field="") for fill in answer.fills) == step.shares * 10**8, (
                    message
                )
                expected_fills += [(fill.trade_id, step.fills) for fill in answer.fills]
        if reached < len(checkpoints) and _same(message, checkpoints[reached]):
            asks, bids = await engine.book(SYMBOL)
            assert (_units(asks), _units(bids)) == book_levels(books[reached]), f"checkpoint {reached + 1}: {message}"
            reached += 1
    assert reached == len(checkpoints)
    assert (await engine.quiet()).clean
    assert expected_fills == await _resting_orders_filled(engine)


def _last_line(data: Path, last) -> int:
    return max(message.number for message in read_messages(data / "aapl-messages.csv") if _same(message, last))


def _same(one, other) -> bool:
    fields = ("time", "kind", "order", "shares", "price", "side")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _units(levels: list[tuple[str, str]]) -> list[tuple[int, int]]:
    return [(parse_units(price, field=""), parse_units(quantity, field="")) for price, quantity in levels]


async def _resting_orders_filled(engine: Engine) -> list[tuple[str, str]]:
    """(trade, the maker's client order id) of every trade on the tape, in order."""
    rows = await engine.query(
        """
        SELECT t.trade_id::text, o.client_order_id FROM settlement.trades t
        JOIN orders.orders o ON o.order_id = CASE t.maker_side WHEN 1 THEN t.buyer_order_id ELSE t.seller_order_id END
        WHERE t.symbol = $1 ORDER BY t.sequence
        """,
        SYMBOL,
    )
    return [tuple(row.values()) for row in rows]
