"""Orders as the gateway would have recorded them, put into its table directly; and what a matcher says of such."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from exchange.events.v1 import order_pb2

from libs.ids import new_id

INSERT = """
INSERT INTO orders.orders (order_id, user_id, client_order_id, symbol, side, type, time_in_force, price, quantity,
    quote_amount, reserve_asset, reserve_amount, status, reason, open_quantity, filled_quantity, filled_notional, version,
    released)
SELECT order_id, $2, order_id::text, symbol, 1, 1, 1, 1, 1, 0, 'USDT', 1, status, 0, 1, 0, 0, 0, 0
FROM unnest($1::uuid[], $3::text[], $4::smallint[]) AS o (order_id, symbol, status)
"""


async def insert_orders(
    execute: Callable[..., Awaitable[Any]], user: str, orders: Sequence[tuple[str, int]], *, ids: Sequence[str] = ()
) -> list[str]:
    """Orders of these (symbol, status), oldest first, with these ids or fresh ones; the ids."""
    ids = list(ids) or [new_id() for _ in orders]
    await execute(INSERT, ids, user, *(list(column) for column in zip(*orders, strict=True)))
    return ids


def update_of(order_id: str, user_id: str, version: int, status: int) -> order_pb2.OrderUpdate:
    """An order's state by this version, nothing of it filled."""
    return order_pb2.OrderUpdate(
        order_id=order_id, user_id=user_id, version=version, status=status, quantity="1", filled_quantity="0",
        filled_notional="0", updated_at_ns=1_700_000_000_000_000_000 + version,
    )  # fmt: skip
