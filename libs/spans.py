"""Spans of orders on their way to an OTLP collector. Loaded only where traces are on: OpenTelemetry is not small."""

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer, set_span_in_context

from libs.config import Tracing

QUEUE_MAX = 4096
_RANDOM_BITS = 48  # at the end of a UUIDv7
_LOW_64 = (1 << 64) - 1
Attributes = dict[str, str | int | float]


class _Ids(RandomIdGenerator):
    """Random ids, but for the span that an order's trace begins with."""

    def __init__(self) -> None:
        self.root: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        return self.root[0] if self.root else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """See IdGenerator."""
        return self.root[1] if self.root else super().generate_span_id()


class Traces:
    """This process's exporter."""

    def __init__(self, tracing: Tracing, service: str) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource({"service.name": f"trade-engine-{service}"}), id_generator=self._ids
        )
        exporter = OTLPSpanExporter(endpoint=tracing.endpoint, insecure=not tracing.endpoint.startswith("https"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE_MAX))
        self._tracer: Tracer = self._provider.get_tracer("trade-engine")
        self._below = int(tracing.ratio * (1 << _RANDOM_BITS))

    def emit(self, name: str, order_id: str, started_ns: int, attributes: Attributes, *, is_root: bool) -> None:
        """A span that ends now; an order's root is what the others hang on."""
        trace_id = int(order_id.replace("-", ""), 16)
        if trace_id & ((1 << _RANDOM_BITS) - 1) >= self._below:
            return
        root = SpanContext(trace_id, trace_id & _LOW_64, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        context = None if is_root else set_span_in_context(NonRecordingSpan(root))
        self._ids.root = (trace_id, root.span_id) if is_root else None
        span = self._tracer.start_span(
            name, context, start_time=started_ns, attributes={"order.id": order_id, **attributes}
        )
        self._ids.root = None
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
