"""Order flow in LOBSTER's message format as orders, cancels and amends of ours, with what a correct engine must answer.

A message of type 4 (shares s at price p against resting order i) becomes an incoming opposite IOC of s at p; a correct
engine fills order i and no other. Orders that rested before the file begins are stood for by one house order per level.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2, trading_session_pb2

from cli.users import user_id_of
from libs.money import UNIT, format_units

NEW, REDUCE, DELETE, EXECUTE = 1, 2, 3, 4
MAKERS = tuple(f"replay-maker-{number}" for number in range(4))
TAKER = "replay-taker"
HOUSE = "replay-house"
USERS = (*MAKERS, TAKER, HOUSE)
LEVELS = 10
# LOBSTER prices are dollars x 10,000.
_PRICE_UNITS = UNIT // 10_000


class FlowError(Exception):
    """A file is not what it should be; the text says where."""


@dataclass(frozen=True, slots=True)
class FlowMessage:
    """One line of the file; price in units of 10^-8, side 1 buy, -1 sell."""

    number: int
    time: str
    kind: int
    order: str
    shares: int
    price: int
    side: int


@dataclass(slots=True)
class Resting:
    """An order as the flow says it is."""

    client_order_id: str
    user_id: str
    side: int
    price: int
    ordered: int
    left: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one message asks of the gateway. `fills` names the resting order that must be filled, if any."""

    message: FlowMessage | None
    request: trading_session_pb2.TradingSessionRequest
    fills: str = ""
    shares: int = 0


@dataclass(slots=True)
class Flow:
    """Turns messages into steps and remembers what every order must have filled in the end."""

    symbol: str
    run_id: str
    resting: dict[str, Resting] = field(default_factory=dict)
    house: dict[tuple[int, int], Resting] = field(default_factory=dict)
    expected_fills: dict[tuple[str, str], int] = field(default_factory=dict)
    skipped: int = 0
    _request_id: int = 0

    def open_book(self, row: list[int], first: FlowMessage) -> Iterator[Step]:
        """House orders for the book before the first message: the first row of the book file, that message undone."""
        for level in range(LEVELS):
            ask_price, ask_size, bid_price, bid_size = row[4 * level : 4 * level + 4]
            for side, price, size in ((-1, ask_price, ask_size), (1, bid_price, bid_size)):
                units = price * _PRICE_UNITS
                left = size - (first.shares if first.kind == NEW and (side, units) == (first.side, first.price) else 0)
                if left > 0:
                    order = Resting(f"{self.run_id}/house/{side}/{price}", user_id_of(HOUSE), side, units, left, left)
                    self.house[(side, units)] = order
                    yield self._place(None, order)

    def steps(self, message: FlowMessage) -> Iterator[Step]:
        """What a message asks; nothing for those that do not touch the visible book, or touch what we never saw."""
        if message.kind == NEW:
            user = user_id_of(MAKERS[int(message.order) % len(MAKERS)])
            order = Resting(
                f"{self.run_id}/{message.order}", user, message.side, message.price, message.shares, message.shares
            )
            self.resting[message.order] = order
            yield self._place(message, order)
            return
        if message.kind not in {REDUCE, DELETE, EXECUTE}:
            return
        named = self.resting.get(message.order) or self.house.get((message.side, message.price))
        if named is None or named.left < message.shares:
            self.skipped += 1
            return
        yield self._change(message, named)

    def _change(self, message: FlowMessage, order: Resting) -> Step:
        order.left -= message.shares
        if message.kind == EXECUTE:
            key = (order.user_id, order.client_order_id)
            self.expected_fills[key] = self.expected_fills.get(key, 0) + message.shares
            return self._execute(message, order)
        if order.left == 0:
            return self._step(
                message,
                cancel=order_requests_pb2.CancelOrderRequest(
                    user_id=order.user_id, client_order_id=order.client_order_id
                ),
            )
        order.ordered -= message.shares
        reduce = order_requests_pb2.ReduceOrderRequest(
            user_id=order.user_id, client_order_id=order.client_order_id, quantity=str(order.ordered)
        )
        return self._step(message, reduce=reduce)

    def _place(self, message: FlowMessage | None, order: Resting) -> Step:
        place = order_requests_pb2.PlaceOrderRequest(
            user_id=order.user_id,
            client_order_id=order.client_order_id,
            symbol=self.symbol,
            side=_side(order.side),
            type=order_pb2.ORDER_TYPE_LIMIT,
            price=format_units(order.price),
            quantity=str(order.ordered),
        )
        return self._step(message, place=place)

    def _execute(self, message: FlowMessage, order: Resting) -> Step:
        place = order_requests_pb2.PlaceOrderRequest(
            user_id=user_id_of(TAKER),
            client_order_id=f"{self.run_id}/take/{message.number}",
            symbol=self.symbol,
            side=_side(-order.side),
            type=order_pb2.ORDER_TYPE_LIMIT,
            time_in_force=order_pb2.TIME_IN_FORCE_IOC,
            price=format_units(order.price),
            quantity=str(message.shares),
        )
        step = self._step(message, place=place)
        return Step(message, step.request, fills=order.client_order_id, shares=message.shares)

    def _step(self, message: FlowMessage | None, **request: object) -> Step:
        self._request_id += 1
        return Step(
            message,
            trading_session_pb2.TradingSessionRequest(request_id=self._request_id, **request),  # type: ignore[arg-type]  # one of the oneof's fields
        )


def read_messages(path: Path) -> Iterator[FlowMessage]:
    """The file's messages. Raises FlowError that names the line."""
    for number, row in _rows(path):
        try:
            time, kind, order, shares, price, side = row
            message = FlowMessage(
                number, time, int(kind), str(int(order)), int(shares), int(price) * _PRICE_UNITS, int(side)
            )
        except ValueError as error:
            raise FlowError(f"{path}:{number}: not time, type, order id, shares, price, side") from error
        wrong = message.side not in {1, -1} or message.shares < 0 or message.price < 0
        if wrong and message.kind in {NEW, REDUCE, DELETE, EXECUTE}:
            raise FlowError(f"{path}:{number}: a side is 1 or -1, shares and price are not negative")
        yield message


def read_book_rows(path: Path) -> Iterator[list[int]]:
    """The book file's rows. Raises FlowError that names the line."""
    for number, row in _rows(path):
        try:
            values = [int(value) for value in row]
        except ValueError as error:
            raise FlowError(f"{path}:{number}: not numbers alone") from error
        if len(values) != 4 * LEVELS:
            raise FlowError(f"{path}:{number}: not {LEVELS} times ask price, size, bid price, size")
        yield values


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """A CSV file's rows with their numbers from 1."""
    with path.open(newline="", encoding="ascii") as lines:
        try:
            yield from enumerate(csv.reader(lines), start=1)
        except (UnicodeDecodeError, csv.Error) as error:
            raise FlowError(f"{path}: no CSV file in ASCII: {error}") from error


def book_levels(row: list[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(asks, bids) of a book row as (price, quantity) in units, best first."""
    asks = [(row[n] * _PRICE_UNITS, row[n + 1] * UNIT) for n in range(0, 4 * LEVELS, 4)]
    bids = [(row[n + 2] * _PRICE_UNITS, row[n + 3] * UNIT) for n in range(0, 4 * LEVELS, 4)]
    return asks, bids


def _side(side: int) -> order_pb2.Side.ValueType:
    return order_pb2.SIDE_BUY if side == 1 else order_pb2.SIDE_SELL
