"""Exchanges and queues: the one place that names them. Declared by whoever connects, as often as they like."""

from dataclasses import dataclass

TRADE_EVENTS = "trade.events"
ORDER_EVENTS = "order.events"
DEAD_LETTER_EXCHANGE = "dlx"
DEAD_LETTER_KEY = "failed.trades"
DAY_MS = 86_400_000
# Queues that are read late or by nobody of ours are also bounded by length.
UNREAD_MAX_MESSAGES = 100_000
STREAM_MAX_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and what flows into it."""

    name: str
    exchange: str
    binding: str = "#"
    dead_letters: bool = False
    ttl_ms: int | None = DAY_MS
    max_messages: int | None = None

    def arguments(self, prefix: str, *, quorum: bool) -> dict[str, str | int]:
        """What the broker is told about it."""
        found: dict[str, str | int] = {"x-queue-type": "quorum"} if quorum else {}
        if self.ttl_ms is not None:
            found["x-message-ttl"] = self.ttl_ms
        if self.dead_letters:
            found["x-dead-letter-exchange"] = prefix + DEAD_LETTER_EXCHANGE
            found["x-dead-letter-routing-key"] = DEAD_LETTER_KEY
        if self.max_messages is not None:
            found["x-max-length"] = self.max_messages
        return found


def settlement_queue() -> Queue:
    """What settlement consumes: every trade."""
    return Queue("wallet.service.trades", TRADE_EVENTS, dead_letters=True)


def order_status_queue() -> Queue:
    """What the order gateway consumes: every change of an order, shared by its processes."""
    return Queue("gateway.service.orders", ORDER_EVENTS)


def notification_queue() -> Queue:
    """For a notification service that a team brings itself."""
    return Queue("notification.service.trades", TRADE_EVENTS, max_messages=UNREAD_MAX_MESSAGES)


def dead_letter_queue() -> Queue:
    """What nobody took within a day, or could read. Settlement settles what is late and keeps the rest to be looked at."""
    return Queue(
        "dlx.failed", DEAD_LETTER_EXCHANGE, binding=DEAD_LETTER_KEY, ttl_ms=None, max_messages=UNREAD_MAX_MESSAGES
    )


EXCHANGES = (TRADE_EVENTS, ORDER_EVENTS, DEAD_LETTER_EXCHANGE)
ALL_QUEUES = (settlement_queue(), order_status_queue(), notification_queue(), dead_letter_queue())


def routing_key(event: str, symbol: str) -> str:
    """`trade.BTC-USDT`: event, dot, symbol with `/` as `-`."""
    return f"{event}.{symbol.replace('/', '-')}"


def definitions(*, prefix: str = "", quorum: bool, vhost: str = "/") -> dict[str, object]:
    """All of it as RabbitMQ imports definitions (`load_definitions`), for brokers that are set up before we connect."""
    return {
        "exchanges": [
            {"name": prefix + name, "vhost": vhost, "type": "topic", "durable": True, "auto_delete": False,
             "internal": False, "arguments": {}}
            for name in EXCHANGES
        ],
        "queues": [
            {"name": prefix + queue.name, "vhost": vhost, "durable": True, "auto_delete": False,
             "arguments": queue.arguments(prefix, quorum=quorum)}
            for queue in ALL_QUEUES
        ],
        "bindings": [
            {"source": prefix + queue.exchange, "vhost": vhost, "destination": prefix + queue.name,
             "destination_type": "queue", "routing_key": queue.binding, "arguments": {}}
            for queue in ALL_QUEUES
        ],
    }  # fmt: skip
