"""Exchanges and queues: the one place that names them. Declared by whoever connects, as often as they like."""

from dataclasses import dataclass

TRADE_EVENTS = "trade.events"
ORDER_EVENTS = "order.events"
DEAD_LETTER_EXCHANGE = "dlx"
DEAD_LETTER_QUEUE = "dlx.failed"
DEAD_LETTER_KEY = "failed.trades"
DAY_MS = 86_400_000
# Nobody of ours reads these two, so that they are also bounded by length.
UNREAD_MAX_MESSAGES = 100_000
STREAM_MAX_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and what flows into it."""

    name: str
    exchange: str
    binding: str = "#"
    dead_letters: bool = False
    max_messages: int | None = None


def settlement_queue() -> Queue:
    """What settlement consumes: every trade."""
    return Queue("wallet.service.trades", TRADE_EVENTS, dead_letters=True)


def order_status_queue() -> Queue:
    """What the order gateway consumes: every change of an order, shared by its processes."""
    return Queue("gateway.service.orders", ORDER_EVENTS)


def notification_queue() -> Queue:
    """For a notification service that a team brings itself."""
    return Queue("notification.service.trades", TRADE_EVENTS, max_messages=UNREAD_MAX_MESSAGES)


ALL_QUEUES = (settlement_queue(), order_status_queue(), notification_queue())


def routing_key(event: str, symbol: str) -> str:
    """`trade.BTC-USDT`: event, dot, symbol with `/` as `-`."""
    return f"{event}.{symbol.replace('/', '-')}"
