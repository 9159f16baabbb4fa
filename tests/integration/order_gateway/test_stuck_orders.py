"""Which orders are taken for stuck: those that were PENDING at two looks in succession, whatever clocks say of their age."""

import contextlib
from typing import Any

from libs.ids import new_id
from libs.reasons import Reason, Refused, RefusedError
from services.order_gateway.core.records import OrderRow
from services.order_gateway.resolver import Resolver
from services.order_gateway.store import OrderStore
from tests.support.records import insert_orders

PENDING, OPEN = 1, 2


class Matcher:
    """Away; remembers what it was asked to tombstone."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def submit(self, commands: list[Any]) -> list[Refused]:
        self.asked += [command.tombstone.order_id for command in commands]
        return [Refused(Reason.DEPENDENCY_UNAVAILABLE) for _ in commands]


class Nobody:
    """Has nothing to do here."""

    async def record_updates(self, updates: list[Any]) -> None:
        assert not updates


async def test_an_order_under_way_is_left_alone_where_its_gateways_clock_is_late(pool) -> None:
    await pool.execute("DELETE FROM orders.orders WHERE status = $1", PENDING)
    matcher, user = Matcher(), new_id()
    resolver = Resolver(
        store=OrderStore(pool), matcher=matcher, intake=Nobody(), amender=Nobody(), after_s=10, sweep_after_s=10
    )  # type: ignore[arg-type]
    late = "UPDATE orders.orders SET created_at = now() - interval '1 minute', status = $2 WHERE order_id = $1"
    (quick,) = await insert_orders(pool.execute, user, [("BTC/USDT", PENDING)])
    await pool.execute(late, quick, PENDING)
    await resolver.resolve_pending()
    await pool.execute(late, quick, OPEN)
    (stuck,) = await insert_orders(pool.execute, user, [("BTC/USDT", PENDING)])
    await pool.execute(late, stuck, PENDING)
    await resolver.resolve_pending()
    assert not matcher.asked
    await resolver.resolve_pending()
    assert matcher.asked == [stuck]
    await pool.execute(late, stuck, OPEN)


class Amender:
    """Refuses one order as it is told, and remembers the others."""

    def __init__(self, refused: str, reason: Reason) -> None:
        self.refused, self.reason = refused, reason
        self.resumed: list[str] = []

    async def resume(self, order: OrderRow) -> None:
        if order.order_id == self.refused:
            raise RefusedError(Refused(self.reason))
        self.resumed.append(order.order_id)


async def test_a_change_that_is_refused_for_good_keeps_no_other_waiting(pool) -> None:
    await pool.execute("UPDATE orders.orders SET amend = NULL WHERE amend IS NOT NULL")
    first, second = await insert_orders(pool.execute, new_id(), [("BTC/USDT", OPEN), ("BTC/USDT", OPEN)])
    for order_id, age in ((first, 120), (second, 60)):
        await pool.execute(
            "UPDATE orders.orders SET amend_at = now() - $2 * interval '1 second', "
            """amend = '{"price": "1", "quantity": null, "stop_price": "0", "increase": "1"}' WHERE order_id = $1""",
            order_id, age,
        )  # fmt: skip
    for reason, resumed in ((Reason.ASSET_UNKNOWN, [second]), (Reason.DEPENDENCY_UNAVAILABLE, [])):
        amender = Amender(first, reason)
        resolver = Resolver(
            store=OrderStore(pool), matcher=Matcher(), intake=Nobody(), amender=amender, after_s=10, sweep_after_s=10
        )  # type: ignore[arg-type]
        with contextlib.suppress(RefusedError):
            await resolver.resume_changes()
        assert amender.resumed == resumed
    await pool.execute("UPDATE orders.orders SET amend = NULL, status = 6 WHERE order_id = ANY ($1)", [first, second])
