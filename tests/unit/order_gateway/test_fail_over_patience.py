"""How long an order waits for its matcher."""

import pytest

from libs.config import load_settings
from services.order_gateway.__main__ import patience_with_matchers


@pytest.mark.parametrize(
    ("shards", "lease_ms", "patience_s"), [(1, 3000, 30), (1, 300, 30), (2, 3000, 5), (16, 1000, 3), (2, 60_000, 30)]
)
def test_a_lost_shard_keeps_the_others_waiting_no_longer_than_a_fail_over_takes(
    shards: int, lease_ms: int, patience_s: float
) -> None:
    over = {"TRADE_ENGINE_MATCHER_SHARDS": str(shards), "TRADE_ENGINE_MATCHER_LEASE_MS": str(lease_ms)}
    assert patience_with_matchers(load_settings(over)) == patience_s
