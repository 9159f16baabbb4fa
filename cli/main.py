"""The `trade-engine` command."""

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from cli.audit import print_audit, run_audit
from cli.backup import BackupError, bring_back, save
from cli.configuration import config
from cli.demo import run_demo
from cli.embedded import EmbeddedError
from cli.fees import fees
from cli.health import SERVICES, why_not_serving
from cli.journal import journal
from cli.keys import keys
from cli.lobster import FlowError
from cli.markets import assets, markets
from cli.output import json_option, print_table
from cli.replay import ReplayOptions, print_report, run_replay
from cli.running import dsn_of_running_stack, settings_of_running_stack, signal_running_stack, stop_running_stack
from cli.session import SessionError
from cli.settlement import settlement
from cli.shell import db_shell, redis_shell
from cli.stack import Stack, StackError
from cli.users import deposit_to, user_id_of
from libs.config import ConfigError, load_settings
from libs.db.migrations import MigrationError, MigrationStatus, migrate_down, migrate_up, migration_status
from libs.identity import mint_token
from libs.reasons import RefusedError
from libs.version import VERSION
from services.matcher.recovery import JournalBrokenError

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 78

console = Console(stderr=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="trade-engine")
def cli() -> None:
    """Run and look after a Trade Engine.

    Settings come from the file named by TRADE_ENGINE_CONFIG and from TRADE_ENGINE_<SECTION>_<KEY> variables.
    Exit codes: 0 done, 1 failed (or an audit found something), 2 wrong usage, 78 unusable settings.
    """


@cli.command()
def up() -> None:
    """Run the whole engine in the foreground; Ctrl-C stops it.

    PostgreSQL, Redis and the bus are embedded, each unless it is configured (TRADE_ENGINE_DATABASE_DSN,
    TRADE_ENGINE_REDIS_URL, TRADE_ENGINE_RABBITMQ_URL). Data is kept in TRADE_ENGINE_DATA_DIR (default: var).
    """
    settings = load_settings()
    stack = Stack(
        settings.data_dir, log_dir=settings.data_dir / "logs", on_event=lambda text: console.print(f"[dim]{text}[/dim]")
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        stack.start()
        signal.signal(signal.SIGHUP, lambda *_: stack.reload())
        table = Table("part", "address", title="Trade Engine is up; Ctrl-C stops it")
        for part, address in stack.addresses().items():
            table.add_row(part, address)
        print_table(table)
        Console().print(f"logs: {settings.data_dir / 'logs'}    a token to try it: trade-engine token --user alice")
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        # Services stop in seconds; a second signal would orphan them.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stack.stop()
    console.print("stopped")


@cli.command()
@click.argument("services", nargs=-1, type=click.Choice(SERVICES))
@click.option(
    "--lines", default=20, show_default=True, type=click.IntRange(0), help="Begin with so many of the last lines."
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Go on as lines come, until Ctrl-C.")
def logs(services: tuple[str, ...], lines: int, follow: bool) -> None:
    """Show the logs of SERVICES, or of all, of the engine with this data folder."""
    folder = load_settings().data_dir / "logs"
    files = [str(folder / f"{name}.log") for name in services or SERVICES]
    os.execvp("tail", ["tail", *(["-F"] if follow else []), "-n", str(lines), *files])


@cli.command()
def down() -> None:
    """Stop the engine that `trade-engine up` runs with this data folder; exits 1 where none runs."""
    stop_running_stack(load_settings().data_dir)
    click.echo("stopped")


@cli.command()
def reload() -> None:
    """Have the engine that runs with this data folder read its settings again (SIGHUP): log level and limits."""
    signal_running_stack(load_settings().data_dir, signal.SIGHUP)
    click.echo("told; the logs say what has changed and what needs a restart")


@cli.command()
@click.option("--service", type=click.Choice(SERVICES), help="Only this one.")
@json_option
def health(service: str | None, as_json: bool) -> None:
    """Tell which services serve; exits 1 where one does not."""
    settings = settings_of_running_stack()
    faults = {name: why_not_serving(settings, name) for name in ([service] if service else SERVICES)}
    if as_json:
        click.echo(json.dumps({name: not why for name, why in faults.items()}))
    else:
        for name, why in faults.items():
            click.echo(f"{name}: {f'NOT SERVING ({why})' if why else 'serving'}")
    if any(faults.values()):
        sys.exit(EXIT_FAILED)


@cli.command()
@click.option("--user", default="", help="A user's UUID, or a nickname, which stands for a UUID made from it.")
@click.option("--scopes", default="read trade", show_default=True, help="Scopes, separated by blanks.")
@click.option("--life", "life_s", default=86_400, show_default=True, help="Seconds until it expires.")
def token(user: str, scopes: str, life_s: int) -> None:
    """Print a development token. Only where tokens are signed with the development secret."""
    settings = settings_of_running_stack()
    subject = user_id_of(user) if user else "operator"
    click.echo(mint_token(settings.auth, subject=subject, scopes=scopes, life_s=life_s))


@cli.command()
@click.argument("user")
@click.argument("asset")
@click.argument("amount")
def deposit(user: str, asset: str, amount: str) -> None:
    """Credit USER (a UUID or a nickname) with AMOUNT of ASSET, as if it had come from outside."""
    settings = settings_of_running_stack()
    balance = asyncio.run(deposit_to(settings, user_id_of(user), asset, amount))
    click.echo(f"{user_id_of(user)} has {balance} {asset}")


@cli.group()
def migrate() -> None:
    """Change the database schema."""


@migrate.command("up")
def migrate_up_command() -> None:
    """Apply every migration that is missing."""
    done = asyncio.run(migrate_up(dsn_of_running_stack()))
    for step in done:
        click.echo(f"applied {step.version:06d}_{step.name}")
    if not done:
        click.echo("nothing to apply")


@migrate.command("down")
@click.option("--steps", default=1, show_default=True, type=click.IntRange(1), help="How many migrations to take back.")
@click.confirmation_option(prompt="This drops tables with their data. Go on?")
def migrate_down_command(steps: int) -> None:
    """Take back the last migrations, with the data in what they made."""
    for step in asyncio.run(migrate_down(dsn_of_running_stack(), steps_back=steps)):
        click.echo(f"took back {step.version:06d}_{step.name}")


@migrate.command("status")
@json_option
def migrate_status_command(as_json: bool) -> None:
    """Tell which migrations are applied; exits 1 where one is missing."""
    states: list[MigrationStatus] = asyncio.run(migration_status(dsn_of_running_stack()))
    rows = [
        {"version": state.migration.version, "name": state.migration.name,
         "appliedAt": state.applied_at.isoformat() if state.applied_at else None}
        for state in states
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows))
    else:
        for row in rows:
            click.echo(f"{row['version']:06d}_{row['name']}: {row['appliedAt'] or 'missing'}")
    if any(state.applied_at is None for state in states):
        sys.exit(EXIT_FAILED)


@cli.command()
@json_option
def audit(as_json: bool) -> None:
    """Prove from the tables that the books are right; exits 1 where they are not.

    Checks of a running system may show what is on its way (a trade matched and not yet settled) as a finding; run it when
    the system is quiet.
    """
    report = asyncio.run(run_audit(dsn_of_running_stack()))
    print_audit(report, as_json=as_json)
    if not report.clean:
        sys.exit(EXIT_FAILED)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--book", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The book after the first message, ten levels a row, to begin with a full book.")  # fmt: skip
