"""Logs."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from libs import telemetry
from libs.telemetry import SELDOM_S, SeldomWarning

LOGGED = """
import logging, structlog
from libs.telemetry import LOG_WRITES_LOST, setup_logging
setup_logging(service="test", level="INFO", json=True)
for _ in range(3):
    structlog.get_logger().info("told by structlog")
    logging.getLogger("other").warning("told by the standard library")
print(f"went on, {LOG_WRITES_LOST._value.get() > 0}")
"""


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_under_the_log_stops_nothing(*, full: bool) -> None:
    with open("/dev/full" if full else "/dev/null", "w") as log:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-c", LOGGED], stderr=log, stdout=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.stdout == f"went on, {full}\n"


def test_what_many_meet_at_once_is_told_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    warning = SeldomWarning("broke off")
    with capture_logs() as told:
        for _ in range(1000):
            warning.tell(error="away")
        monkeypatch.setattr(telemetry, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + SELDOM_S))
        warning.tell(error="still away")
    assert [(line["event"], line["times"], line["error"]) for line in told] == [
        ("broke off", 1, "away"), ("broke off", 1000, "still away"),
    ]  # fmt: skip
