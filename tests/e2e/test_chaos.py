"""A short run of the fault campaign; `make chaos` is the long one."""

from cli.stack import temporary_folder
from tests.chaos.campaign import run_campaign

ROUNDS = 4


async def test_faults_under_load_lose_nothing_and_double_nothing() -> None:
    with temporary_folder("trade-engine-chaos-") as folder:
        report = await run_campaign(folder, seed=20_261_121, rounds=ROUNDS)
    assert report.passed, report
    assert report.faults == ROUNDS
    assert report.orders > 100
    assert report.trades > 10
