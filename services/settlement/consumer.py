"""Receive, settle, record, acknowledge, in this order.

A crash at any point means that the message comes again, and everything it does is done once by its key.

A passing fault keeps the message and tries again. A trade that the wallet refuses for good goes to the dead letters with
the reason; the other trades of its message go on. A message nobody can read is given up whole.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from exchange.common.v1 import order_pb2
from exchange.events.v1 import trade_pb2
from exchange.wallet.v1 import operation_pb2
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Gauge, Histogram

from libs.bus.consuming import consume
from libs.bus.interface import Batch, Consumer, Message
from libs.clients.wallet import WalletClient
from libs.ids import parse_id, parse_text
from libs.reasons import PASSING, Refused, RefusedError
from libs.times import NANOSECONDS_END
from libs.tracing import trace
from services.settlement.store import DeadMessage, DeadTrade, SettlementStore

log = structlog.get_logger()
SETTLED = Counter("settlement_trades_total", "Trades decided", ["outcome"])
UNREADABLE = Counter("settlement_unreadable_messages_total", "Messages given up because nobody can read them")
SETTLE_LAG = Histogram(
    "settlement_lag_seconds", "From match to settled", buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
)
LAST_SETTLED = Gauge("settlement_last_settled_timestamp_seconds", "When the last trade was settled")


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of some trades, by trade id."""

    settled: list[str]
    dead: list[str]


class Settler:
    """Trades into the ledger and onto the tape. Any trade may come any number of times, in any order, from any side.

    `on_settled` is told the symbols of what was settled.
    """

    def __init__(
        self, *, wallet: WalletClient, store: SettlementStore, batch_max: int, on_settled: Callable[[set[str]], None]
    ) -> None:
        self._wallet = wallet
        self._store = store
        self._batch_max = batch_max
        self._on_settled = on_settled

    async def settle(self, trades: Sequence[trade_pb2.Trade]) -> Settled:
        """Settle and record. Raises RefusedError for a passing fault; what was settled stays settled."""
        # The same trade may stand twice among messages that were delivered twice; the wallet wants each key once.
        unique = list({trade.trade_id: trade for trade in trades}.values())
        outcome = Settled([], [])
        for start in range(0, len(unique), self._batch_max):
            settled, dead = await self._settle_some(unique[start : start + self._batch_max])
            outcome.settled.extend(settled)
            outcome.dead.extend(dead)
        return outcome

    async def give_up(self, messages: Sequence[Message]) -> None:
        """Record messages that nobody can read."""
        for message in messages:
            log.error("message cannot be read", message_id=message.message_id, routing_key=message.routing_key)
        UNREADABLE.inc(len(messages))
        await self._store.record([], [], [DeadMessage(message.message_id, message.body) for message in messages])

    async def _settle_some(self, trades: list[trade_pb2.Trade]) -> tuple[list[str], list[str]]:
        results = await self._wallet.settle([settle_request(trade) for trade in trades])
        settled: list[trade_pb2.Trade] = []
        dead: list[DeadTrade] = []
        passing: Refused | None = None
        for trade, result in zip(trades, results, strict=True):
            if not isinstance(result, Refused):
                settled.append(trade)
            elif result.reason in PASSING:
                passing = result
            else:
                log.error("trade cannot be settled", trade_id=trade.trade_id, refused=str(result))
                dead.append(DeadTrade(trade, result.reason.name, str(result)))
        await self._store.record(settled, dead)
        now = time.time()
        for trade in settled:
            SETTLE_LAG.observe(max(0.0, now - trade.executed_at_ns / 1e9))
            for order_id in (trade.buyer_order_id, trade.seller_order_id):
                trace("settlement.settle", order_id, trade.executed_at_ns, trade_id=trade.trade_id)
        SETTLED.labels("settled").inc(len(settled))
        SETTLED.labels("dead").inc(len(dead))
        if settled:
            LAST_SETTLED.set(now)
            self._on_settled({trade.symbol for trade in settled})
        if passing is not None:
            raise RefusedError(passing)
        return [trade.trade_id for trade in settled], [item.trade.trade_id for item in dead]


class SettlementConsumer:
    """One queue's way to the settler."""

    def __init__(self, *, consumer: Consumer, settler: Settler, queue: str) -> None:
        self._consumer = consumer
        self._settler = settler
        self._queue = queue

    async def run(self) -> None:
        """Consume until cancelled."""
        await consume(self._consumer, self._handle, queue=self._queue)

    async def _handle(self, batch: Batch) -> None:
        trades: list[trade_pb2.Trade] = []
        unreadable: list[Message] = []
        for message in batch.messages:
            events = read_trades(message.body)
            if events is None:
                unreadable.append(message)
            else:
                trades.extend(events)
        await self._settler.settle(trades)
        if unreadable:
            await self._settler.give_up(unreadable)
            for message in unreadable:
                await batch.reject(message)
        await batch.acknowledge()


def read_trades(body: bytes) -> list[trade_pb2.Trade] | None:
    """The trades of a message; None where it is none of ours. Bytes of another kind may well parse as one."""
    try:
        trades = list(trade_pb2.TradeEvents.FromString(body).trades)
    except DecodeError:
        return None
    return trades if trades and all(_has_a_place(trade) for trade in trades) else None


def _has_a_place(trade: trade_pb2.Trade) -> bool:
    """Whether the tape could hold it. Amounts and parties are the wallet's to judge."""
    try:
        parse_id(trade.trade_id, field="trade_id")
        parse_text(trade.symbol, field="symbol")
    except RefusedError:
        return False
    return (
        trade.sequence > 0
        and 0 < trade.executed_at_ns < NANOSECONDS_END
        and trade.maker_side in {order_pb2.SIDE_BUY, order_pb2.SIDE_SELL}
    )


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
