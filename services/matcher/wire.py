"""Between protobuf and the core: commands in, results and event messages out."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from exchange.common.v1 import order_pb2 as common_order_pb2
from exchange.common.v1 import symbol_pb2
from exchange.events.v1 import order_pb2, trade_pb2
from exchange.matcher.v1 import command_pb2, matcher_pb2

from libs.bus.interface import Message
from libs.bus.topology import ORDER_EVENTS, TRADE_EVENTS, routing_key
from libs.ids import parse_asset, parse_id, parse_text
from libs.money import BPS, UNIT, format_units, parse_optional, parse_positive, parse_units
from libs.orders import SymbolStatus
from libs.reasons import Reason, Refused, RefusedError
from services.matcher.core.choices import BUY
from services.matcher.core.commands import (
    AmendOrder,
    AskOrder,
    CancelAll,
    CancelOrder,
    Command,
    PutSymbol,
    Symbol,
    Tick,
    Tombstone,
)
from services.matcher.core.orders import OrderState, Outcome, Trade
from services.matcher.core.parsing import new_order

T = TypeVar("T")


def command_from(message: command_pb2.Command) -> Command:
    """A command as the core knows it. Raises RefusedError where it is malformed."""
    match message.WhichOneof("command"):
        case "new_order":
            _named(message.new_order)
            parse_text(message.new_order.session, field="session", required=False)
        case "cancel":
            _named(message.cancel)
        case "amend":
            _named(message.amend)
        case "tombstone":
            _named(message.tombstone)
            parse_text(message.tombstone.symbol, field="symbol")  # it is told to the bus, known or not
        case "cancel_all":
            parse_id(message.cancel_all.user_id, field="user_id")
            parse_text(message.cancel_all.session, field="session", required=False)
    return recorded_command(message)


def recorded_command(message: command_pb2.Command) -> Command:
    """As `command_from`, of a command that was journaled: its ids and texts are not looked at again."""
    match message.WhichOneof("command"):
        case "new_order":
            new = message.new_order
            return new_order(
                new.order_id, new.user_id, new.symbol, new.side, new.type, new.time_in_force, new.price, new.quantity,
                new.reserved, new.stop_price, new.stop_limit_price, new.trail, new.trail_bps, new.display_quantity,
                new.post_only, new.self_trade, new.expires_at_ns, new.session,
            )  # fmt: skip
        case "cancel":
            cancel = message.cancel
            return CancelOrder(cancel.order_id, cancel.user_id, cancel.symbol)
        case "amend":
            return _amend(message.amend)
        case "cancel_all":
            everything = message.cancel_all
            return CancelAll(everything.user_id, everything.symbol, everything.session)
        case "tick":
            return Tick()
        case "tombstone":
            tombstone = message.tombstone
            return Tombstone(tombstone.order_id, tombstone.user_id, tombstone.symbol)
        case "put_symbol":
            return PutSymbol(symbol_from(message.put_symbol.symbol))
        case _:
            raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="command"))


def question_from(message: command_pb2.AskOrder) -> AskOrder:
    """A question as the core knows it. Raises RefusedError where it is malformed."""
    return AskOrder(*_named(message))


def symbol_from(message: symbol_pb2.Symbol) -> Symbol:
    """A symbol as the core knows it."""
    return Symbol(
        name=message.symbol,
        base_asset=message.base_asset,
        quote_asset=message.quote_asset,
        tick=parse_positive(message.tick_size, field="symbol.tick_size"),
        lot=parse_positive(message.lot_size, field="symbol.lot_size"),
        min_quantity=parse_positive(message.min_quantity, field="symbol.min_quantity"),
        max_quantity=parse_positive(message.max_quantity, field="symbol.max_quantity"),
        min_notional=parse_units(message.min_notional, field="symbol.min_notional"),
        maker_fee_bps=message.maker_fee_bps,
        taker_fee_bps=message.taker_fee_bps,
        market_band_bps=message.market_band_bps,
        price_band_bps=message.price_band_bps,
        max_open_orders=message.max_open_orders,
        status=SymbolStatus(message.status or SymbolStatus.ACTIVE),
    )


def checked_symbol(message: symbol_pb2.Symbol) -> Symbol:
    """A symbol that an operator wants. Raises RefusedError for the first filter that is not what it must be."""
    base, slash, quote = message.symbol.partition("/")
    if not slash or (base, quote) != (message.base_asset, message.quote_asset) or base == quote:
        rule = "base asset, slash, quote asset"
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="symbol.symbol", rule=rule))
    parse_asset(base, field="symbol.base_asset")
    parse_asset(quote, field="symbol.quote_asset")
    if message.status not in {0, *SymbolStatus}:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="symbol.status"))
    symbol = symbol_from(message)
    if symbol.tick * symbol.lot % UNIT:
        rule = "tick size x lot size must be exact in 8 decimals"
        raise RefusedError(Refused(Reason.AMOUNT_TOO_PRECISE, field="symbol.tick_size", rule=rule))
    if symbol.max_quantity < symbol.min_quantity:
        raise RefusedError(
            Refused(Reason.AMOUNT_OUT_OF_RANGE, field="symbol.max_quantity", rule="at least min_quantity")
        )
    limits = {
        "maker_fee_bps": (0, 1000), "taker_fee_bps": (0, 1000), "market_band_bps": (1, BPS), "price_band_bps": (0, 10 * BPS),
        "max_open_orders": (0, 1_000_000),
    }  # fmt: skip
    for field, (low, high) in limits.items():
        if not low <= getattr(symbol, field) <= high:
            rule = f"{low} to {high}"
            raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field=f"symbol.{field}", rule=rule))
    return symbol


def public_trade(trade: Trade) -> matcher_pb2.PublicTrade:
    """A trade as anybody may see it."""
    message = matcher_pb2.PublicTrade(
        trade_id=trade.trade_id,
        sequence=trade.sequence,
        price=format_units(trade.price),
        quantity=format_units(trade.quantity),
        maker_side=trade.maker_side,  # type: ignore[arg-type]  # twins, kept equal by a test
    )
    message.executed_at.FromNanoseconds(trade.at_ns)
    return message


def symbol_message(symbol: Symbol) -> symbol_pb2.Symbol:
    """A symbol as others know it."""
    return symbol_pb2.Symbol(
        symbol=symbol.name,
        base_asset=symbol.base_asset,
        quote_asset=symbol.quote_asset,
        tick_size=format_units(symbol.tick),
        lot_size=format_units(symbol.lot),
        min_quantity=format_units(symbol.min_quantity),
        max_quantity=format_units(symbol.max_quantity),
        min_notional=format_units(symbol.min_notional),
        maker_fee_bps=symbol.maker_fee_bps,
        taker_fee_bps=symbol.taker_fee_bps,
        market_band_bps=symbol.market_band_bps,
        price_band_bps=symbol.price_band_bps,
        max_open_orders=symbol.max_open_orders,
        status=symbol.status.value,  # type: ignore[arg-type]  # twins, kept equal by a test
    )


def result_message(outcome: Outcome, symbols: dict[str, Symbol], *, fills_max: int) -> command_pb2.CommandResult:
    """The answer to a command, with so many of its fills at most."""
    result = command_pb2.CommandResult(
        refusal=outcome.refusal,  # type: ignore[arg-type]  # twins, kept equal by a test
        refused_field=outcome.refused_field,
    )
    if outcome.order is not None:
        put_update(result.order, outcome.order, symbols)
        if outcome.fills:
            result.fills.extend(_fill(trade, outcome.order) for trade in outcome.fills[:fills_max])
            result.more_fills = len(outcome.fills) > fills_max
    elif outcome.updates:
        for state in outcome.updates:
            put_update(result.cancelled.add(), state, symbols)
        result.left = outcome.left
    return result


def put_update(message: order_pb2.OrderUpdate, state: OrderState, symbols: dict[str, Symbol]) -> None:
    """An order's state as an event, into an empty message: it costs a third of making one and copying it there."""
    message.order_id = state.order_id
    message.user_id = state.user_id
    message.symbol = state.symbol
    message.version = state.version
    message.status = state.status  # type: ignore[assignment]  # twins, kept equal by a test
    message.reason = state.reason  # type: ignore[assignment]  # twins, kept equal by a test
    message.filled_quantity = format_units(state.filled)
    message.filled_notional = format_units(state.notional)
    message.updated_at_ns = state.at_ns
    message.waiting = state.waiting
    if state.quantity:
        message.quantity = format_units(state.quantity)
    if state.price:
        message.price = format_units(state.price)
    if state.stop_price:
        message.stop_price = format_units(state.stop_price)
    if state.releases:
        symbol = symbols[state.symbol]
        asset = symbol.quote_asset if state.side is BUY else symbol.base_asset
        for number, amount in enumerate(state.releases):
            message.releases.add(key=f"{state.order_id}/{number}", amount=format_units(amount), asset=asset)


