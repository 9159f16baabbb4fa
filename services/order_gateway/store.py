"""The orders table."""

import json
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from libs.db.pool import Pool
from libs.ids import FIRST_ID, first_id_at
from libs.money import format_units, parse_units
from libs.orders import Choice, OrderType, PostOnly, SelfTrade, Side, Status, TimeInForce
from libs.reasons import Reason
from services.order_gateway.core.admission import PLAIN, OrderRequest, Reservation, Terms
from services.order_gateway.core.records import Amendment, Intent, OrderRow

_COLUMNS = """order_id, user_id, client_order_id, symbol, side, type, time_in_force, price, quantity, quote_amount,
    reserve_asset, reserve_amount, status, reason, open_quantity, filled_quantity, filled_notional, version, released,
    created_at, updated_at, terms, open_price, waiting, open_stop_price, release_due, amend, amends,
    reserve_amount + reserved_extra AS reserved_total"""
# A client's id is taken for good by whoever inserts it first. (IS TRUE keeps the planner from a nested loop of both lists.)
INSERT_PENDING = """
WITH o AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::smallint[], $7::smallint[],
        $8::numeric[], $9::numeric[], $10::numeric[], $11::text[], $12::numeric[], $13::jsonb[], $14::timestamptz[])
        AS o (order_id, user_id, client_order_id, symbol, side, type, time_in_force, price, quantity, quote_amount,
              reserve_asset, reserve_amount, terms, created_at)
), fresh AS (
    INSERT INTO orders.client_ids (user_id, client_order_id, order_id)
    SELECT user_id, client_order_id, order_id FROM o ORDER BY user_id, client_order_id
    ON CONFLICT DO NOTHING RETURNING order_id
)
INSERT INTO orders.orders (order_id, user_id, client_order_id, symbol, side, type, time_in_force, price, quantity,
    quote_amount, reserve_asset, reserve_amount, terms, created_at, updated_at, open_price, open_stop_price, status, reason,
    open_quantity, filled_quantity, filled_notional, version, released)
SELECT o.*, o.created_at, o.price, coalesce((o.terms ->> 'stop_price')::numeric, 0), 1, 0, o.quantity, 0, 0, 0, 0
FROM o WHERE (o.order_id IN (SELECT order_id FROM fresh)) IS TRUE
RETURNING order_id
"""
SELECT_BY_CLIENT_IDS = f"""
SELECT {_COLUMNS} FROM unnest($1::uuid[], $2::text[]) AS n (user_id, client_order_id)
JOIN orders.client_ids USING (user_id, client_order_id) JOIN orders.orders USING (user_id, client_order_id, order_id)
"""
# By joins, one id at a time: a plan for any values spares no partition for `= ANY ($1)`.
SELECT_BY_IDS = f"SELECT {_COLUMNS} FROM unnest($1::uuid[]) AS n (order_id) JOIN orders.orders USING (order_id)"
SELECT_PROGRESS = """
SELECT order_id, o.status, o.version, o.released
FROM unnest($1::uuid[]) AS n (order_id) JOIN orders.orders o USING (order_id)
"""
# One question looks at so many of a user's orders and no more, whatever it picks among them. (No index by symbol or time
# of change: it would cost every order, or every update of one.)
LOOKED_AT_MAX = 5000
SELECT_PAGE = f"""
SELECT {_COLUMNS} FROM orders.orders
WHERE user_id = $1 AND order_id < $2 AND order_id >= $3 AND ($4 = '' OR symbol = $4) ORDER BY order_id DESC LIMIT $5
"""
SELECT_LAST_LOOKED_AT = """
SELECT order_id FROM orders.orders WHERE user_id = $1 AND order_id < $2 ORDER BY order_id DESC OFFSET $3 - 1 LIMIT 1
"""
# How many are open has a limit of its own. A statement for itself: a plan for any question could not use their index.
SELECT_OPEN_PAGE = f"""
SELECT {_COLUMNS} FROM orders.orders
WHERE user_id = $1 AND order_id < $2 AND ($3 = '' OR symbol = $3) AND status IN (1, 2, 3) ORDER BY order_id DESC LIMIT $4
"""
SELECT_OPEN = f"""
SELECT {_COLUMNS} FROM orders.orders WHERE user_id = $1 AND status IN (1, 2, 3) ORDER BY order_id DESC LIMIT $2
"""
SELECT_CHANGED = f"""
SELECT * FROM (
    SELECT {_COLUMNS} FROM orders.orders WHERE user_id = $1 ORDER BY order_id DESC LIMIT {LOOKED_AT_MAX}
) AS newest
WHERE updated_at >= $2 ORDER BY updated_at DESC LIMIT $3
"""
SELECT_PENDING = f"""
SELECT {_COLUMNS} FROM orders.orders WHERE status = 1 AND created_at < now() - $1 * interval '1 second'
ORDER BY created_at LIMIT $2
"""
SELECT_LIVE = f"""
SELECT {_COLUMNS} FROM orders.orders
WHERE (status IN (2, 3) OR release_due) AND order_id > $1 AND order_id < $2 AND updated_at < now() - $3 * interval '1 second'
ORDER BY order_id LIMIT $4
"""
# Rows are locked in the order of their ids, so that the reply's update and the event's never deadlock.
UPDATE_STATES = """
WITH u AS (
    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::numeric[], $5::numeric[], $6::numeric[],
        $7::bigint[], $8::integer[], $9::timestamptz[], $10::numeric[], $11::boolean[], $12::numeric[], $13::integer[])
    AS u (order_id, status, reason, open_quantity, filled_quantity, filled_notional, version, released, updated_at,
          open_price, waiting, open_stop_price, releases)
), locked AS MATERIALIZED (
    SELECT u.* FROM orders.orders o JOIN u USING (order_id)
    WHERE o.version < u.version OR o.released < u.released
    ORDER BY o.order_id FOR UPDATE OF o
)
UPDATE orders.orders o
SET status = u.status, reason = u.reason, open_quantity = u.open_quantity, filled_quantity = u.filled_quantity,
    filled_notional = u.filled_notional, version = u.version, released = greatest(o.released, u.released),
    updated_at = u.updated_at, open_price = u.open_price, waiting = u.waiting,
    open_stop_price = u.open_stop_price, release_due = greatest(o.released, u.released) < u.releases
FROM locked u
WHERE o.order_id = u.order_id AND (o.version < u.version OR o.version = u.version AND o.released < u.released)
"""


