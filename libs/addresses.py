"""Addresses of the network: how one is written with a port, and whom it stands for."""

import ipaddress

_ONE_HOLDER_BITS = 64


def with_port(host: str, port: int) -> str:
    """`host:port`; an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback_of(host: str) -> str:
    """Under which address who listens on `host` is reached from the same machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on


def holder_of(address: str) -> str:
    """Whom limits count: an IPv4 address, or the /64 that whoever has an IPv6 address has whole (RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _ONE_HOLDER_BITS), strict=False))