def event_messages(
    shard: int, sequence: int, outcomes: Iterable[Outcome], symbols: dict[str, Symbol], *, items_max: int
) -> list[Message]:
    """What one commit tells the world: per symbol its trades, and the last state of each order that changed.

    A message has `items_max` of them at most (0: all there are), for brokers take no message of any size.
    """
    trades: dict[str, list[Trade]] = {}
    updates: dict[str, dict[str, OrderState]] = {}
    for outcome in outcomes:
        for trade in outcome.trades:
            trades.setdefault(trade.symbol.name, []).append(trade)
        for state in outcome.updates:
            updates.setdefault(state.symbol, {})[state.order_id] = state
    messages = []
    source = f"{shard}/{sequence}"
    for symbol, made in trades.items():
        for part, some in _parts(made, items_max):
            body = trade_pb2.TradeEvents(shard=shard, journal_sequence=sequence, symbol=symbol)
            for trade in some:
                put_trade(body.trades.add(), trade)
            messages.append(_message(TRADE_EVENTS, routing_key("trade", symbol), source, part, body))
    for symbol, states in updates.items():
        for part, changed in _parts(list(states.values()), items_max):
            order_body = order_pb2.OrderEvents(shard=shard, journal_sequence=sequence, symbol=symbol)
            for state in changed:
                put_update(order_body.updates.add(), state, symbols)
            messages.append(_message(ORDER_EVENTS, routing_key("order", symbol), source, part, order_body))
    return messages


