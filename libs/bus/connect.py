"""Chooses the bus: RabbitMQ where a URL is set, else the embedded one."""

from libs.bus.embedded import EmbeddedConsumer, EmbeddedPublisher
from libs.bus.interface import Consumer, Publisher
from libs.bus.rabbitmq import RabbitConsumer, RabbitPublisher
from libs.bus.topology import Queue, dead_letter_queue
from libs.config import Settings
from libs.db.pool import Pool


def connect_publisher(settings: Settings, pool: Pool) -> Publisher:
    """A publisher; it connects at its first message."""
    if settings.rabbitmq.url.get_secret_value():
        return RabbitPublisher(settings.rabbitmq)
    return EmbeddedPublisher(pool)


def connect_consumer(settings: Settings, pool: Pool, queue: Queue) -> Consumer:
    """A consumer of a shared queue."""
    if settings.rabbitmq.url.get_secret_value():
        return RabbitConsumer(settings.rabbitmq, queue)
    return EmbeddedConsumer(pool, queue, shards=settings.matcher.shards, durable=True)


def connect_dead_letters(settings: Settings) -> Consumer | None:
    """A consumer of what the broker gave up on; the embedded bus gives up on nothing and has none."""
    if settings.rabbitmq.url.get_secret_value():
        return RabbitConsumer(settings.rabbitmq, dead_letter_queue())
    return None


def connect_listener(settings: Settings, pool: Pool, queue: Queue) -> Consumer:
    """A private consumer of all that comes from now on, for streams."""
    if settings.rabbitmq.url.get_secret_value():
        return RabbitConsumer(settings.rabbitmq, queue, exclusive=True)
    return EmbeddedConsumer(pool, queue, shards=settings.matcher.shards, durable=False)
