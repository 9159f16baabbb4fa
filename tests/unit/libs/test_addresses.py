"""Addresses: written with a port, and whom limits count."""

import pytest

from libs.addresses import holder_of, loopback_of, with_port


@pytest.mark.parametrize(
    ("host", "written"),
    [("127.0.0.1", "127.0.0.1:80"), ("wallet", "wallet:80"), ("::1", "[::1]:80"), ("::", "[::]:80")],
)
def test_an_address_with_its_port(host: str, written: str) -> None:
    assert with_port(host, 80) == written


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1")]
)
def test_who_listens_everywhere_is_reached_at_the_loopback(host: str, reached: str) -> None:
    assert loopback_of(host) == reached


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "unknown", True),
        ("unknown", "unix", False),
    ],
)
def test_who_has_many_addresses_is_one(one: str, other: str, *, same: bool) -> None:
    assert (holder_of(one) == holder_of(other)) is same
