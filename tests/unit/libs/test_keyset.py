"""Keys that are fetched again and again: whatever comes in their place, those that were stay."""

import json
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from libs import keyset
from libs.keyset import KeySet


def write_keys(path: Path, *key_ids: str) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = [{**ECAlgorithm.to_jwk(public, as_dict=True), "kid": key_id} for key_id in key_ids]
    path.write_text(json.dumps({"keys": keys}), encoding="utf-8")


@pytest.mark.parametrize(
    "junk", ["", "no JSON", "[]", "null", "5", '{"keys": 5}', '{"keys": ["x"]}', '{"keys": []}', "\x00", None]
)
def test_junk_in_place_of_keys_is_survived(junk: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset, "ASKED_AGAIN_AFTER_S", 0.0)
    path = tmp_path / "keys.json"
    write_keys(path, "first")
    keys = KeySet(str(path))
    if junk is None:
        path.unlink()
    else:
        path.write_text(junk, encoding="utf-8")
    failures = keyset.FAILURES._value.get()
    deadline = time.monotonic() + 10
    while keyset.FAILURES._value.get() == failures:
        assert keys.find("another") is None
        assert time.monotonic() < deadline, "it is looked for"
        time.sleep(0.001)
    assert keys.find("first") is not None
    write_keys(path, "first", "another")
    while keys.find("another") is None:
        assert time.monotonic() < deadline, "it is looked for"
        time.sleep(0.001)


def test_the_same_keys_again_are_no_change(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, "first")
    keys = KeySet(str(path))
    keys._fetch()
    assert keys.changes == 1
    write_keys(path, "second")
    keys._fetch()
    assert keys.changes == 2
    assert keys.has("second")
    assert not keys.has("first")
