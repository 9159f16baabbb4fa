"""Journals and snapshots that earlier versions wrote are still read, and give the same events and state, byte for byte.

The recorded one has orders of every kind, changes, cancels, tombstones, days that pass, and a market that is halted, changed
and delisted. It is never made again: where this fails, an engine that runs could not start on its own journal.
"""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from services.matcher.core.snapshot import state_hash
from services.matcher.journal import JournalRow, Snapshot
from services.matcher.recovery import State

RECORDED = Path(__file__).resolve().parents[2] / "data" / "journal-of-2026-11.json.gz"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(gzip.decompress(RECORDED.read_bytes()))


@pytest.fixture(scope="module")
def rows(recorded: dict[str, Any]) -> list[JournalRow]:
    return [
        JournalRow(**row | {"batch": base64.b64decode(row["batch"]), "event_hash": bytes.fromhex(row["event_hash"])})
        for row in recorded["rows"]
    ]


def test_the_whole_journal(recorded: dict[str, Any], rows: list[JournalRow]) -> None:
    state = State(0)
    for row in rows:
        state.replay(row)
    assert state.sequence > 900
    assert state_hash(state.engine) == recorded["state_hash"]


def test_the_journal_after_its_snapshot(recorded: dict[str, Any], rows: list[JournalRow]) -> None:
    kept = dict(recorded["snapshot"])
    kept |= {"event_hash": bytes.fromhex(kept["event_hash"]), "state": base64.b64decode(kept["state"])}
    state = State.of_snapshot(0, Snapshot(**kept))
    later = [row for row in rows if row.first_sequence > state.sequence]
    assert 0 < len(later) < len(rows)
    for row in later:
        state.replay(row)
    assert state_hash(state.engine) == recorded["state_hash"]
