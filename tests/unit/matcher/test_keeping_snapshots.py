"""Snapshots are made beside matching: what keeps one from being made is no reason to stop matching."""

import asyncio

import pytest

from services.matcher import snapshots


class Journal:
    """Has no snapshot."""

    def __init__(self) -> None:
        self.looks = 0

    async def newest_state_hash(self) -> tuple[int, str]:
        self.looks += 1
        return 0, ""


async def test_where_no_process_can_be_started_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_room)
    monkeypatch.setattr(snapshots, "_LOOK_EVERY_S", 0)
    journal = Journal()
    keeping = asyncio.create_task(snapshots.keep_snapshots(journal, every=10, sequence=lambda: 11))
    async with asyncio.timeout(10):
        while journal.looks < 3 and not keeping.done():
            await asyncio.sleep(0)
    assert not keeping.done()
    keeping.cancel()