@click.option("--symbol", default="AAPL/USD", show_default=True, help="Where to trade it.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many messages.")
@click.option("--run-id", default="replay", show_default=True,
              help="Names this run's orders; with the same one a run that was cut off is taken up again.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit 1 where an order filled otherwise than the flow says.")
@json_option
def replay(
    file: Path, book: Path | None, symbol: str, limit: int | None, run_id: str, strict: bool, as_json: bool
) -> None:
    """Send real order flow through the gateway of a running engine.

    FILE has LOBSTER's message format, without header: time, type, order id, shares, price x 10000, side (1 buy, -1 sell);
    types 1 new limit order, 2 partial cancel, 3 delete, 4 execution of the visible resting order, 5 and 7 ignored.
    """
    options = ReplayOptions(file=file, book=book, symbol=symbol, limit=limit, run_id=run_id, quiet=as_json)
    report = asyncio.run(run_replay(settings_of_running_stack(), options))
    print_report(report, as_json=as_json)
    if strict and report.mismatches:
        sys.exit(EXIT_FAILED)


@cli.command()
@click.option("--orders", default=5000, show_default=True, type=click.IntRange(10), help="How many orders to place.")
@click.option("--seed", default=1, show_default=True, help="Seed of the order flow.")
@json_option
def demo(orders: int, seed: int, as_json: bool) -> None:
    """Run the engine in a temporary folder, trade, settle, audit, and tell what happened."""
    sys.exit(0 if run_demo(orders=orders, seed=seed, as_json=as_json) else EXIT_FAILED)


@cli.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> None:
    """Save the whole database into FILE, as of one moment, while the engine runs."""
    with console.status("saving"):
        size = save(dsn_of_running_stack(), file)
    click.echo(f"saved {size} bytes to {file}")


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dsn", envvar="TRADE_ENGINE_DATABASE_DSN", required=True,
              help="The new, empty database; default: TRADE_ENGINE_DATABASE_DSN.")  # fmt: skip
def restore(file: Path, dsn: str) -> None:
    """Bring a database that was saved into FILE back into a new, empty one. Start the engine on it afterwards."""
    with console.status("bringing back"):
        asyncio.run(bring_back(dsn, file))
    click.echo("brought back; prove it: trade-engine journal verify, settlement reconcile --deep, audit")


cli.add_command(journal)
cli.add_command(settlement)
cli.add_command(assets)
cli.add_command(markets)
cli.add_command(fees)
cli.add_command(keys)
cli.add_command(db_shell)
cli.add_command(redis_shell)
cli.add_command(config)


def main() -> None:
    """Entry point: known faults become one line and an exit code."""
    try:
        cli(standalone_mode=True)
    except ConfigError as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(EXIT_BAD_CONFIG)
    except (
        StackError,
        EmbeddedError,
        SessionError,
        FlowError,
        MigrationError,
        RefusedError,
        JournalBrokenError,
        BackupError,
        asyncpg.PostgresError,
        OSError,
    ) as error:
        console.print(f"{type(error).__name__}: {error}", markup=False, style="red")
        sys.exit(EXIT_FAILED)
