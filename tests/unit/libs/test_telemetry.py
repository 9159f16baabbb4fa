"""Logs."""

import subprocess
import sys

import pytest

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
