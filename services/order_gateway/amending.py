"""An order's change: what it needs more is reserved first, under an intent that is on disk before the wallet is asked.

So a crash leaves nothing held that nobody knows of: the owner's repeat takes the intent up, or in the end the resolver. The
matcher is told all that was ever reserved for the order, and frees what of it the change does not need, also where it
refuses the change. A change that needs nothing more goes straight to the matcher.
"""

import time
from dataclasses import replace

import structlog
from exchange.wallet.v1 import operation_pb2

from libs.clients.wallet import WalletClient
from libs.money import format_units
from libs.orders import LIVE
from libs.reasons import PASSING, Reason, Refused, RefusedError
from services.order_gateway.clients import MatcherClient
from services.order_gateway.core.admission import OrderRequest, admit_amend, needs_reference_price
from services.order_gateway.core.records import Amendment, Intent, OrderRow
from services.order_gateway.intake import Intake
from services.order_gateway.items import Answer, Change
from services.order_gateway.lanes import Changes
from services.order_gateway.store import OrderStore
from services.order_gateway.wire import increase_request, order_closed

log = structlog.get_logger()
_GONE = frozenset({Reason.RESERVATION_CLOSED, Reason.RESERVATION_NOT_FOUND})
# What the ledger itself says no with: by its key, the increase was not had before either.
_NOT_HELD = _GONE | {Reason.INSUFFICIENT_BALANCE, Reason.AMOUNT_OUT_OF_RANGE}


class Amender:
    """Takes changes through their steps, each on its own; the services behind batch them."""

    def __init__(
        self, *, store: OrderStore, wallet: WalletClient, matcher: MatcherClient, flow: Intake,
        changes: Changes,
    ) -> None:  # fmt: skip
        self._store = store
        self._wallet = wallet
        self._matcher = matcher
        self._flow = flow
        self._changes = changes

    async def amend(self, change: Change) -> Answer:
        """The order after it, or why not. Raises RefusedError where the outcome is unknown: ask again."""
        assert change.amendment is not None, "a cancel is no amend"
        order = await self._find(change)
        if order is None:
            field = "order_id" if change.order_id else "client_order_id"
            return Refused(Reason.ORDER_NOT_FOUND, field=field)
        if order.intent is not None and order.intent.amendment == change.amendment:
            return await self._carry_out(order, order.intent)
        if self._flow.is_changed_out(order):
            return Refused(Reason.TOO_MANY_CHANGES, detail={"order_id": order.order_id})
        increase = await self._increase(order, change.amendment)
        if isinstance(increase, Refused):
            return increase
        if not increase:
            return await self._changes.submit_one(change)
        intended = await self._store.intend(order.order_id, change.amendment, increase)
        if intended is None:
            return _not_now((await self._store.by_ids([order.order_id]))[order.order_id])
        assert intended.intent is not None, "it was just recorded"
        return await self._carry_out(intended, intended.intent)

    async def resume(self, order: OrderRow) -> None:
        """Bring a change that was cut off to its end. Raises RefusedError."""
        assert order.intent is not None, "only orders with an intent are asked for"
        answer = await self._carry_out(order, order.intent)
        outcome = answer if isinstance(answer, Refused) else "done"
        log.info("resolved a change", order_id=order.order_id, outcome=str(outcome))

    async def _find(self, change: Change) -> OrderRow | None:
        if change.order_id:
            order = (await self._store.by_ids([change.order_id])).get(change.order_id)
        else:
            key = (change.user_id, change.client_order_id)
            order = (await self._store.by_client_ids([key])).get(key)
        return order if order is not None and order.user_id == change.user_id else None

    async def _increase(self, order: OrderRow, amendment: Amendment) -> int | Refused:
        """How much more the change needs. Orders that are not open, or whose time is over, are the matcher's to judge."""
        now_ns, ends_at_ns = time.time_ns(), order.request.terms.expires_at_ns
        if order.status not in LIVE or 0 < ends_at_ns <= now_ns:
            return 0
        before = _as_it_is(order)
        changed = _changed(before, amendment)
        filters = await self._matcher.filters(before.symbol)
        reference = await self._matcher.reference_price(before.symbol) if needs_reference_price(changed) else 0
        return admit_amend(
            changed,
            before,
            filled=order.filled_quantity,
            filters=filters,
            reference_price=reference,
            now_ns=now_ns,
        )

    async def _carry_out(self, order: OrderRow, intent: Intent) -> Answer:
        """Reserve, then amend, then forget the intent. Every step is done once by its key, however often it is tried."""
        try:
            await self._wallet.increase(increase_request(order, intent))
        except RefusedError as error:
            refused = error.refused
            if refused.reason not in _NOT_HELD:
                raise
            await self._store.end_intent(order.order_id, intent, taken_back=True)
            if refused.reason in _GONE:
                return Refused(Reason.ORDER_CLOSED, field="order_id", detail={"order_id": order.order_id})
            return Refused(refused.reason, field="quantity", rule=refused.rule, detail=refused.detail)
        change = Change(order.user_id, order.order_id, "", intent.amendment, reserved_total=intent.reserved_total)
        answer = await self._changes.submit_one(change)
        if isinstance(answer, Refused):
            if answer.reason in PASSING:
                raise RefusedError(answer)
            if answer.reason is Reason.ORDER_NOT_FOUND:  # the matcher has forgotten it: it closed long ago
                await self._flow.release([_back(order, intent)])
                answer = order_closed((await self._store.by_ids([order.order_id]))[order.order_id])
        await self._store.end_intent(order.order_id, intent, taken_back=False)
        return answer


def _as_it_is(order: OrderRow) -> OrderRequest:
    """The request that would make the order as it stands."""
    terms = order.request.terms
    if order.open_stop_price and terms.stop_price:
        terms = replace(terms, stop_price=order.open_stop_price)
    return replace(
        order.request, price=order.open_price or order.request.price, quantity=order.open_quantity, terms=terms
    )


def _changed(request: OrderRequest, amendment: Amendment) -> OrderRequest:
    terms = replace(request.terms, stop_price=amendment.stop_price) if amendment.stop_price else request.terms
    if amendment.quantity is not None and terms.display_quantity > amendment.quantity:
        terms = replace(terms, display_quantity=0)  # what is left is shown whole
    quantity = request.quantity if amendment.quantity is None else amendment.quantity
    return replace(request, price=amendment.price or request.price, quantity=quantity, terms=terms)


def _not_now(order: OrderRow) -> Refused:
    if order.status in LIVE:
        return Refused(Reason.AMEND_UNDER_WAY, detail={"order_id": order.order_id})
    return order_closed(order)


def _back(order: OrderRow, intent: Intent) -> operation_pb2.ReleaseRequest:
    return operation_pb2.ReleaseRequest(
        user_id=order.user_id, asset=order.reservation.asset, amount=format_units(intent.increase),
        order_id=order.order_id, reason="order unknown", key=f"{order.order_id}/increase/{intent.number}/back",
    )  # fmt: skip