# One intent at a time. The total is asked for once the wallet has it; a refusal takes the increase back.
INTEND = f"""
UPDATE orders.orders SET amend = $2, amend_at = now(), amends = amends + 1, reserved_extra = reserved_extra + $3
WHERE order_id = $1 AND amend IS NULL AND status IN (2, 3) RETURNING {_COLUMNS}
"""
END_INTENT = """
UPDATE orders.orders SET amend = NULL, amend_at = NULL, reserved_extra = reserved_extra - $3
WHERE order_id = $1 AND amends = $2 AND amend IS NOT NULL
"""
SELECT_AMENDING = f"""
SELECT {_COLUMNS} FROM orders.orders WHERE amend IS NOT NULL AND amend_at < now() - $1 * interval '1 second'
ORDER BY amend_at LIMIT $2
"""
_AMOUNTS = frozenset({"stop_price", "stop_limit_price", "trail", "display_quantity"})
_CHOICES: dict[str, type[PostOnly | SelfTrade]] = {"post_only": PostOnly, "self_trade": SelfTrade}


class StateChange(NamedTuple):
    """What an update writes; of its `releases` the wallet has `released`."""

    order_id: str
    status: Status
    reason: Reason
    open_quantity: int
    filled_quantity: int
    filled_notional: int
    version: int
    released: int
    updated_at: datetime
    open_price: int
    waiting: bool
    open_stop_price: int
    releases: int


