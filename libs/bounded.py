"""Dicts that remember what could be found out again, and must not grow for ever."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def put_bounded(memory: dict[Key, Value], key: Key, value: Value, *, limit: int) -> None:
    """Set a value, in a dict that is emptied first where it has as many as that."""
    if len(memory) >= limit:
        memory.clear()
    memory[key] = value
