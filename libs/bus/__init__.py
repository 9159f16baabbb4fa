"""Events between services: one interface, RabbitMQ behind it, or the matcher's outbox itself where there is none."""

from libs.bus.interface import Batch, BusAwayError, Consumer, Message, Publisher
from libs.bus.topology import Queue, order_status_queue, settlement_queue

__all__ = ["Batch", "BusAwayError", "Consumer", "Message", "Publisher", "Queue", "order_status_queue",
           "settlement_queue"]  # fmt: skip
