"""`trade-engine db-shell` and `redis-shell`: the servers' own shells, on the servers of the engine that runs here."""

import os
import shutil

import click

from cli.embedded import postgres_program
from cli.running import dsn_of_running_stack, settings_of_running_stack
from cli.stack import Stack, StackError


@click.command("db-shell", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def db_shell(arguments: tuple[str, ...]) -> None:
    """Open psql on the engine's database; ARGUMENTS go to psql, such as -c 'SELECT ...'."""
    program, environment = postgres_program("psql", dsn_of_running_stack())
    os.execve(program, [program, *arguments], environment)


@click.command("redis-shell", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def redis_shell(arguments: tuple[str, ...]) -> None:
    """Open redis-cli (or valkey-cli) on the engine's Redis; ARGUMENTS go to it, such as KEYS '*'."""
    settings = settings_of_running_stack()
    url = settings.redis.url.get_secret_value()
    url = url or Stack.running_environment(settings.data_dir)["TRADE_ENGINE_REDIS_URL"]
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program is None:
        raise StackError("neither redis-cli nor valkey-cli is installed (Debian: apt-get install redis-tools)")
    os.execv(program, [program, "-u", url, *arguments])