class Progress(NamedTuple):
    """How far the record of an order is."""

    status: Status
    version: int
    released: int


class OrderStore:
    """Reads and writes schema `orders`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def insert_pending(self, orders: Sequence[OrderRow]) -> set[str]:
        """Record new orders in one commit; returns the ids of those that were new for their owner."""
        columns = zip(*(_values(order) for order in orders), strict=True)
        rows = await self._pool.fetch(INSERT_PENDING, *(list(column) for column in columns))
        return {str(row["order_id"]) for row in rows}

    async def by_client_ids(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], OrderRow]:
        """Orders by (user, client order id)."""
        users, client_ids = zip(*keys, strict=True)
        rows = await self._pool.fetch(SELECT_BY_CLIENT_IDS, list(users), list(client_ids))
        return {(str(row["user_id"]), row["client_order_id"]): _order(row) for row in rows}

    async def by_ids(self, order_ids: Iterable[str]) -> dict[str, OrderRow]:
        """Orders by id, whoever owns them; callers check."""
        return {str(row["order_id"]): _order(row) for row in await self._pool.fetch(SELECT_BY_IDS, list(order_ids))}

    async def progress(self, order_ids: Iterable[str]) -> dict[str, Progress]:
        """How far the records of these orders are."""
        rows = await self._pool.fetch(SELECT_PROGRESS, list(order_ids))
        return {str(row["order_id"]): Progress(Status(row["status"]), row["version"], row["released"]) for row in rows}

    async def page(
        self, user_id: str, *, before: str, symbol: str, open_only: bool, limit: int
    ) -> tuple[list[OrderRow], str]:
        """A user's orders older than `before`, newest first; and before which the next page begins, "" after the last.

        With a symbol, a page may have fewer than there are: then it has looked at LOOKED_AT_MAX orders.
        """
        if open_only:
            rows = await self._pool.fetch(SELECT_OPEN_PAGE, user_id, before, symbol, limit)
            return _page(rows, limit, "")
        end = ""
        if symbol:
            end = str(await self._pool.fetchval(SELECT_LAST_LOOKED_AT, user_id, before, LOOKED_AT_MAX) or "")
        rows = await self._pool.fetch(SELECT_PAGE, user_id, before, end or FIRST_ID, symbol, limit)
        return _page(rows, limit, end)

    async def open_orders(self, user_id: str, limit: int) -> list[OrderRow]:
        """A user's orders that are not final, newest first."""
        return [_order(row) for row in await self._pool.fetch(SELECT_OPEN, user_id, limit)]

    async def changed_orders(self, user_id: str, since: datetime, limit: int) -> list[OrderRow]:
        """Those of a user's newest orders that have changed since then, latest change first."""
        return [_order(row) for row in await self._pool.fetch(SELECT_CHANGED, user_id, since, limit)]

    async def pending(self, older_than_s: float, limit: int) -> list[OrderRow]:
        """Orders that have been PENDING for long, oldest first."""
        return [_order(row) for row in await self._pool.fetch(SELECT_PENDING, older_than_s, limit)]

    async def live(self, *, after: str, quiet_s: float, limit: int) -> list[OrderRow]:
        """Orders with an id after this one that are open, or have a release due, and have not changed for a while.

        In the order of their ids.
        """
        youngest = first_id_at(time.time() - quiet_s)  # what is younger has changed since then: it is not looked at
        return [_order(row) for row in await self._pool.fetch(SELECT_LIVE, after, youngest, quiet_s, limit)]

    async def intend(self, order_id: str, amendment: Amendment, increase: int) -> OrderRow | None:
        """Record a change that needs money; None where the order is not open, or another such change is under way."""
        stored = {
            "price": format_units(amendment.price),
            "quantity": None if amendment.quantity is None else format_units(amendment.quantity),
            "stop_price": format_units(amendment.stop_price),
            "increase": format_units(increase),
        }
        row = await self._pool.fetchrow(INTEND, order_id, json.dumps(stored), increase)
        return None if row is None else _order(row)

    async def end_intent(self, order_id: str, intent: Intent, *, taken_back: bool) -> None:
        """The change is through, or (`taken_back`) its money was never had."""
        await self._pool.execute(END_INTENT, order_id, intent.number, intent.increase if taken_back else 0)

    async def amending(self, older_than_s: float, limit: int) -> list[OrderRow]:
        """Orders with a change that has been under way for long, oldest first."""
        return [_order(row) for row in await self._pool.fetch(SELECT_AMENDING, older_than_s, limit)]

    async def update(self, changes: Sequence[StateChange]) -> None:
        """Bring rows up to these versions; what is newer already stays."""
        await self._pool.execute(UPDATE_STATES, *(list(column) for column in zip(*changes, strict=True)))


