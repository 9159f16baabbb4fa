"""Keys that tokens are signed by, as a JSON Web Key Set (RFC 7517): from a file or an HTTPS address, kept fresh beside.

Fetching never holds up a call: a thread does it, every minute and at once when a token names a key that is not known.
"""

import json
import threading
import urllib.request
from pathlib import Path

import jwt
import structlog
from prometheus_client import Counter, Gauge

from libs.config import ConfigError

FETCH_EVERY_S = 60.0
ASKED_AGAIN_AFTER_S = 5.0
TIMEOUT_S = 5.0
SIZE_MAX = 1_000_000

FAILURES = Counter("jwks_fetch_failures_total", "Times that the key set could not be fetched")
KEYS = Gauge("jwks_keys", "Keys that tokens may be signed by")
log = structlog.get_logger()


class KeySet:
    """The newest keys by their ids. `source` is a file, or an https address (http for this machine only).

    `changes` counts how often they have become others.
    """

    def __init__(self, source: str) -> None:
        if "://" in source and not source.startswith(
            ("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")
        ):
            raise ConfigError("auth.jwks: an https address, or a file")
        self._source = source
        self._text = b""
        self._keys: dict[str, jwt.PyJWK] = {}
        self.changes = 0
        self._wanted = threading.Event()
        self._fetch()
        threading.Thread(target=self._keep, daemon=True, name="jwks").start()

    def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id; where it is not known it is looked for, and the caller may come again."""
        key = self._keys.get(key_id)
        if key is None:
            self._wanted.set()
        return key

    def has(self, key_id: str) -> bool:
        """Whether there is a key of this id; it is not looked for."""
        return key_id in self._keys

    def _keep(self) -> None:
        while True:
            self._wanted.wait(FETCH_EVERY_S)
            self._fetch()
            threading.Event().wait(ASKED_AGAIN_AFTER_S)  # forged tokens must not make us ask without end
            self._wanted.clear()

    def _fetch(self) -> None:
        try:
            text = self._read()
            if text != self._text:
                keys = jwt.PyJWKSet.from_dict(json.loads(text)).keys
                self._keys = {key.key_id: key for key in keys if key.key_id and key.key_type in {"RSA", "EC"}}
                self._text = text
                self.changes += 1
                KEYS.set(len(self._keys))
        except Exception as error:  # noqa: BLE001 - whatever it was sent, this thread goes on looking
            FAILURES.inc()
            log.warning("keys are as they were before", source=self._source, error=f"{type(error).__name__}: {error}")

    def _read(self) -> bytes:
        if "://" not in self._source:
            return Path(self._source).read_bytes()
        with urllib.request.urlopen(self._source, timeout=TIMEOUT_S) as answer:  # noqa: S310 - https, see __init__
            content: bytes = answer.read(SIZE_MAX)
        return content
