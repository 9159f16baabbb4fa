"""Whether services serve: gRPC's health service, and /health/ready of the edge."""

import http.client
import ssl

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.addresses import loopback_of
from libs.config import Settings, Tls
from libs.rpc.tls import Certificates

SERVICES = ("wallet", "matcher", "settlement", "order_gateway", "market_data", "edge")
# Section of the settings where it is not the service's name.
_SECTIONS = {"order_gateway": "gateway", "market_data": "marketdata"}
# Longer than the edge takes to find out that something behind it does not answer.
_TIMEOUT_S = 3.0


def is_healthy(settings: Settings, name: str) -> bool:
    """Whether a service says that it is serving."""
    if name == "edge":
        return _http_ok(settings.edge.host, settings.edge.port, settings.tls)
    target = getattr(settings, _SECTIONS.get(name, name)).target()
    certificates = Certificates(settings.tls)
    opened = grpc.secure_channel(target, certificates.channel()) if certificates.on else grpc.insecure_channel(target)
    with opened as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _http_ok(host: str, port: int, tls: Tls) -> bool:
    name = loopback_of(host)
    connection = http.client.HTTPConnection(name, port, timeout=_TIMEOUT_S)
    if tls.certificate_file is not None:
        context = ssl.create_default_context(cafile=tls.ca_file)
        connection = http.client.HTTPSConnection(name, port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