def _page(rows: Sequence[Any], limit: int, looked_until: str) -> tuple[list[OrderRow], str]:
    orders = [_order(row) for row in rows]
    return orders, orders[-1].order_id if len(orders) == limit else looked_until


def _values(order: OrderRow) -> tuple[Any, ...]:
    request = order.request
    return (
        order.order_id, order.user_id, order.client_order_id, request.symbol, request.side, request.type,
        request.time_in_force, request.price, request.quantity, request.quote_amount, order.reservation.asset,
        order.reservation.amount, _terms_text(request.terms), order.created_at,
    )  # fmt: skip


def _order(row: Any) -> OrderRow:
    request = OrderRequest(
        symbol=row["symbol"],
        side=Side(row["side"]),
        type=OrderType(row["type"]),
        time_in_force=TimeInForce(row["time_in_force"]),
        price=row["price"],
        quantity=row["quantity"],
        quote_amount=row["quote_amount"],
        terms=PLAIN if row["terms"] is None else _terms(row["terms"]),
    )
    return OrderRow(
        order_id=str(row["order_id"]),
        user_id=str(row["user_id"]),
        client_order_id=row["client_order_id"],
        request=request,
        reservation=Reservation(row["reserve_asset"], row["reserve_amount"]),
        status=Status(row["status"]),
        reason=Reason(row["reason"]),
        open_quantity=row["open_quantity"],
        filled_quantity=row["filled_quantity"],
        filled_notional=row["filled_notional"],
        version=row["version"],
        released=row["released"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        open_price=row["open_price"],
        waiting=row["waiting"],
        open_stop_price=row["open_stop_price"],
        release_due=row["release_due"],
        intent=None if row["amend"] is None else _intent(row),
    )


def _intent(row: Any) -> Intent:
    stored = json.loads(row["amend"])
    amendment = Amendment(
        parse_units(stored["price"], field="price"),
        None if stored["quantity"] is None else parse_units(stored["quantity"], field="quantity"),
        parse_units(stored["stop_price"], field="stop_price"),
    )
    return Intent(row["amends"], amendment, parse_units(stored["increase"], field="increase"), row["reserved_total"])


def _terms_text(terms: Terms) -> str | None:
    """What differs from a plain order, as JSON; amounts as texts, since JSON's numbers are not exact everywhere."""
    if terms is PLAIN or terms == PLAIN:
        return None
    given = {name: getattr(terms, name) for name in Terms.__slots__ if getattr(terms, name) != getattr(PLAIN, name)}
    return json.dumps(
        {
            name: value.name if isinstance(value, Choice) else format_units(value) if name in _AMOUNTS else value
            for name, value in given.items()
        }
    )


def _terms(text: str) -> Terms:
    stored = json.loads(text)
    given: dict[str, Any] = {
        name: _CHOICES[name][value]
        if name in _CHOICES
        else parse_units(value, field=name)
        if name in _AMOUNTS
        else value
        for name, value in stored.items()
    }
    return Terms(**given)
