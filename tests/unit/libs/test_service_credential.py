"""A service's own token, by the clock that tokens expire by."""

import time
from pathlib import Path

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


def test_a_token_file_that_is_being_replaced_leaves_the_token_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    credential = service_credential(Auth(service_token_file=file), service="wallet")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            credential()
    file.write_text("first\n", encoding="ascii")
    assert credential() == "first"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for content in (None, b"", b"\xff"):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        now += 61
        assert credential() == "first"
        file.touch()
    file.write_text("second", encoding="ascii")
    now += 61
    assert credential() == "second"
