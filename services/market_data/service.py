"""Market data's gRPC face."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc
from exchange.matcher.v1 import book_pb2

from libs.orders import symbol_name
from libs.paging import page_size
from libs.reasons import RefusedError, symbol_unknown
from libs.times import parse_time
from services.market_data.core.chart import Candle, Chart
from services.market_data.follower import Follower
from services.market_data.mirrors import Mirrors
from services.market_data.store import CandleStore
from services.market_data.streams import MarketStreams
from services.market_data.wire import candle_message, interval_from, ticker_message

PAGE_DEFAULT = 100
PAGE_MAX = 1000
_START = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)


class MarketDataService(market_data_pb2_grpc.MarketDataServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(self, *, follower: Follower, mirrors: Mirrors, store: CandleStore, streams: MarketStreams) -> None:
        self._follower = follower
        self._mirrors = mirrors
        self._store = store
        self._streams = streams

    async def GetBook(self, request: market_data_pb2.GetBookRequest, context: Any) -> market_data_pb2.GetBookResponse:
        """See the proto."""
        del context
        book = self._mirrors.snapshot(self._symbol(request.symbol), request.depth)
        return market_data_pb2.GetBookResponse(book=book)

    async def StreamBook(
        self, request: market_data_pb2.StreamBookRequest, context: Any
    ) -> AsyncIterator[market_data_pb2.StreamBookResponse]:
        """See the proto."""
        del context
        symbol = self._symbol(request.symbol)
        async for update in self._mirrors.books(symbol, request.depth, request.after_sequence):
            if isinstance(update, book_pb2.Book):
                yield market_data_pb2.StreamBookResponse(snapshot=update)
            else:
                yield market_data_pb2.StreamBookResponse(delta=update)

    async def StreamTrades(
        self, request: market_data_pb2.StreamTradesRequest, context: Any
    ) -> AsyncIterator[market_data_pb2.StreamTradesResponse]:
        """See the proto."""
        del context
        after = request.after_sequence if request.HasField("after_sequence") else None
        async for trades in self._mirrors.trades(self._symbol(request.symbol), after):
            yield market_data_pb2.StreamTradesResponse(trades=trades)

    async def ListTickers(
        self, request: market_data_pb2.ListTickersRequest, context: Any
    ) -> market_data_pb2.ListTickersResponse:
        """See the proto."""
        del context
        now_ns = time.time_ns()
        charts: dict[str, Chart] = self._follower.charts
        if request.symbol or not charts:
            symbol = self._symbol(request.symbol)
            charts = {symbol: charts[symbol]}
        return market_data_pb2.ListTickersResponse(
            tickers=[ticker_message(name, chart, now_ns) for name, chart in sorted(charts.items())]
        )

    async def ListCandles(
        self, request: market_data_pb2.ListCandlesRequest, context: Any
    ) -> market_data_pb2.ListCandlesResponse:
        """See the proto."""
        del context
        symbol, interval = self._symbol(request.symbol), interval_from(request.interval)
        chart = self._streams.chart(symbol)
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        since = parse_time(request.from_time, field="from_time") if request.HasField("from_time") else _START
        until = parse_time(request.until_time, field="until_time") if request.HasField("until_time") else _END
        # What the store does not have yet is in memory, which is looked at first: it may be stored meanwhile, and forgotten
        # here. Of a candle that both have, the one that has seen more.
        fresh = [candle for kind, candle in (*chart.finished, *chart.current.items()) if kind is interval]
        stored = await self._store.candles(symbol, interval, since=since, until=until, limit=size)
        inside = [candle for candle in fresh if since.timestamp() <= candle.opened_s < until.timestamp()]
        found: dict[int, Candle] = {candle.opened_s: candle for candle in stored}
        for candle in inside:
            known = found.get(candle.opened_s)
            if known is None or known.last_sequence < candle.last_sequence:
                found[candle.opened_s] = candle
        newest_first = sorted(found.values(), key=lambda candle: -candle.opened_s)[:size]
        return market_data_pb2.ListCandlesResponse(
            candles=[candle_message(symbol, interval, candle) for candle in newest_first]
        )

    async def StreamTickers(
        self, request: market_data_pb2.StreamTickersRequest, context: Any
    ) -> AsyncIterator[market_data_pb2.StreamTickersResponse]:
        """See the proto."""
        del context
        symbol = self._symbol(request.symbol)
        async for chart in self._streams.tickers(symbol):
            yield market_data_pb2.StreamTickersResponse(ticker=ticker_message(symbol, chart, time.time_ns()))

    async def StreamCandles(
        self, request: market_data_pb2.StreamCandlesRequest, context: Any
    ) -> AsyncIterator[market_data_pb2.StreamCandlesResponse]:
        """See the proto."""
        del context
        symbol, interval = self._symbol(request.symbol), interval_from(request.interval)
        async for candle in self._streams.candles(symbol, interval):
            yield market_data_pb2.StreamCandlesResponse(candle=candle_message(symbol, interval, candle))

    def _symbol(self, text: str) -> str:
        """Raises RefusedError: SYMBOL_UNKNOWN, or DEPENDENCY_UNAVAILABLE while a matcher has not told its markets."""
        symbol = symbol_name(text)
        if not self._follower.is_known(symbol):
            raise RefusedError(symbol_unknown(symbol))
        return symbol
