"""Receive, settle, record, acknowledge, in this order.

A crash at any point means that the message comes again, and everything it does is done once by its key.

A passing fault keeps the message and tries again. A trade that the wallet refuses for good goes to the dead letters with
the reason; the other trades of its message go on. A message nobody can read is given up whole.
"""

import time
from collections.abc import Sequence

import structlog
from exchange.events.v1 import trade_pb2
from exchange.wallet.v1 import operation_pb2
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Gauge, Histogram

from libs.bus.consuming import consume
from libs.bus.interface import Batch, Consumer, Message
from libs.clients.wallet import WalletClient
from libs.reasons import PASSING, Refused, RefusedError
from services.settlement.store import DeadLetter, SettlementStore

log = structlog.get_logger()
SETTLED = Counter("settlement_trades_total", "Trades decided", ["outcome"])
SETTLE_LAG = Histogram(
    "settlement_lag_seconds", "From match to settled", buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
)
LAST_SETTLED = Gauge("settlement_last_settled_timestamp_seconds", "When the last trade was settled")


class SettlementConsumer:
    """One queue's way into the ledger."""

    def __init__(
        self, *, consumer: Consumer, wallet: WalletClient, store: SettlementStore, queue: str, batch_max: int
    ) -> None:
        self._consumer = consumer
        self._wallet = wallet
        self._store = store
        self._queue = queue
        self._batch_max = batch_max

    async def run(self) -> None:
        """Consume until cancelled."""
        await consume(self._consumer, self._settle, queue=self._queue)

    async def _settle(self, batch: Batch) -> None:
        trades: list[tuple[Message, int, trade_pb2.Trade]] = []
        unreadable: list[Message] = []
        for message in batch.messages:
            try:
                events = trade_pb2.TradeEvents.FromString(message.body)
            except DecodeError:
                unreadable.append(message)
                continue
            trades.extend((message, number, trade) for number, trade in enumerate(events.trades))
        for start in range(0, len(trades), self._batch_max):
            await self._settle_some(trades[start : start + self._batch_max])
        if unreadable:
            dead = [
                DeadLetter(item.message_id, -1, "UNREADABLE", "not a TradeEvents", item.body) for item in unreadable
            ]
            await self._store.record([], dead)
            for message in unreadable:
                await batch.reject(message)
        await batch.acknowledge()

    async def _settle_some(self, items: Sequence[tuple[Message, int, trade_pb2.Trade]]) -> None:
        # The same trade may stand twice among messages that were delivered twice; the wallet wants each key once.
        unique = {trade.trade_id: (message, number, trade) for message, number, trade in items}
        results = await self._wallet.settle([settle_request(trade) for _, _, trade in unique.values()])
        settled: list[trade_pb2.Trade] = []
        dead: list[DeadLetter] = []
        for (message, number, trade), result in zip(unique.values(), results, strict=True):
            if not isinstance(result, Refused):
                settled.append(trade)
                continue
            if result.reason in PASSING:
                raise RefusedError(result)
            log.error("trade cannot be settled", trade_id=trade.trade_id, refused=str(result))
            dead.append(
                DeadLetter(message.message_id, number, result.reason.name, str(result), trade.SerializeToString())
            )
        await self._store.record(settled, dead)
        now = time.time()
        for trade in settled:
            SETTLE_LAG.observe(max(0.0, now - trade.executed_at_ns / 1e9))
        SETTLED.labels("settled").inc(len(settled))
        SETTLED.labels("dead").inc(len(dead))
        LAST_SETTLED.set(now)


def settle_request(trade: trade_pb2.Trade) -> operation_pb2.SettleTradeRequest:
    """A trade as the wallet wants it; all amounts are the matcher's own."""
    return operation_pb2.SettleTradeRequest(
        trade_id=trade.trade_id,
        buyer_user_id=trade.buyer_user_id,
        seller_user_id=trade.seller_user_id,
        buyer_order_id=trade.buyer_order_id,
        seller_order_id=trade.seller_order_id,
        base_asset=trade.base_asset,
        quote_asset=trade.quote_asset,
        quantity=trade.quantity,
        price=trade.price,
        buyer_fee=trade.buyer_fee,
        seller_fee=trade.seller_fee,
        buyer_fee_asset=trade.base_asset,
        seller_fee_asset=trade.quote_asset,
    )
