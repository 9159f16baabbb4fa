"""Whether services serve: gRPC's health service, and /health/ready of the edge."""

import http.client
import ssl

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.addresses import loopback_of, with_port
from libs.config import Settings, Tls
from libs.rpc.tls import Certificates

SERVICES = ("wallet", "matcher", "settlement", "order_gateway", "market_data", "edge")
# Section of the settings where it is not the service's name.
_SECTIONS = {"order_gateway": "gateway", "market_data": "marketdata"}
# Longer than the edge takes to find out that something behind it does not answer.
_TIMEOUT_S = 3.0
_SAID_MAX_BYTES = 500


def why_not_serving(settings: Settings, name: str) -> str:
    """What is in the way of a service's serving, for a person; "" where it says that it is serving."""
    if name == "edge":
        return _why_not_ready(settings.edge.host, settings.edge.port, settings.tls)
    target = getattr(settings, _SECTIONS.get(name, name)).target()
    certificates = Certificates(settings.tls)
    opened = grpc.secure_channel(target, certificates.channel()) if certificates.on else grpc.insecure_channel(target)
    with opened as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{target}: {error.details() if isinstance(error, grpc.Call) else error}"
    status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return "" if reply.status == health_pb2.HealthCheckResponse.SERVING else f"{target} says {status}"


def _why_not_ready(host: str, port: int, tls: Tls) -> str:
    name = loopback_of(host)
    address = with_port(name, port)
    connection = http.client.HTTPConnection(name, port, timeout=_TIMEOUT_S)
    if tls.certificate_file is not None:
        context = ssl.create_default_context(cafile=tls.ca_file)
        connection = http.client.HTTPSConnection(name, port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        said = response.read(_SAID_MAX_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{address}: {error or type(error).__name__}"
    else:
        return "" if response.status == http.HTTPStatus.OK else f"{address} says {response.status}: {said}"
    finally:
        connection.close()
