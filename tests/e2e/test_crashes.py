"""kill -9 of every service in the middle of the real flow: the end is the same as if nothing had happened."""

import contextlib
import os
import signal
from pathlib import Path

from cli.stack import SERVICES, Stack, temporary_folder
from tests.support.engine import Engine, running, stack_on
from tests.support.flow import SYMBOL, FlowRun, final_state
from tests.support.rabbitmq import OwnRabbitMq
from tests.support.servers import Servers

MESSAGES = 4000


async def test_killing_each_service_in_turn_changes_nothing(
    servers: Servers, flow_data: Path, tmp_path_factory
) -> None:
    undisturbed = await _replayed(servers, flow_data, tmp_path_factory.mktemp("calm"), kill=())
    disturbed = await _replayed(servers, flow_data, tmp_path_factory.mktemp("crashes"), kill=SERVICES)
    assert len(undisturbed["trades"]) > 100
    for name, value in undisturbed.items():
        assert disturbed[name] == value, f"{name} differ"


async def _replayed(servers: Servers, data: Path, folder: Path, *, kill: tuple[str, ...]) -> dict[str, object]:
    dsn = servers.migrated_database()
    over = {"TRADE_ENGINE_MATCHER_SNAPSHOT_EVERY": "500"}
    async with running(stack_on(servers, folder, dsn, **over)) as engine:
        run = FlowRun(engine, data, "crash", limit=MESSAGES)
        await run.fund()
        steps = list(run.all_steps())
        killer = _Killer(engine, kill, len(steps))
        await run.send(steps, after=killer.after)
        assert killer.killed == list(kill)
        for name in kill:
            engine.stack.wait_healthy(name)
        report = await engine.quiet()
        assert report.clean, [finding for finding in report.findings if finding.wrong]
        state = await final_state(engine)
    servers.drop_database(dsn)
    return state


async def test_a_dead_broker_stops_no_orders_and_loses_no_events(servers: Servers, flow_data: Path, tmp_path) -> None:
    broker = OwnRabbitMq()
    broker.start()
    dsn = servers.migrated_database()
    try:
        over = {"TRADE_ENGINE_RABBITMQ_URL": broker.url}
        async with running(stack_on(servers, tmp_path, dsn, **over)) as engine:
            run = FlowRun(engine, flow_data, "broker", limit=MESSAGES // 2)
            await run.fund()
            steps = list(run.all_steps())
            third = len(steps) // 3
            await run.send(steps[:third])
            broker.kill()
            answers = await run.send(steps[third : 2 * third])
            assert len(answers) == third, "orders go on without the broker"
            assert sum(len(answer.fills) for answer in answers) > 10
            broker.start()
            await run.send(steps[2 * third :])
            report = await engine.quiet()
            assert report.clean, [finding for finding in report.findings if finding.wrong]
            assert len(await engine.tape(SYMBOL)) > 50
    finally:
        broker.stop()
        servers.drop_database(dsn)


async def test_killing_postgresql_in_the_middle_changes_nothing(flow_data: Path) -> None:
    """On embedded parts alone: the database dies as a whole, kill -9, and is started again by the supervisor."""
    states = []
    temporary = contextlib.ExitStack()
    for kill in (False, True):
        folder = temporary.enter_context(temporary_folder("trade-engine-crash-"))
        async with running(Stack(folder, private_ports=True, log_dir=folder / "logs")) as engine:
            run = FlowRun(engine, flow_data, "crash", limit=MESSAGES // 2)
            await run.fund()
            steps = list(run.all_steps())

            def after(answered: int, engine: Engine = engine, middle: int = len(steps) // 2, kill: bool = kill) -> None:
                if kill and answered == middle:
                    kill_whole_server(engine.stack.postgres.pid)

            await run.send(steps, after=after)
            report = await engine.quiet()
            assert report.clean, [finding for finding in report.findings if finding.wrong]
            states.append(await final_state(engine))
    temporary.close()
    assert states[0]["trades"]
    assert states[0] == states[1]


def kill_whole_server(postmaster: int) -> None:
    """kill -9 of the postmaster and all its backends, as when the machine goes."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        os.kill(pid, signal.SIGKILL)


class _Killer:
    """Kills one service after the other, spread over the run."""

    def __init__(self, engine: Engine, names: tuple[str, ...], steps: int) -> None:
        self._engine = engine
        self._due = {steps * number // (len(names) + 1): name for number, name in enumerate(names, start=1)}
        self.killed: list[str] = []

    def after(self, answered: int) -> None:
        name = self._due.get(answered)
        if name is not None:
            self._engine.stack.kill(name)
            self.killed.append(name)
