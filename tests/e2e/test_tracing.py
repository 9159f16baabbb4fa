"""One order followed through all services, over a collector that hears what they send."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from cli.processes import free_port
from tests.support.engine import Engine, engine_in
from tests.support.servers import Servers
from tests.support.trading import until


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps (service, span) by trace."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[str, object]]] = {}

    async def Export(self, request, context):  # noqa: N802 - gRPC's name
        del context
        for part in request.resource_spans:
            service = next(item.value.string_value for item in part.resource.attributes if item.key == "service.name")
            for scope in part.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault(span.trace_id.hex(), []).append((service, span))
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def traced_engine(servers: Servers, tmp_path: Path) -> AsyncIterator[tuple[Engine, Collector]]:
    collector, port = Collector(), free_port()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    over = {"TRADE_ENGINE_TRACING_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    async with engine_in(servers, tmp_path, **over) as engine:
        yield engine, collector
    await server.stop(None)


async def test_an_order_is_followed_from_the_edge_to_the_ledger(traced_engine: tuple[Engine, Collector]) -> None:
    engine, collector = traced_engine
    seller, buyer = await engine.user(BTC="1"), await engine.user(USDT="1000")
    resting = (await engine.place(seller, "SELL 1 @ 100")).order
    order = {
        "clientOrderId": "traced", "symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT", "price": "100",
        "quantity": "1",
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=engine.rest, timeout=20) as http:
        placed = await http.post("/api/v1/orders", json=order, headers=engine.bearer(buyer))
    order_id = placed.json()["order"]["orderId"]
    wanted = {
        ("trade-engine-edge", "edge POST /api/v1/orders"), ("trade-engine-order-gateway", "order"),
        ("trade-engine-order-gateway", "gateway.record"), ("trade-engine-order-gateway", "gateway.reserve"),
        ("trade-engine-wallet", "wallet.reserve"), ("trade-engine-order-gateway", "gateway.submit"),
        ("trade-engine-matcher", "matcher.commit"), ("trade-engine-order-gateway", "gateway.finish"),
        ("trade-engine-settlement", "settlement.settle"), ("trade-engine-wallet", "wallet.settle"),
    }  # fmt: skip

    async def is_whole() -> bool:
        heard = collector.spans.get(order_id.replace("-", ""), [])
        return wanted <= {(service, span.name) for service, span in heard}

    await until(is_whole)
    spans = [span for _, span in collector.spans[order_id.replace("-", "")]]
    root = next(span for span in spans if span.name == "order")
    assert not root.parent_span_id
    assert all(span.parent_span_id == root.span_id for span in spans if span is not root)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    others = {span.name for _, span in collector.spans[resting.order_id.replace("-", "")]}
    assert {"settlement.settle", "wallet.settle"} <= others, "a trade belongs to both of its orders"
