"""A number that tells what a commit did: replaying it must give the same one.

It is of everything that its commands changed and traded, in order, and takes a twentieth of what it takes to make the events
and compare them. It finds what goes wrong by itself (another version, a rule that is not deterministic, a row that is
damaged), not a forger: for that, and byte for byte, there is the hash over the events.
"""

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from services.matcher.core.orders import OrderState, Outcome, Trade

# A prime below 2^31, and a factor with which no product needs more than a machine word.
_MODULUS: Final = 2_147_483_647
_FACTOR: Final = 1_000_003


def fingerprint(outcomes: Sequence[Outcome]) -> int:
    """Of the outcomes of one commit: 0 to 2^31 - 2."""
    mark = 1
    for outcome in outcomes:
        mark = (mark * _FACTOR + outcome.refusal) % _MODULUS
        for state in outcome.updates:
            mark = (mark * _FACTOR + _of_state(state) % _MODULUS) % _MODULUS
        for trade in outcome.trades:
            mark = (mark * _FACTOR + _of_trade(trade) % _MODULUS) % _MODULUS
    return mark


def _of_state(state: OrderState) -> int:
    """Everything in it that commands and trades decide, each times a prime of its own."""
    freed = 0
    for amount in state.releases:
        freed = freed * 3 + amount
    progress = (state.version * 8 + state.status) * 2 + state.waiting
    amounts = state.filled * 3 + state.notional * 5 + state.price * 7 + state.quantity * 11 + freed * 13
    marks = crc32(state.order_id.encode("ascii")) + progress * 65_537
    return marks + amounts + state.stop_price * 17 + state.reason * 19


def _of_trade(trade: Trade) -> int:
    parties = crc32(trade.buyer_order_id.encode("ascii")) + crc32(trade.seller_order_id.encode("ascii")) * 3
    amounts = trade.price * 7 + trade.quantity * 11 + trade.buyer_fee * 13 + trade.seller_fee * 17
    return parties + (trade.sequence * 2 + trade.maker_side) * 65_537 + amounts
