"""What is saved while the engine runs is brought back whole: it proves clean, and trading goes on."""

from pathlib import Path

from tests.e2e.test_command_line import run
from tests.support.engine import running, stack_on
from tests.support.servers import Servers
from tests.support.trading import Pair


async def test_a_system_that_is_brought_back_is_clean_and_goes_on(servers: Servers, tmp_path: Path) -> None:
    old, new = servers.migrated_database(), servers.new_database()
    saved = tmp_path / "saved.dump"
    async with running(stack_on(servers, tmp_path / "old", old)) as engine:
        pair = await Pair(engine).fund()
        await pair.trade(5)
        order = (await engine.place(pair.buyer, "BUY 1 @ 50")).order
        assert (await engine.quiet()).clean
        before = await pair.balances()
        done = run("backup", str(saved), environment=engine.stack.environment)
        assert done.returncode == 0, done.stderr
        await pair.trade(1)  # after the moment that was saved: gone, as it must be
        refused = run("restore", str(saved), environment=engine.stack.environment)
        assert (refused.returncode, "not empty" in refused.stderr) == (1, True)
    done = run("restore", str(saved), "--dsn", new)
    assert done.returncode == 0, done.stderr
    async with running(stack_on(servers, tmp_path / "new", new)) as engine:
        pair.engine = engine
        assert await pair.balances() == before
        assert (await engine.order(order)).status == order.status
        for proof in (
            ("journal", "verify", "--json"),
            ("settlement", "reconcile", "--deep", "--json"),
            ("audit", "--json"),
        ):
            done = run(*proof, environment=engine.stack.environment)
            assert done.returncode == 0, (proof, done.stdout, done.stderr)
        await engine.cancel(order)
        await pair.trade(2)
        assert (await engine.quiet()).clean
        assert [trade.sequence for trade in await engine.tape("BTC/USDT")] == [7, 6, 5, 4, 3, 2, 1]
    for dsn in (old, new):
        servers.drop_database(dsn)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run("restore", str(tmp_path / "none"), "--dsn", "postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
