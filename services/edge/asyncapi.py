"""The AsyncAPI 3.0 document of `/ws`: what a client may say, and what it is told."""

from typing import Any, Final

from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2, trading_session_pb2
from exchange.market_data.v1 import candle_pb2, ticker_pb2
from exchange.matcher.v1 import matcher_pb2
from exchange.wallet.v1 import operation_pb2

from services.edge.schemas import Schema, Schemas

_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "integer"}
_ID: Final[Schema] = {"oneOf": [_TEXT, _NUMBER], "description": "Copied into the answer; the caller's choice."}
_LEVELS: Final[Schema] = {"type": "array", "items": {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}}
_PUBLIC: Final = ("book", "trades", "ticker", "candles")
_PRIVATE: Final = ("orders", "balances")


def asyncapi(*, version: str) -> Schema:
    """The document."""
    schemas = Schemas()
    asked, told = _asked(schemas), _told(schemas)
    messages = {**asked, **told}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Trade Engine",
            "version": version,
            "description": "One JSON object a message. Public channels need no credential; private ones and orders take a "
            "token (`Authorization`), a signed request, or `?token=` from POST /api/v1/socket-tokens, which works once.",
        },
        "servers": {"edge": {"host": "localhost:8081", "protocol": "ws"}},
        "channels": {
            "socket": {
                "address": "/ws",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "ask": {"action": "receive", "channel": {"$ref": "#/channels/socket"}, "messages": _all(asked)},
            "tell": {"action": "send", "channel": {"$ref": "#/channels/socket"}, "messages": _all(told)},
        },
        "components": {
            "messages": {name: {"name": name, "payload": payload} for name, payload in messages.items()},
            "schemas": dict(sorted(schemas.components.items())),
        },
    }


def _asked(schemas: Schemas) -> dict[str, Schema]:
    subject = {
        "channel": {"type": "string", "enum": [*_PUBLIC, *_PRIVATE]},
        "symbol": {**_TEXT, "description": "Such as BTC/USDT or BTC-USDT; not for private channels."},
        "depth": {**_NUMBER, "enum": [5, 20, 100], "description": "Of a book; 20 where not said."},
        "interval": {**_TEXT, "enum": ["1m", "5m", "1h", "1d"], "description": "Of candles; 1m where not said."},
        "after": {
            **_NUMBER,
            "description": "Go on after this sequence of a book or of trades, where it is remembered.",
        },
    }
    operations: dict[str, Any] = {
        "options": trading_session_pb2.SessionOptions,
        "place": order_requests_pb2.PlaceOrderRequest,
        "amend": order_requests_pb2.AmendOrderRequest,
        "reduce": order_requests_pb2.ReduceOrderRequest,
        "cancel": order_requests_pb2.CancelOrderRequest,
        "cancelAll": order_requests_pb2.CancelOrdersRequest,
    }
    return {
        "ping": _object("ping", {"id": _ID}),
        "subscribe": _object("subscribe", subject),
        "unsubscribe": _object("unsubscribe", subject),
        **{
            name: _object(name, {"id": _ID, "params": schemas.message(message.DESCRIPTOR)})
            for name, message in operations.items()
        },
    }


def _told(schemas: Schemas) -> dict[str, Schema]:
    order, fill = schemas.message(order_pb2.Order.DESCRIPTOR), schemas.message(order_pb2.Fill.DESCRIPTOR)
    change = {
        "type": {"type": "string", "enum": ["snapshot", "update"]},
        "number": {**_NUMBER, "description": "From 1, by one, in this subscription."},
    }
    book = {
        "type": {"type": "string", "enum": ["snapshot", "delta"]},
        "symbol": _TEXT,
        "sequence": {**_NUMBER, "description": "By one with each delta."},
        "checksum": {**_NUMBER, "description": "CRC32 over the ten best levels, as in Kraken's WebSocket v2 book."},
        "asks": {**_LEVELS, "description": "[price, quantity]; quantity 0: the level is gone."},
        "bids": _LEVELS,
    }
    trades = {"type": "array", "items": schemas.message(matcher_pb2.PublicTrade.DESCRIPTOR)}
    balances = {"type": "array", "items": schemas.message(operation_pb2.Balance.DESCRIPTOR)}
    error = {"of": _TEXT, "id": _ID, "channel": _TEXT, "reason": _TEXT, "field": _TEXT, "rule": _TEXT}
    return {
        "pong": _object("pong", {"id": _ID}),
        "heartbeat": _object("heartbeat", {}),
        "error": _object("error", error),
        "answer": {
            "type": "object",
            "description": "To options, place, amend, reduce, cancel and cancelAll; `op` says which.",
            "properties": {
                "op": _TEXT, "id": _ID, "order": order, "fills": {"type": "array", "items": fill},
                "moreFills": {"type": "boolean"}, "sessionId": _TEXT, "orderIds": {"type": "array", "items": _TEXT},
            },
        },
        "book": _message("book", book),
        "trades": _message("trades", {"symbol": _TEXT, "sequence": _NUMBER, "trades": trades}),
        "ticker": _with("ticker", schemas.message(ticker_pb2.Ticker.DESCRIPTOR)),
        "candles": _with("candles", schemas.message(candle_pb2.Candle.DESCRIPTOR)),
        "orders": _message("orders", {**change, "orders": {"type": "array", "items": order}}),
        "balances": _message("balances", {**change, "balances": balances}),
    }  # fmt: skip


def _object(operation: str, properties: Schema) -> Schema:
    return {"type": "object", "required": ["op"], "properties": {"op": {"const": operation}, **properties}}


def _message(channel: str, properties: Schema) -> Schema:
    return {"type": "object", "required": ["channel"], "properties": {"channel": {"const": channel}, **properties}}


def _with(channel: str, schema: Schema) -> Schema:
    return {"allOf": [_message(channel, {}), schema]}


def _all(messages: dict[str, Schema]) -> list[Schema]:
    return [{"$ref": f"#/channels/socket/messages/{name}"} for name in messages]
