"""HTTP/1.1 with patience that ends: a request's head must come in time, and may not be endless.

uvicorn limits idle connections and their number, not a head that trickles in; a few thousand of those would be all it takes.
"""

import asyncio
from http import HTTPStatus
from typing import ClassVar

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_MAX_BYTES = 65_536

REFUSED = Counter("http_heads_refused_total", "Connections that were closed before a request was whole", ["reason"])


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections whose request line and headers do not come in `head_timeout_s`, or are too large."""

    head_timeout_s: ClassVar[float] = 5.0
    _waiting: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        if self._waiting is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        if self._waiting is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._head_is_there()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """See HttpToolsProtocol. One that its WebSocket side cannot read (it has a body) would be waited for for ever."""
        super().handle_websocket_upgrade()
        socket = self.transport.get_protocol()
        if isinstance(socket, WebSocketsSansIOProtocol) and not socket.handshake_initiated:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def _await_head(self) -> None:
        self._waiting = self.loop.call_later(self.head_timeout_s, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _head_is_there(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._head_bytes = 0

    def _refuse(self, status: HTTPStatus) -> None:
        REFUSED.labels(status.phrase).inc()
        self._head_is_there()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode("ascii"))
        self.transport.close()
