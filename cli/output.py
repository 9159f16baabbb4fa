"""What commands print: tables for people, with nothing cut off (ids are copied into the next command); JSON for scripts."""

import json
import sys
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

_NO_TERMINAL_COLUMNS = 240

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_table(table: Table) -> None:
    """Print a table: on a terminal what is too long goes on in the next line, in a pipe or file the line is longer."""
    for column in table.columns:
        column.overflow = "fold"
    Console(width=None if sys.stdout.isatty() else _NO_TERMINAL_COLUMNS).print(table)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as JSON has it, with every field."""
    return dict(MessageToDict(message, always_print_fields_with_no_presence=True))


def print_json(message: Message) -> None:
    """Print a message, with every field, as one line of JSON."""
    click.echo(json.dumps(as_dict(message)))