def _parts(items: list[T], items_max: int) -> Iterator[tuple[str, list[T]]]:
    """Parts of so many items, each with what tells it from the first in the ids of their messages."""
    size = items_max or len(items)
    for number, start in enumerate(range(0, len(items), size)):
        yield f"/{number}" if number else "", items[start : start + size]


def put_trade(message: trade_pb2.Trade, trade: Trade) -> None:
    """A trade as an event, into an empty message."""
    message.trade_id = trade.trade_id
    message.sequence = trade.sequence
    message.symbol = trade.symbol.name
    message.base_asset = trade.symbol.base_asset
    message.quote_asset = trade.symbol.quote_asset
    message.price = format_units(trade.price)
    message.quantity = format_units(trade.quantity)
    message.buyer_user_id = trade.buyer_user_id
    message.buyer_order_id = trade.buyer_order_id
    message.seller_user_id = trade.seller_user_id
    message.seller_order_id = trade.seller_order_id
    message.maker_side = trade.maker_side  # type: ignore[assignment]  # twins, kept equal by a test
    message.buyer_fee = format_units(trade.buyer_fee)
    message.seller_fee = format_units(trade.seller_fee)
    message.executed_at_ns = trade.at_ns


def _amend(message: command_pb2.AmendOrder) -> AmendOrder:
    price, quantity, stop_price = message.price, message.quantity, message.stop_price
    return AmendOrder(
        message.order_id,
        message.user_id,
        message.symbol,
        parse_positive(price, field="price") if price else 0,
        parse_units(quantity, field="quantity") if quantity else None,
        parse_positive(stop_price, field="stop_price") if stop_price else 0,
        parse_optional(message.reserved_total, field="reserved_total"),
        message.only_less,
    )


def _named(
    message: command_pb2.NewOrder
    | command_pb2.CancelOrder
    | command_pb2.AmendOrder
    | command_pb2.Tombstone
    | command_pb2.AskOrder,
) -> tuple[str, str, str]:
    return (
        parse_id(message.order_id, field="order_id"),
        parse_id(message.user_id, field="user_id"),
        message.symbol,
    )


def _fill(trade: Trade, state: OrderState) -> common_order_pb2.Fill:
    buying = state.side is BUY
    fill = common_order_pb2.Fill(
        trade_id=trade.trade_id,
        price=format_units(trade.price),
        quantity=format_units(trade.quantity),
        fee=format_units(trade.buyer_fee if buying else trade.seller_fee),
        fee_asset=trade.symbol.base_asset if buying else trade.symbol.quote_asset,
    )
    fill.executed_at.FromNanoseconds(trade.at_ns)
    return fill


def _message(
    exchange: str, key: str, source: str, part: str, body: trade_pb2.TradeEvents | order_pb2.OrderEvents
) -> Message:
    message_type = body.DESCRIPTOR.full_name
    return Message(exchange, key, message_type, f"{source}/{key}{part}", body.SerializeToString(deterministic=True))
