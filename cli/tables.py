"""Tables for people, with nothing cut off: ids in them are copied into the next command."""

import sys

from rich.console import Console
from rich.table import Table

_NO_TERMINAL_COLUMNS = 240


def print_table(table: Table) -> None:
    """Print a table: on a terminal what is too long goes on in the next line, in a pipe or file the line is longer."""
    for column in table.columns:
        column.overflow = "fold"
    Console(width=None if sys.stdout.isatty() else _NO_TERMINAL_COLUMNS).print(table)
