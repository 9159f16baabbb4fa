"""A service's own token, by the clock that tokens expire by."""

import time

import pytest

from libs.config import Auth
from libs.identity import TokenVerifier, service_credential

AUTH = Auth(hs256_secret="x" * 32)


@pytest.mark.parametrize("step_s", [7200, 61, -30, -7200])
def test_a_clock_that_jumps_leaves_no_stale_token(monkeypatch: pytest.MonkeyPatch, step_s: int) -> None:
    """As after a machine has slept: its other clock did not move meanwhile."""
    credential = service_credential(AUTH, service="order-gateway")
    before = credential()
    assert credential() == before, "kept for a while"
    now = time.time() + step_s
    monkeypatch.setattr(time, "time", lambda: now)
    assert credential() != before


def test_a_service_is_known_by_its_token() -> None:
    assert TokenVerifier(AUTH).verify(service_credential(AUTH, service="order-gateway")()).is_service
